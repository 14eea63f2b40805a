"""What a sampler's name comes to."""

from typing import get_args

import jax
import numpy as np
import pytest

from jaxgen import diffusion
from train import denoising
from train.denoising import Drawing


def test_in_latent_images_a_square_is_known_only_where_all_of_its_pixels_are():
    mask = np.ones((2, 4, 6, 1), np.float32)
    mask[0, :, 3:5] = 0  # cuts two squares of each row in halves
    mask[1, 3, 0] = 0
    known = denoising.where_all_is_known(mask, (2, 3))[..., 0]
    np.testing.assert_array_equal(known, [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 1, 1]]])


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_a_mask_leaves_open_begins_as_noise_alone_at_strength_1_and_else_as_the_picture_with_noise(strength):
    schedule, drawing = denoising.schedule("scaled_linear", 20), Drawing("ddim", sample_steps=4, grid="leading")
    grid, seen = denoising.timesteps(drawing, schedule), []
    noise, images = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    mask = np.zeros((2, 4, 4, 1), np.float32)
    mask[:, :2] = 1

    def predict(xt, t):
        jax.debug.callback(lambda xt, t: seen.append((int(t[0]), np.asarray(xt))), xt, t)
        return 0 * xt

    keys = jax.random.split(jax.random.key(1), 2)
    denoising.edit(drawing, keys, predict, schedule, noise, grid, denoising.Known(images, mask, strength, 1))
    jax.effects_barrier()
    t, xt = seen[0]
    assert t == grid[int(4 * (1 - strength))]
    noised = diffusion.q_sample(schedule, images, np.full(2, t), noise)
    assert np.abs(noised - noise).max() > 0.01
    np.testing.assert_allclose(xt[:, :2], noised[:, :2], atol=1e-6)
    np.testing.assert_allclose(xt[:, 2:], (noise if strength == 1 else noised)[:, 2:], atol=1e-6)


ADD_NOISE = {"ancestral", "dpm_solver_sde"}


@pytest.mark.parametrize("name", get_args(denoising.Sampler))
def test_a_sampler_adds_noise_of_each_images_own_key_or_none(name):
    schedule = denoising.schedule("cosine", 20)
    drawing = Drawing(name, sample_steps=5)
    grid, x_T = denoising.timesteps(drawing, schedule), jax.random.normal(jax.random.key(0), (2, 3))

    @jax.jit
    def drawn(keys):
        return denoising.draw(drawing, keys, lambda xt, t: 0.5 * xt, schedule, x_T, grid)

    first, second = jax.random.split(jax.random.key(1), 2), jax.random.split(jax.random.key(2), 2)
    once, again = drawn(first), drawn(first.at[1].set(second[1]))
    np.testing.assert_array_equal(once[0], again[0])
    assert (once[1] != again[1]).any() == (name in ADD_NOISE)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm_solver", "dpm_solver_sde", "unipc"])
def test_what_may_be_drawn_without_any_signal_at_the_end_is_finite(name):
    schedule = denoising.schedule("cosine", 20, zero_terminal_snr=True)
    drawing = Drawing(name, sample_steps=5)
    denoising.check(drawing, 20, labels=False, zero_terminal_snr=True)
    grid, x_T = denoising.timesteps(drawing, schedule), jax.random.normal(jax.random.key(0), (2, 3))
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.jit(lambda x: denoising.draw(drawing, keys, lambda x, t: 0.5 * x, schedule, x, grid, predicts="v"))(x_T)
    assert np.isfinite(x).all()
