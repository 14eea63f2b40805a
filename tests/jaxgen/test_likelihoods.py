import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, stats

from jaxgen import likelihoods

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
LEVELS = np.arange(256) / 127.5 - 1


def images(values):
    return jnp.asarray(values).reshape(len(values), 1, 1, 1)


def test_bernoulli_agrees_with_scipy_and_sums_over_pixels():
    logits, x = RNG.normal(0, 3, (5, 4, 3, 2)), RNG.integers(0, 2, (5, 4, 3, 2)).astype(float)
    expected = stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x).sum((1, 2, 3))
    np.testing.assert_allclose(likelihoods.bernoulli_log_prob(logits, x), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bernoulli_and_its_gradient_are_finite_at_logits_of_10000(dtype):
    logits, x = jnp.array([[1e4, 1e4], [-1e4, -1e4]], dtype), jnp.array([[1, 0], [1, 0]], dtype)
    value, gradient = jax.vjp(lambda l: likelihoods.bernoulli_log_prob(l, x), logits)
    np.testing.assert_array_equal(value, [-1e4, -1e4])
    np.testing.assert_array_equal(gradient(jnp.ones(2, dtype))[0], [[0, -1], [1, 0]])


def test_the_bernoulli_gradient_is_x_minus_its_probability():
    logits, x = RNG.normal(0, 3, (5, 4)), RNG.integers(0, 2, (5, 4)).astype(float)
    gradient = jax.grad(lambda l: likelihoods.bernoulli_log_prob(l, x).sum())(logits)
    np.testing.assert_allclose(gradient, x - 1 / (1 + np.exp(-logits)), rtol=1e-10)


@pytest.mark.parametrize("variance", [0.01, 1.0, 3.0])
def test_gaussian_has_its_constant_and_integrates_to_one(variance):
    mean, x = RNG.normal(size=(2, 5, 4, 4, 1))
    expected = -((x - mean) ** 2).sum((1, 2, 3)) / (2 * variance) - 16 / 2 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(likelihoods.gaussian_log_prob(mean, x, variance), expected, rtol=1e-12)

    def density(v):
        return float(jnp.exp(likelihoods.gaussian_log_prob(jnp.full((1, 1), 0.3), jnp.full((1, 1), v), variance))[0])

    total, _ = integrate.quad(density, 0.3 - 10 * variance**0.5, 0.3 + 10 * variance**0.5)
    np.testing.assert_allclose(total, 1, rtol=1e-8)


@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.3, 0.999, 2.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
def test_discretized_logistic_probabilities_of_all_levels_add_up_to_one(mean, log_scale):
    full = [images(np.full(256, value)) for value in (mean, log_scale)]
    log_prob = likelihoods.discretized_logistic_log_prob(*full, images(LEVELS))
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1, rtol=1e-9)
    in_float32 = likelihoods.discretized_logistic_log_prob(
        *(a.astype(jnp.float32) for a in full), images(LEVELS).astype(jnp.float32)
    )
    np.testing.assert_allclose(in_float32, log_prob, rtol=2e-3, atol=1e-6)


def test_discretized_logistic_is_the_mass_of_a_level_under_scipys_logistic():
    mean, log_scale = RNG.normal(0, 0.5, 50), RNG.normal(-2, 0.5, 50)
    x = LEVELS[RNG.integers(1, 255, 50)]
    law = stats.logistic(mean, np.exp(log_scale))
    expected = np.log(law.cdf(x + 1 / 255) - law.cdf(x - 1 / 255))
    actual = likelihoods.discretized_logistic_log_prob(*map(images, (mean, log_scale, x)))
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_discretized_logistic_is_finite_far_from_its_mean(dtype):
    mean = jnp.full((12, 1), 5.0, dtype)
    log_scale = jnp.repeat(jnp.array([-80, -7, 7, 80], dtype), 3)[:, None]
    x = jnp.array([-1, 0, 1] * 4, dtype)[:, None]
    value, gradient = jax.vjp(lambda *a: likelihoods.discretized_logistic_log_prob(*a, x), mean, log_scale)
    assert np.isfinite(value).all()
    assert all(np.isfinite(g).all() for g in gradient(jnp.ones(12, dtype)))


