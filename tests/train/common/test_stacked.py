"""A stacked picture is three digits, and its label names them."""

from pathlib import Path

import numpy as np
import pytest

from train.common import data, stacked

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tfds"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def triples(digits):
    return stacked.stack(digits)


def test_each_plane_is_a_digit_and_the_label_is_the_number_that_they_make(digits, triples):
    rows, all_digits = triples.rows(np.arange(100)), digits.rows(np.arange(len(digits)))
    assert (rows["image"].dtype, rows["image"].shape, rows["label"].dtype) == (np.uint8, (100, 8, 8, 3), np.int32)
    for image, label in zip(rows["image"], rows["label"], strict=True):
        for plane, digit in enumerate((label // 100, label // 10 % 10, label % 10)):
            same = (all_digits["image"][..., 0] == image[..., plane]).all(axis=(1, 2))
            assert same.any()
            assert digit in all_digits["label"][same]
        assert triples.class_names[label] == f"{label:03d}"


def test_all_thousand_numbers_occur_as_often_as_independent_digits_let_them(digits, triples):
    assert (len(triples), triples.num_classes) == (stacked.NUM_IMAGES, 1000)
    shares = np.bincount(digits.rows(np.arange(len(digits)))["label"]) / len(digits)
    expected = len(triples) * np.einsum("i,j,k", shares, shares, shares).reshape(-1)
    counts = np.bincount(triples.rows(np.arange(len(triples)))["label"], minlength=1000)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared - 999) < 5 * np.sqrt(2 * 999)


def test_the_triples_are_the_same_whenever_they_are_made_and_in_whatever_order_they_are_read(digits, triples):
    again = stacked.stack(digits)
    assert again.fingerprint == triples.fingerprint != digits.fingerprint
    rows, backwards = triples.rows(np.arange(7)), again.rows(np.arange(7)[::-1])
    for name in rows:
        np.testing.assert_array_equal(rows[name], backwards[name][::-1])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/tfds beside the repository")
def test_stacked_mnist_is_made_of_mnist():
    source = data.load("stacked_mnist", data_dir=str(SHARED), image_size=14, split="test[:500]")
    assert (source.name, source.shape, len(source)) == ("stacked_mnist", (14, 14, 3), stacked.NUM_IMAGES)
