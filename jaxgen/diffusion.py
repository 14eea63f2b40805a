"""The diffusion process of Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM), arXiv:2006.11239.

Equation numbers are the paper's; its t in {1, ..., T} is our t in {0, ..., T-1}. Throughout, x0, xt, eps are (b, ...) and t is (b,).
A ``predict_eps(xt, t)`` is any function that estimates the noise in xt; a network is never named here. What it estimates may also be
x_0 or v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0: say so with ``predicts``. Any two of x_t, x_0, eps, v determine the rest.

Timesteps are integers; a fraction is a moment between two of them, see `log_snr`. Coefficients are float32 at least: half-precision
images give float32 results.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.schedules import Schedule

Images = Float[Array, "b *d"]
Timesteps = Int[Array, " b"] | Float[Array, " b"]
Quantity = Literal["eps", "x0", "v"]
Variance = Literal["beta", "beta_tilde", "learned"]


def q_mean_variance(schedule: Schedule, x0: Images, t: Timesteps) -> tuple[Images, Images]:
    """Mean and variance of q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), both of the shape of x0  (eq. 4)."""
    log_alpha_bar = _log_alpha_bar(schedule, t, x0)
    return jnp.exp(0.5 * log_alpha_bar) * x0, jnp.broadcast_to(-jnp.expm1(log_alpha_bar), x0.shape)


def q_sample(schedule: Schedule, x0: Images, t: Timesteps, noise: Images) -> Images:
    """A sample x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise of q(x_t | x_0), for noise ~ N(0, I)  (eq. 4)."""
    signal, sigma = signal_and_sigma(schedule, t, x0)
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
    beta = at(schedule.betas, t, xt)
    _, sigma = signal_and_sigma(schedule, t, xt)
    return (xt - beta / sigma * eps) / jnp.sqrt(1 - beta)


def predict_x0(schedule: Schedule, xt: Images, t: Timesteps, eps: Images) -> Images:
    """The image x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t) that the noise eps turned into x_t  (eq. 4 solved for x_0)."""
    signal, sigma = signal_and_sigma(schedule, t, xt)
    return (xt - sigma * eps) / signal


def predict_eps(schedule: Schedule, xt: Images, t: Timesteps, x0: Images) -> Images:
    """The noise eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t) that turned x_0 into x_t  (eq. 4 solved for eps)."""
    signal, sigma = signal_and_sigma(schedule, t, xt)
    return (xt - signal * x0) / sigma


def predict_v(schedule: Schedule, x0: Images, t: Timesteps, eps: Images) -> Images:
    """The velocity v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0  (Salimans & Ho 2022, arXiv:2202.00512, section 4).

    With sqrt(alpha_bar_t) = cos(phi) it is dx_t / dphi. It is of size 1 at every noise level, and remains a question where x_t is
    noise alone.
    """
    signal, sigma = signal_and_sigma(schedule, t, x0)
    return signal * eps - sigma * x0


def x0_and_eps(
    schedule: Schedule, xt: Images, t: Timesteps, prediction: Images, predicts: Quantity = "eps"
) -> tuple[Images, Images]:
    """The image and the noise that make x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, from x_t and one of eps, x_0 and v.

    From v: x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v and eps = sqrt(1 - alpha_bar_t) x_t + sqrt(alpha_bar_t) v.

    Raises:
        ValueError: if predicts is none of the three.
    """
    if predicts == "eps":
        return predict_x0(schedule, xt, t, prediction), prediction
    if predicts == "x0":
        return prediction, predict_eps(schedule, xt, t, prediction)
    _check_quantity(predicts)
    signal, sigma = signal_and_sigma(schedule, t, xt)
    return signal * xt - sigma * prediction, sigma * xt + signal * prediction


def target(schedule: Schedule, x0: Images, t: Timesteps, eps: Images, predicts: Quantity = "eps") -> Images:
    """What a denoiser that predicts this quantity should say at x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    Raises:
        ValueError: if predicts is none of eps, x0 and v.
    """
    _check_quantity(predicts)
    return {"eps": eps, "x0": x0, "v": predict_v(schedule, x0, t, eps)}[predicts]


def simple_loss(
    schedule: Schedule,
    predict_eps: Callable[[Images, Timesteps], Images],
    x0: Images,
    t: Timesteps,
    noise: Images,
    *,
    predicts: Quantity = "eps",
) -> Float[Array, " b"]:
    """L_simple: squared error of the predicted noise, dimensionless, one per example, the mean over its pixels  (eq. 14).

        || eps - eps_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, t) ||^2 / D

    We divide the paper's squared norm by the number of dimensions D, as the authors' code does: predicting zero then costs 1
    at every image size. Of another predicted quantity it is that one's squared error.
    """
    error = target(schedule, x0, t, noise, predicts) - predict_eps(q_sample(schedule, x0, t, noise), t)
    return (error**2).reshape(len(error), -1).mean(axis=1)


def min_snr_weight(
    schedule: Schedule, t: Timesteps, gamma: float = 5.0, predicts: Quantity = "eps"
) -> Float[Array, " b"]:
    """Weight of the squared error of the predicted quantity at t that makes min(SNR, gamma) that of x_0's, (b,)  (Hang et al. 2023,
    arXiv:2303.09556, section 3.4).

        eps: min(SNR, gamma) / SNR    x0: min(SNR, gamma)    v: min(SNR, gamma) / (SNR + 1)    with SNR = alpha_bar_t / (1 - alpha_bar_t)

    Raises:
        ValueError: if gamma is not positive, or predicts is none of the three.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive; got {gamma}")
    _check_quantity(predicts)
    log_ratio, log_gamma = log_snr(schedule, t, t.astype(jnp.float32)), math.log(gamma)
    capped = jnp.minimum(log_ratio, log_gamma)
    return jnp.exp(
        {
            "eps": jnp.minimum(log_gamma - log_ratio, 0.0),
            "x0": capped,
            "v": capped - jnp.logaddexp(log_ratio, 0.0),
        }[predicts]
    )


