"""Tiles cover the image, their weights sum to one, and blending changes nothing that tiles agree on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import tiling

TILE = (4, 6)
SIZES = [(4, 6), (5, 6), (9, 16), (4, 23), (8, 12)]

everywhere = pytest.mark.parametrize("size", SIZES)


def images(size, b=2):
    return jax.random.normal(jax.random.key(0), (b, *size, 3))


@everywhere
@pytest.mark.parametrize("overlap", [0, 2])
def test_every_pixel_is_in_a_tile_and_neighbours_share_as_much_as_asked(size, overlap):
    corners = tiling.corners(size, TILE, overlap)
    seen = np.zeros(size)
    for i, j in corners:
        seen[i : i + TILE[0], j : j + TILE[1]] += 1
    assert (seen > 0).all()
    for axis in range(2):
        starts = np.unique(corners[:, axis])
        assert starts[0] == 0
        assert starts[-1] == size[axis] - TILE[axis]
        assert (np.diff(starts) <= TILE[axis] - overlap).all()


@everywhere
def test_there_is_no_needless_tile(size):
    num = [1 + max(0, -(-(side - part) // (part - 2))) for side, part in zip(size, TILE, strict=True)]
    assert len(tiling.corners(size, TILE, 2)) == num[0] * num[1]


def test_an_image_of_the_tiles_size_is_one_tile_of_weight_one():
    corners = tiling.corners(TILE, TILE, 2)
    assert corners.tolist() == [[0, 0]]
    np.testing.assert_array_equal(tiling.weights(corners, TILE), np.ones((1, *TILE)))


@everywhere
def test_weights_are_positive_and_sum_to_one_at_every_pixel(size):
    corners = tiling.corners(size, TILE, 2)
    total = np.zeros(size)
    for (i, j), share in zip(corners, tiling.weights(corners, TILE), strict=True):
        assert (share > 0).all()
        total[i : i + TILE[0], j : j + TILE[1]] += share
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@everywhere
def test_a_denoiser_that_acts_on_each_pixel_alone_is_the_same_with_and_without_tiles(size):
    def predict(xt, t, corner=None):
        return jnp.sin(3 * xt) + t[:, None, None, None]

    xt, t = images(size), jnp.array([1.0, 5.0])
    large = tiling.tiled(predict, tiling.corners(size, TILE, 2), TILE)
    same = np.testing.assert_array_equal if size == TILE else np.testing.assert_allclose
    tolerance = {} if size == TILE else {"rtol": 1e-5, "atol": 1e-6}
    same(jax.jit(large)(xt, t), jax.jit(predict)(xt, t), **tolerance)


def test_the_prediction_is_the_weighted_mean_of_those_of_the_tiles():
    """With a denoiser that says the mean of what it sees and where it is; computed pixel by pixel."""
    size, t = (9, 16), jnp.zeros(2)

    def predict(xt, t, corner):
        mean = xt.mean(axis=(1, 2, 3), keepdims=True) + 10 * corner[0] + corner[1]
        return jnp.broadcast_to(mean, xt.shape)

    corners, xt = tiling.corners(size, TILE, 2), images(size)
    found = tiling.tiled(predict, corners, TILE)(xt, t)
    for y, x in [(0, 0), (3, 5), (4, 8), (8, 15)]:
        said, counts = [], []
        for i, j in corners:
            if i <= y < i + TILE[0] and j <= x < j + TILE[1]:
                said.append(np.asarray(xt[:, i : i + TILE[0], j : j + TILE[1]]).mean((1, 2, 3)) + 10 * i + j)
                counts.append(np.sin(np.pi * (y - i + 0.5) / TILE[0]) * np.sin(np.pi * (x - j + 0.5) / TILE[1]))
        expected = np.average(said, axis=0, weights=counts)
        np.testing.assert_allclose(found[:, y, x], np.repeat(expected[:, None], 3, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "overlap", "said"),
    [
        ((3, 9), 2, "an image of 3x9 pixels is smaller than a tile of 4x6"),
        ((9, 9), 4, "can overlap by 0 to 3 pixels; got 4"),
        ((9, 9), -1, "can overlap by 0 to 3 pixels; got -1"),
    ],
)
def test_images_smaller_than_a_tile_and_tiles_that_overlap_whole_are_refused(size, overlap, said):
    with pytest.raises(ValueError, match=said):
        tiling.corners(size, TILE, overlap)


def test_an_image_of_another_size_than_the_tiles_are_of_is_refused():
    large = tiling.tiled(lambda xt, t, corner: xt, tiling.corners((9, 16), TILE, 2), TILE)
    with pytest.raises(ValueError, match="of images of 9x16 pixels; got 9x15"):
        large(images((9, 15)), jnp.zeros(2))
