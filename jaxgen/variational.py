"""Variational inference of p(x) = E_{z ~ p(z)} p(x | z): the evidence lower bound and its relatives.

A decoder gives the log-likelihood log p(x | z), an encoder a Gaussian q(z | x). For z ~ q(z | x),

    log p(x) = E[ log p(x | z) ] - KL(q(z | x) || p(z)) + KL(q(z | x) || p(z | x)),

and the last term, never negative, is all that separates the bound from the evidence. Both terms of the bound are in nats and summed over
their dimensions: a reconstruction averaged over pixels beside a KL summed over latents bounds nothing.

D. P. Kingma and M. Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen import gaussian

Values = Float[Array, " b"]
Latents = Float[Array, "b d"]


def elbo(log_likelihood: Values, kl: Values, beta: float = 1.0) -> Values:
    """The evidence lower bound L = E_q log p(x | z) - beta KL(q(z | x) || p(z)), in nats, one per example  (eq. 3).

    With beta = 1, E L <= log p(x), with equality where q is the posterior. Another beta (Higgins et al. 2017, "beta-VAE") weighs
    the code's length differently; above 1 it is still a lower bound, below 1 it is none.

    Args:
        log_likelihood: log p(x | z) for z ~ q(z | x): an unbiased estimate of its mean, from one draw or the average of more.
        kl: KL(q(z | x) || p(z)), in closed form for Gaussians: `gaussian.kl_to_standard_normal`, `kl_to_class_prior`.
    """
    return log_likelihood - beta * kl


def free_bits(mean_kl: Float[Array, " d"], least: float) -> Float[Array, ""]:
    """A KL of which so many nats are free in each latent dimension, in nats, one for the batch: sum_j max(least, KL_j).

    Up to there no gradient presses a dimension to zero. With least = 0 it is the KL itself. Kingma et al. 2016, arXiv:1606.04934, eq. 15.

    Args:
        mean_kl: each latent dimension's KL, averaged over the batch: what it carries on average, not for one example.
    """
    return jnp.maximum(mean_kl, least).sum()


def kl_to_class_prior(mean: Latents, logvar: Latents, class_mean: Latents) -> Values:
    """KL(N(mean, exp(logvar) I) || N(mu_y, I)), in nats, one per example, for a prior whose mean depends on the class y.

    KL = 1/2 sum [ s^2 + (m - mu_y)^2 - 1 - log s^2 ]: ||m - mu_y||^2 in the place of ||m||^2 is all that makes a VAE conditional.
    The best mu_y is the mean code of class y, whatever the variances.

    Args:
        class_mean: mu_y for each example's own y, such as means[labels].
    """
    return gaussian.kl(mean, logvar, class_mean, jnp.zeros_like(logvar))


def naive_regularizer(mean: Latents, logvar: Latents) -> Values:
    """||mean||^2 + ||logvar||^2, no unit, one per example: zero at N(0, I) like the KL, and no bound of anything.

    To second order in logvar the KL is ||mean||^2 / 2 + ||logvar||^2 / 4. Far from there they part: for a variance that shrinks the KL
    grows like -logvar / 2 and for one that grows like its exponential, this one like the square of logvar both ways.
    """
    return (mean**2 + logvar**2).sum(axis=1)


def log_weights(
    log_likelihood: Float[Array, "k b"], z: Float[Array, "k b d"], mean: Latents, logvar: Latents, prior_mean: Latents
) -> Float[Array, "k b"]:
    """log w = log p(x | z) + log p(z) - log q(z | x) for k draws z of q = N(mean, exp(logvar) I), in nats; p(z) = N(prior_mean, I).

    E_q w = p(x), whatever q is; and E_q log w is the ELBO.
    """
    log_prior = jax.vmap(gaussian.log_prob, (0, None, None))(z, prior_mean, jnp.zeros_like(logvar))
    log_q = jax.vmap(gaussian.log_prob, (0, None, None))(z, mean, logvar)
    return log_likelihood + log_prior - log_q


def importance_weighted_bound(log_weights: Float[Array, "k b"]) -> Values:
    """log (1/k sum_i w_i), in nats, one per example: the bound of Burda et al. 2016, "IWAE", arXiv:1509.00519, eq. 8.

    Its mean is the ELBO for k = 1, never falls with k, and tends to log p(x) for bounded w; with a large k it is the usual estimate of
    log p(x), from below.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(len(log_weights))