def log_snr(schedule: Schedule, t: Timesteps, like: Images) -> Images:
    """log [alpha_bar_t / (1 - alpha_bar_t)], shaped to multiply ``like``; infinity at t = -1, where there is no noise yet.

    Between two timesteps of the chain it is linear in t, which is what a fraction of a timestep means.
    """
    table = schedule.log_snrs
    if jnp.issubdtype(t.dtype, jnp.integer):
        return at(np.concatenate([[np.inf], table]), t + 1, like)
    below = jnp.clip(jnp.floor(t), 0, len(table) - 1).astype(jnp.int32)
    left, right = at(table, below, like), at(table, jnp.minimum(below + 1, len(table) - 1), like)
    weight = _shaped(t - below, like)
    between = jnp.where(weight == 0, left, left + jnp.where(weight == 0, 0, weight) * (right - left))
    return jnp.where(_shaped(t, like) < 0, jnp.inf, between)


def signal_and_sigma(schedule: Schedule, t: Timesteps, like: Images) -> tuple[Images, Images]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply ``like``; 1 and 0 at t = -1."""
    log_alpha_bar = _log_alpha_bar(schedule, t, like)
    return jnp.exp(0.5 * log_alpha_bar), jnp.sqrt(-jnp.expm1(log_alpha_bar))


def _log_alpha_bar(schedule, t, like):
    """log alpha_bar_t, shaped to multiply ``like``; 0 at t = -1, where there is no noise yet."""
    if jnp.issubdtype(t.dtype, jnp.integer):
        return at(np.concatenate([[0.0], schedule.log_alpha_bars]), t + 1, like)
    return jax.nn.log_sigmoid(log_snr(schedule, t, like))


def at(table: Float[np.ndarray, " T"], t: Int[Array, " b"], like: Images) -> Images:
    """table[t], shaped to multiply ``like``, in float32 at least: in half precision 1 - alpha_bar would be gone."""
    return _shaped(jnp.asarray(table, _precise(like))[t], like)


def _shaped(per_example, like):
    return per_example.astype(_precise(like)).reshape(-1, *[1] * (like.ndim - 1))


def _precise(like):
    return jnp.promote_types(like.dtype, jnp.float32)


def _check_quantity(predicts):
    if predicts not in ("eps", "x0", "v"):
        raise ValueError(f'a denoiser predicts "eps", "x0" or "v"; got {predicts!r}')