def test_two_levels_are_a_bernoulli_whose_logit_is_mean_over_scale():
    mean, log_scale = RNG.normal(size=(2, 20, 3))
    x = RNG.choice([-1.0, 1.0], (20, 3))
    expected = likelihoods.bernoulli_log_prob(mean * np.exp(-log_scale), (x + 1) / 2)
    actual = likelihoods.discretized_logistic_log_prob(mean, log_scale, x, levels=2)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_a_uniform_guess_of_a_byte_costs_eight_bits():
    np.testing.assert_allclose(likelihoods.bits_per_dim(jnp.array([3 * np.log(256)]), 3), [8], rtol=1e-12)


def test_pixels_outside_the_support_are_refused_in_words():
    with pytest.raises(ValueError, match=r"Bernoulli pixels lie in \[0, 1\]; got -1.0: an image in \[-1, 1\]"):
        likelihoods.bernoulli_log_prob(jnp.zeros((1, 2)), jnp.array([[1.0, -1.0]]))
    with pytest.raises(ValueError, match=r"levels lie in \[-1, 1\]; got 255.0: a byte"):
        likelihoods.discretized_logistic_log_prob(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 255.0))
    with pytest.raises(ValueError, match="got nan"):
        likelihoods.bernoulli_log_prob(jnp.zeros((1, 1)), jnp.full((1, 1), jnp.nan))


def test_static_mistakes_are_refused_in_words():
    one = jnp.zeros((1, 1))
    for call, words in (
        (
            lambda: likelihoods.gaussian_log_prob(one, one, 0.0),
            "variance of a Gaussian decoder must be positive; got 0",
        ),
        (lambda: likelihoods.discretized_logistic_log_prob(one, one, one, levels=1), "at least 2 levels; got 1"),
        (lambda: likelihoods.bits_per_dim(one, 0), "at least 1 dimension; got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.3, 0.999, 2.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
def test_discretized_gaussian_probabilities_of_all_levels_add_up_to_one(mean, log_scale):
    full = [images(np.full(256, value)) for value in (mean, log_scale)]
    log_prob = likelihoods.discretized_gaussian_log_prob(*full, images(LEVELS))
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1, rtol=1e-6)
    in_float32 = likelihoods.discretized_gaussian_log_prob(
        *(a.astype(jnp.float32) for a in full), images(LEVELS).astype(jnp.float32)
    )
    np.testing.assert_allclose(in_float32, log_prob, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 0.3, 0.7, 0.9, 30.0])
def test_discretized_gaussian_is_the_mass_of_a_level_under_scipys_normal_law(scale):
    """On both sides of the width at which the formula changes, near the mean and ten scales away from it."""
    mean = np.concatenate([RNG.uniform(-1, 1, 30), RNG.uniform(-1, 1, 20) + 10 * scale])
    x = LEVELS[RNG.integers(1, 255, 50)]
    lower, upper = (x - 1 / 255 - mean) / scale, (x + 1 / 255 - mean) / scale
    lower, upper = np.where(lower > 0, -upper, lower), np.where(lower > 0, -lower, upper)
    low, high = stats.norm.logcdf(lower), stats.norm.logcdf(upper)
    expected = high + np.log(-np.expm1(low - high))
    actual = likelihoods.discretized_gaussian_log_prob(images(mean), images(np.full(50, np.log(scale))), images(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_discretized_gaussian_is_finite_far_from_its_mean(dtype):
    mean = jnp.full((9, 1), 5.0, dtype)
    log_scale = jnp.array([-7] * 3 + [0] * 3 + [12] * 3, dtype)[:, None]
    x = jnp.array([-1, 0, 1] * 3, dtype)[:, None]
    value, gradients = jax.vjp(lambda m, s: likelihoods.discretized_gaussian_log_prob(m, s, x), mean, log_scale)
    assert np.all(np.isfinite(value))
    assert all(np.all(np.isfinite(g)) for g in gradients(jnp.ones(9, dtype)))


def test_the_gradient_of_the_discretized_gaussian_is_that_of_finite_differences():
    mean, log_scale, x = images(RNG.normal(size=8)), images(RNG.uniform(-4, 2, 8)), images(LEVELS[::32])
    check_grads(lambda m, s: likelihoods.discretized_gaussian_log_prob(m, s, x), (mean, log_scale), order=1, rtol=1e-4)
