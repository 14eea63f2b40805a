"""A linear-Gaussian model has everything in closed form: z ~ N(0, I), x | z ~ N(W z + b, c I), hence x ~ N(b, W W' + c I) and
z | x ~ N(S W'(x - b) / c, S) with S = (I + W'W / c)^-1; orthogonal columns make S diagonal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import gaussian, likelihoods, variational

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
NOISE = 0.3
W = np.linalg.qr(RNG.normal(size=(5, 2)))[0] * [1.5, 0.6]
OFFSET = RNG.normal(size=5)
X = RNG.normal(size=(4, 5))
EVIDENCE = stats.multivariate_normal(OFFSET, W @ W.T + NOISE * np.eye(5)).logpdf(X)
VARIANCE = 1 / (1 + np.diag(W.T @ W) / NOISE)
POSTERIOR_MEAN = VARIANCE * ((X - OFFSET) @ W) / NOISE
POSTERIOR_LOGVAR = np.broadcast_to(np.log(VARIANCE), POSTERIOR_MEAN.shape)
ORIGIN = np.zeros_like(POSTERIOR_MEAN)


def log_likelihood(z):
    return likelihoods.gaussian_log_prob(z @ W.T + OFFSET[None], X, NOISE)


def expected_log_likelihood(mean, logvar):
    """E_q log p(x | z) in closed form: at the mean, less the spread of W z."""
    spread = (np.exp(logvar)[:, None, :] * W[None] ** 2).sum((1, 2))
    return log_likelihood(mean) - spread / (2 * NOISE)


def draw_log_weights(key, k, mean, logvar):
    z = jax.vmap(gaussian.reparameterize, (0, None, None))(jax.random.split(key, k), mean, logvar)
    return variational.log_weights(jax.vmap(log_likelihood)(z), z, mean, logvar, ORIGIN)


def test_the_elbo_at_the_true_posterior_is_the_evidence():
    kl = gaussian.kl_to_standard_normal(POSTERIOR_MEAN, POSTERIOR_LOGVAR)
    elbo = variational.elbo(expected_log_likelihood(POSTERIOR_MEAN, POSTERIOR_LOGVAR), kl)
    np.testing.assert_allclose(elbo, EVIDENCE, rtol=1e-12)


def test_the_elbo_falls_short_of_the_evidence_by_the_kl_to_the_posterior():
    mean, logvar = POSTERIOR_MEAN + 0.3, POSTERIOR_LOGVAR - 0.7
    elbo = variational.elbo(expected_log_likelihood(mean, logvar), gaussian.kl_to_standard_normal(mean, logvar))
    gap = gaussian.kl(mean, logvar, POSTERIOR_MEAN, POSTERIOR_LOGVAR)
    np.testing.assert_allclose(EVIDENCE - elbo, gap, rtol=1e-10)


def test_at_the_true_posterior_every_importance_weight_is_the_evidence():
    log_w = draw_log_weights(jax.random.key(0), 6, POSTERIOR_MEAN, POSTERIOR_LOGVAR)
    np.testing.assert_allclose(log_w, np.broadcast_to(EVIDENCE, (6, 4)), rtol=1e-12)


def test_the_importance_weighted_bound_rises_with_k_from_the_elbo_towards_the_evidence():
    mean, logvar = ORIGIN, jnp.zeros_like(ORIGIN)  # draws from the prior
    log_w = draw_log_weights(jax.random.key(2), 64 * 2000, mean, logvar)
    elbo = before = expected_log_likelihood(mean, logvar)
    for k in (1, 4, 16, 64):
        bounds = variational.importance_weighted_bound(log_w.reshape(k, -1)).reshape(-1, len(X))
        bound, error = bounds.mean(0), bounds.std(0) / np.sqrt(len(bounds))
        assert (np.abs(bound - elbo) < 4 * error).all() if k == 1 else (bound > before + 4 * error).all()
        assert (bound < EVIDENCE + 4 * error).all()
        before = bound


def test_the_mean_weight_is_the_evidence_whatever_q_is():
    mean, logvar = POSTERIOR_MEAN + 0.2, POSTERIOR_LOGVAR + 0.3
    w = np.exp(draw_log_weights(jax.random.key(1), 40_000, mean, logvar) - EVIDENCE[None])
    assert (np.abs(w.mean(0) - 1) < 4 * w.std(0) / np.sqrt(len(w))).all()


def test_one_importance_sample_is_the_elbo_and_many_equal_ones_are_one():
    log_w = jnp.asarray(RNG.normal(size=(1, 4)))
    np.testing.assert_allclose(variational.importance_weighted_bound(log_w), log_w[0], rtol=1e-12)
    np.testing.assert_allclose(variational.importance_weighted_bound(log_w.repeat(7, 0)), log_w[0], rtol=1e-12)


def test_beta_weighs_the_kl_alone():
    log_p, kl = RNG.normal(size=(2, 4))
    np.testing.assert_allclose(variational.elbo(log_p, kl, 4.0), log_p - 4 * kl, rtol=1e-12)
    np.testing.assert_array_equal(variational.elbo(log_p, kl), log_p - kl)


def test_free_bits_spare_the_dimensions_below_them():
    kl = jnp.array([0.2, 2.0])
    np.testing.assert_allclose(variational.free_bits(kl, 0.5), 0.5 + 2.0)
    np.testing.assert_allclose(variational.free_bits(kl, 0.0), kl.sum())
    np.testing.assert_allclose(jax.grad(variational.free_bits)(kl, 0.5), [0, 1])


def test_the_kl_to_a_class_prior_is_the_usual_one_seen_from_the_class_mean():
    mean, logvar, class_mean = RNG.normal(size=(3, 4, 2))
    shifted = gaussian.kl_to_standard_normal(mean - class_mean, logvar)
    np.testing.assert_allclose(variational.kl_to_class_prior(mean, logvar, class_mean), shifted, rtol=1e-12)


def test_the_best_class_mean_is_the_mean_code_of_the_class():
    mean, logvar = RNG.normal(size=(2, 6, 2))
    best = jnp.asarray(mean.mean(0))
    gradient = jax.grad(lambda mu: variational.kl_to_class_prior(mean, logvar, jnp.tile(mu[None], (6, 1))).sum())(best)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_the_naive_regularizer_is_zero_where_the_kl_is_and_no_multiple_of_it_elsewhere():
    zero = jnp.zeros((1, 2))
    assert variational.naive_regularizer(zero, zero) == 0
    small = 1e-3 * RNG.normal(size=(1, 2))
    np.testing.assert_allclose(
        variational.naive_regularizer(small, zero), 2 * gaussian.kl_to_standard_normal(small, zero)
    )
    np.testing.assert_allclose(
        variational.naive_regularizer(zero, small), 4 * gaussian.kl_to_standard_normal(zero, small), rtol=1e-2
    )
    vanishing = jnp.full((1, 1), -20.0)  # a variance that shrinks: 400 where the KL is 9.5
    assert variational.naive_regularizer(jnp.zeros((1, 1)), vanishing) == 400
    np.testing.assert_allclose(gaussian.kl_to_standard_normal(jnp.zeros((1, 1)), vanishing), [9.5], rtol=1e-6)
