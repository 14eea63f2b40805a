"""For Gaussian data the flow's density is known, and so is the evidence of a chain that a bound has to stay above."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxgen import diffusion, flow, gaussian, grids, schedules

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = schedules.linear()
MEAN, VARIANCES = np.array([0.5, -0.3]), np.array([0.2, 0.7])


def predict_eps(x, t):
    """E[eps | x_t] for x_0 ~ N(m, diag(c))."""
    a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
    return sigma * (x - a * MEAN[None]) / (a**2 * VARIANCES[None] + sigma**2)


def points(n=5):
    return 0.7 * jax.random.normal(jax.random.key(0), (n, 2))


def true_log_prob(x, t=0):
    """Where the chain ends in N(0, I); there is a little of the image left, which the tolerance allows for."""
    a = SCHEDULE.alpha_bars[t]
    variance = jnp.broadcast_to(jnp.asarray(a * VARIANCES + 1 - a)[None], x.shape)
    return gaussian.log_prob(x, jnp.broadcast_to(np.sqrt(a) * MEAN[None], x.shape), jnp.log(variance))


def test_the_density_of_gaussian_data_is_found_with_order_two():
    """Against the limit of fine grids, which is within the chain's own error of the closed form."""
    x = points()
    log_prob = jax.jit(functools.partial(flow.log_prob, predict_eps, SCHEDULE))
    found = [log_prob(x, grids.karras(SCHEDULE, n)) for n in (20, 40, 80, 640)]
    errors = [jnp.abs(value - found[-1]).max() for value in found[:-1]]
    assert abs(np.log2(errors[1] / errors[2]) - 2) < 0.3
    np.testing.assert_allclose(found[-1], true_log_prob(x), atol=2e-2)


def test_it_integrates_to_one():
    """Of a denoiser that is no conditional mean of anything."""

    def odd(x, t):
        a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
        return sigma * x / (a**2 * 0.5 + sigma**2) + 0.5 * a * sigma * jnp.sin(3 * x)

    x = np.linspace(-8, 8, 4001)[:, None]
    density = jnp.exp(jax.jit(lambda x: flow.log_prob(odd, SCHEDULE, x, grids.karras(SCHEDULE, 200)))(x))
    np.testing.assert_allclose(integrate.simpson(density, x=x[:, 0]), 1, rtol=2e-3)


def test_the_estimated_divergence_has_the_exact_one_for_its_mean():
    matrix = jax.random.normal(jax.random.key(1), (6, 6))

    def function(x):
        return jnp.tanh(x.reshape(len(x), 6) @ matrix).reshape(x.shape)

    x = jax.random.normal(jax.random.key(2), (3, 2, 3))
    value, divergence = flow.exact(function, x, None)
    jacobian = jax.vmap(jax.jacobian(lambda row: function(row[None])[0].reshape(6)))(x).reshape(3, 6, 6)
    np.testing.assert_allclose(divergence, jnp.trace(jacobian, axis1=1, axis2=2), rtol=1e-10)
    keys = jax.random.split(jax.random.key(3), 2000)
    values, estimates = jax.vmap(lambda key: flow.estimated(function, x, key))(keys)
    np.testing.assert_array_equal(values[0], value)
    assert np.all(jnp.abs(estimates.mean(0) - divergence) < 4 * estimates.std(0) / np.sqrt(2000))


def test_with_a_key_per_example_an_estimate_does_not_depend_on_its_companions():
    def mixed(x, t):
        return jnp.tanh(x @ jnp.array([[1.0, 0.5], [0.5, -1.0]]))

    keys, grid = jax.random.split(jax.random.key(0), 4), grids.karras(SCHEDULE, 5)
    estimate = functools.partial(flow.log_prob, mixed, SCHEDULE, divergence=flow.estimated)
    together = estimate(points(4), grid, key=keys)
    np.testing.assert_allclose(together[1:2], estimate(points(4)[1:2], grid, key=keys[1:2]), rtol=1e-9)


@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_it_is_the_same_to_predict_eps_x0_or_v(predicts):
    def other(x, t):
        eps = predict_eps(x, t)
        return diffusion.target(SCHEDULE, diffusion.predict_x0(SCHEDULE, x, t, eps), t, eps, predicts)

    grid = grids.karras(SCHEDULE, 20)
    np.testing.assert_allclose(
        flow.log_prob(other, SCHEDULE, points(), grid, predicts=predicts),
        flow.log_prob(predict_eps, SCHEDULE, points(), grid),
        rtol=1e-6,
    )


def test_the_bound_on_levels_is_above_the_evidence_and_close_to_it():
    """One pixel from N(m, c), rounded: the evidence of its level is the mass of N(m, c) on it, near enough."""
    pixels = np.array([[25 / 127.5 - 1], [140.0 / 127.5 - 1]])
    x0 = jnp.asarray(np.repeat(pixels, 500, axis=0))

    def denoise(x, t):
        a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
        return sigma * (x - a * 0.1) / (a**2 * 0.3 + sigma**2)

    noise = jax.random.normal(jax.random.key(0), x0.shape)
    bounds = jax.jit(lambda x, e: flow.bound(denoise, SCHEDULE, x, e, grids.karras(SCHEDULE, 200)))(x0, noise)
    law = stats.norm(0.1, np.sqrt(0.3))
    for pixel, values in zip(pixels[:, 0], bounds.reshape(2, 500), strict=True):
        evidence = np.log(law.cdf(pixel + 1 / 255) - law.cdf(pixel - 1 / 255))
        error = 4 * values.std() / np.sqrt(500)
        assert values.mean() + error > -evidence - 0.02
        assert values.mean() - error < -evidence + 0.3


def test_bad_arguments_are_refused():
    for call, said in [
        (lambda: flow.log_prob(predict_eps, SCHEDULE, points(), np.array([1, 2])), "decrease and are not negative"),
        (
            lambda: flow.log_prob(predict_eps, schedules.zero_terminal_snr(SCHEDULE), points(), np.array([2, 1])),
            "an infinite sigma there",
        ),
        (
            lambda: flow.bound(predict_eps, SCHEDULE, points(), points(), np.array([5, 2])),
            "end at timestep 0, .*; got 2",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
