"""Pictures that say how another is to look: control images computed from images.

Everything takes images (b, h, w, c) in [-1, 1] and gives control images in [-1, 1], so that both can be shown, stored and read alike:
`edges` and `scribble` (b, h, w, 1), the others (b, h, w, c). Each image is treated by itself.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import resampling


def edges(images, *, sigma=1.0, low=0.1, high=0.2):
    """The lines along which the brightness jumps, one pixel wide: (b, h, w, c) -> (b, h, w, 1), 1 on an edge, else -1.

    Canny 1986, "A computational approach to edge detection": the gradient, by Sobel's filters, of the mean over channels, smoothed with
    a Gaussian; of it the pixels at which its length is largest along its own direction, one of four; of these all longer than ``high``,
    and those longer than ``low`` that touch them through others.

    Lengths are shares of what a step from black to white gives, whatever ``sigma``, the Gaussian's standard deviation in pixels, is. Where
    two neighbours have the same, as beside a step, the brighter one is the edge; so a picture turned or mirrored has its edges so.

    Raises:
        ValueError: if ``sigma`` is not positive, or not 0 < low <= high.
    """
    if sigma <= 0 or not 0 < low <= high:
        raise ValueError(f"edges need sigma > 0 and 0 < low <= high; got {sigma=}, {low=}, {high=}")
    dy, dx = _gradient(images.mean(axis=-1), sigma)
    length = jnp.sqrt(dy**2 + dx**2)
    ridge = _largest_along(length, dy, dx)
    strong = ridge & (length > high)
    return jnp.where(_reached(strong, ridge & (length > low)), 1.0, -1.0)[..., None]


def scribble(images, *, sigma=2.0, low=0.1, high=0.2):
    """A few thick strokes: (b, h, w, c) -> (b, h, w, 1), 1 on a stroke, else -1.

    The `edges` that are left of the picture where it is smoothed so much more, three pixels wide. Zhang et al. 2023, arXiv 2302.05543, who
    train on such strokes, find edges by a network, and thin them at random.
    """
    return jnp.where(_around(edges(images, sigma=sigma, low=low, high=high)[..., 0] > 0), 1.0, -1.0)[..., None]


def low_resolution(images, *, factor=4):
    """Each square of ``factor`` x ``factor`` pixels as its mean: (b, h, w, c) -> (b, h, w, c).

    Raises:
        ValueError: if such squares do not fill the images.
    """
    _, h, w, _ = images.shape
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"images of height x width {h}x{w} are not made of squares of {factor} x {factor} pixels")
    return resampling.repeat(resampling.downsample(images, factor), factor)


def rectangles(keys, height, width):
    """A rectangle at random in each image, by its own key: (b,) typed keys -> (b, height, width, 1), 1 inside, else 0.

    Each side is a quarter to three quarters of the image's, at any place in it, both uniformly; at least one pixel.
    """

    def inside(key, size):
        length_key, start_key = jax.random.split(key)
        length = jax.random.randint(length_key, (), max(1, size // 4), max(1, 3 * size // 4) + 1)
        start = jax.random.randint(start_key, (), 0, size - length + 1)
        place = jnp.arange(size)
        return (place >= start) & (place < start + length)

    def rectangle(key):
        row_key, column_key = jax.random.split(key)
        return inside(row_key, height)[:, None] & inside(column_key, width)[None, :]

    return jax.vmap(rectangle)(keys)[..., None].astype(jnp.float32)


def hide(images, hidden):
    """The images, grey where they are hidden: (b, h, w, c) and (b, h, w, 1), 1 where hidden -> (b, h, w, c)."""
    return jnp.where(hidden > 0, jnp.zeros_like(images), images)


def _gradient(grey, sigma):
    """d/dy and d/dx of grey (b, h, w), smoothed: 1 in length beside a step from -1 to 1. Beyond its borders the picture goes on as it is
    there."""
    radius = math.ceil(3 * sigma)
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    bell /= bell.sum()
    step = 2 * (bell[radius] + bell[radius + 1])  # the difference of the two pixels beside the one at which it begins
    smooth = _filtered(_filtered(grey, bell, 1), bell, 2)
    across, along = np.array([-1.0, 0.0, 1.0]) / step, np.array([0.25, 0.5, 0.25])
    return _filtered(_filtered(smooth, across, 1), along, 2), _filtered(_filtered(smooth, across, 2), along, 1)


def _filtered(x, taps, axis):
    """x (b, h, w) correlated with the taps along an axis."""
    radius, size = len(taps) // 2, x.shape[axis]
    padded = jnp.pad(x, [(radius, radius) if i == axis else (0, 0) for i in range(3)], mode="edge")
    return sum(tap * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i, tap in enumerate(taps.tolist()))


def _largest_along(length, dy, dx):
    """Where the gradient is longer than at the next pixel in its direction, and no shorter than at the one behind; lengths that rounding
    tells apart are the same."""
    steep, flat, same = math.tan(3 * math.pi / 8), math.tan(math.pi / 8), 1e-4
    sideways, upright = abs(dy) < flat * abs(dx), abs(dy) > steep * abs(dx)
    down = jnp.where(sideways, 0, jnp.sign(dy)).astype(jnp.int32)
    right = jnp.where(upright, 0, jnp.sign(dx)).astype(jnp.int32)
    ahead, behind = jnp.zeros_like(length), jnp.zeros_like(length)
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        there = (down == i) & (right == j)
        ahead, behind = jnp.where(there, _moved(length, i, j), ahead), jnp.where(there, _moved(length, -i, -j), behind)
    return (length > ahead + same) & (length > behind - same)


def _moved(x, down, right):
    """The value so many pixels further, zero beyond the border: (b, h, w) -> (b, h, w), |down|, |right| <= 1."""
    _, h, w = x.shape
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1)))[:, 1 + down : 1 + down + h, 1 + right : 1 + right + w]


def _around(marked):
    """These pixels and their eight neighbours, bool (b, h, w)."""
    rows = marked | _moved(marked, -1, 0) | _moved(marked, 1, 0)
    return rows | _moved(rows, 0, -1) | _moved(rows, 0, 1)


def _reached(marked, passable):
    """The passable pixels that a way through passable neighbours leads to from a marked one, bool (b, h, w)."""

    def grow(state):
        before, _ = state
        after = _around(before) & passable
        return after, (after != before).any()

    return jax.lax.while_loop(lambda state: state[1], grow, (marked, jnp.array(True)))[0]
