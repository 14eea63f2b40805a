"""Distances between samples are what they are between the laws that the samples have."""

import numpy as np
import pytest

from jaxgen import information
from train.common import quality


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def sample(mean, cov, n=50):
    """n rows with just this mean and this covariance."""
    white = normal(0, n, len(mean))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    return np.array(mean) + white @ np.linalg.cholesky(cov).T


def test_the_frechet_distance_of_independent_coordinates_is_that_of_means_and_standard_deviations():
    a, b = np.array([0.5, 2.0, 1.0]), np.array([1.0, 0.25, 1.0])
    expected = ((np.array([1.0, -2.0, 0.0])) ** 2).sum() + ((a - b) ** 2).sum()
    distance = quality.frechet_distance(sample([0.0, 0.0, 3.0], np.diag(a**2)), sample([1.0, -2.0, 3.0], np.diag(b**2)))
    np.testing.assert_allclose(distance, expected, rtol=1e-10)


def test_the_frechet_distance_of_covariances_that_do_not_commute_has_the_closed_form_of_the_plane():
    """The trace of the root of a 2x2 matrix M is (tr M + 2 (det M)^(1/2))^(1/2)."""
    a, b = np.array([[2.0, 0.9], [0.9, 0.5]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    assert not np.allclose(a @ b, b @ a)
    product = a @ b
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    distance = quality.frechet_distance(sample([0, 0], a), sample([3, 4], b))
    np.testing.assert_allclose(distance, 25 + np.trace(a + b) - 2 * cross, rtol=1e-10)


def test_the_frechet_distance_of_a_sample_to_itself_is_0_even_where_a_feature_is_constant():
    x = normal(1, 500, 20)
    x[:, 3] = 0
    np.testing.assert_allclose(quality.frechet_distance(x, x[::-1]), 0, atol=1e-6)


def test_the_kernel_distance_of_two_points_is_that_of_the_kernel():
    """(x . x / d + 1)^3 + (y . y / d + 1)^3 - 2 (x . y / d + 1)^3, without error."""
    x, y = np.tile([2.0, 0.0], (5, 1)), np.tile([1.0, 3.0], (7, 1))
    value, error = quality.kernel_distance(x, y)
    np.testing.assert_allclose([value, error], [3**3 + 6**3 - 2 * 2**3, 0], atol=1e-12)


def test_the_kernel_distance_leaves_out_pairs_of_an_example_with_itself_and_no_others(monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 4)
    a, b = normal(2, 11, 3), normal(3, 9, 3) + 0.5

    def mean(x, y, keep):
        pairs = [(u @ v / 3 + 1) ** 3 for i, u in enumerate(x) for j, v in enumerate(y) if keep(i, j)]
        return np.mean(pairs)

    apart, every = (lambda i, j: i != j), (lambda i, j: True)
    expected = mean(a, a, apart) + mean(b, b, apart) - 2 * mean(a, b, every)
    np.testing.assert_allclose(quality.kernel_distance(a, b)[0], expected, rtol=1e-10)


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, np.sqrt(2)), (0.7, 1.0)])
def test_the_kernel_distance_is_that_of_the_first_three_moments_within_its_standard_error(shift, ratio):
    """3 |m|^2 / d + 3 |M|^2 / d^2 + |T|^2 / d^3 for the differences m, M, T of the moments; of one law 0, and there the error is said
    too large."""
    d, eye = 4, np.eye(4)
    along = np.full(d, shift)
    square, cube = np.einsum("i,j", along, along), np.einsum("i,j,k", along, along, along)
    cube += np.einsum("i,jk", along, eye) + np.einsum("j,ik->ijk", along, eye) + np.einsum("k,ij->ijk", along, eye)
    expected = 3 * (along**2).sum() / d + 3 * (square**2).sum() / d**2 + (cube**2).sum() / d**3
    draws = [quality.kernel_distance(normal(2 * i, 60, d), normal(2 * i + 1, 80, d) + shift) for i in range(400)]
    values, errors = np.array(draws).T
    spread = values.std(ddof=1)
    assert abs(values.mean() - expected) < 3 * spread / np.sqrt(len(values))
    np.testing.assert_allclose(np.sqrt((errors**2).mean()) / spread, ratio, rtol=0.2)


def test_precision_and_recall_of_identical_samples_are_1_and_of_samples_far_apart_0():
    x = normal(4, 300, 8)
    assert quality.precision_recall(x, x[::-1]) == (1.0, 1.0)
    assert quality.precision_recall(x, x + 100) == (0.0, 0.0)


