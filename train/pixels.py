"""What a decoder says of a pixel: a dot, a real number, or one of 256 levels."""

from collections.abc import Callable
from typing import NamedTuple


class Pixel(NamedTuple):
    """What a decoder says of a pixel."""

    channels: int
    """Numbers that the decoder gives per pixel."""
    observe: Callable
    """uint8 images (b, h, w, c), keys (b,) -> x in [-1, 1], as the likelihood has it."""
    log_prob: Callable
    """decoded (b, h, w, channels), x -> log p(x | z), (b,)."""
    mean: Callable
    """decoded -> where p(x | z) lies, an image in [-1, 1]: its mean, but the tails of a law beyond black and white left out."""


def of(likelihood: str, variance: float, c: int) -> Pixel:
    """What the decoder of this likelihood says of images of c channels; a gaussian has this variance."""
    import jax
    import jax.numpy as jnp

    from jaxgen import likelihoods
    from train.common import images

    def levels(images_, _):
        return images.to_unit_range(images_)

    def mean_and_log_scale(decoded):
        return decoded[..., :c], jnp.maximum(decoded[..., c:], -7.0)  # a scale far below a level's width says no more

    return {
        "bernoulli": Pixel(
            c,
            lambda bytes_, keys: images.to_binary(keys, bytes_),
            lambda logits, x: likelihoods.bernoulli_log_prob(logits, (x + 1) / 2),
            lambda logits: 2 * jax.nn.sigmoid(logits) - 1,
        ),
        "gaussian": Pixel(
            c,
            levels,
            lambda mean, x: likelihoods.gaussian_log_prob(mean, x, variance),
            lambda mean: jnp.clip(mean, -1, 1),
        ),
        "discretized_logistic": Pixel(
            2 * c,
            levels,
            lambda decoded, x: likelihoods.discretized_logistic_log_prob(*mean_and_log_scale(decoded), x),
            lambda decoded: jnp.clip(mean_and_log_scale(decoded)[0], -1, 1),
        ),
    }[likelihood]
