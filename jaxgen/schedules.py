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
    def log_snrs(self) -> Float[np.ndarray, " T"]:
        """(T,) logarithm of the signal-to-noise ratio alpha_bar / (1 - alpha_bar); minus infinity where nothing is left of the image."""
        return self.log_alpha_bars - np.log(-np.expm1(self.log_alpha_bars))

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


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with sqrt(alpha_bar) shifted and stretched so that nothing of the image is left at its end, alpha_bar_{T-1} = 0, and the
    first step stays as it is  (Lin et al. 2024, arXiv:2305.08891, algorithm 1).

    What predicts eps knows nothing there; predict v or x_0.

    Raises:
        ValueError: if the schedule has fewer than two steps.
    """
    if schedule.num_steps < 2:
        raise ValueError("a schedule of one step has no end apart from its beginning")
    signal = np.sqrt(schedule.alpha_bars)
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    with np.errstate(divide="ignore"):
        return _from_log_alpha_bars(2 * np.log(signal))


def respaced(schedule: Schedule, timesteps: Int[np.ndarray, " n"]) -> Schedule:
    """The chain that stops only at these timesteps: alpha_bar'_i is alpha_bar at the i-th smallest of them.

    beta'_i = 1 - alpha_bar'_i / alpha_bar'_{i-1}  (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 19). A denoiser of the long chain is
    one of the short: ``lambda x, i: predict(x, np.sort(timesteps)[i])``.

    Raises:
        ValueError: if the timesteps repeat or lead out of the chain.
    """
    timesteps = np.sort(np.asarray(timesteps))
    if not (len(timesteps) and timesteps[0] >= 0 and timesteps[-1] < schedule.num_steps and np.all(np.diff(timesteps))):
        raise ValueError(f"timesteps must be different ones of {{0, ..., {schedule.num_steps - 1}}}; got {timesteps}")
    return _from_log_alpha_bars(schedule.log_alpha_bars[timesteps])


def _from_log_alpha_bars(log_alpha_bars):
    return Schedule(-np.expm1(np.diff(log_alpha_bars, prepend=0.0)), log_alpha_bars)


def _checked(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"a schedule needs at least one step; got num_steps = {num_steps}")
    return num_steps
