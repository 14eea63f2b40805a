"""Solvers of the probability-flow equation, which carries noise to images without adding any: a few evaluations where a chain takes
hundreds. `samplers.ddim` is the one of order 1.

Arguments and results are those of `samplers.ddim`: a decreasing grid whose last step lands on the image, where x = x0_hat (of
`pndm`, near it). The first steps, which have no past, are of lower order. Each is one compiled program per length of the grid.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxgen import diffusion, multistep, runge_kutta
from jaxgen.diffusion import Images, Quantity
from jaxgen.samplers import Denoiser, Grid, Trajectory, check, estimate, fold, normal
from jaxgen.schedules import Schedule


def dpm_solver(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    order: Literal[1, 2, 3] = 2,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by DPM-Solver++ multistep: 2M, or with order 3, 3M  (Lu et al. 2022b, arXiv:2211.01095, Algorithm 2 and
    appendix B); by its SDE variant, which adds noise at every step, if there is a key (section 5).

    The authors' code for 3M, and what follows it, halves the weight of the second difference, which leaves a method of order 2 (and in
    diffusers' SDE variant gives it the wrong sign: order 1). Ours is that of the integral (`multistep.dpm_weights`), and of order 3.

    Raises:
        ValueError: if the order is not 1, 2 or 3, or the grid does not decrease.
    """
    grid = _nodes(schedule, timesteps, order)

    def step(xt, past, at):
        m, _ = estimate(schedule, xt, at.t, predict_eps(xt, at.t), predicts, clip_x0)
        past = (m, *past[:-1])
        xs = at.weights.carry * xt + _sum(at.weights.share, past)
        return (xs if key is None else xs + at.weights.noise * normal(at.key, xt.shape)), past

    weights = multistep.dpm_weights(grid, order, stochastic=key is not None)
    return fold(step, x_T, timesteps, memory=_blank(x_T, order), weights=weights, key=key, trajectory=trajectory)