def test_precision_and_recall_on_the_line():
    real, generated = np.array([[0.0], [1.0], [2.0]]), np.array([[-1.5], [4.5], [9.0]])
    # Second neighbours: of 0, 1, 2 at 2, 1, 2; of -1.5, 4.5, 9 at 10.5, 6, 10.5.
    assert quality.precision_recall(real, generated, k=2) == (1 / 3, 1.0)
    # First neighbours: of 0, 1, 2 at 1; of -1.5, 4.5, 9 at 6, 4.5, 4.5.
    assert quality.precision_recall(real, generated, k=1) == (0.0, 1.0)


def test_precision_and_recall_change_places_with_the_samples_and_do_not_feel_a_shift_or_the_size_of_a_block(
    monkeypatch,
):
    real, generated = normal(5, 130, 3), 0.7 * normal(6, 90, 3) + 1.0
    precision, recall = quality.precision_recall(real, generated)
    assert 0 < recall < precision < 1
    assert quality.precision_recall(generated, real) == (recall, precision)
    assert quality.precision_recall(real + 1e3, generated + 1e3) == (precision, recall)
    monkeypatch.setattr(quality, "BLOCK", 7)
    assert quality.precision_recall(real, generated) == (precision, recall)


def test_recall_falls_to_the_share_of_the_one_mode_that_samples_collapse_to_and_precision_stays():
    centres = 50 * np.eye(5)

    def mixture(seed, modes, n=1000):
        return centres[np.arange(n) % modes] + normal(seed, n, 5)

    real = mixture(7, 5)
    full, collapsed = (quality.precision_recall(real, mixture(8, modes)) for modes in (5, 1))
    assert min(full) > 0.8
    assert collapsed[0] > 0.8
    assert 0.15 < collapsed[1] <= 0.2


def test_the_divergence_of_class_shares_is_0_for_even_ones_and_the_logarithm_of_their_number_for_one_class():
    found, divergence = quality.modes(np.repeat(np.arange(10), 3), 10)
    np.testing.assert_allclose([found, divergence], [10, 0], atol=1e-12)
    found, divergence = quality.modes(np.full(7, 4), 10)
    np.testing.assert_allclose([found, divergence], [1, np.log(10)])


def test_the_divergence_of_class_shares_is_the_kullback_leibler_divergence_to_the_uniform_distribution():
    labels = np.random.default_rng(9).integers(3, 8, 200)
    shares = np.bincount(labels, minlength=10) / len(labels)
    found, divergence = quality.modes(labels, 10)
    assert found == (shares > 0).sum()
    np.testing.assert_allclose(divergence, information.kl_divergence(shares, np.full(10, 0.1)), rtol=1e-5)


def test_even_draws_of_a_thousand_classes_diverge_by_999_over_twice_their_number():
    labels = np.random.default_rng(10).integers(1000, size=25_600)
    np.testing.assert_allclose(quality.modes(labels, 1000)[1], 999 / (2 * 25_600), rtol=0.2)


def brute_distances(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_count_neighbourhoods(k):
    """By their definitions, a pair at a time."""
    real, generated = normal(0, 40, 3), normal(1, 30, 3) + 0.5
    radii = np.sort(brute_distances(real, real), axis=1)[:, k]
    inside = brute_distances(generated, real) <= radii
    expected = inside.sum() / (k * 30), inside.any(axis=0).mean()
    np.testing.assert_allclose(quality.density_coverage(real, generated, k), expected, rtol=1e-12)


def test_two_samples_of_one_law_have_density_one_and_cover_nearly_all_neighbourhoods():
    density, coverage = quality.density_coverage(normal(0, 2000, 4), normal(1, 2000, 4))
    assert abs(density - 1) < 0.05
    assert abs(coverage - (1 - 2**-5)) < 0.02


def test_outliers_do_not_raise_coverage_and_a_single_mode_has_little_of_it():
    real = normal(0, 1000, 4)
    outliers = np.concatenate([normal(1, 500, 4), 100 * normal(2, 500, 4)])
    assert quality.density_coverage(real, outliers)[1] <= quality.density_coverage(real, normal(1, 500, 4))[1] + 1e-12
    assert quality.density_coverage(real, 0.01 * normal(1, 1000, 4))[1] < 0.2


def test_the_nearest_of_others_is_found_with_its_distance():
    x, others = normal(0, 700, 5), normal(1, 60, 5)
    number, distance = quality.nearest(x, others)
    expected = brute_distances(x, others)
    np.testing.assert_array_equal(number, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-6)
