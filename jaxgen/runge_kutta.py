"""Runge-Kutta and Adams methods for the probability-flow equation, as tables: what `solvers.heun` and `solvers.pndm` have in common.

In x / sqrt(alpha_bar) = x_0 + sigma eps, with sigma = sqrt((1 - alpha_bar) / alpha_bar), the equation is dx / dsigma = eps(x, sigma). An
explicit method is a list of evaluations of eps; after each, x moves from a base point along a weighted sum of this one and earlier ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxgen import diffusion
from jaxgen.diffusion import Images, Quantity
from jaxgen.samplers import Denoiser, Trajectory, estimate, fold_in, normal
from jaxgen.schedules import Schedule

PerEvaluation = Float[Array, " n"]
MEMORY = 3
"""Evaluations that are remembered: with a new one, enough for the Adams method of order 4."""


class Evaluations(NamedTuple):
    """Of each evaluation: where it is, and what follows from it. Build it with `table`."""

    at: PerEvaluation
    """Its timestep."""
    base: PerEvaluation
    """The timestep from which x then moves."""
    to: PerEvaluation
    """The timestep to which it moves; -1 is the image."""
    starts: Bool[Array, " n"]
    """Whether x here becomes the base, and a new sum begins."""
    into_sum: PerEvaluation
    """Its weight in the sum."""
    slope: Float[Array, "n 5"]
    """x moves along these weights times: this evaluation, the sum, and those remembered, newest first."""
    remembered: Bool[Array, " n"]
    """Whether it is remembered."""


def table(rows: list[tuple], times: dict[str, Float[Array, " n"]]) -> Evaluations:
    """The evaluations from rows of static weights, (starts, into_sum, slope, remembered), and their times: at, base and to."""
    starts, into_sum, slope, remembered = zip(*rows, strict=True)
    slope = [[*weights, *[0.0] * (2 + MEMORY - len(weights))] for weights in slope]
    return Evaluations(
        **times,
        starts=np.array(starts),
        into_sum=np.array(into_sum),
        slope=np.array(slope),
        remembered=np.array(remembered),
    )


def integrate(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    evaluations: Evaluations,
    *,
    churn: tuple[PerEvaluation, PerEvaluation] | None = None,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> tuple[Images, Trajectory | None]:
    """x after the last evaluation, and after every one if the trajectory is wanted.

    Args:
        churn: before each evaluation x becomes the first of these times x plus the second times N(0, I) noise from the key.
    """

    def move(base, slope, t, s):
        """signal_s / signal_t x + (sigma_s - signal_s / signal_t sigma_t) slope, where x = signal_t x0 + sigma_t eps is given by its parts:
        where signal_t is small both terms are large, and their difference would be lost in float32."""
        x0, eps = base
        signal_t, sigma_t = diffusion.signal_and_sigma(schedule, t, x0)
        signal_s, sigma_s = diffusion.signal_and_sigma(schedule, s, x0)
        return signal_s * x0 + sigma_s * eps + (sigma_s - signal_s / signal_t * sigma_t) * (slope - eps)

    def body(carry, inputs):
        x, base, total, past = carry
        i, now, churn = inputs
        if churn is not None:
            x = churn[0] * x + churn[1] * normal(fold_in(key, i), x.shape)
        at, before, to = (jnp.broadcast_to(moment, len(x)) for moment in (now.at, now.base, now.to))
        x0, eps = estimate(schedule, x, at, predict_eps(x, at), predicts, clip_x0)
        base = tuple(jnp.where(now.starts, new, old) for new, old in zip((x0, eps), base, strict=True))
        total = jnp.where(now.starts, 0.0, total) + now.into_sum * eps
        slope = sum(weight * e for weight, e in zip(now.slope, (eps, total, *past), strict=True))
        past = tuple(jnp.where(now.remembered, new, old) for new, old in zip((eps, *past[:-1]), past, strict=True))
        x = move(base, slope, before, to)
        return (x, base, total, past), x if trajectory else None

    x = x_T.astype(jnp.promote_types(x_T.dtype, jnp.float32))
    precise = jax.tree.map(lambda w: jnp.asarray(w, x.dtype if w.dtype != bool else bool), (evaluations, churn))
    blank = jnp.zeros_like(x)
    inputs = jnp.arange(1, len(evaluations.at) + 1), *precise
    (x, *_), history = jax.lax.scan(body, (x, (blank, blank), blank, (blank,) * MEMORY), inputs)
    return x, history
