"""Guidance: denoisers made of denoisers, that follow a condition more closely than the data do. Every sampler takes them.

``conditional(x, t)`` and ``unconditional(x, t)`` predict the same quantity, eps, x_0 or v: all are affine in each other at given x_t, so
guiding one guides the others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen import diffusion
from jaxgen.diffusion import Images, Quantity, Timesteps
from jaxgen.samplers import Denoiser
from jaxgen.schedules import Schedule


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float | Float[Array, " b"]) -> Denoiser:
    """The denoiser eps_u + scale (eps_c - eps_u)  (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w is scale - 1).

    Scale 0 forgets the condition, 1 is the conditional denoiser, more is that of p(x_t) p(c | x_t)^scale. One scale, or one per example.
    """

    def guided(xt, t):
        without = unconditional(xt, t)
        return without + _shaped(scale, xt) * (conditional(xt, t) - without)

    return guided


def rescaled(
    conditional: Denoiser, unconditional: Denoiser, scale: float | Float[Array, " b"], rescale: float = 0.7
) -> Denoiser:
    """`classifier_free` whose prediction is brought back to the spread of the conditional one, in part.

        rescale std(conditional) / std(guided) guided + (1 - rescale) guided,   the standard deviations over each example's pixels

    Large scales make pictures too bright and too contrasty; this does not. Lin et al. 2024, arXiv:2305.08891, eq. 15 and 16.

    Raises:
        ValueError: if rescale is not in [0, 1].
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale lies between 0, nothing, and 1, the conditional spread; got {rescale}")

    def guided(xt, t):
        with_condition, without = conditional(xt, t), unconditional(xt, t)
        free = without + _shaped(scale, xt) * (with_condition - without)
        wanted, found = (x.std(axis=tuple(range(1, xt.ndim)), keepdims=True) for x in (with_condition, free))
        ratio = jnp.where(found > 0, wanted, 1.0) / jnp.where(found > 0, found, 1.0)
        return (rescale * ratio + (1 - rescale)) * free

    return guided


def classifier(
    predict_eps: Denoiser,
    log_prob: Callable[[Images, Timesteps], Float[Array, " b"]],
    schedule: Schedule,
    scale: float | Float[Array, " b"] = 1.0,
) -> Denoiser:
    """The denoiser eps - scale sqrt(1 - alpha_bar_t) grad_{x_t} log p(c | x_t)  (Dhariwal & Nichol 2021, arXiv:2105.05233, Algorithm 2).

    Args:
        log_prob: of the condition given x_t, one per example, in nats, differentiable: of a classifier that knows noisy images, or any
            other log-density that is wanted to be large.
    """

    def guided(xt, t):
        gradient = jax.grad(lambda x: log_prob(x, t).sum())(xt)
        _, sigma = diffusion.signal_and_sigma(schedule, t, xt)
        return predict_eps(xt, t) - _shaped(scale, xt) * sigma * gradient

    return guided


def revised(
    predict: Denoiser, schedule: Schedule, revise: Callable[[Images], Images], *, predicts: Quantity = "eps"
) -> Denoiser:
    """The denoiser whose estimate of x_0 is ``revise`` of that of ``predict``, for what is known of the image besides; eps follows from it
    and x_t. The last step of a sampler lands on what revise gives; that of `solvers.pndm`, which is made of several estimates, near it.
    """

    def knowing(xt, t):
        x0 = revise(diffusion.x0_and_eps(schedule, xt, t, predict(xt, t), predicts)[0])
        return diffusion.target(schedule, x0, t, diffusion.predict_eps(schedule, xt, t, x0), predicts)

    return knowing


def _shaped(scale, like):
    """The scale, or one scale per example, to multiply ``like``."""
    scale = jnp.asarray(scale)
    return scale if scale.ndim == 0 else scale.reshape(-1, *[1] * (like.ndim - 1))
