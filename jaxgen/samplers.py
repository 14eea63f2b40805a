"""Samplers: fold a denoiser over a decreasing grid of timesteps, in one ``lax.scan``.

``predict_eps(x, t)`` estimates the noise in x (b, ...) at timesteps t (b,). The grid is data: other timesteps of the same number
run the same compiled program. The last step lands on the image, s = -1. A key is one key for the whole batch, or one key per
example (b,): an example's noise then does not depend on which others are drawn beside it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen import diffusion
from jaxgen.diffusion import Images, Timesteps
from jaxgen.schedules import Schedule

Grid = Int[Array, " num_steps"]
Trajectory = Float[Array, "num_steps b *d"]


def ancestral(
    key: Key[Array, " *b"],
    predict_eps: Callable[[Images, Timesteps], Images],
    schedule: Schedule,
    shape: tuple[int, ...],
    timesteps: Grid | None = None,
    *,
    variance: str = "beta",
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images of the given shape, drawn by running the chain backwards  (Ho et al. 2020, arXiv:2006.11239, Algorithm 2).

    x_s = mean of q(x_s | x_t, x0_hat) + sigma_t z, x_T ~ N(0, I), where x0_hat is the estimate that predict_eps implies.

    Args:
        timesteps: decreasing; all of the schedule's if None. Fewer give the respaced chain of Nichol & Dhariwal 2021
            (arXiv:2102.09672, section 4).
        variance: sigma_t^2: "beta", optimal for x_0 ~ N(0, I), or "beta_tilde", optimal for one x_0 (Ho et al., section 3.2).
        clip_x0: keep x0_hat in [-1, 1], as the authors' code does.
        trajectory: also return x_s after every step.

    Raises:
        ValueError: if variance is neither name.
    """
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f'variance must be "beta" or "beta_tilde"; got {variance!r}')
    timesteps = jnp.arange(schedule.num_steps - 1, -1, -1) if timesteps is None else timesteps

    def step(xt, t, s, noise_key):
        x0, _ = _estimate(schedule, predict_eps, xt, t, clip_x0)
        mean, sigma2 = diffusion.q_posterior(schedule, x0, xt, t, s)
        if variance == "beta":  # but none is added on the way to the image: "z = 0 if t = 1"
            sigma2 = jnp.where(sigma2 > 0, diffusion.q_step_variance(schedule, xt, t, s), 0.0)
        return mean + jnp.sqrt(sigma2) * _normal(noise_key, xt.shape)

    return _fold(step, _normal(_fold_in(key, 0), shape), timesteps, key, trajectory)


def ddim(
    predict_eps: Callable[[Images, Timesteps], Images],
    schedule: Schedule,
    x_T: Images,
    timesteps: Grid,
    *,
    eta: float = 0.0,
    key: Key[Array, " *b"] | None = None,
    clip_x0: bool = False,
    trajectory: bool = False,
) -> Images | tuple[Images, Trajectory]:
    """Images reached from x_T by denoising diffusion implicit steps  (Song et al. 2021, arXiv:2010.02502, eq. 12).

        x_s = sqrt(alpha_bar_s) x0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps_hat + sigma z,
        sigma^2 = eta^2 beta-tilde  (eq. 16)

    eta = 0 is deterministic, an integrator of order 1 of the probability-flow equation; eta = 1 is `ancestral` with "beta_tilde".

    Args:
        x_T: N(0, I) noise.
        timesteps: decreasing, for instance `schedules.trailing_timesteps(T, 50)`.
        key: needed where eta is not 0.
        clip_x0: keep x0_hat in [-1, 1], and eps_hat consistent with it.
        trajectory: also return x_s after every step.

    Raises:
        ValueError: if eta is not 0 and there is no key.
    """
    if key is None and not (isinstance(eta, int | float) and eta == 0):
        raise ValueError(f"eta = {eta} adds noise: pass a key")

    def step(xt, t, s, noise_key):
        x0, eps = _estimate(schedule, predict_eps, xt, t, clip_x0)
        mean, variance = diffusion.q_mean_variance(schedule, x0, s)
        if noise_key is None:
            return mean + jnp.sqrt(variance) * eps
        _, beta_tilde = diffusion.q_posterior(schedule, x0, xt, t, s)
        sigma2 = eta**2 * beta_tilde
        return (
            mean + jnp.sqrt(jnp.maximum(variance - sigma2, 0.0)) * eps + jnp.sqrt(sigma2) * _normal(noise_key, xt.shape)
        )

    return _fold(step, x_T, timesteps, key, trajectory)


def _estimate(schedule, predict_eps, xt, t, clip_x0):
    """x0_hat and the eps_hat that belongs to it."""
    eps = predict_eps(xt, t)
    x0 = diffusion.predict_x0(schedule, xt, t, eps)
    if not clip_x0:
        return x0, eps
    x0 = jnp.clip(x0, -1.0, 1.0)
    return x0, diffusion.predict_eps(schedule, xt, t, x0)


def _fold(step, x_T, timesteps, key, trajectory):
    """x_T carried by step(xt, t, s, noise_key) through the grid and on to the image."""
    num_steps, batch = len(timesteps), len(x_T)

    def body(xt, inputs):
        i, t, s = inputs
        noise_key = None if key is None else _fold_in(key, i)
        xs = step(xt, jnp.broadcast_to(t, batch), jnp.broadcast_to(s, batch), noise_key)
        return xs, xs if trajectory else None

    timesteps = jnp.asarray(timesteps)
    x_T = x_T.astype(jnp.promote_types(x_T.dtype, jnp.float32))
    grid = jnp.arange(1, num_steps + 1), timesteps, jnp.append(timesteps[1:], -1)
    x0, history = jax.lax.scan(body, x_T, grid)
    return (x0, history) if trajectory else x0


def _fold_in(key, i):
    return jax.random.fold_in(key, i) if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(key, i)


def _normal(key, shape):
    if key.ndim == 0:
        return jax.random.normal(key, shape)
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(key)
