"""Information of discrete distributions: entropy, cross-entropy, Kullback-Leibler and Jensen-Shannon divergence.

A distribution is an array whose last axis sums to 1; the other axes are many distributions at once, and the last axis is summed
away. 0 log 0 = 0, the limit of x log x. Logarithms are natural, unless ``base`` says otherwise: base 2 gives bits.

C. E. Shannon 1948, "A Mathematical Theory of Communication"; S. Kullback and R. A. Leibler 1951, "On Information and
Sufficiency"; J. Lin 1991, "Divergence Measures Based on the Shannon Entropy".
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

Distributions = Float[Array, "*b n"]


def entropy(p: Distributions, *, base: float = math.e) -> Float[Array, " *b"]:
    """H(p) = -sum p log p, in nats, one per distribution: the least mean length of a code for draws from p.

    Between 0, where one outcome is certain, and log n, where all are alike.

    Raises:
        ValueError: if base is not a positive number other than 1.
    """
    return cross_entropy(p, p, base=base)


def cross_entropy(p: Distributions, q: Distributions, *, base: float = math.e) -> Float[Array, " *b"]:
    """H(p, q) = -sum p log q, in nats, one per pair: the mean length for draws from p of the best code for q.

    It is at least H(p), and just that where q = p. Infinite where q = 0 < p.

    Raises:
        ValueError: if base is not a positive number other than 1.
    """
    return -_sum_where_positive(p, jnp.log(_or_one(q, p))) / _log(base)


def kl_divergence(p: Distributions, q: Distributions, *, base: float = math.e) -> Float[Array, " *b"]:
    """KL(p || q) = sum p log(p / q) = H(p, q) - H(p), in nats, one per pair: the length wasted on draws from p by the code for q.

    At least 0, and 0 only where p = q, up to the rounding of a sum of logarithms: 1e-7 in float32. Not symmetric. Infinite where q = 0 < p.

    Raises:
        ValueError: if base is not a positive number other than 1.
    """
    return _sum_where_positive(p, jnp.log(_or_one(p, p)) - jnp.log(_or_one(q, p))) / _log(base)


def js_divergence(p: Distributions, q: Distributions, *, base: float = math.e) -> Float[Array, " *b"]:
    """JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats, one per pair.

    Symmetric, at least 0, and 0 only where p = q; at most log 2, and just that where p and q share no outcome; up to rounding, as the KL.

    Raises:
        ValueError: if base is not a positive number other than 1.
    """
    twice_m = p + q  # half of the smallest number is 0
    return (kl_divergence(2 * p, twice_m, base=base) + kl_divergence(2 * q, twice_m, base=base)) / 4


def _sum_where_positive(p, x):
    return jnp.where(p > 0, p * x, 0).sum(axis=-1)


def _or_one(q, p):
    """q, but 1 where p = 0: there q does not count, and log 0 would leave a NaN in the gradient."""
    return jnp.where(p > 0, q, 1)


def _log(base):
    if not base > 0 or base == 1:
        raise ValueError(f"the base of a logarithm must be positive and not 1; got {base}")
    return math.log(base)
