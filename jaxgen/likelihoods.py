"""What a decoder says of an image: log p(x | z) for pixels that are binary, real, or one of 256 levels.

A log-probability is one number per example, in nats, summed over all axes but the first, with the parameters first and the image x
last. Outside a trace the values of x are looked at, because a wrong range is the commonest mistake here and gives a plausible loss.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen import gaussian

Images = Float[Array, "b *d"]
NARROW = 1e-2
"""Width of a level over the scale of a discretised Gaussian below which log Phi has the same digits at both its ends."""


def bernoulli_log_prob(logits: Images, x: Images) -> Float[Array, " b"]:
    """Log-probability of binary pixels x in {0, 1}, each 1 with probability sigmoid(logit), in nats, one per example.

        log p(x) = sum [ x log sigmoid(l) + (1 - x) log sigmoid(-l) ] = sum [ x l - log(1 + e^l) ]

    Finite, with finite gradient, at any finite logit. For x between 0 and 1 it is minus a cross-entropy but no log-probability of
    anything, since it does not integrate to 1 over grey levels (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845).

    Raises:
        ValueError: if x is known and has values outside [0, 1].
    """
    _check_range(x, 0, 1, "Bernoulli pixels lie in [0, 1]", "an image in [-1, 1] becomes one by (x + 1) / 2")
    return gaussian.sum_per_example(x * logits - jax.nn.softplus(logits))


def gaussian_log_prob(mean: Images, x: Images, variance: float) -> Float[Array, " b"]:
    """Log-density of real pixels x under N(mean, c I) with the same fixed variance c for all, in nats, one per example.

        log p(x) = -||x - mean||^2 / 2c - D/2 log(2 pi c)

    so squared error is this with a constant left out and the gradient scaled by 1 / 2c: c weighs reconstruction against KL, and a
    squared error averaged over D pixels has in effect c = D / 2. Of pixels in [-1, 1] with 256 levels it is a density and not a
    probability: it may exceed 0, and only + D log(2/255) makes it comparable with that of levels.

    Raises:
        ValueError: if the variance is not positive.
    """
    if not variance > 0:
        raise ValueError(f"the variance of a Gaussian decoder must be positive; got {variance}")
    return gaussian.log_prob(x, mean, jnp.full_like(mean, math.log(variance)))


def discretized_logistic_log_prob(mean: Images, log_scale: Images, x: Images, levels: int = 256) -> Float[Array, " b"]:
    """Log-probability of pixels that are one of so many levels, evenly spaced over [-1, 1], in nats, one per example.

    A logistic variable, whose distribution function is F(v) = sigmoid((v - mean) / scale), is rounded to the nearest level, and
    the outermost levels take the tails, so that the probabilities of all levels add up to 1:

        P(x) = F(x + h) - F(x - h)   with h = 1 / (levels - 1), half the distance of two levels

    Kingma et al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow", arXiv:1606.04934, and Salimans et al. 2017,
    "PixelCNN++", arXiv:1701.05517, eq. 2, who treat small differences by a case distinction. With a, b the two arguments of sigmoid,

        sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a))

    needs none: exact and finite, with finite gradient, however small P is, for scales from e^-80 to e^80, beyond which float32 has no
    room for them.

    Raises:
        ValueError: if x is known and has values outside [-1, 1], or there are fewer than 2 levels.
    """
    half = _half_level(x, levels)
    inverse_scale = jnp.exp(-log_scale)
    upper, lower = (x - mean + half) * inverse_scale, (x - mean - half) * inverse_scale
    below_upper, above_lower = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    inside = below_upper + above_lower + jnp.log(-jnp.expm1(-2 * half * inverse_scale))
    return gaussian.sum_per_example(jnp.where(x > 1 - half, above_lower, jnp.where(x < -1 + half, below_upper, inside)))


def discretized_gaussian_log_prob(mean: Images, log_scale: Images, x: Images, levels: int = 256) -> Float[Array, " b"]:
    """Log-probability of pixels that are one of so many levels, evenly spaced over [-1, 1], in nats, one per example.

    A normal variable N(mean, scale^2) is rounded to the nearest level, and the outermost levels take the tails, as in
    `discretized_logistic_log_prob`: P(x) = Phi((x + h - mean) / scale) - Phi((x - h - mean) / scale) with h = 1 / (levels - 1).

    Ho et al. 2020, arXiv:2006.11239, eq. 13: the decoder of diffusion models. Exact to rounding and finite, with finite gradient, however
    small P is: by symmetry both arguments are put into the lower tail, where log Phi is precise; a level much narrower than the
    scale, whose two log Phi are nearly the same number, is an integral of e^(-z^2 / 2) by the exponential that touches it.

    Raises:
        ValueError: if x is known and has values outside [-1, 1], or there are fewer than 2 levels.
    """
    half = _half_level(x, levels)
    z, width = (x - mean) * jnp.exp(-log_scale), 2 * half * jnp.exp(-log_scale)
    upper, lower = z + 0.5 * width, z - 0.5 * width
    side = -jnp.abs(z)  # the same interval, or its mirror image, below 0
    log_upper, log_lower = (
        jax.scipy.special.log_ndtr(side + 0.5 * width),
        jax.scipy.special.log_ndtr(side - 0.5 * width),
    )
    narrow = width < NARROW
    wide = log_upper + jnp.log(-jnp.expm1(jnp.where(narrow, -1.0, log_lower - log_upper)))
    slope = jnp.where(narrow, 0.5 * width * side, 0.0)
    touching = jnp.log(width) - 0.5 * (gaussian.LOG_2PI + z**2) + _log_sinhc(slope) - width**2 / 24
    inside = jnp.where(narrow, touching, wide)
    ends = jnp.where(x > 0, jax.scipy.special.log_ndtr(-lower), jax.scipy.special.log_ndtr(upper))
    return gaussian.sum_per_example(jnp.where(jnp.abs(x) > 1 - half, ends, inside))


def bits_per_dim(nats: Float[Array, " *b"], num_dims: int) -> Float[Array, " *b"]:
    """Nats per example, such as -log p(x), as bits per dimension: nats / (num_dims log 2).

    Raises:
        ValueError: if num_dims < 1.
    """
    if num_dims < 1:
        raise ValueError(f"there must be at least 1 dimension; got {num_dims}")
    return nats / (num_dims * math.log(2))


def _half_level(x, levels):
    """Half the distance of two levels, where x has levels."""
    if levels < 2:
        raise ValueError(f"there must be at least 2 levels; got {levels}")
    _check_range(x, -1, 1, "levels lie in [-1, 1]", "a byte becomes one by x / 127.5 - 1")
    return 1 / (levels - 1)


def _log_sinhc(x):
    """log(sinh(x) / x), with finite value and gradient everywhere."""
    small = jnp.abs(x) < 0.1
    x = jnp.abs(jnp.where(small, 1.0, x)), jnp.where(small, x, 0.0)
    return jnp.where(small, x[1] ** 2 / 6 - x[1] ** 4 / 180, x[0] + jnp.log(-jnp.expm1(-2 * x[0]) / (2 * x[0])))


def _check_range(x, low, high, rule, remedy):
    if isinstance(x, jax.core.Tracer):
        return
    values = np.asarray(x)
    outside = values[~((values >= low) & (values <= high))]
    if outside.size:
        raise ValueError(f"{rule}; got {outside.flat[0]}: {remedy}")
