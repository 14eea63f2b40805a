"""Importance sampling of timesteps: those whose loss is large are drawn more often, and weigh less  (Nichol & Dhariwal 2021,
arXiv:2102.09672, section 3.3). The loss's expectation stays what it is, and its gradient is less noisy.

    E_{t ~ p}[ L_t / p_t ] = sum_t L_t,    p_t proportional to sqrt(E[L_t^2])                                              (eq. 18)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class History(NamedTuple):
    """The last losses seen at each timestep."""

    losses: Float[Array, "T kept"]
    """In no order."""
    counts: Int[Array, " T"]
    """How many were ever seen."""


def empty(num_timesteps: int, kept: int = 10) -> History:
    """Nothing seen yet, of a chain of so many timesteps; the paper keeps the last 10 losses of each."""
    return History(jnp.zeros((num_timesteps, kept)), jnp.zeros(num_timesteps, jnp.int32))


def probabilities(history: History, uniform: float = 1e-3) -> Float[Array, " T"]:
    """p_t, from which to draw timesteps: proportional to the root mean square of the kept losses, mixed with a share of evenness, so that
    none is forgotten. Even until every timestep has as many losses as are kept.
    """
    T, kept = history.losses.shape
    size = jnp.sqrt((history.losses**2).mean(axis=1))
    p = (1 - uniform) * size / jnp.maximum(size.sum(), jnp.finfo(size.dtype).tiny) + uniform / T
    return jnp.where((history.counts >= kept).all(), p, 1 / T)


def draw(key: jax.Array, p: Float[Array, " T"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """A timestep t ~ p, and 1 / (T p_t), what its loss is to be multiplied with for a mean over all timesteps."""
    t = jax.random.categorical(key, jnp.log(p))
    return t, 1 / (len(p) * p[t])


def remember(history: History, t: Int[Array, " b"], losses: Float[Array, " b"]) -> History:
    """The history after these losses, before any weight, were seen at these timesteps."""

    def enter(history, seen):
        t, loss = seen
        place = history.counts[t] % history.losses.shape[1]
        return History(history.losses.at[t, place].set(loss), history.counts.at[t].add(1)), None

    return jax.lax.scan(enter, history, (t, losses))[0]
