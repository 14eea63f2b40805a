"""Denoisers on images larger than their own: overlapping tiles, whose predictions are blended.

corners = tiling.corners((40, 60), (28, 28), overlap=14)
large = tiling.tiled(predict, corners, (28, 28))             predict(xt, t, corner) knows tiles; large(xt, t) any sampler takes
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.diffusion import Images, Timesteps
from jaxgen.samplers import Denoiser

Corners = Int[np.ndarray, "n 2"]


def corners(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> Corners:
    """Row and column of the first pixel of each tile, (n, 2): as few tiles as cover an image of this size, (h, w), with neighbours that
    share at least so many rows or columns, evenly spread. An image of the tile's size is one tile.

    Raises:
        ValueError: if the image is smaller than a tile, or tiles overlap whole.
    """
    if any(side < part for side, part in zip(size, tile, strict=True)):
        raise ValueError(
            f"an image of {size[0]}x{size[1]} pixels is smaller than a tile of {tile[0]}x{tile[1]}: enlarge it first"
        )
    if not 0 <= overlap < min(tile):
        raise ValueError(
            f"tiles of {tile[0]}x{tile[1]} pixels can overlap by 0 to {min(tile) - 1} pixels; got {overlap}"
        )
    return np.array(list(itertools.product(*(_starts(*sides, overlap) for sides in zip(size, tile, strict=True)))))


def weights(corners: Corners, tile: tuple[int, int]) -> Float[np.ndarray, "n h w"]:
    """What the prediction of each tile counts at each of its pixels; over all tiles they sum to one at every pixel of the image.

    Before they are divided by that sum: sin(pi (i + 1/2) / h) sin(pi (j + 1/2) / w), falling to nearly nothing at a tile's border, where
    it sees least of what is around.
    """
    rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) for side in tile)
    bump = np.outer(rows, columns)
    total = np.zeros(corners.max(axis=0) + tile)
    here = [(slice(i, i + tile[0]), slice(j, j + tile[1])) for i, j in corners]
    for window in here:
        total[window] += bump
    return np.stack([bump / total[window] for window in here])


def tiled(
    predict: Callable[[Images, Timesteps, Int[Array, " 2"]], Images], corners: Corners, tile: tuple[int, int]
) -> Denoiser:
    """The denoiser of large images (b, H, W, c) whose prediction is the weighted mean of those for the tiles.

    Where each is the best one for its tile, that is the best for all of them together: it minimises sum_i w_i |prediction - tile_i|^2
    (Bar-Tal et al. 2023, "MultiDiffusion", arXiv:2302.08113, eq. 5), here at every step of any sampler. One tile after the other
    is computed, so memory is that of one.

    Args:
        predict: tiles (b, h, w, c), t (b,), the row and the column where they lie -> predictions (b, h, w, c), or of other channels.
        corners: of the tiles, which cover the image; as of the function `corners`.
        tile: (h, w).
    """
    shares, size = weights(corners, tile), corners.max(axis=0) + tile

    def predict_large(xt, t):
        b, *found, c = xt.shape
        if tuple(found) != tuple(size):
            raise ValueError(f"the tiles are of images of {size[0]}x{size[1]} pixels; got {found[0]}x{found[1]}")

        def add(total, one):
            corner, share = one
            start = (0, *corner, 0)
            said = predict(jax.lax.dynamic_slice(xt, start, (b, *tile, c)), t, corner)
            so_far = jax.lax.dynamic_slice(total, start, said.shape)
            return jax.lax.dynamic_update_slice(total, so_far + share[None, :, :, None] * said, start), None

        part = jax.eval_shape(predict, jax.ShapeDtypeStruct((b, *tile, c), xt.dtype), t, corners[0])
        inputs = jnp.asarray(corners), jnp.asarray(shares, xt.dtype)
        return jax.lax.scan(add, jnp.zeros((b, *found, part.shape[-1]), part.dtype), inputs)[0]

    return predict_large


def _starts(side, part, overlap):
    """Where tiles of this length begin, along a side."""
    num = 1 if side == part else -(-(side - overlap) // (part - overlap))
    return [k * (side - part) // max(1, num - 1) for k in range(num)]
