"""Grids: the timesteps at which a sampler looks, decreasing, as NumPy. The last one is followed by the image, s = -1.

Entries are integers, or fractions where a grid is even in the noise level; between two timesteps of the chain the logarithm of the
signal-to-noise ratio is linear (`diffusion.log_snr`).
"""

import numpy as np
from jaxtyping import Float, Int

from jaxgen.schedules import Schedule


def trailing(num_train_steps: int, num_steps: int) -> Int[np.ndarray, " num_steps"]:
    """num_steps evenly spaced timesteps that begin at T - 1, for a chain of T = num_train_steps.

    t_i = round(T (1 - i / num_steps)) - 1  (Lin et al. 2024, arXiv:2305.08891, table 2): it starts where the chain has forgotten
    the image; num_steps = T gives every timestep.

    Raises:
        ValueError: if num_steps is not in {1, ..., T}.
    """
    _check(num_train_steps, num_steps)
    return np.round(num_train_steps * (1 - np.arange(num_steps) / num_steps)).astype(np.int32) - 1


def leading(num_train_steps: int, num_steps: int, offset: int = 0) -> Int[np.ndarray, " num_steps"]:
    """num_steps evenly spaced timesteps that end at the offset: multiples of floor(T / num_steps), plus the offset.

    It does not begin at T - 1, where the noise is that one starts from (Lin et al. 2024, arXiv:2305.08891, table 2); Stable Diffusion
    1 and 2 were published with it and offset 1.

    Raises:
        ValueError: if num_steps is not in {1, ..., T}, or the offset leads out of the chain.
    """
    _check(num_train_steps, num_steps)
    grid = (np.arange(num_steps) * (num_train_steps // num_steps))[::-1].astype(np.int32) + offset
    if grid[-1] < 0 or grid[0] >= num_train_steps:
        raise ValueError(f"an offset of {offset} leads out of the chain of {num_train_steps} steps, to {grid[0]}")
    return grid


def linspace(num_train_steps: int, num_steps: int) -> Int[np.ndarray, " num_steps"]:
    """num_steps evenly spaced timesteps from T - 1 to 0, rounded  (Lin et al. 2024, arXiv:2305.08891, table 2); one is T - 1.

    Raises:
        ValueError: if num_steps is not in {1, ..., T}.
    """
    _check(num_train_steps, num_steps)
    if num_steps == 1:
        return np.array([num_train_steps - 1], np.int32)
    return np.round(np.linspace(0, num_train_steps - 1, num_steps)[::-1]).astype(np.int32)


def karras(
    schedule: Schedule,
    num_steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Float[np.ndarray, " num_steps"]:
    """Timesteps whose noise levels sigma = sqrt((1 - alpha_bar) / alpha_bar) are even after the power 1 / rho.

        sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Karras et al. 2022, arXiv:2206.00364, eq. 5; the larger rho, the more of them at little noise. The ends are by default the chain's.

    Raises:
        ValueError: if num_steps is not in {1, ..., T}, rho is not positive, the ends do not lie within the chain's, or the chain ends
            without any signal, at an infinite sigma.
    """
    if not rho > 0:
        raise ValueError(f"rho must be positive; got {rho}")
    return _at_noise_levels(
        schedule, num_steps, sigma_min, sigma_max, lambda log_sigma: np.exp(log_sigma / rho), lambda y: rho * np.log(y)
    )


def even_log_snr(
    schedule: Schedule, num_steps: int, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Float[np.ndarray, " num_steps"]:
    """Timesteps at which the logarithm of the noise level sigma = sqrt((1 - alpha_bar) / alpha_bar) is even: `karras` for rho to infinity.

    Lu et al. 2022, arXiv:2206.00927, section 3.3, "uniform logSNR". The ends are by default the chain's.

    Raises:
        ValueError: as `karras`.
    """
    return _at_noise_levels(schedule, num_steps, sigma_min, sigma_max, lambda y: y, lambda y: y)


def _at_noise_levels(schedule, num_steps, sigma_min, sigma_max, scale, unscale):
    """Timesteps whose log sigma, scaled, is even."""
    _check(schedule.num_steps, num_steps)
    chain = -0.5 * schedule.log_snrs
    if not np.isfinite(chain[-1]):
        raise ValueError(
            "the chain ends without any signal, at an infinite noise level: take a grid of timesteps, such as trailing"
        )
    low = chain[0] if sigma_min is None else np.log(sigma_min)
    high = chain[-1] if sigma_max is None else np.log(sigma_max)
    if not chain[0] - 1e-9 <= low < high <= chain[-1] + 1e-9:
        raise ValueError(
            f"noise levels must lie between the chain's, {np.exp(chain[0]):.4g} to {np.exp(chain[-1]):.4g}; "
            f"got {np.exp(low):.4g} to {np.exp(high):.4g}"
        )
    return np.interp(unscale(np.linspace(scale(high), scale(low), num_steps)), chain, np.arange(len(chain)))


def _check(num_train_steps, num_steps):
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(
            f"sampling steps must lie between 1 and the {num_train_steps} steps of the chain; got {num_steps}"
        )
