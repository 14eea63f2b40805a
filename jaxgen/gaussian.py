"""Diagonal Gaussians: log-density, Kullback-Leibler divergence, sampling. A Gaussian is its ``mean`` and ``logvar``."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LOG_2PI = math.log(2 * math.pi)


def log_prob(x: Float[Array, "b *d"], mean: Float[Array, "b *d"], logvar: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Log-density of N(mean, exp(logvar) I) at x, in nats, one per example.

    log N(x; m, s^2) = -1/2 sum [ log 2 pi + log s^2 + (x - m)^2 / s^2 ], summed over all axes but the first. (The factor of the
    density is 1 / (s sqrt(2 pi)), with s itself and not its square.)
    """
    return sum_per_example(-0.5 * (LOG_2PI + logvar + (x - mean) ** 2 * jnp.exp(-logvar)))


def kl(
    mean_p: Float[Array, "b *d"],
    logvar_p: Float[Array, "b *d"],
    mean_q: Float[Array, "b *d"],
    logvar_q: Float[Array, "b *d"],
) -> Float[Array, " b"]:
    """Kullback-Leibler divergence KL(p || q) of two diagonal Gaussians, in nats, one per example.

    KL = 1/2 sum [ log s_q^2 - log s_p^2 + (s_p^2 + (m_p - m_q)^2) / s_q^2 - 1 ], summed over all axes but the first.
    """
    return sum_per_example(kl_per_dimension(mean_p, logvar_p, mean_q, logvar_q))


def kl_per_dimension(
    mean_p: Float[Array, " *d"],
    logvar_p: Float[Array, " *d"],
    mean_q: Float[Array, " *d"],
    logvar_q: Float[Array, " *d"],
) -> Float[Array, " *d"]:
    """The terms of `kl`, KL(N(m_p, s_p^2) || N(m_q, s_q^2)) of each coordinate by itself, in nats, of the shape of the arguments."""
    log_ratio = logvar_p - logvar_q
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + (mean_p - mean_q) ** 2 * jnp.exp(-logvar_q))


def kl_to_standard_normal(mean: Float[Array, "b *d"], logvar: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """KL(N(mean, exp(logvar) I) || N(0, I)), in nats, one per example.

    KL = 1/2 sum [ s^2 + m^2 - 1 - log s^2 ]. Kingma and Welling 2014, arXiv:1312.6114, appendix B, print minus this:
    1/2 sum [ 1 + log s^2 - m^2 - s^2 ] is the term to add to a log-likelihood, not the divergence.
    """
    return kl(mean, logvar, jnp.zeros_like(mean), jnp.zeros_like(logvar))


def reparameterize(key: Key[Array, ""], mean: Float[Array, " *d"], logvar: Float[Array, " *d"]) -> Float[Array, " *d"]:
    """A sample of N(mean, exp(logvar) I), of the shape of mean, differentiable in mean and logvar.

    z = m + s eps with eps ~ N(0, I)  (Kingma & Welling 2014, arXiv:1312.6114, section 2.4).
    """
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def sum_per_example(per_element: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """The sum over all axes but the first."""
    return per_element.reshape(len(per_element), -1).sum(axis=1)
