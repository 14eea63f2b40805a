"""Weights of exponential multistep solvers: what a step of `solvers.dpm_solver` and `solvers.unipc` takes of each of the last estimates.

With a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), lambda = log(a / sigma) and m = x0_hat, the probability-flow equation moves x from t
to s by  (Lu et al. 2022b, "DPM-Solver++", arXiv:2211.01095, eq. 8)

    x_s = sigma_s / sigma_t x_t + a_s int_{lambda_t}^{lambda_s} e^(lambda - lambda_s) m dlambda

A polynomial through the last few m under the integral makes x_s a sum of x_t and of them, with weights that depend on the grid alone.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen import diffusion
from jaxgen.schedules import Schedule

PerStep = Float[Array, " n"]


class Nodes(NamedTuple):
    """A grid in the coordinates of the equation; of each step, from t to s."""

    signal_s: PerStep
    sigma_t: PerStep
    sigma_s: PerStep
    lambda_t: PerStep
    h: PerStep
    """lambda_s - lambda_t; infinite for the last step, to the image."""
    orders: Int[Array, " n"]
    """No more than there are estimates at finite lambda; 1 for the last step."""


class Multistep(NamedTuple):
    """x_s = carry x_t + sum_k share[:, k] m_k + noise z: of each step, m_0 the newest estimate."""

    carry: PerStep
    share: Float[Array, "n order"]
    noise: PerStep


class PredictorCorrector(NamedTuple):
    """First x_t becomes keep x_t + before x_r + sum_k correction[:, k] m_k, with x_r where the step before began; then `predictor`."""

    keep: PerStep
    before: PerStep
    correction: Float[Array, "n order+1"]
    predictor: Multistep


def nodes(schedule: Schedule, timesteps: Float[Array, " n"] | Int[Array, " n"], order: int) -> Nodes:
    """The grid for a solver of this order; the image follows the last timestep."""
    t = jnp.asarray(timesteps)
    s, like = jnp.append(t[1:], -1), jnp.zeros(len(t), jnp.result_type(float))
    _, sigma_t = diffusion.signal_and_sigma(schedule, t, like)
    signal_s, sigma_s = diffusion.signal_and_sigma(schedule, s, like)
    lambda_t, lambda_s = (0.5 * diffusion.log_snr(schedule, moment, like) for moment in (t, s))
    orders = jnp.clip(jnp.cumsum(jnp.isfinite(lambda_t)), 1, order).at[-1].set(1)
    return Nodes(signal_s, sigma_t, sigma_s, lambda_t, lambda_s - lambda_t, orders)


def dpm_weights(grid: Nodes, order: int, *, stochastic: bool) -> Multistep:
    """Lu et al. 2022b, arXiv:2211.01095, Algorithm 2, and section 5 where it is stochastic.

    With u = (lambda - lambda_t) / h the polynomial is m + D1 u + D2 u^2, D1 and D2 being h and h^2 times divided differences of the past.
    phi_j = int_0^1 k e^(-k (1 - u)) u^j du weighs its terms, where k = h, or with noise 2 h.
    """
    h = grid.h
    k = 2 * h if stochastic else h
    phi0 = -jnp.expm1(-k)
    phi1 = 1 - phi0 / k
    phi2 = 1 - 2 * phi1 / k
    r0, r1 = shifted(h, 1, 1.0) / h, shifted(h, 2, 1.0) / h
    # For the differences (m_0 - m_1) / r0 and (m_1 - m_2) / r1. At order 2 the paper has phi0 / 2 for phi1, the same to that order.
    first = jnp.where(grid.orders == 3, phi1 * (1 + r0 / (r0 + r1)) + phi2 / (r0 + r1), 0.5 * phi0) / r0
    second = -(phi1 * r0 + phi2) / (r0 + r1) / r1
    first, second = jnp.where(grid.orders > 1, first, 0.0), jnp.where(grid.orders > 2, second, 0.0)
    share = jnp.stack([phi0 + first, second - first, -second][:order], axis=1)
    carry = grid.sigma_s / grid.sigma_t * (jnp.exp(-h) if stochastic else 1.0)
    noise = grid.sigma_s * jnp.sqrt(-jnp.expm1(-2 * h))
    return Multistep(carry, grid.signal_s[:, None] * share, noise)


def unipc_weights(grid: Nodes, order: int) -> PredictorCorrector:
    """Zhao et al. 2023, arXiv:2302.04867, eq. 3, 5 and 9, for data prediction, with B(h) = e^h - 1 taken at -h.

        x_s = sigma_s / sigma_t x_t + a_s (1 - e^(-h)) (m_0 + sum_k rho_k (m_k - m_0) / r_k),   r_k = (lambda_k - lambda_t) / h

    over the past m_k, and in the corrector also the m at s, whose r is 1.
    """
    carry = grid.sigma_s / grid.sigma_t
    past = [(shifted(grid.lambda_t, k, 0.0) - grid.lambda_t) / grid.h for k in range(1, order)]
    prediction = _shares(grid, past, {p: range(p - 1) for p in range(1, order + 1)})
    used = {p: (*range(p - 1), len(past)) for p in range(1, order + 1)}
    correction = jnp.roll(_shares(grid, [*past, jnp.ones_like(grid.h)], used), 1, axis=1)
    first = jnp.arange(len(grid.h)) == 0
    return PredictorCorrector(
        jnp.where(first, 1.0, 0.0),
        shifted(carry, 1, 0.0),
        jnp.concatenate([jnp.zeros_like(correction[:1]), correction[:-1]]),
        Multistep(carry, prediction, jnp.zeros_like(carry)),
    )


def _shares(grid, r, used):
    """Weights of m_0 and of those at r, (n, 1 + len(r)); a step of order p uses those numbered used[p]."""
    total = jnp.zeros((len(grid.h), 1 + len(r)))
    for p, numbers in used.items():
        rho = _solve_order_conditions([r[i] for i in numbers], grid.h)
        entries = jnp.zeros_like(total).at[:, 0].set(1.0)
        for i, weight in zip(numbers, rho, strict=True):
            entries = entries.at[:, 1 + i].set(weight / r[i]).at[:, 0].add(-weight / r[i])
        total = jnp.where((grid.orders == p)[:, None], entries, total)
    return -(grid.signal_s * jnp.expm1(-grid.h))[:, None] * total


def _solve_order_conditions(r, h):
    """rho, one (n,) for each of r, with sum_k rho_k r_k^(j - 1) = j! phi_{j+1}(-h) / phi_1(-h) for j = 1, ..., len(r), where
    phi_1(z) = (e^z - 1) / z and phi_{j+1}(z) = (phi_j(z) - 1 / j!) / z. A single condition is met to its order by 1/2, as the authors do.
    """
    if len(r) < 2:
        return [0.5 * jnp.ones_like(h)] * len(r)
    z, factorial, right = -h, 1.0, []
    phi1 = phi = jnp.expm1(z) / z
    for j in range(1, len(r) + 1):
        factorial *= j
        phi = (phi - 1 / factorial) / z
        right.append(factorial * phi / phi1)
    left = jnp.stack([jnp.stack([x**j for x in r], axis=-1) for j in range(len(r))], axis=-2)
    return list(jnp.linalg.solve(left, jnp.stack(right, axis=-1)[..., None])[..., 0].T)


def shifted(x: PerStep, k: int, fill: float) -> PerStep:
    """x[i - k] at i; where there is none, fill."""
    return jnp.concatenate([jnp.full(min(k, len(x)), fill, x.dtype), x[: max(len(x) - k, 0)]])
