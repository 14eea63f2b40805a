"""The interface of data sets, and pictures as pixels."""

import numpy as np
import pytest
from PIL import Image

from train.common import sources


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 4, 6, 3), np.uint8), np.arange(5)


def test_rows_are_the_rows_of_the_table(table):
    source = sources.in_memory("five", *table, "abcde")
    rows = source.rows(np.array([3, 0, 3]))
    assert np.array_equal(rows["image"], table[0][[3, 0, 3]])
    assert rows["label"].tolist() == [3, 0, 3]
    assert rows["label"].dtype == np.int32
    assert (len(source), source.shape, source.nbytes, source.num_classes) == (5, (4, 6, 3), table[0].nbytes, 5)


def test_the_fingerprint_changes_with_any_pixel_any_label_the_order_and_the_shape(table):
    images, labels = table
    pixel, label = images.copy(), labels.copy()
    pixel[4, 3, 5, 2] ^= 1
    label[2] = 0
    variants = [
        (images, labels),
        (pixel, labels),
        (images, label),
        (images[::-1], labels[::-1]),
        (images.reshape(5, 6, 4, 3), labels),
    ]
    fingerprints = [sources.in_memory("", *variant, "abcde").fingerprint for variant in variants]
    assert len(set(fingerprints)) == len(variants)
    assert sources.in_memory("another name", images.copy(), labels, "").fingerprint == fingerprints[0]


def test_pixels_of_the_right_kind_are_taken_as_they_are(table):
    images, _ = table
    assert np.array_equal(sources.pixels(Image.fromarray(images[0]), grey=False, size=None), images[0])
    assert np.array_equal(sources.pixels(Image.fromarray(images[0, ..., 0]), grey=True, size=None), images[0, ..., :1])


@pytest.mark.parametrize("size", [2, 4, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_keeps_a_constant_constant(size, channels):
    images = np.full((2, 8, 8, channels), 77, np.uint8)
    assert np.array_equal(sources.resized(images, size), np.full((2, size, size, channels), 77))


def test_resizing_to_the_same_size_changes_nothing(table):
    images = table[0][:, :, :4]
    assert sources.resized(images, 4) is images
    assert sources.resized(images, None) is images


@pytest.mark.parametrize("transpose", [False, True])
def test_the_square_is_cut_from_the_middle(transpose):
    image = np.zeros((8, 24), np.uint8)
    image[:, 8:16] = 200
    image = image.T if transpose else image
    assert np.array_equal(sources.pixels(Image.fromarray(image), grey=True, size=8), np.full((8, 8, 1), 200))


def test_shrinking_averages_before_it_samples():
    finest = np.indices((64, 64)).sum(0) % 2 * 255
    shrunk = sources.pixels(Image.fromarray(finest.astype(np.uint8)), grey=True, size=8)
    assert np.abs(shrunk.astype(float) - 127.5).max() < 2


def test_transparent_parts_become_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, :, 3] = 255
    array = sources.pixels(Image.fromarray(rgba), grey=False, size=None)
    assert np.array_equal(array[:, 0], [[0, 0, 0], [255, 255, 255]])


def test_sixteen_bits_keep_the_high_byte():
    deep = Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))
    assert sources.pixels(deep, grey=True, size=None).ravel().tolist() == [0, 0, 1, 255]
