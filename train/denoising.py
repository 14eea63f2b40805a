"""How images are drawn with a denoiser: the choices that every diffusion recipe offers, and what they come to."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from train.common.config import free
from train.common.errors import UserError, check_ranges

Sampler = Literal["ancestral", "ddim", "dpm_solver", "dpm_solver_sde", "unipc", "heun", "pndm"]
Grid = Literal["trailing", "leading", "linspace", "karras", "even_log_snr"]


@dataclass(frozen=True)
class Drawing:
    """The sampler and its grid. All of it may change when a run goes on."""

    sampler: Sampler = free("ancestral")
    """How samples are drawn; dpm_solver_sde adds noise at every step, as ancestral does."""
    sample_steps: int = free(250)
    """Timesteps of the sampler, at most T."""
    grid: Grid = free("trailing")
    """Which timesteps."""
    order: int | None = free(None)
    """Of dpm_solver, dpm_solver_sde and unipc, 1 to 3, and heun, 1 or 2. Default: 2."""
    variance: Literal["beta", "beta_tilde"] = free("beta")
    """Of an ancestral step, where it is not learned."""
    eta: float = free(0.0)
    """ddim: noise of a step, from 0, none, to 1, as much as an ancestral one."""
    guidance: float = free(1.0)
    """Conditional models: scale of classifier-free guidance; more follows the condition more closely."""
    rescale: float = free(0.0)
    """Conditional models: how far guided predictions are brought back to the spread of unguided ones, 0 to 1."""


class Known(NamedTuple):
    """What is known of images that are drawn."""

    images: Any
    """(b, h, w, c) in [-1, 1]."""
    mask: Any
    """(b, h, w, 1): 1 where they are known for certain; None if all of them is only a beginning."""
    strength: float
    """Share of the grid's steps that are taken; the fewer, the more the images stay as they were."""
    resamplings: int
    """How often each stretch of the chain is gone down, so that what is made up fits what is known."""


def check(drawing: Drawing, num_timesteps: int, *, labels: bool, zero_terminal_snr: bool) -> None:
    """Raises:
    UserError: if images of a chain of so many timesteps cannot be drawn so."""
    check_ranges(
        ("sample-steps", drawing.sample_steps, 1, num_timesteps),
        ("order", drawing.order or 2, 1, 2 if drawing.sampler == "heun" else 3),
        ("eta", drawing.eta, 0.0, 1.0),
        ("guidance", drawing.guidance, 0.0, math.inf),
        ("rescale", drawing.rescale, 0.0, 1.0),
    )
    if drawing.guidance != 1 and not labels:
        raise UserError(
            "--guidance is for models with labels (train.ddpm --conditional), captions or controls, hidden now and then in training "
            "(--label-dropout, --caption-dropout); this one has none to follow"
        )
    if zero_terminal_snr and (drawing.sampler in ("heun", "pndm") or drawing.grid in ("karras", "even_log_snr")):
        raise UserError(
            f"--sampler {drawing.sampler} --grid {drawing.grid} needs some signal at the end of the chain, and with "
            "--zero-terminal-snr there is none: take --sampler ancestral, ddim, dpm_solver, dpm_solver_sde or unipc, and --grid trailing"
        )


def schedule(
    name: Literal["linear", "scaled_linear", "cosine"], num_timesteps: int, *, zero_terminal_snr: bool = False
) -> Any:
    """The chain of so many steps that adds as much noise in all as the published one of 1,000."""
    from jaxgen import schedules

    T, short = num_timesteps, 1000 / num_timesteps
    chain = {
        "linear": lambda: schedules.linear(T, 1e-4 * short, min(0.02 * short, 0.999)),
        "scaled_linear": lambda: schedules.scaled_linear(T, 0.00085 * short, min(0.012 * short, 0.999)),
        "cosine": lambda: schedules.cosine(T),
    }[name]()
    return schedules.zero_terminal_snr(chain) if zero_terminal_snr else chain


def timesteps(drawing: Drawing, schedule: Any) -> Any:
    """The grid, decreasing, as NumPy."""
    from jaxgen import grids

    n = drawing.sample_steps
    return {
        "trailing": lambda: grids.trailing(schedule.num_steps, n),
        "leading": lambda: grids.leading(schedule.num_steps, n),
        "linspace": lambda: grids.linspace(schedule.num_steps, n),
        "karras": lambda: grids.karras(schedule, n),
        "even_log_snr": lambda: grids.even_log_snr(schedule, n),
    }[drawing.grid]()


def guided(drawing: Drawing, conditional: Callable, unconditional: Callable, *, learned: bool) -> Callable:
    """The denoiser that follows the condition as closely as asked; a learned variance is the conditional one's."""
    from jaxgen import guidance

    if drawing.guidance == 1:
        return conditional
    scale, rescale = drawing.guidance, drawing.rescale
    if not learned:
        return guidance.rescaled(conditional, unconditional, scale, rescale)
    means = (mean_of(predict) for predict in (conditional, unconditional))
    follow = guidance.rescaled(*means, scale, rescale)
    return lambda xt, t: (follow(xt, t), conditional(xt, t)[1])


