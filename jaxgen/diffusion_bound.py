"""The variational bound of a diffusion model, term by term: how many nats it needs to say an image.

    -log p(x_0) <= L_T + sum_{t=1}^{T-1} L_t + L_0                                         (Ho et al. 2020, arXiv:2006.11239, eq. 5)

    L_T = KL(q(x_T | x_0) || N(0, I))                     `prior_term`
    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))   `term` at t > 0; our t is one less than theirs
    L_0 = -log p(x_0 | x_1)                               `term` at t = 0, with the discretised decoder of eq. 13, or a density

One number per example, in nats; for an estimate from few t, weigh each with 1 / its probability. Divide the sum by D log 2 for
bits per dimension (`likelihoods.bits_per_dim`). To evaluate with fewer steps, take a `schedules.respaced` chain.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen import diffusion, gaussian, likelihoods
from jaxgen.diffusion import Images, Quantity, Timesteps, Variance
from jaxgen.schedules import Schedule


def prior_term(schedule: Schedule, x0: Images) -> Float[Array, " b"]:
    """L_T = KL(q(x_T | x_0) || N(0, I)), in nats, one per example: what the chain's end still knows of the image."""
    last = jnp.full(len(x0), schedule.num_steps - 1)
    mean, variance = diffusion.q_mean_variance(schedule, x0, last)
    return gaussian.kl_to_standard_normal(mean, jnp.log(variance))


def term(
    schedule: Schedule,
    predict_eps: Callable[[Images, Timesteps], Images | tuple[Images, Images]],
    x0: Images,
    t: Timesteps,
    noise: Images,
    *,
    variance: Variance = "beta",
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    levels: bool = True,
) -> Float[Array, " b"]:
    """L_t at the x_t that this noise gives, in nats, one per example; averaged over noise it is the bound's term.

    Args:
        x0: images of 256 levels in [-1, 1]; or with levels = False real numbers, whose L_0 is minus the logarithm of a density.
        variance: of p(x_{t-1} | x_t): "beta", "beta_tilde", or "learned": then predict_eps returns also the v of `learned_logvar`.
        clip_x0: keep the estimate of x_0 in [-1, 1].
    """
    xt = diffusion.q_sample(schedule, x0, t, noise)
    prediction = predict_eps(xt, t)
    prediction, v = prediction if variance == "learned" else (prediction, None)
    x0_hat, _ = diffusion.x0_and_eps(schedule, xt, t, prediction, predicts)
    mean, _ = diffusion.q_posterior(schedule, jnp.clip(x0_hat, -1, 1) if clip_x0 else x0_hat, xt, t)
    true_mean, _ = diffusion.q_posterior(schedule, x0, xt, t)
    true_logvar = fixed_logvar(schedule, xt, t, "beta_tilde")
    logvar = learned_logvar(schedule, v, t) if variance == "learned" else fixed_logvar(schedule, xt, t, variance)
    divergence = gaussian.kl(true_mean, true_logvar, mean, logvar)
    decoder = (
        likelihoods.discretized_gaussian_log_prob(mean, 0.5 * logvar, x0)
        if levels
        else gaussian.log_prob(x0, mean, logvar)
    )
    return jnp.where(t == 0, -decoder, divergence)


def hybrid_loss(
    schedule: Schedule,
    predict_eps: Callable[[Images, Timesteps], tuple[Images, Images]],
    x0: Images,
    t: Timesteps,
    noise: Images,
    *,
    weight: float = 1e-3,
    predicts: Quantity = "eps",
    levels: bool = True,
) -> Float[Array, " b"]:
    """L_hybrid = L_simple + weight L_vlb for uniform t, dimensionless, one per example  (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16).

    L_vlb is T `term`, of x0 with or without levels, in bits per dimension, as in the authors' code. It trains the variances alone: the
    mean is held fixed in it, so the images are those of L_simple.
    """
    prediction, v = predict_eps(diffusion.q_sample(schedule, x0, t, noise), t)
    simple = diffusion.simple_loss(schedule, lambda *_: prediction, x0, t, noise, predicts=predicts)
    frozen = jax.lax.stop_gradient(prediction), v
    bound = term(schedule, lambda *_: frozen, x0, t, noise, variance="learned", predicts=predicts, levels=levels)
    return simple + weight * schedule.num_steps * likelihoods.bits_per_dim(bound, x0[0].size)


def fixed_logvar(schedule: Schedule, xt: Images, t: Timesteps, variance: Literal["beta", "beta_tilde"]) -> Images:
    """log beta_t, or log beta-tilde_t, the variance of q(x_{t-1} | x_t, x_0), of the shape of xt  (Ho et al. 2020, section 3.2).

    beta-tilde_0 = 0 has no logarithm; beta-tilde_1 stands in for it, as in the code of Nichol & Dhariwal 2021.

    Raises:
        ValueError: if variance is neither name.
    """
    log_beta, log_beta_tilde = _log_variances(schedule, t, xt)
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f'a fixed variance is "beta" or "beta_tilde"; got {variance!r}')
    return jnp.broadcast_to({"beta": log_beta, "beta_tilde": log_beta_tilde}[variance], xt.shape)


def learned_logvar(schedule: Schedule, v: Images, t: Timesteps) -> Images:
    """log sigma_t^2 = v log beta_t + (1 - v) log beta-tilde_t, of the shape of v  (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).

    The network's output for v is between 0 and 1 if it keeps within these bounds, which nothing forces it to.
    """
    log_beta, log_beta_tilde = _log_variances(schedule, t, v)
    return v * log_beta + (1 - v) * log_beta_tilde


def _log_variances(schedule, t, like):
    """log beta_t and log beta-tilde_t, shaped to multiply ``like``."""
    log_beta, log_noise = np.log(schedule.betas), np.log(-np.expm1(schedule.log_alpha_bars))
    log_beta_tilde = log_beta[1:] + log_noise[:-1] - log_noise[1:]
    first = log_beta_tilde[:1] if len(log_beta_tilde) else log_beta  # a chain of one step has beta alone
    tables = log_beta, np.concatenate([first, log_beta_tilde])
    return tuple(diffusion.at(table, t, like) for table in tables)
