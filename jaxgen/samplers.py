"""Samplers: fold a denoiser over a decreasing grid of timesteps, in one ``lax.scan``. Here those of the chain; in `solvers` those of
the probability-flow equation.

``predict_eps(x, t)`` estimates the noise in x (b, ...) at timesteps t (b,), or with ``predicts`` another quantity (`diffusion.x0_and_eps`).
The grid is data: other timesteps of the same number run the same compiled program; `grids` has the usual ones. The last step lands on
the image, s = -1. A key is one key for the whole batch, or one key per example (b,): an example's noise then does not depend on
which others are drawn beside it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen import diffusion
from jaxgen.diffusion import Images, Quantity, Timesteps, Variance
from jaxgen.schedules import Schedule

Grid = Int[Array, " num_steps"] | Float[Array, " num_steps"]
Trajectory = Float[Array, "num_steps b *d"]
Denoiser = Callable[[Images, Timesteps], Images]


def ancestral(
    key: Key[Array, " *b"],
    predict_eps: Callable[[Images, Timesteps], Images | tuple[Images, Images]],
    schedule: Schedule,
    shape: tuple[int, ...],
    timesteps: Grid | None = None,
    *,
    variance: Variance = "beta",
    predicts: Quantity = "eps",
    x_T: Images | None = None,
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images of the given shape, drawn by running the chain backwards  (Ho et al. 2020, arXiv:2006.11239, Algorithm 2).

    x_s = mean of q(x_s | x_t, x0_hat) + sigma_t z, x_T ~ N(0, I), where x0_hat is the estimate that predict_eps implies.

    Args:
        timesteps: decreasing; all of the schedule's if None. Fewer give the respaced chain of Nichol & Dhariwal 2021
            (arXiv:2102.09672, section 4).
        variance: sigma_t^2: "beta", optimal for x_0 ~ N(0, I), or "beta_tilde", optimal for one x_0 (Ho et al., section 3.2), or "learned",
            between them: then predict_eps returns also the v of `diffusion_bound.learned_logvar`.
        x_T: where to begin, instead of noise.
        clip_x0: keep x0_hat in [-1, 1], as the authors' code does.
        trajectory: also return x_s after every step.

    Raises:
        ValueError: if variance is none of the names, or the grid does not decrease.
    """
    if variance not in ("beta", "beta_tilde", "learned"):
        raise ValueError(f'variance must be "beta", "beta_tilde" or "learned"; got {variance!r}')
    timesteps = np.arange(schedule.num_steps - 1, -1, -1) if timesteps is None else timesteps

    def step(xt, memory, at):
        prediction = predict_eps(xt, at.t)
        prediction, v = prediction if variance == "learned" else (prediction, None)
        x0, _ = estimate(schedule, xt, at.t, prediction, predicts, clip_x0)
        mean, beta_tilde = diffusion.q_posterior(schedule, x0, xt, at.t, at.s)
        beta = diffusion.q_step_variance(schedule, xt, at.t, at.s)
        lower = jnp.where(beta_tilde > 0, beta_tilde, beta)
        sigma2 = {"beta": beta, "beta_tilde": lower}[variance] if v is None else beta**v * lower ** (1 - v)
        sigma = jnp.where(beta_tilde > 0, jnp.sqrt(sigma2), 0.0)  # none on the way to the image: "z = 0 if t = 1"
        return mean + sigma * normal(at.key, xt.shape), memory

    x_T = normal(fold_in(key, 0), shape) if x_T is None else x_T
    return fold(step, x_T, timesteps, key=key, trajectory=trajectory)