def mean_of(predict: Callable) -> Callable:
    """What a denoiser with a learned variance predicts apart from it."""
    return lambda xt, t: predict(xt, t)[0]


def draw(
    drawing: Drawing,
    keys: Any,
    predict: Callable,
    schedule: Any,
    x_T: Any,
    grid: Any,
    *,
    predicts: str = "eps",
    learned: bool = False,
    clip_x0: bool = True,
    trajectory: bool = False,
) -> Any:
    """Images reached from x_T, (b, ...), over the grid; with the trajectory, also x after every step.

    Args:
        keys: one per image, (b,).
        predict: (xt, t) -> what it predicts; and the v of the variance, if that is learned.
    """
    from jaxgen import samplers, solvers

    same = {"predicts": predicts, "clip_x0": clip_x0, "trajectory": trajectory}
    if drawing.sampler == "ancestral":
        variance = "learned" if learned else drawing.variance
        return samplers.ancestral(keys, predict, schedule, x_T.shape, grid, variance=variance, x_T=x_T, **same)
    mean, order = mean_of(predict) if learned else predict, drawing.order or 2
    match drawing.sampler:
        case "ddim":
            key = keys if drawing.eta else None
            return samplers.ddim(mean, schedule, x_T, grid, eta=drawing.eta, key=key, **same)
        case "dpm_solver" | "dpm_solver_sde":
            key = keys if drawing.sampler == "dpm_solver_sde" else None
            return solvers.dpm_solver(mean, schedule, x_T, grid, order=order, key=key, **same)
        case "unipc":
            return solvers.unipc(mean, schedule, x_T, grid, order=order, **same)
        case "heun":
            return solvers.heun(mean, schedule, x_T, grid, order=order, **same)
        case "pndm":
            return solvers.pndm(mean, schedule, x_T, grid, warm_up="heun", **same)


def edit(
    drawing: Drawing,
    keys: Any,
    predict: Callable,
    schedule: Any,
    noise: Any,
    grid: Any,
    known: Known,
    *,
    predicts: str = "eps",
    learned: bool = False,
    clip_x0: bool = True,
) -> Any:
    """Images like the known ones, or with their known part: drawn as by `draw`, from the known ones with noise, (b, ...), on them.

    With resamplings, by the ancestral chain of RePaint, its stretches a tenth of the grid.
    """
    import jax.numpy as jnp

    from jaxgen import diffusion, editing

    same = {"predicts": predicts, "clip_x0": clip_x0}
    if known.mask is not None:
        mean = mean_of(predict) if learned else predict
        if known.resamplings > 1:
            how = {"jump": max(1, len(grid) // 10), "resamplings": known.resamplings}
            return editing.repaint(keys, mean, schedule, known.images, known.mask, grid, **how, **same)
        knowing = editing.replace_known(mean, schedule, known.images, known.mask, predicts=predicts)
        said = predict
        predict = (lambda xt, t: (knowing(xt, t), said(xt, t)[1])) if learned else knowing
    rest = editing.remaining(grid, known.strength)
    xt = diffusion.q_sample(schedule, known.images, jnp.full(len(noise), rest[0]), noise)
    if known.mask is not None and known.strength == 1:  # what is made up has nothing of the picture
        xt = known.mask * xt + (1 - known.mask) * noise
    return draw(drawing, keys, predict, schedule, xt, rest, learned=learned, **same)


def where_all_is_known(mask: Any, size: tuple[int, int]) -> Any:
    """A mask (b, h, w, 1) of images as one of their latent maps of this size: 1 where all pixels of a square are known."""
    (b, h, w, _), (height, width) = mask.shape, size
    return mask.reshape(b, height, h // height, width, w // width, 1).min(axis=(2, 4))


def bound(
    keys: Any, predict: Callable, schedule: Any, x0: Any, samples: int, *, variance: str, predicts: str, clip_x0: bool
) -> dict[str, Any]:
    """The variational bound of images, (b,), in nats and in bits per dimension, and its prior term: from so many timesteps, one of each
    stretch of T / samples of them, or with samples = T from all.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import diffusion_bound, likelihoods

    T, how = schedule.num_steps, {"variance": variance, "predicts": predicts, "clip_x0": clip_x0}

    def add(total, j):
        t_key, eps_key = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, j)), out_axes=1)(keys)
        t = ((j + jax.vmap(jax.random.uniform)(t_key)) * (T / samples)).astype(jnp.int32)
        eps = jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:]))(eps_key)
        return total + diffusion_bound.term(schedule, predict, x0, jnp.minimum(t, T - 1), eps, **how), None

    total, _ = jax.lax.scan(add, jnp.zeros(len(x0)), jnp.arange(samples))
    prior = diffusion_bound.prior_term(schedule, x0)
    nats = prior + total * (T / samples)
    return {"bound": nats, "prior_term": prior, "bits_per_dim": likelihoods.bits_per_dim(nats, x0[0].size)}
