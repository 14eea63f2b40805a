import jax
import numpy as np
import pytest

from train.common import images, pictures


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def test_the_unit_range_is_exactly_undone_by_pictures():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    unit = images.to_unit_range(grey)
    assert unit.min() == -1
    assert unit.max() == 1
    np.testing.assert_array_equal(pictures.to_uint8(unit), grey)


def test_an_image_is_mirrored_or_left_alone_and_about_half_are():
    n = 1000
    x = np.random.default_rng(0).normal(size=(n, 2, 3, 1))
    flipped = np.asarray(images.random_flip(keys(n), x))
    mirrored = (flipped == x[:, :, ::-1].astype(np.float32)).all((1, 2, 3))
    same = (flipped == x.astype(np.float32)).all((1, 2, 3))
    assert np.all(mirrored ^ same)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_black_and_white_pixels_stay_as_they_are_and_all_others_become_one_of_the_two():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(2000, axis=0)
    binary = np.asarray(images.to_binary(keys(2000), grey))
    assert binary.dtype == np.float32
    assert set(binary.flat) == {-1, 1}
    assert (binary[grey == 0] == -1).all()
    assert (binary[grey == 255] == 1).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (2, 2, 1), (1, 3, 3)])
@pytest.mark.parametrize("byte", [1, 77, 128, 254])
def test_a_pixel_is_white_with_the_probability_of_its_grey_level_whether_their_number_is_odd_or_even(shape, byte):
    n, p = 4000, byte / 255
    white = np.asarray(images.to_binary(keys(n), np.full((n, *shape), byte, np.uint8))) > 0
    assert np.abs(white.mean(0) - p).max() < 5 * np.sqrt(p * (1 - p) / n)


def test_pixels_that_share_a_draw_and_neighbours_are_uncorrelated():
    n, byte = 10_000, 100
    binary = np.asarray(images.to_binary(keys(n), np.full((n, 2, 3, 1), byte, np.uint8))).reshape(n, 6)
    assert np.abs(np.corrcoef(binary.T) - np.eye(6)).max() < 5 / np.sqrt(n)


def test_an_image_becomes_binary_by_its_own_key_whatever_batch_it_is_in():
    grey = np.random.default_rng(0).integers(0, 256, (6, 3, 3, 1), dtype=np.uint8)
    whole = images.to_binary(keys(6), grey)
    parts = [images.to_binary(keys(6)[part], grey[part]) for part in (slice(0, 1), slice(1, 4), slice(4, 6))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole != images.to_binary(keys(6, seed=1), grey)).any()
