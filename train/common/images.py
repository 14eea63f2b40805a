"""From stored pictures to what a network sees, on the device."""

import jax
import jax.numpy as jnp


def to_unit_range(images: jax.Array) -> jax.Array:
    """uint8 0..255 (b, h, w, c) to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Each image (b, h, w, c) mirrored left to right with probability 1/2, by its own key (b,)."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
