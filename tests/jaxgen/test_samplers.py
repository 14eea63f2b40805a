"""On Gaussian data x_0 ~ N(m, C) the best denoiser is known, so the law of every sampler's output is known too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import diffusion, grids, samplers, schedules

MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[0.3, 0.1], [0.1, 0.6]])


def gaussian_denoiser(schedule, mean=MEAN, covariance=COVARIANCE):
    """E[eps | x_t] = sqrt(1 - a) (a C + (1 - a) I)^-1 (x_t - sqrt(a) m), with a = alpha_bar_t."""
    a = schedule.alpha_bars[:, None, None]
    gain = np.sqrt(1 - a) * np.linalg.inv(a * covariance + (1 - a) * np.eye(len(mean)))
    shift = np.sqrt(schedule.alpha_bars)[:, None] * mean

    def predict_eps(x, t):
        return jnp.einsum("bij,bj->bi", jnp.asarray(gain, x.dtype)[t], x - jnp.asarray(shift, x.dtype)[t])

    return predict_eps


def law_of_affine(sampler, mean, covariance):
    """Mean and covariance of sampler(x_T) for x_T ~ N(mean, covariance), exactly, when the sampler is affine."""
    images = sampler(mean + np.concatenate([np.zeros((1, len(mean))), np.linalg.cholesky(covariance).T]))
    matrix = (images[1:] - images[:1]).T
    return images[0], matrix @ matrix.T


@pytest.mark.usefixtures("x64")
def test_ddim_converges_to_the_data_with_order_one():
    """Started from q(x_T), the error in the output's law is the integrator's alone: halving the step halves it."""
    schedule = schedules.linear(6400, 1e-4 / 6.4, 0.02 / 6.4)
    predict_eps, a = gaussian_denoiser(schedule), schedule.alpha_bars[-1]
    errors = []
    for num_steps in (25, 50, 100, 200, 400):
        grid = grids.trailing(6400, num_steps)
        mean, covariance = law_of_affine(
            lambda x, grid=grid: samplers.ddim(predict_eps, schedule, x, grid),
            np.sqrt(a) * MEAN,
            a * COVARIANCE + (1 - a) * np.eye(2),
        )
        errors.append(np.abs(covariance - COVARIANCE).max() + np.abs(mean - MEAN).max())
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(slopes[-2:], 1.0, atol=0.05)
    assert errors[-1] < 0.01


def law_of_ancestral(monkeypatch, predict_eps, schedule, dimensions=2, **options):
    """Mean and covariance of the ancestral sampler's output, exactly: with such a denoiser it is an affine map of its normal
    draws, so feed it every unit vector in the place of the draws, one per row, after a row of zeros."""
    num_draws = schedule.num_steps + 1
    units = jnp.eye(num_draws * dimensions).reshape(-1, num_draws, dimensions)
    units = jnp.concatenate([jnp.zeros_like(units[:1]), units])
    with monkeypatch.context() as patch:
        patch.setattr(samplers, "fold_in", lambda key, draw: draw)
        patch.setattr(samplers, "normal", lambda draw, shape: units[:, draw])
        images = samplers.ancestral(jax.random.key(0), predict_eps, schedule, (len(units), dimensions), **options)
    matrix = (images[1:] - images[:1]).T
    return images[0], matrix @ matrix.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_law_of_ancestral_samples_tends_to_the_datas_with_order_one(monkeypatch, variance):
    errors = []
    for num_steps in (50, 100, 200, 400):
        schedule = schedules.linear(num_steps, 0.1 / num_steps, 20 / num_steps)
        mean, covariance = law_of_ancestral(monkeypatch, gaussian_denoiser(schedule), schedule, variance=variance)
        errors.append(np.abs(covariance - COVARIANCE).max() + np.abs(mean - MEAN).max())
    np.testing.assert_allclose(np.log2(errors[-2] / errors[-1]), 1.0, atol=0.1)
    assert errors[-1] < 0.02


def test_ancestral_samples_have_the_mean_and_the_covariance_of_the_data():
    """The same with its real noise: n samples know a covariance to 1/sqrt(n), and 1,000 steps to 1/1000 times a few."""
    schedule, n = schedules.linear(), 20_000
    x = samplers.ancestral(jax.random.key(0), gaussian_denoiser(schedule), schedule, (n, 2))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=4 * np.sqrt(0.6 / n) + 5e-3)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=4 * 0.6 * np.sqrt(2 / n) + 5e-3)


@pytest.mark.usefixtures("x64")
def test_for_standard_normal_data_beta_is_the_true_reverse_kernel_at_every_number_of_steps(monkeypatch):
    """Only the last step, which adds no noise, takes something from the variance: beta_0."""
    for num_steps in (4, 8):
        schedule = schedules.linear(num_steps, 0.1, 0.9)
        predict_eps = gaussian_denoiser(schedule, np.zeros(1), np.eye(1))
        mean, variance = law_of_ancestral(monkeypatch, predict_eps, schedule, dimensions=1)
        np.testing.assert_allclose(mean, [0.0], atol=1e-12)
        np.testing.assert_allclose(variance, [[1 - 0.1]], rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_for_a_single_image_every_sampler_finds_it(num_steps):
    schedule, image = schedules.linear(100, 1e-3, 0.2), jnp.array([[0.3, -0.8, 0.1]])
    grid = grids.trailing(100, num_steps)

    def predict_eps(x, t):
        return diffusion.predict_eps(schedule, x, t, jnp.broadcast_to(image, x.shape))

    x_T = jax.random.normal(jax.random.key(0), (5, 3))
    for x in (
        samplers.ddim(predict_eps, schedule, x_T, grid),
        samplers.ddim(predict_eps, schedule, x_T, grid, eta=1.0, key=jax.random.key(1)),
        samplers.ancestral(jax.random.key(2), predict_eps, schedule, (5, 3), grid),
        samplers.ancestral(jax.random.key(2), predict_eps, schedule, (5, 3), grid, variance="beta_tilde"),
    ):
        np.testing.assert_allclose(x, jnp.broadcast_to(image, x.shape), rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posterior_variance():
    schedule = schedules.linear(100, 1e-3, 0.2)
    predict_eps = gaussian_denoiser(schedule)
    key, grid = jax.random.key(0), grids.trailing(100, 20)
    x_T = jax.random.normal(jax.random.fold_in(key, 0), (5, 2))
    np.testing.assert_allclose(
        samplers.ddim(predict_eps, schedule, x_T, grid, eta=1.0, key=key),
        samplers.ancestral(key, predict_eps, schedule, (5, 2), grid, variance="beta_tilde"),
        rtol=1e-6,
    )


def test_the_default_grid_of_ancestral_sampling_is_every_timestep():
    schedule = schedules.linear(20, 1e-3, 0.3)
    predict_eps, key = gaussian_denoiser(schedule), jax.random.key(0)
    np.testing.assert_array_equal(
        samplers.ancestral(key, predict_eps, schedule, (3, 2)),
        samplers.ancestral(key, predict_eps, schedule, (3, 2), grids.trailing(20, 20)),
    )


def test_clipping_keeps_the_image_in_range():
    schedule, grid = schedules.linear(), grids.trailing(1000, 10)
    x_T = jax.random.normal(jax.random.key(0), (16, 4))

    def predict_eps(x, t):
        return -x

    assert jnp.abs(samplers.ddim(predict_eps, schedule, x_T, grid)).max() > 1
    assert jnp.abs(samplers.ddim(predict_eps, schedule, x_T, grid, clip_x0=True)).max() <= 1
    clipped = samplers.ancestral(jax.random.key(0), predict_eps, schedule, (16, 4), grid, clip_x0=True)
    assert jnp.abs(clipped).max() <= 1


def test_the_trajectory_ends_in_the_image():
    schedule, grid = schedules.linear(), grids.trailing(1000, 10)
    x_T = jax.random.normal(jax.random.key(0), (3, 2))
    image, states = samplers.ddim(gaussian_denoiser(schedule), schedule, x_T, grid, trajectory=True)
    assert states.shape == (10, 3, 2)
    np.testing.assert_array_equal(states[-1], image)


def test_with_a_key_per_example_a_sample_does_not_depend_on_its_companions():
    schedule, keys = schedules.linear(), jax.random.split(jax.random.key(0), 6)
    predict_eps = gaussian_denoiser(schedule)
    grid = grids.trailing(1000, 10)
    together = samplers.ancestral(keys, predict_eps, schedule, (6, 2), grid)
    alone = jnp.concatenate(
        [samplers.ancestral(keys[i : i + 1], predict_eps, schedule, (1, 2), grid) for i in range(6)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_another_grid_of_the_same_length_runs_the_same_program():
    schedule = schedules.linear()
    denoise, traces = gaussian_denoiser(schedule), []

    @jax.jit
    def sample(x_T, grid):
        traces.append(grid)
        return samplers.ddim(denoise, schedule, x_T, grid)

    for first in (999, 700, 500):
        sample(jnp.ones((2, 2)), jnp.linspace(first, 0, 10).astype(int))
    assert len(traces) == 1


@pytest.mark.usefixtures("x64")
def test_inversion_finds_the_noise_that_leads_to_an_image_the_better_the_finer_the_grid():
    schedule = schedules.linear()
    predict_eps, x_T, errors = gaussian_denoiser(schedule), jax.random.normal(jax.random.key(0), (5, 2)), []
    for num_steps in (25, 50, 100):
        grid = schedules.linear().num_steps - 1 - np.arange(num_steps) * (1000 // num_steps)
        x0 = samplers.ddim(predict_eps, schedule, x_T, grid)
        errors.append(jnp.abs(samplers.ddim_inversion(predict_eps, schedule, x0, grid) - x_T).max())
    np.testing.assert_allclose(np.log2(errors[1] / errors[2]), 1.0, atol=0.2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_iterated_inversion_is_the_exact_inverse_of_ddim(predicts):
    schedule = schedules.linear()
    denoise, x_T = gaussian_denoiser(schedule), jax.random.normal(jax.random.key(0), (5, 2))

    def predict(x, t):
        eps = denoise(x, t)
        return diffusion.target(schedule, diffusion.predict_x0(schedule, x, t, eps), t, eps, predicts)

    grid = grids.trailing(1000, 50)
    x0, down = samplers.ddim(predict, schedule, x_T, grid, predicts=predicts, trajectory=True)
    found, up = samplers.ddim_inversion(predict, schedule, x0, grid, iterations=100, predicts=predicts, trajectory=True)
    np.testing.assert_allclose(found, x_T, atol=1e-4)
    np.testing.assert_allclose(up[:-1], down[-2::-1], atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("v", "variance"), [(0.0, "beta_tilde"), (1.0, "beta")])
def test_a_learned_variance_at_its_bounds_is_the_fixed_one(v, variance):
    schedule, key = schedules.linear(100, 1e-3, 0.2), jax.random.key(0)
    denoise, grid = gaussian_denoiser(schedule), grids.trailing(100, 7)
    learned = samplers.ancestral(
        key, lambda x, t: (denoise(x, t), jnp.full_like(x, v)), schedule, (5, 2), grid, variance="learned"
    )
    fixed = samplers.ancestral(key, denoise, schedule, (5, 2), grid, variance=variance)
    np.testing.assert_allclose(learned, fixed, rtol=1e-7)


def test_the_gradient_of_samples_with_a_learned_variance_is_finite():
    schedule = schedules.linear(20, 1e-3, 0.3)
    denoise = gaussian_denoiser(schedule)

    def total(v):
        return samplers.ancestral(
            jax.random.key(0), lambda x, t: (denoise(x, t), jnp.full_like(x, v)), schedule, (3, 2), variance="learned"
        ).sum()

    assert jnp.isfinite(jax.grad(total)(0.5))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_samplers_are_the_same_to_predict_eps_x0_or_v(predicts):
    schedule, key = schedules.linear(100, 1e-3, 0.2), jax.random.key(0)
    denoise, grid = gaussian_denoiser(schedule), grids.trailing(100, 7)

    def other(x, t):
        eps = denoise(x, t)
        return diffusion.target(schedule, diffusion.predict_x0(schedule, x, t, eps), t, eps, predicts)

    for one, two in (
        (
            samplers.ancestral(key, p, schedule, (5, 2), grid, predicts=q)
            for p, q in ((denoise, "eps"), (other, predicts))
        ),
        (
            samplers.ddim(p, schedule, jnp.ones((5, 2)), grid, predicts=q)
            for p, q in ((denoise, "eps"), (other, predicts))
        ),
    ):
        np.testing.assert_allclose(one, two, rtol=1e-7)


def test_a_chain_can_begin_anywhere():
    """From x at a grid's first timestep, as image-to-image needs it."""
    schedule, grid = schedules.linear(), grids.trailing(1000, 10)
    denoise, key = gaussian_denoiser(schedule), jax.random.key(0)
    begin = jax.random.normal(jax.random.key(1), (3, 2))
    near = samplers.ancestral(key, denoise, schedule, (3, 2), grid[-1:], x_T=begin)
    np.testing.assert_allclose(near, samplers.ddim(denoise, schedule, begin, grid[-1:]), rtol=1e-5)


@pytest.mark.parametrize("grid", [[], [3, 3], [1, 2], [5, -1], [[4, 2]]])
def test_a_grid_that_does_not_decrease_within_the_chain_is_refused(grid):
    schedule = schedules.linear(10)
    with pytest.raises(ValueError, match="decrease and are not negative; got"):
        samplers.ddim(lambda x, t: x, schedule, jnp.ones((1, 1)), np.array(grid, int))


def test_bad_arguments_are_refused():
    schedule = schedules.linear(10)
    with pytest.raises(ValueError, match='"beta_tilde" or "learned"; got \'fixed\''):
        samplers.ancestral(jax.random.key(0), lambda x, t: x, schedule, (1, 1), variance="fixed")
    with pytest.raises(ValueError, match=r"eta = 0\.5 adds noise: pass a key"):
        samplers.ddim(lambda x, t: x, schedule, jnp.ones((1, 1)), grids.trailing(10, 5), eta=0.5)
    with pytest.raises(ValueError, match="at least 1 iteration; got 0"):
        samplers.ddim_inversion(lambda x, t: x, schedule, jnp.ones((1, 1)), grids.trailing(10, 5), iterations=0)
