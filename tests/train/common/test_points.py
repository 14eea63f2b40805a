"""The mixtures are what they are said to be, and modes are counted by the rule."""

import numpy as np
import pytest

from train.common import points
from train.common.points import Mixture, modes

TWO = Mixture(np.array([[0.0, 0.0], [1.0, 0.0]]), 0.1)


def table(name):
    return points.load(name).rows(np.arange(points.NUM_POINTS))


@pytest.mark.parametrize(("name", "spacing", "std"), [("grid25", 2.0, 0.05), ("ring8", 4 * np.sin(np.pi / 8), 0.02)])
def test_the_mixtures_are_the_published_ones_to_scale(name, spacing, std):
    """Neighbouring centres are as many standard deviations apart as in the papers."""
    means = points.MIXTURES[name].means
    apart = np.linalg.norm(means[:, None] - means, axis=-1)
    nearest = (apart + 10 * np.eye(len(means))).min(axis=1)
    np.testing.assert_allclose(nearest / points.MIXTURES[name].std, spacing / std)


@pytest.mark.parametrize(("name", "count"), [("grid25", 25), ("ring8", 8)])
def test_each_label_is_a_gaussian_of_the_same_weight_around_its_mean(name, count):
    rows, mixture = table(name), points.MIXTURES[name]
    counts = np.bincount(rows["label"])
    assert len(counts) == len(mixture.means) == points.load(name).num_classes == count
    np.testing.assert_allclose(counts, len(rows["point"]) / count, rtol=0.06)
    standard = (rows["point"] - mixture.means[rows["label"]]) / mixture.std
    np.testing.assert_allclose(np.cov(standard.T), np.eye(2), atol=0.02)
    for label in range(count):
        assert np.abs(standard[rows["label"] == label].mean(axis=0)).max() < 5 / np.sqrt(counts[label])


@pytest.mark.parametrize("name", points.MIXTURES)
def test_the_points_are_the_same_whenever_they_are_made(name):
    first, second = points.load(name), points.load(name)
    assert first.fingerprint == second.fingerprint
    assert (first.shape, first.is_points, len(first)) == ((2,), True, points.NUM_POINTS)
    rows = first.rows(np.array([5, 3]))
    assert (rows["point"].dtype, rows["label"].dtype) == (np.float32, np.int32)


def test_a_gaussians_share_is_of_all_samples_those_that_are_good_and_nearest_to_its_mean():
    samples = np.array([[0.0, 0.29], [0.0, 0.31], [1.2, 0.0], [1.0, -0.1], [0.5, 0.0]])
    np.testing.assert_allclose(points.shares(samples, TWO), [0.2, 0.4])
    np.testing.assert_allclose(points.shares(samples, TWO, within=1.5), [0.0, 0.2])


@pytest.mark.parametrize("name", points.MIXTURES)
def test_the_data_themselves_have_every_mode_and_the_share_of_good_points_that_gaussians_have(name):
    found, share = modes(table(name)["point"], points.MIXTURES[name])
    assert found == len(points.MIXTURES[name].means)
    np.testing.assert_allclose(share, 1 - np.exp(-9 / 2), atol=1e-3)


def test_a_mode_is_found_by_so_many_good_samples_and_no_fewer():
    near, far = np.full((9, 2), [0.05, 0.0]), np.full((30, 2), [0.5, 0.4])
    assert modes(np.concatenate([near, far]), TWO) == (0, 9 / 39)
    assert modes(np.concatenate([near, near[:1], far]), TWO) == (1, 10 / 40)
    assert modes(np.concatenate([near, far]), TWO, least=9) == (1, 9 / 39)


def test_a_sample_is_good_within_three_standard_deviations_in_any_direction():
    angles = np.linspace(0, 2 * np.pi, 50)
    circle = 0.1 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert modes(2.999 * circle, TWO)[1] == 1.0
    assert modes(3.001 * circle, TWO)[1] == 0.0
    assert modes(3.001 * circle, TWO, within=3.1)[1] == 1.0


def test_a_sample_within_reach_of_two_means_counts_for_the_nearer():
    close = Mixture(np.array([[0.0, 0.0], [0.1, 0.0]]), 0.1)
    assert modes(np.full((10, 2), [0.04, 0.0]), close) == (1, 1.0)


def test_samples_that_are_nowhere_find_nothing():
    assert modes(np.full((20, 2), np.nan), TWO) == (0, 0.0)
