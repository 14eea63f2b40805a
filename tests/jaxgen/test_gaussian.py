import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxgen import gaussian

pytestmark = pytest.mark.usefixtures("x64")

MEAN_P, LOGVAR_P = np.array([[0.3, -1.0], [2.0, 0.0]]), np.array([[0.5, -1.0], [0.0, 2.0]])
MEAN_Q, LOGVAR_Q = np.array([[-0.2, 0.4], [2.0, 1.0]]), np.array([[1.0, 0.3], [0.0, -0.7]])


def normal(mean, logvar):
    return stats.norm(np.asarray(mean), np.exp(0.5 * np.asarray(logvar)))


def kl_by_quadrature(p, q):
    def integrand(x):
        return p.pdf(x) * (p.logpdf(x) - q.logpdf(x))

    return integrate.quad(integrand, p.mean() - 12 * p.std(), p.mean() + 12 * p.std(), epsabs=1e-12, limit=200)[0]


def test_log_prob_is_the_sum_of_the_log_densities():
    x = jnp.array([[0.0, 1.0], [-3.0, 0.5]])
    expected = normal(MEAN_P, LOGVAR_P).logpdf(np.asarray(x)).sum(axis=1)
    np.testing.assert_allclose(gaussian.log_prob(x, MEAN_P, LOGVAR_P), expected, rtol=1e-13)


def test_kl_equals_its_integral():
    expected = [
        sum(kl_by_quadrature(normal(mp, lp), normal(mq, lq)) for mp, lp, mq, lq in zip(*rows, strict=True))
        for rows in zip(MEAN_P, LOGVAR_P, MEAN_Q, LOGVAR_Q, strict=True)
    ]
    np.testing.assert_allclose(gaussian.kl(MEAN_P, LOGVAR_P, MEAN_Q, LOGVAR_Q), expected, rtol=1e-9)


def test_the_gradient_of_kl_is_that_of_its_integral():
    arguments = [float(a[0, 0]) for a in (MEAN_P, LOGVAR_P, MEAN_Q, LOGVAR_Q)]

    def integral(mp, lp, mq, lq):
        return kl_by_quadrature(normal(mp, lp), normal(mq, lq))

    for i in range(4):
        gradient = jax.grad(lambda *a: gaussian.kl(*(v.reshape(1, 1) for v in a)).sum(), argnums=i)(
            *map(jnp.float64, arguments)
        )
        above, below = ([*arguments[:i], arguments[i] + h, *arguments[i + 1 :]] for h in (1e-4, -1e-4))
        np.testing.assert_allclose(gradient, (integral(*above) - integral(*below)) / 2e-4, rtol=1e-6)


def test_the_gradient_of_log_prob_is_the_derivative_of_scipys_log_density():
    x = jnp.array([[0.4, -1.2], [1.0, 3.0]])
    for i in range(3):
        gradient = jax.grad(lambda *a: gaussian.log_prob(*a).sum(), argnums=i)(x, MEAN_P, LOGVAR_P)
        above, below = (
            [a + h * (j == i) for j, a in enumerate((np.asarray(x), MEAN_P, LOGVAR_P))] for h in (1e-5, -1e-5)
        )
        difference = normal(*above[1:]).logpdf(above[0]) - normal(*below[1:]).logpdf(below[0])
        np.testing.assert_allclose(gradient, difference / 2e-5, rtol=1e-7, atol=1e-8)


def test_kl_of_a_gaussian_with_itself_is_zero_and_stationary():
    np.testing.assert_array_equal(gaussian.kl(MEAN_P, LOGVAR_P, MEAN_P, LOGVAR_P), 0.0)
    for argument in range(4):
        gradient = jax.grad(lambda *a: gaussian.kl(*a).sum(), argnums=argument)(MEAN_P, LOGVAR_P, MEAN_P, LOGVAR_P)
        np.testing.assert_array_equal(gradient, 0.0)


def test_kl_to_standard_normal_is_the_kl_to_mean_zero_and_variance_one():
    expected = gaussian.kl(MEAN_P, LOGVAR_P, jnp.zeros_like(MEAN_P), jnp.zeros_like(LOGVAR_P))
    np.testing.assert_allclose(gaussian.kl_to_standard_normal(MEAN_P, LOGVAR_P), expected, rtol=1e-13)


def test_kl_of_nearly_equal_gaussians_keeps_its_digits_in_float32():
    mean, logvar = jnp.zeros((1, 1), jnp.float32), jnp.full((1, 1), 1e-3, jnp.float32)
    np.testing.assert_allclose(gaussian.kl_to_standard_normal(mean, logvar), [0.25e-6], rtol=1e-2)


def test_reparameterized_samples_have_the_given_mean_and_variance():
    n = 40_000
    mean, logvar = jnp.full((n, 1), 0.7), jnp.full((n, 1), -0.4)
    z = gaussian.reparameterize(jax.random.key(0), mean, logvar)
    variance = np.exp(-0.4)
    assert abs(z.mean() - 0.7) < 4 * np.sqrt(variance / n)
    assert abs(z.var() - variance) < 4 * variance * np.sqrt(2 / n)


def test_the_pathwise_gradient_is_unbiased():
    """d/dm E z^2 = 2 m and d/dlogvar E z^2 = s^2."""
    n, m, logvar = 40_000, 0.7, -0.4

    def second_moment(m, logvar):
        z = gaussian.reparameterize(jax.random.key(1), jnp.full((n, 1), m), jnp.full((n, 1), logvar))
        return (z**2).mean()

    by_mean, by_logvar = jax.grad(second_moment, argnums=(0, 1))(m, logvar)
    s = np.exp(0.5 * logvar)
    assert abs(by_mean - 2 * m) < 4 * 2 * s / np.sqrt(n)
    # z s eps = m s eps + s^2 eps^2 has variance m^2 s^2 + 2 s^4
    assert abs(by_logvar - s**2) < 4 * np.sqrt((m**2 * s**2 + 2 * s**4) / n)
