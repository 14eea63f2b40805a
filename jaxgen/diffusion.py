"""The diffusion process of Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM), arXiv:2006.11239.

Equation numbers are the paper's; its t in {1, ..., T} is our t in {0, ..., T-1}. Throughout, x0, xt, eps are (b, ...) and t is (b,).
A ``predict_eps(xt, t)`` is any function that estimates the noise in xt; a network is never named here. Coefficients are float32 at
least: half-precision images give float32 results.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.schedules import Schedule

Images = Float[Array, "b *d"]
Timesteps = Int[Array, " b"]


def q_mean_variance(schedule: Schedule, x0: Images, t: Timesteps) -> tuple[Images, Images]:
    """Mean and variance of q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), both of the shape of x0  (eq. 4)."""
    log_alpha_bar = _log_alpha_bar(schedule, t, x0)
    return jnp.exp(0.5 * log_alpha_bar) * x0, jnp.broadcast_to(-jnp.expm1(log_alpha_bar), x0.shape)


def q_sample(schedule: Schedule, x0: Images, t: Timesteps, noise: Images) -> Images:
    """A sample x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise of q(x_t | x_0), for noise ~ N(0, I)  (eq. 4)."""
    signal, sigma = _signal_and_sigma(schedule, t, x0)
    return signal * x0 + sigma * noise


def q_posterior(
    schedule: Schedule, x0: Images, xt: Images, t: Timesteps, s: Timesteps | None = None
) -> tuple[Images, Images]:
    """Mean and variance of q(x_s | x_t, x_0), both of the shape of x0, for the step before, s = t - 1, or any s < t  (eqs. 6, 7).

    With alpha = alpha_bar_t / alpha_bar_s (which is 1 - beta_t for s = t - 1) and beta = 1 - alpha:

        mean     = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x_0 + sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t
        variance = beta (1 - alpha_bar_s) / (1 - alpha_bar_t)                                            (beta-tilde in the paper)

    s = -1 is the image itself, where alpha_bar = 1: mean x_0, variance 0.
    """
    s = t - 1 if s is None else s
    log_alpha_bar_t, log_alpha_bar_s = _log_alpha_bar(schedule, t, x0), _log_alpha_bar(schedule, s, x0)
    log_alpha = log_alpha_bar_t - log_alpha_bar_s
    beta, noise_s, noise_t = -jnp.expm1(log_alpha), -jnp.expm1(log_alpha_bar_s), -jnp.expm1(log_alpha_bar_t)
    mean = jnp.exp(0.5 * log_alpha_bar_s) * (beta / noise_t) * x0 + jnp.exp(0.5 * log_alpha) * (noise_s / noise_t) * xt
    return mean, jnp.broadcast_to(beta * noise_s / noise_t, x0.shape)


def q_step_variance(schedule: Schedule, xt: Images, t: Timesteps, s: Timesteps) -> Images:
    """Variance 1 - alpha_bar_t / alpha_bar_s of q(x_t | x_s), of the shape of xt; it is beta_t for s = t - 1  (eq. 2)."""
    log_alpha = _log_alpha_bar(schedule, t, xt) - _log_alpha_bar(schedule, s, xt)
    return jnp.broadcast_to(-jnp.expm1(log_alpha), xt.shape)


def posterior_mean_from_eps(schedule: Schedule, xt: Images, t: Timesteps, eps: Images) -> Images:
    """Mean of q(x_{t-1} | x_t, x_0) when x_0 is known through its noise eps  (eq. 11).

    1 / sqrt(1 - beta_t) (x_t - beta_t / sqrt(1 - alpha_bar_t) eps)
    """
    beta = _at(schedule.betas, t, xt)
    _, sigma = _signal_and_sigma(schedule, t, xt)
    return (xt - beta / sigma * eps) / jnp.sqrt(1 - beta)


def predict_x0(schedule: Schedule, xt: Images, t: Timesteps, eps: Images) -> Images:
    """The image x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t) that the noise eps turned into x_t  (eq. 4 solved for x_0)."""
    signal, sigma = _signal_and_sigma(schedule, t, xt)
    return (xt - sigma * eps) / signal


def predict_eps(schedule: Schedule, xt: Images, t: Timesteps, x0: Images) -> Images:
    """The noise eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t) that turned x_0 into x_t  (eq. 4 solved for eps)."""
    signal, sigma = _signal_and_sigma(schedule, t, xt)
    return (xt - signal * x0) / sigma


def simple_loss(
    schedule: Schedule, predict_eps: Callable[[Images, Timesteps], Images], x0: Images, t: Timesteps, noise: Images
) -> Float[Array, " b"]:
    """L_simple: squared error of the predicted noise, dimensionless, one per example, the mean over its pixels  (eq. 14).

        || eps - eps_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, t) ||^2 / D

    We divide the paper's squared norm by the number of dimensions D, as the authors' code does: predicting zero then costs 1
    at every image size.
    """
    error = noise - predict_eps(q_sample(schedule, x0, t, noise), t)
    return (error**2).reshape(len(error), -1).mean(axis=1)


def _log_alpha_bar(schedule, t, like):
    """log alpha_bar_t, shaped to multiply ``like``; 0 at t = -1, where there is no noise yet."""
    return _at(np.concatenate([[0.0], schedule.log_alpha_bars]), t + 1, like)


def _signal_and_sigma(schedule, t, like):
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply ``like``."""
    log_alpha_bar = _log_alpha_bar(schedule, t, like)
    return jnp.exp(0.5 * log_alpha_bar), jnp.sqrt(-jnp.expm1(log_alpha_bar))


def _at(table, t, like):
    """table[t], shaped to multiply ``like``, in float32 at least: in half precision 1 - alpha_bar would be gone."""
    return jnp.asarray(table, jnp.promote_types(like.dtype, jnp.float32))[t].reshape(-1, *[1] * (like.ndim - 1))
