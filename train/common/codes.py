"""Pictures of a space of codes, for a recipe's ``pictures``: functions of an encoder and a decoder, whatever they are.

    observe(batch, key)             what the encoder sees of a batch, (b, h, w, c) in [-1, 1]
    encode(state, x, labels)        its codes, (b, d)
    decode(state, codes, labels)    the images that these mean

All see one device's rows of the batch, under the axis name "data".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MOMENTS = 11
"""Images on the way from one code to another, both included."""

CLASSES = 10
"""Classes, at most, that are shown side by side."""


def pictures(observe: Callable, encode: Callable, decode: Callable, latent_dim: int) -> dict[str, Callable]:
    """All of these that codes of so many dimensions allow, by name."""
    plane = {"manifold": manifold(decode)} if latent_dim == 2 else {}
    return {
        "reconstructions": reconstructions(observe, encode, decode),
        "interpolation": interpolation(observe, encode, decode),
        **plane,
    }


def reconstructions(observe: Callable, encode: Callable, decode: Callable) -> Callable:
    """Each image as it is seen, and beside it what is left of it after coding: (b, h, 2 w, c)."""

    def picture(state, batch, key):
        x = observe(batch, key)
        return jnp.concatenate([x, decode(state, encode(state, x, batch["label"]), batch["label"])], axis=2)

    return picture


def straight_line(here: jax.Array, there: jax.Array, part: jax.Array) -> jax.Array:
    """The code that has gone this part of the way, 0 to 1."""
    return (1 - part) * here + part * there


def quarter_circle(here: jax.Array, there: jax.Array, part: jax.Array) -> jax.Array:
    """The code that has gone this part of the way, 0 to 1: of two draws from N(0, I) another draw, as long as they."""
    return jnp.cos(part * jnp.pi / 2) * here + jnp.sin(part * jnp.pi / 2) * there


def interpolation(observe: Callable, encode: Callable, decode: Callable, between: Callable = straight_line) -> Callable:
    """The way from each image's code to that of the next one: (b, MOMENTS, h, w, c)."""

    def picture(state, batch, key):
        labels = batch["label"]
        here = encode(state, observe(batch, key), labels)
        everyone = jax.lax.all_gather(here, "data", tiled=True)
        following = jax.lax.axis_index("data") * len(here) + jnp.arange(1, len(here) + 1)
        there = everyone[following % len(everyone)]
        parts = jnp.linspace(0.0, 1.0, MOMENTS)
        way = [decode(state, between(here, there, part), labels) for part in parts]
        return jnp.stack(way, axis=1)

    return picture


def classes(sample: Callable, num_classes: int) -> Callable:
    """The same noise as every class, the first `CLASSES` at most, side by side, (b, h, n w, c), of a recipe's ``sample`` that looks at
    labels.
    """

    def picture(state, batch, key):
        drawn = [sample(state, {**batch, "label": labels}, key) for labels in each_class(batch["label"], num_classes)]
        return jnp.concatenate(drawn, axis=2)

    return picture


def each_class(labels: jax.Array, num_classes: int) -> list[jax.Array]:
    """As many labels, (b,), all of one class, for the first class, the second, and on to `CLASSES`."""
    return [jnp.full_like(labels, label) for label in range(min(num_classes, CLASSES))]


def manifold(decode: Callable) -> Callable:
    """What all codes in two dimensions mean: row i, column j of n x n is the code of the quantiles (i + 1/2) / n and (j + 1/2) / n of
    N(0, 1); one image per row of the picture, (b, h, n w, c), for the n rows of the batch on all devices.

    Kingma and Welling 2014, arXiv:1312.6114, figure 4.
    """

    def picture(state, batch, _):
        here = len(batch["label"])
        n = here * jax.lax.psum(1, "data")
        quantiles = jax.scipy.stats.norm.ppf((jnp.arange(n) + 0.5) / n)
        rows = jax.lax.dynamic_slice_in_dim(quantiles, jax.lax.axis_index("data") * here, here)
        codes = jnp.stack(jnp.meshgrid(rows, quantiles, indexing="ij"), axis=-1)
        images = decode(state, codes.reshape(-1, 2), jnp.repeat(batch["label"], n))
        _, h, w, c = images.shape
        return images.reshape(here, n, h, w, c).swapaxes(1, 2).reshape(here, h, n * w, c)

    return picture
