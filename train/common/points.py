"""Mixtures of Gaussians in the plane: data whose every mode is known, so that one can count which of them a model has found."""

import itertools
from typing import NamedTuple

import numpy as np

from train.common import sources

NUM_POINTS = 100_000
"""Points in a data set."""


class Mixture(NamedTuple):
    """Gaussians of equal weight and equal standard deviation in all directions."""

    means: np.ndarray
    """(m, 2) float64"""
    std: float
    """Along each axis."""


def _on_a_grid(places) -> np.ndarray:
    return np.array(list(itertools.product(places, places)))


def _on_a_circle(count: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


MIXTURES = {
    "grid25": Mixture(_on_a_grid((-1.0, -0.5, 0.0, 0.5, 1.0)), 1 / 80),
    "ring8": Mixture(_on_a_circle(8), 0.01),
}
"""By the name of the data set: the toys of Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761) with the numbers of the published code of
Lin et al. 2018 (PacGAN, arXiv:1712.04086). grid25 is theirs divided by 4, where centres are {-4, -2, 0, 2, 4}^2 and the standard
deviation is 0.05; ring8 is theirs as it stands.
"""


def load(name: str) -> sources.Source:
    """The data set of one of `MIXTURES`: the same points always; the label of each is the number of its Gaussian."""
    means, std = MIXTURES[name]
    rng = np.random.default_rng(0)
    labels = rng.integers(len(means), size=NUM_POINTS)
    points = means[labels] + std * rng.standard_normal((NUM_POINTS, 2))
    names = [f"({x:g}, {y:g})" for x, y in means.round(3) + 0.0]  # + 0.0: no -0
    return sources.in_memory(name, points.astype(np.float32), labels, names)


SHARES = "good samples of each Gaussian, of all"
"""The statistic of a run that `shares` are."""


def shares(samples: np.ndarray, mixture: Mixture, within: float = 3.0) -> np.ndarray:
    """For each Gaussian of the mixture, (m,), which part of the samples (n, 2) is good and has its mean for the nearest one.

    A sample is good if it lies at most `within` standard deviations from a mean, in Euclidean distance; of a mixture itself a part of
    1 - exp(-within^2 / 2), 0.989, is good.
    """
    distances = np.linalg.norm(samples[:, None] - mixture.means, axis=-1)
    good = distances.min(axis=1) <= within * mixture.std
    return np.bincount(distances[good].argmin(axis=1), minlength=len(mixture.means)) / len(samples)


def modes(samples: np.ndarray, mixture: Mixture, within: float = 3.0, least: int = 10) -> tuple[int, float]:
    """How many Gaussians of the mixture the samples (n, 2) have found, and the share of good samples among them.

    Good as by `shares`; a Gaussian is found if at least `least` good samples have its mean for the nearest one. Srivastava et al. 2017,
    arXiv:1705.07761, count so from one good sample on.
    """
    found = shares(samples, mixture, within)
    return int((np.rint(found * len(samples)) >= least).sum()), float(found.sum())
