"""What a sampler's name comes to."""

from typing import get_args

import jax
import numpy as np
import pytest

from train import denoising
from train.denoising import Drawing


def test_in_latent_images_a_square_is_known_only_where_all_of_its_pixels_are():
    mask = np.ones((2, 4, 6, 1), np.float32)
    mask[0, :, 3:5] = 0  # cuts two squares of each row in halves
    mask[1, 3, 0] = 0
    known = denoising.where_all_is_known(mask, (2, 3))[..., 0]
    np.testing.assert_array_equal(known, [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 1, 1]]])


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
