"""From stored pictures to what a network sees, on the device."""

import math

import jax
import jax.numpy as jnp


def to_unit_range(images: jax.Array) -> jax.Array:
    """uint8 0..255 (b, h, w, c) to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_binary(keys: jax.Array, images: jax.Array) -> jax.Array:
    """uint8 0..255 (b, h, w, c) to float32: each pixel 1 with probability byte / 255, else -1, each image by its own key (b,).

    Dynamic binarisation (Salakhutdinov and Murray 2008; Burda et al. 2016, arXiv:1509.00519): drawn anew whenever an image is
    seen. Pixels that are 0 or 255 stay as they are. The probability is exact to 2^-17: two pixels share the 32 bits of one draw,
    which is the better part of the cost.
    """
    shape = images.shape[1:]
    size = math.prod(shape)

    def sixteen_bits(key):
        words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
        return jnp.concatenate([words & 0xFFFF, words >> 16])[:size].reshape(shape)

    threshold = (images.astype(jnp.uint32) * 2**16 + 127) // 255  # byte / 255 of 2^16, rounded
    return jnp.where(jax.vmap(sixteen_bits)(keys) < threshold, jnp.float32(1), jnp.float32(-1))


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Each image (b, h, w, c) mirrored left to right with probability 1/2, by its own key (b,)."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