def unipc(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    order: Literal[1, 2, 3] = 2,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by UniPC, a predictor and a corrector  (Zhao et al. 2023, arXiv:2302.04867, Algorithms 1 and 2, for data
    prediction and their B_2(h)).

    The evaluation at the predicted x_s, which the next step needs anyway, first corrects x_s: the order is one more at no cost.

    Raises:
        ValueError: if the order is not 1, 2 or 3, or the grid does not decrease.
    """
    grid = _nodes(schedule, timesteps, order)

    def step(xt, memory, at):
        m, _ = estimate(schedule, xt, at.t, predict_eps(xt, at.t), predicts, clip_x0)
        before, past = memory
        past = (m, *past)
        xt = at.weights.keep * xt + at.weights.before * before + _sum(at.weights.correction, past)
        xs = at.weights.predictor.carry * xt + _sum(at.weights.predictor.share, past[:-1])
        return xs, (xt, past[:-1])

    memory = (*_blank(x_T, 1), _blank(x_T, order))
    return fold(
        step, x_T, timesteps, memory=memory, weights=multistep.unipc_weights(grid, order), trajectory=trajectory
    )


def heun(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    order: Literal[1, 2] = 2,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by the sampler of EDM  (Karras et al. 2022, arXiv:2206.00364, Algorithm 2): Heun's method, 2 N - 1
    evaluations on a grid of N, or with order 1 Euler's, N of them.

    In x / sqrt(alpha_bar) = x_0 + sigma eps with sigma = sqrt((1 - alpha_bar) / alpha_bar), the equation is dx / dsigma = eps(x).
    `grids.karras` is their grid. Euler's method without churn is `samplers.ddim`. The denoiser is given fractions of timesteps.

    Args:
        churn: S_churn: each step from a sigma in churn_range, (S_tmin, S_tmax), first adds noise of churn_noise, S_noise, to bring sigma to
            (1 + min(churn / N, sqrt(2) - 1)) sigma, though not above the chain's.
        key: needed where churn is not 0.

    Raises:
        ValueError: if the order is not 1 or 2, the grid does not decrease, there is churn without a key, or the chain ends without any
            signal.
    """
    if order not in (1, 2):
        raise ValueError(f"the order is 1 or 2; got {order}")
    if key is None and not (isinstance(churn, int | float) and churn == 0):
        raise ValueError(f"churn = {churn} adds noise: pass a key")
    t, s = _steps(schedule, timesteps)
    rows = [(True, 1 / 2, (1.0,), False), (False, 1 / 2, (0.0, 1.0), False)][:order]
    start, *churning = _churned(schedule, t, churn, churn_range, churn_noise)
    count = order * len(t) - (order - 1)  # the step to the image is Euler's

    def interleaved(first, second):
        return jnp.stack([first, second][:order], axis=1).reshape(-1)[:count]

    times = {"at": interleaved(start, s), "base": interleaved(start, start), "to": interleaved(s, s)}
    x0, states = runge_kutta.integrate(
        predict_eps,
        schedule,
        x_T,
        runge_kutta.table((rows * len(t))[:count], times),
        churn=None if key is None else (interleaved(churning[0], t * 0 + 1), interleaved(churning[1], t * 0)),
        key=key,
        predicts=predicts,
        clip_x0=clip_x0,
        trajectory=trajectory,
    )
    ends = np.append(np.arange(order - 1, count - 1, order), count - 1)
    return (x0, states[ends]) if trajectory else x0


def pndm(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    warm_up: Literal["runge_kutta", "heun"] = "runge_kutta",
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by a pseudo linear multistep method of order 4  (Liu et al. 2022, arXiv:2202.09778, Algorithm 2).

    A step follows (55 eps_t - 59 eps_{t+1} + 37 eps_{t+2} - 9 eps_{t+3}) / 24 with the transfer of DDIM. The denoiser is given fractions of
    timesteps. Made for the linear schedules: where the first step spans a hundredfold change of the noise level, as with the cosine
    schedule, the Runge-Kutta warm-up runs off.

    Args:
        warm_up: how the first steps, which have no past, are made: by three of the classical Runge-Kutta method, N + 9 evaluations in
            all, as the paper has it; or by one of Heun's and then Adams methods of rising order, N + 1, as Stable Diffusion was
            published with.

    Raises:
        ValueError: if the warm-up has neither name, the grid does not decrease, or the chain ends without any signal.
    """
    if warm_up not in ("runge_kutta", "heun"):
        raise ValueError(f'the warm-up is "runge_kutta" or "heun"; got {warm_up!r}')
    t, s = _steps(schedule, timesteps)
    warm = min(
        {"runge_kutta": 3, "heun": 1}[warm_up], len(t) - 1
    )  # none to the image, where there is nothing to evaluate
    adams = {
        1: (1.0,),
        2: (3 / 2, 0.0, -1 / 2),
        3: (23 / 12, 0.0, -16 / 12, 5 / 12),
        4: (55 / 24, 0.0, -59 / 24, 37 / 24, -9 / 24),
    }
    middle = 0.5 * (t + s)
    rows, where = [], []
    for i in range(len(t)):
        whole = (t[i], s[i])
        if i >= warm:
            rows.append((True, 0.0, adams[min(i + 1, 4)], True))
            where.append((t[i], *whole))
        elif warm_up == "heun":
            rows += [(True, 1 / 2, (1.0,), True), (False, 1 / 2, (0.0, 1.0), False)]
            where += [(t[i], *whole), (s[i], *whole)]
        else:
            rows += [
                (True, 1 / 6, (1.0,), True),
                *[(False, 1 / 3, (1.0,), False)] * 2,
                (False, 1 / 6, (0.0, 1.0), False),
            ]
            half = (t[i], middle[i])
            where += [(t[i], *half), (middle[i], *half), (middle[i], *whole), (s[i], *whole)]
    at, base, to = (jnp.stack(column) for column in zip(*where, strict=True))
    x0, states = runge_kutta.integrate(
        predict_eps,
        schedule,
        x_T,
        runge_kutta.table(rows, {"at": at, "base": base, "to": to}),
        predicts=predicts,
        clip_x0=clip_x0,
        trajectory=trajectory,
    )
    if not trajectory:
        return x0
    per_step = {"runge_kutta": 4, "heun": 2}[warm_up]
    return x0, states[np.cumsum([per_step] * warm + [1] * (len(t) - warm)) - 1]


def _nodes(schedule, timesteps, order):
    if order not in (1, 2, 3):
        raise ValueError(f"the order is 1, 2 or 3; got {order}")
    check(timesteps)
    return multistep.nodes(schedule, timesteps, order)


def _steps(schedule, timesteps):
    """From and to, of each step, as fractions."""
    check(timesteps)
    if not np.isfinite(schedule.log_snrs[-1]):
        raise ValueError(
            "a chain that ends without any signal has an infinite sigma there: take ddim, dpm_solver or unipc"
        )
    t = jnp.asarray(timesteps, jnp.result_type(float))
    return t, jnp.append(t[1:], -1.0)


def _churned(schedule, t, churn, churn_range, churn_noise):
    """Where each step begins after churn, and what x and noise are multiplied with to get there."""
    chain = jnp.asarray(-0.5 * schedule.log_snrs, t.dtype)
    log_sigma = -0.5 * diffusion.log_snr(schedule, t, t)
    sigma = jnp.exp(log_sigma)
    inside = (sigma >= churn_range[0]) & (sigma <= churn_range[1])
    more = jnp.where(inside, jnp.log1p(jnp.minimum(churn / len(t), 2**0.5 - 1)), 0.0)
    churned = jnp.minimum(log_sigma + more, chain[-1])
    start = jnp.where(more > 0, jnp.interp(churned, chain, jnp.arange(len(chain), dtype=t.dtype)), t)
    before, _ = diffusion.signal_and_sigma(schedule, t, t)
    after, _ = diffusion.signal_and_sigma(schedule, start, t)
    added = jnp.sqrt(jnp.maximum(jnp.exp(2 * churned) - sigma**2, 0.0))
    return start, after / before, after * churn_noise * added


def _blank(x_T, count):
    return (jnp.zeros(x_T.shape, jnp.promote_types(x_T.dtype, jnp.float32)),) * count


def _sum(weights, terms):
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))
