"""The likelihood that the probability-flow equation gives to images: noise of known density, carried to them by an invertible map.

In y = x / sqrt(alpha_bar) = x_0 + sigma eps with sigma = sqrt((1 - alpha_bar) / alpha_bar), the equation is dy / dsigma = eps(y, sigma).
Along a solution  (Chen et al. 2018, arXiv:1806.07366, theorem 1; Song et al. 2021, arXiv:2011.13456, appendix D.2)

    d log p(y) / dsigma = - div_y eps(y, sigma)

Exact up to the steps of the integrator, which is Heun's; the more timesteps the nearer, with order 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen import diffusion, diffusion_bound, gaussian
from jaxgen.diffusion import Images, Quantity
from jaxgen.samplers import Denoiser, Grid, check, fold_in
from jaxgen.schedules import Schedule

Divergence = Callable[[Callable[[Images], Images], Images, Key[Array, ""]], tuple[Images, Float[Array, " b"]]]


def exact(
    function: Callable[[Images], Images], x: Images, key: Key[Array, " *b"] | None
) -> tuple[Images, Float[Array, " b"]]:
    """function(x) and its divergence, sum_i d function_i / d x_i, (b,), for a function that treats examples apart: as many passes
    backwards as an example has dimensions. It takes no notice of the key."""
    value, backwards = jax.vjp(function, x)
    units = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])

    def add(total, unit):
        return total + gaussian.sum_per_example(unit * backwards(jnp.broadcast_to(unit, x.shape))[0]), None

    return value, jax.lax.scan(add, jnp.zeros(len(x), x.dtype), units)[0]


def estimated(
    function: Callable[[Images], Images], x: Images, key: Key[Array, " *b"]
) -> tuple[Images, Float[Array, " b"]]:
    """function(x) and an unbiased estimate of its divergence, v . J v with v_i = +-1, (b,), from one pass backwards  (Hutchinson 1989).

    From one key, or from one per example.
    """
    value, backwards = jax.vjp(function, x)
    if key.ndim:
        v = jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))(key)
    else:
        v = jax.random.rademacher(key, x.shape, x.dtype)
    return value, gaussian.sum_per_example(v * backwards(v)[0])


def log_prob(
    predict_eps: Denoiser,
    schedule: Schedule,
    xt: Images,
    timesteps: Grid,
    *,
    divergence: Divergence = exact,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
) -> Float[Array, " b"]:
    """Log-density of x at the last of the timesteps, in nats, one per example, for x_T ~ N(0, I) at the first.

    Args:
        timesteps: decreasing, as samplers take them; `grids.karras` is dense where it matters.
        divergence: `exact`, or `estimated` with a key.

    Raises:
        ValueError: if the grid does not decrease, or the chain ends without any signal.
    """
    check(timesteps)
    if not np.isfinite(schedule.log_snrs[-1]):
        raise ValueError(
            "a chain that ends without any signal has an infinite sigma there, and no density in its coordinates"
        )
    t = jnp.asarray(timesteps, jnp.result_type(float))[::-1]
    signal, noise = diffusion.signal_and_sigma(schedule, t, t)
    sigma, size = noise / signal, xt[0].size

    def slope(y, i, step_key):
        def eps(y):
            x, at = signal[i] * y, jnp.broadcast_to(t[i], len(y))
            return diffusion.x0_and_eps(schedule, x, at, predict_eps(x, at), predicts)[1]

        return divergence(eps, y, step_key)

    def upwards(carry, i):
        (y, here, divergence_here), total = carry
        step = sigma[i + 1] - sigma[i]
        guess, _ = slope(y + step * here, i + 1, _key(key, 2 * i))
        y = y + 0.5 * step * (here + guess)
        there, divergence_there = slope(y, i + 1, _key(key, 2 * i + 1))
        total = total + 0.5 * step * (divergence_here + divergence_there)
        return ((y, there, divergence_there), total), None

    y = xt.astype(jnp.promote_types(xt.dtype, jnp.float32)) / signal[0]
    start = (y, *slope(y, 0, _key(key, 2 * len(t)))), jnp.zeros(len(y), y.dtype)
    ((y, *_), total), _ = jax.lax.scan(upwards, start, jnp.arange(len(t) - 1))
    x_T = signal[-1] * y
    base = gaussian.log_prob(x_T, jnp.zeros_like(x_T), jnp.zeros_like(x_T))
    return base + size * (jnp.log(signal[-1]) - jnp.log(signal[0])) + total


def bound(
    predict_eps: Denoiser,
    schedule: Schedule,
    x0: Images,
    noise: Images,
    timesteps: Grid,
    *,
    divergence: Divergence = exact,
    key: Key[Array, " *b"] | None = None,
    predicts: Quantity = "eps",
) -> Float[Array, " b"]:
    """A bound on -log p(x_0) of images of 256 levels, in nats, one per example: the decoder of the diffusion bound on top of the flow.

        E_{q(x_t | x_0)} [ - log p(x_0 | x_t) - log p(x_t) + log q(x_t | x_0) ],   t = 0

    The first step, which knows levels, is that of `diffusion_bound.term`; the density of x_t is `log_prob`'s, where the bound of a
    chain loses something at every step. Averaged over noise, (b, ...), it is the bound.

    Args:
        timesteps: decreasing to 0.

    Raises:
        ValueError: if the grid does not end at 0; as `log_prob`.
    """
    if not isinstance(timesteps, jax.core.Tracer) and np.asarray(timesteps)[-1] != 0:
        raise ValueError(f"the grid must end at timestep 0, where the decoder takes over; got {timesteps[-1]}")
    t = jnp.zeros(len(x0), jnp.int32)
    xt = diffusion.q_sample(schedule, x0, t, noise)
    decoder = diffusion_bound.term(schedule, predict_eps, x0, t, noise, variance="beta_tilde", predicts=predicts)
    mean, variance = diffusion.q_mean_variance(schedule, x0, t)
    density = log_prob(predict_eps, schedule, xt, timesteps, divergence=divergence, key=key, predicts=predicts)
    return decoder - density + gaussian.log_prob(xt, mean, jnp.log(variance))


def _key(key, i):
    return None if key is None else fold_in(key, i)
