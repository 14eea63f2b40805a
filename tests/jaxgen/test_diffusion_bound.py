"""The bound of a small chain on one pixel, against its definition and against models whose evidence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import diffusion, diffusion_bound, likelihoods, schedules

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = schedules.linear(4, 0.1, 0.5)
GAIN = np.array([0.9, 0.7, 0.8, 0.6])
PIXEL = 25 / 127.5 - 1


def predict_eps(x, t):
    """Affine in x, and not the best one."""
    return jnp.asarray(GAIN)[t].reshape(-1, *[1] * (x.ndim - 1)) * x + 0.1


def reverse(t, xt, variance):
    """Mean and variance of p(x_{t-1} | x_t), from the definitions of Ho et al., section 3.2."""
    a, beta = SCHEDULE.alpha_bars, SCHEDULE.betas
    eps = GAIN[t] * xt + 0.1
    mean = (xt - beta[t] / np.sqrt(1 - a[t]) * eps) / np.sqrt(1 - beta[t])
    before = a[max(t, 1) - 1]  # beta-tilde_1 stands in for beta-tilde_0
    return mean, {"beta": beta[t], "beta_tilde": beta[max(t, 1)] * (1 - before) / (1 - a[max(t, 1)])}[variance]


def bound(x0, n, seed, variance):
    """Mean and squared standard error of prior term and terms over n draws of the noise."""
    noise = jax.random.normal(jax.random.key(seed), (SCHEDULE.num_steps, n, 1))
    x = jnp.full((n, 1), x0)
    terms = [
        diffusion_bound.term(SCHEDULE, predict_eps, x, jnp.full(n, t), noise[t], variance=variance)
        for t in range(SCHEDULE.num_steps)
    ]
    prior = diffusion_bound.prior_term(SCHEDULE, x[:1])[0]
    return prior + sum(t.mean() for t in terms), sum(t.var() / n for t in terms)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_terms_add_up_to_the_bound_of_its_definition(variance):
    """E_q [log q(x_1 .. x_T | x_0) - log p(x_0 .. x_T)], along chains drawn one noising step at a time  (Ho et al. 2020, eq. 3)."""
    n, rng = 100_000, np.random.default_rng(0)
    total, x = np.zeros(n), np.full(n, PIXEL)
    for t, beta in enumerate(SCHEDULE.betas):
        before, x = x, np.sqrt(1 - beta) * x + np.sqrt(beta) * rng.normal(size=n)
        total += stats.norm.logpdf(x, np.sqrt(1 - beta) * before, np.sqrt(beta))
        mean, var = reverse(t, x, variance)
        if t == 0:
            law = stats.norm(mean, np.sqrt(var))
            total -= np.log(law.cdf(PIXEL + 1 / 255) - law.cdf(PIXEL - 1 / 255))
        else:
            total -= stats.norm.logpdf(before, mean, np.sqrt(var))
    total -= stats.norm.logpdf(x)
    value, squared_error = bound(PIXEL, n, 0, variance)
    assert abs(value - total.mean()) < 4 * np.sqrt(squared_error + total.var() / n)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_bound_is_above_the_evidence(variance):
    """With an affine denoiser p(x_0) is normal: push its mean and its variance through the reverse steps."""
    mean, var = 0.0, 1.0
    for t in reversed(range(SCHEDULE.num_steps)):
        (at_zero, step), (at_one, _) = reverse(t, 0.0, variance), reverse(t, 1.0, variance)
        slope = at_one - at_zero
        mean, var = at_zero + slope * mean, slope**2 * var + step
    law = stats.norm(mean, np.sqrt(var))
    for pixel in (PIXEL, 0.5 / 127.5):
        evidence = np.log(law.cdf(pixel + 1 / 255) - law.cdf(pixel - 1 / 255))
        value, squared_error = bound(pixel, 100_000, 1, variance)
        assert value - 4 * np.sqrt(squared_error) > -evidence
        assert value < -evidence + 1.5


def test_a_model_that_knows_the_image_pays_only_at_the_ends():
    """With the true x_0 and beta-tilde every KL is 0; what is left is L_T and the decoder."""
    x0 = jnp.full((4, 1), PIXEL)

    def knowing(xt, t):
        return diffusion.predict_eps(SCHEDULE, xt, t, x0)

    noise, t = jax.random.normal(jax.random.key(0), (4, 1)), jnp.arange(4)
    terms = diffusion_bound.term(SCHEDULE, knowing, x0, t, noise, variance="beta_tilde")
    np.testing.assert_allclose(terms[1:], 0, atol=1e-12)
    scale = np.sqrt(reverse(0, 0.0, "beta_tilde")[1])
    np.testing.assert_allclose(terms[0], -np.log(2 * stats.norm.cdf(1 / 255 / scale) - 1), rtol=1e-6)


def test_real_numbers_have_a_density_in_place_of_levels():
    x0, t, noise = jnp.array([[3.7, -0.2]] * 4), jnp.arange(4), jax.random.normal(jax.random.key(0), (4, 2))
    found = diffusion_bound.term(SCHEDULE, predict_eps, x0, t, noise, levels=False)
    x_1 = diffusion.q_sample(SCHEDULE, x0, t, noise)[0]
    mean, variance = zip(*(reverse(0, x, "beta") for x in x_1), strict=True)
    np.testing.assert_allclose(found[0], -stats.norm.logpdf(x0[0], mean, np.sqrt(variance)).sum(), rtol=1e-9)
    near = jnp.full((4, 2), PIXEL)
    of_both = [diffusion_bound.term(SCHEDULE, predict_eps, near, t, noise, levels=levels) for levels in (True, False)]
    np.testing.assert_array_equal(of_both[0][1:], of_both[1][1:])
    hybrid = diffusion_bound.hybrid_loss(SCHEDULE, with_v(1.0), x0, t, noise, weight=0.01, levels=False)
    simple = diffusion.simple_loss(SCHEDULE, predict_eps, x0, t, noise)
    np.testing.assert_allclose(hybrid - simple, 0.01 * 4 * likelihoods.bits_per_dim(found, 2), rtol=1e-9)


def test_the_prior_term_is_the_divergence_of_the_chains_end_from_noise():
    x0, a = jnp.array([[0.3, -0.8]]), SCHEDULE.alpha_bars[-1]
    expected = 0.5 * (a * np.sum(x0**2) + 2 * ((1 - a) - 1 - np.log(1 - a)))
    np.testing.assert_allclose(diffusion_bound.prior_term(SCHEDULE, x0), [expected], rtol=1e-9)
    assert diffusion_bound.prior_term(schedules.zero_terminal_snr(schedules.linear()), x0) == 0


def with_v(v):
    return lambda x, t: (predict_eps(x, t), jnp.full_like(x, v))


@pytest.mark.parametrize(("v", "variance"), [(0.0, "beta_tilde"), (1.0, "beta")])
def test_the_learned_variance_lies_between_the_two_fixed_ones(v, variance):
    x0, noise, t = jnp.full((4, 1), PIXEL), jax.random.normal(jax.random.key(0), (4, 1)), jnp.arange(4)
    learned = diffusion_bound.term(SCHEDULE, with_v(v), x0, t, noise, variance="learned")
    fixed = diffusion_bound.term(SCHEDULE, predict_eps, x0, t, noise, variance=variance)
    np.testing.assert_allclose(learned, fixed, rtol=1e-9)
    halfway = diffusion_bound.learned_logvar(SCHEDULE, jnp.full((4, 1), 0.5), t)[:, 0]
    geometric = 0.5 * sum(np.log([reverse(s, 0.0, kind)[1] for s in range(4)]) for kind in ("beta", "beta_tilde"))
    np.testing.assert_allclose(halfway, geometric, rtol=1e-9)


def test_the_hybrid_loss_trains_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
    x0, noise, t = jnp.full((4, 1), PIXEL), jax.random.normal(jax.random.key(0), (4, 1)), jnp.arange(4)

    def gradients(loss):
        return jax.grad(
            lambda shift, v: loss(lambda x, t: (predict_eps(x, t) + shift, v * jnp.ones_like(x))).sum(), (0, 1)
        )(0.2, 0.3)

    hybrid = gradients(lambda predict: diffusion_bound.hybrid_loss(SCHEDULE, predict, x0, t, noise, weight=0.01))
    simple, _ = gradients(lambda p: diffusion.simple_loss(SCHEDULE, lambda x, t: p(x, t)[0], x0, t, noise))
    _, in_nats = gradients(lambda p: diffusion_bound.term(SCHEDULE, p, x0, t, noise, variance="learned"))
    np.testing.assert_allclose(hybrid[0], simple, rtol=1e-9)
    np.testing.assert_allclose(hybrid[1], 0.01 * 4 * likelihoods.bits_per_dim(in_nats, 1), rtol=1e-9)


def test_the_bound_of_a_respaced_chain_takes_the_denoiser_of_the_long_one():
    """At every timestep of the long chain it is the bound of that chain; at some of them it is another bound of the same image."""
    long = schedules.linear(50, 1e-3, 0.2)
    x0, noise, t = jnp.full((5, 1), PIXEL), jax.random.normal(jax.random.key(0), (5, 1)), jnp.arange(0, 50, 10)

    def denoiser(x, t):
        return jnp.tanh(x) * (1 + t[:, None] / 50)

    timesteps = np.array([45, 30, 20, 5])
    short = schedules.respaced(long, timesteps)
    direct = diffusion_bound.term(schedules.respaced(long, np.arange(50)), denoiser, x0, t, noise)
    np.testing.assert_allclose(direct, diffusion_bound.term(long, denoiser, x0, t, noise), rtol=1e-6)
    i = jnp.array([1, 3])
    a, b = (long.alpha_bars[np.sort(timesteps)[k]] for k in (i, i - 1))
    xt = jnp.sqrt(a)[:, None] * x0[:2] + jnp.sqrt(1 - a)[:, None] * noise[:2]
    x0_hat = diffusion.predict_x0(short, xt, i, denoiser(xt, jnp.sort(timesteps)[i]))
    beta = (1 - a / b)[:, None]
    share = jnp.sqrt(b)[:, None] * beta / (1 - a)[:, None]
    tilde = beta * ((1 - b) / (1 - a))[:, None]
    expected = 0.5 * (tilde / beta - 1 - jnp.log(tilde / beta) + (share * (x0[:2] - x0_hat)) ** 2 / beta)
    found = diffusion_bound.term(short, lambda x, i: denoiser(x, jnp.sort(timesteps)[i]), x0[:2], i, noise[:2])
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine()])
def test_every_term_and_its_gradient_are_finite(schedule, dtype):
    t = jnp.arange(schedule.num_steps)
    x0 = jnp.full((len(t), 2), PIXEL, dtype)
    noise = jax.random.normal(jax.random.key(0), x0.shape, dtype)

    def total(gain, v):
        def predict(x, t):
            return gain * x, v * jnp.ones_like(x)

        return diffusion_bound.term(schedule, predict, x0, t, noise, variance="learned")

    gain, v = jnp.asarray(3.0, dtype), jnp.asarray(0.4, dtype)
    assert jnp.all(jnp.isfinite(total(gain, v)))
    assert jnp.all(jnp.isfinite(jnp.array(jax.grad(lambda *a: total(*a).sum(), (0, 1))(gain, v))))


def test_a_variance_that_is_not_fixed_is_refused_as_a_fixed_one():
    with pytest.raises(ValueError, match='"beta" or "beta_tilde"; got \'learned\''):
        diffusion_bound.fixed_logvar(SCHEDULE, jnp.ones((1, 1)), jnp.array([1]), "learned")