def ddim(
    predict_eps: Denoiser,
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    eta: float = 0.0,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by denoising diffusion implicit steps  (Song et al. 2021, arXiv:2010.02502, eq. 12).

        x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps_hat + sigma z,
        sigma^2 = eta^2 beta-tilde  (eq. 16)

    eta = 0 is deterministic, an integrator of order 1 of the probability-flow equation; eta = 1 is `ancestral` with "beta_tilde".

    Args:
        x_T: N(0, I) noise.
        timesteps: decreasing, for instance `grids.trailing(T, 50)`.
        key: needed where eta is not 0.
        clip_x0: keep x0_hat in [-1, 1], and eps_hat consistent with it.
        trajectory: also return x_s after every step.

    Raises:
        ValueError: if eta is not 0 and there is no key, or the grid does not decrease.
    """
    if key is None and not (isinstance(eta, int | float) and eta == 0):
        raise ValueError(f"eta = {eta} adds noise: pass a key")

    def step(xt, memory, at):
        x0, eps = estimate(schedule, xt, at.t, predict_eps(xt, at.t), predicts, clip_x0)
        mean, variance = diffusion.q_mean_variance(schedule, x0, at.s)
        if at.key is None:
            return mean + jnp.sqrt(variance) * eps, memory
        _, beta_tilde = diffusion.q_posterior(schedule, x0, xt, at.t, at.s)
        sigma2 = eta**2 * beta_tilde
        kept = jnp.sqrt(jnp.maximum(variance - sigma2, 0.0))
        return mean + kept * eps + jnp.sqrt(sigma2) * normal(at.key, xt.shape), memory

    return fold(step, x_T, timesteps, key=key, trajectory=trajectory)


def ddim_inversion(
    predict_eps: Denoiser,
    schedule: Schedule,
    x0: Images,
    timesteps: Grid,
    *,
    iterations: int = 1,
    predicts: Quantity = "eps",
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """The x_T from which `ddim` with eta = 0 leads over the same grid to these images, approximately  (Dhariwal & Nichol 2021,
    arXiv:2105.05233, appendix F).

    A step of `ddim` from t to s solved for x_t:  x_t = sqrt(alpha_bar_t) (x_s - sigma_s eps) / sqrt(alpha_bar_s) + sigma_t eps, with
    sigma^2 = 1 - alpha_bar. The noise eps(x_t, t) in it is not known before x_t is: take that at x_s, and if asked for more iterations
    that at the x_t found so far, which converges to the exact inverse where the steps are short.

    Args:
        timesteps: decreasing, as `ddim` takes them.
        iterations: evaluations per step.
        trajectory: also return x_t after every step.

    Raises:
        ValueError: if iterations < 1 or the grid does not decrease.
    """
    if iterations < 1:
        raise ValueError(f"a step takes at least 1 iteration; got {iterations}")

    def step(xs, memory, at):
        signal_s, sigma_s = diffusion.signal_and_sigma(schedule, at.s, xs)
        signal_t, sigma_t = diffusion.signal_and_sigma(schedule, at.t, xs)

        def closer(_, xt):
            _, eps = diffusion.x0_and_eps(schedule, xt, at.t, predict_eps(xt, at.t), predicts)
            return signal_t / signal_s * (xs - sigma_s * eps) + sigma_t * eps

        return jax.lax.fori_loop(0, iterations, closer, xs), memory

    return fold(step, x0, timesteps, trajectory=trajectory, upwards=True)


class Moment(NamedTuple):
    """A step of a sampler, from timestep t to s."""

    t: Timesteps
    s: Timesteps
    key: Key[Array, " *b"] | None
    """Of this step's noise."""
    weights: Any
    """This step's entry of the weights that `fold` was given."""


def fold(
    step: Callable[[Images, Any, Moment], tuple[Images, Any]],
    x_T: Images,
    timesteps: Grid,
    *,
    memory: Any = (),
    weights: Any = (),
    key: Key[Array, " *b"] | None = None,
    trajectory: bool = False,
    upwards: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """x_T carried by ``step(xt, memory, moment) -> (xs, memory)`` through the grid and on to the image, s = -1.

    Args:
        memory: what the first step is given, and each then hands on to the next.
        weights: arrays with one entry per step.
        upwards: from the image to the grid's first timestep instead: ``step(xs, memory, moment) -> (xt, memory)``.

    Raises:
        ValueError: if the timesteps are known and do not decrease to 0 or more.
    """
    check(timesteps)
    timesteps, batch = jnp.asarray(timesteps), len(x_T)

    def body(carry, inputs):
        i, t, s, weights = inputs
        step_key = None if key is None else fold_in(key, i)
        x, memory = step(*carry, Moment(jnp.broadcast_to(t, batch), jnp.broadcast_to(s, batch), step_key, weights))
        return (x, memory), x if trajectory else None

    x_T = x_T.astype(jnp.promote_types(x_T.dtype, jnp.float32))
    steps = jnp.arange(1, len(timesteps) + 1), timesteps, jnp.append(timesteps[1:], -1), weights
    (x, _), history = jax.lax.scan(body, (x_T, memory), steps, reverse=upwards)
    if not trajectory:
        return x
    return x, history[::-1] if upwards else history


def check(timesteps: Grid) -> None:
    """Raises:
    ValueError: if the timesteps are known and are no grid: at least one, decreasing, none negative."""
    if isinstance(timesteps, jax.core.Tracer):
        return
    known = np.asarray(timesteps)
    if known.ndim != 1 or not known.size or known[-1] < 0 or not np.all(np.diff(known) < 0):
        raise ValueError(f"the timesteps of a grid decrease and are not negative; got {known}")


def estimate(
    schedule: Schedule, xt: Images, t: Timesteps, prediction: Images, predicts: Quantity, clip_x0: bool
) -> tuple[Images, Images]:
    """x0_hat, in [-1, 1] if clipped, and the eps_hat that belongs to it, both of the shape of xt."""
    x0, eps = diffusion.x0_and_eps(schedule, xt, t, prediction, predicts)
    if not clip_x0:
        return x0, eps
    x0 = jnp.clip(x0, -1.0, 1.0)
    return x0, diffusion.predict_eps(schedule, xt, t, x0)


def normal(key: Key[Array, " *b"], shape: tuple[int, ...]) -> Images:
    """N(0, I) noise, from one key or from one per example."""
    if key.ndim == 0:
        return jax.random.normal(key, shape)
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(key)


def fold_in(key: Key[Array, " *b"], i: int) -> Key[Array, " *b"]:
    """The key, or each example's, for the draw numbered i."""
    return jax.random.fold_in(key, i) if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(key, i)
