"""Noise schedules: how fast the forward process forgets the image. Tables are NumPy, built and kept in float64.

They are rounded to the working precision only where they meet an array, so nothing is lost in products of a thousand factors.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Schedule(NamedTuple):
    """The forward process q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I), t in {0, ..., T-1}. Make one with `from_betas`.

    Attributes:
        betas: (T,) variance added by each step.
        log_alpha_bars: (T,) log of alpha_bar_t = prod_{i <= t} (1 - beta_i). The logarithm is what keeps 1 - alpha_bar_t and
            alpha_bar_t / alpha_bar_s precise in float32 at both ends of the chain.
    """

    betas: Float[np.ndarray, " T"]
    log_alpha_bars: Float[np.ndarray, " T"]

    @property
    def alpha_bars(self) -> Float[np.ndarray, " T"]:
        """(T,) share of the image's variance that is left after step t (Ho et al. 2020, arXiv:2006.11239, eq. 4)."""
        return np.exp(self.log_alpha_bars)

    @property
    def num_steps(self) -> int:
        """T, the length of the chain."""
        return len(self.betas)


def from_betas(betas: Float[np.ndarray, " T"]) -> Schedule:
    """The schedule that adds variance betas[t] at step t.

    Raises:
        ValueError: if betas is not a non-empty vector of numbers in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"betas must be a vector with at least one step; got shape {betas.shape}")
    if not (np.all(betas > 0) and np.all(betas < 1)):
        raise ValueError(f"betas must lie in (0, 1); got values from {betas.min()} to {betas.max()}")
    return Schedule(betas, np.cumsum(np.log1p(-betas)))


def linear(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Variances that grow linearly from beta_start to beta_end (Ho et al. 2020, arXiv:2006.11239, section 4).

    The published ends are meant for T = 1000; with fewer steps scale them by 1000 / T, or less noise is added in all.
    """
    return from_betas(np.linspace(beta_start, beta_end, _checked(num_steps)))


def scaled_linear(num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Variances whose square root grows linearly (Rombach et al. 2022, arXiv:2112.10752; the schedule of Stable Diffusion)."""
    return from_betas(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), _checked(num_steps)) ** 2)


def cosine(num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """alpha_bar_t = f(t + 1) / f(0), f(u) = cos^2(pi/2 (u/T + offset) / (1 + offset))  (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    Variances are cut at max_beta, as in the paper, so that the last step is no singularity.
    """
    f = (
        np.cos(
            np.linspace(0, 1, _checked(num_steps) + 1) * (math.pi / 2) / (1 + offset)
            + (math.pi / 2) * offset / (1 + offset)
        )
        ** 2
    )
    return from_betas(np.minimum(1 - f[1:] / f[:-1], max_beta))


def trailing_timesteps(num_train_steps: int, num_steps: int) -> Int[np.ndarray, " num_steps"]:
    """num_steps evenly spaced timesteps, decreasing from T - 1, for a sampler on a chain of T = num_train_steps.

    t_i = round(T (1 - i / num_steps)) - 1  ("trailing", Lin et al. 2024, arXiv:2305.08891, section 3.3): it starts where the
    chain has forgotten the image; num_steps = T gives every timestep.

    Raises:
        ValueError: if num_steps is not in {1, ..., T}.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(
            f"sampling steps must lie between 1 and the {num_train_steps} steps of the chain; got {num_steps}"
        )
    return np.round(num_train_steps * (1 - np.arange(num_steps) / num_steps)).astype(np.int32) - 1


def _checked(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"a schedule needs at least one step; got num_steps = {num_steps}")
    return num_steps
