"""Editing with a model that was never trained for it: images like a given one, and images with a part given.

Known images are (b, ...) in [-1, 1]; a mask is 1 where they are known and 0 where they are to be made up, of a shape that broadcasts
to them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen import diffusion, guidance
from jaxgen.diffusion import Images, Quantity
from jaxgen.samplers import Denoiser, Grid, check, estimate, fold_in, normal
from jaxgen.schedules import Schedule


def remaining(timesteps: Grid, strength: float) -> Grid:
    """The end of a grid, on which a share ``strength`` of its steps is left, at least one.

    For an image like x0: noise it to the first of these, ``diffusion.q_sample(schedule, x0, t, noise)``, and run any sampler on them
    from there (SDEdit, Meng et al. 2022, arXiv:2108.01073). At strength 1 little but the layout of the image is kept.

    Raises:
        ValueError: if strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is the share of the steps to take, more than 0 and at most 1; got {strength}")
    return timesteps[len(timesteps) - max(1, round(strength * len(timesteps))) :]


def replace_known(
    predict: Denoiser,
    schedule: Schedule,
    known: Images,
    mask: Float[Array, "b *d"],
    *,
    predicts: Quantity = "eps",
) -> Denoiser:
    """The denoiser that also knows a part of the image: there its estimate of x_0 is the image itself. Every sampler takes it.

    In the known part a sampler's x_s then has the law of q(x_s | x_t, x_0) with the true x_0, and the last step lands on it (that of
    `solvers.pndm`, near it). That is the replacement method (Song et al. 2021, arXiv:2011.13456, appendix I.2) with the known part
    noised along one path, instead of anew at each step. The unknown part is made to fit only as far as the model looks ahead;
    `repaint` does better.

    Raises:
        ValueError: if the mask does not broadcast to the images.
    """
    mask = _checked(mask, known)
    return guidance.revised(predict, schedule, lambda x0: mask * known + (1 - mask) * x0, predicts=predicts)


def repaint(
    key: Key[Array, " *b"],
    predict: Denoiser,
    schedule: Schedule,
    known: Images,
    mask: Float[Array, "b *d"],
    timesteps: Grid,
    *,
    jump: int = 10,
    resamplings: int = 10,
    predicts: Quantity = "eps",
    clip_x0: bool = False,
) -> Images:
    """Images whose known part is given, by RePaint  (Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1): an ancestral chain whose known
    part is drawn from q(x_s | x_0), and which goes back up again and again, so that both parts come to agree.

    Args:
        timesteps: decreasing; the paper takes 250 of 1,000.
        jump: how many steps of the grid it goes up at a time; the paper's j.
        resamplings: how often every stretch of so many steps is gone down; 1 never goes up. The paper's r. Evaluations rise with it.

    Raises:
        ValueError: if jump or resamplings is less than 1, the mask does not broadcast to the images, or the grid does not decrease.
    """
    if jump < 1 or resamplings < 1:
        raise ValueError(f"jump and resamplings must be at least 1; got {jump} and {resamplings}")
    check(timesteps)
    mask = _checked(mask, known)
    moments = jnp.append(jnp.asarray(timesteps), -1)
    path = repaint_path(len(timesteps), jump, resamplings)

    def down(xt, t, s, key):
        known_key, step_key = (fold_in(key, i) for i in range(2))
        x0, _ = estimate(schedule, xt, t, predict(xt, t), predicts, clip_x0)
        mean, variance = diffusion.q_posterior(schedule, x0, xt, t, s)
        mean_known, variance_known = diffusion.q_mean_variance(schedule, known, s)
        made_up = mean + jnp.sqrt(variance) * normal(step_key, xt.shape)
        return mask * (mean_known + jnp.sqrt(variance_known) * normal(known_key, xt.shape)) + (1 - mask) * made_up

    def up(xs, s, t, key):
        variance = diffusion.q_step_variance(schedule, xs, t, s)
        return jnp.sqrt(1 - variance) * xs + jnp.sqrt(variance) * normal(key, xs.shape)

    def body(x, inputs):
        i, here, there = inputs
        arguments = (
            x,
            jnp.broadcast_to(moments[here], len(x)),
            jnp.broadcast_to(moments[there], len(x)),
            fold_in(key, i),
        )
        return jax.lax.cond(there > here, down, up, *arguments), None

    x_T = normal(fold_in(key, 0), known.shape).astype(jnp.promote_types(known.dtype, jnp.float32))
    x0, _ = jax.lax.scan(body, x_T, (jnp.arange(1, len(path)), path[:-1], path[1:]))
    return x0


def repaint_path(num_steps: int, jump: int, resamplings: int) -> Int[np.ndarray, " n"]:
    """The way through a grid: numbers from 0, noise, to num_steps, the image. Whenever a stretch of ``jump`` steps has been gone down it is
    gone up and down again, until it has been gone down ``resamplings`` times. The last stretch ends one step before the image."""
    path, left = [0], dict.fromkeys(range(num_steps - 1, jump - 1, -jump), resamplings - 1)
    while path[-1] < num_steps:
        here = path[-1] + 1
        path.append(here)
        if left.get(here):
            left[here] -= 1
            path.extend(range(here - 1, here - jump - 1, -1))
    return np.array(path)


def _checked(mask, known):
    try:
        return jnp.broadcast_to(mask, known.shape)
    except ValueError:
        raise ValueError(f"a mask of shape {mask.shape} does not fit images of shape {known.shape}") from None
