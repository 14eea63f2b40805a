"""How far apart two samples are, by their features: pure functions of arrays of numbers, one row per image.

Features are (n, d), of any floating type; all is computed in float64, a block of rows at a time, so that 10,000 rows against 10,000 need
some hundred megabytes. Every one of these numbers depends on n and on what the features are: say both beside it.
"""

from collections.abc import Iterator

import numpy as np

BLOCK = 500
"""Rows that are compared with all others at a time."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in squared units of the features: between the Gaussians of the same means and
    covariances as (n, d) and (m, d), their squared Wasserstein distance of order 2.

    The last trace is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), a symmetric matrix. Biased: for two samples of
    one law it falls to 0 only as 1 / n.

    Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6, who take the features of Inception: then alone it is the FID.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x . y / d + 1)^3, in units of the kernel, and its standard error: the squared
    maximum mean discrepancy of the laws of (n, d) and (m, d).

    Unbiased for all n and m, as pairs of one example with itself are left out; hence it may be negative. The standard error is that of
    a U-statistic, from the spread of its rows (Hoeffding 1948): where the laws are the same, 2^(1/2) times too large.

    Binkowski et al. 2018, arXiv:1801.01401, section 4; we take all pairs where they average over subsets.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    within_a, within_b = _kernel_means(a, a, same=True), _kernel_means(b, b, same=True)
    across_a, across_b = _kernel_means(a, b), _kernel_means(b, a)
    value = within_a.mean() + within_b.mean() - across_a.mean() - across_b.mean()
    variance = sum(4 * np.var(x, ddof=1) / len(x) for x in (within_a - across_a, within_b - across_b))
    return float(value), float(np.sqrt(variance))


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """The share of generated examples that lie among the real ones, and the share of real ones among the generated, no unit.

    An example lies among others if it is at most as far from one of them as that one's k-th nearest neighbour of its own kind.

    Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2, with their k.
    """
    real, generated = _centred(real, generated)
    return _share_among(generated, real, k), _share_among(real, generated, k)


def density_coverage(real: np.ndarray, generated: np.ndarray, k: int = 5) -> tuple[float, float]:
    """How many real neighbourhoods a generated example lies in, over k, on average; and the share of real neighbourhoods in which one lies.
    No unit; density may exceed 1.

    A neighbourhood is the ball around a real example as far as its k-th nearest real neighbour. Unlike recall, coverage has balls around
    real examples alone, and so is not raised by generated outliers.

    Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4, with their k; of n real and n generated examples of one law both are near 1,
    coverage 1 - 2^-k.
    """
    real, generated = _centred(real, generated)
    squared_radii = _squared_radii(real, k)
    inside, covered = 0, np.zeros(len(real), bool)
    for x in _blocks(generated):
        near = _squared_distances(x, real) <= squared_radii
        inside += near.sum()
        covered |= near.any(axis=0)
    return float(inside / (k * len(generated))), float(covered.mean())


def nearest(x: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest of the others to each row of x, and its distance, both (n,)."""
    x, others = _centred(x, others)
    found = [(d.argmin(axis=1), np.sqrt(d.min(axis=1))) for d in (_squared_distances(y, others) for y in _blocks(x))]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def modes(labels: np.ndarray, num_classes: int) -> tuple[int, float]:
    """How many classes occur in labels (n,), and KL(their shares || uniform) = log num_classes - H(shares), in nats.

    Of n labels drawn evenly the divergence is about (num_classes - 1) / (2 n), and not 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    shares = counts[counts > 0] / len(labels)
    return len(shares), float(np.log(num_classes) + (shares * np.log(shares)).sum())


def _kernel_means(a, b, same=False):
    """The mean of k(a_i, b_j) over all j, or where a and b are the same over all but j = i: (n,)."""
    d = a.shape[1]

    def cubes(x):
        y = x @ (b.T / d) + 1
        return (y * y * y).sum(axis=1)  # numpy's y ** 3 takes ten times as long

    sums = np.concatenate([cubes(x) for x in _blocks(a)])
    if not same:
        return sums / len(b)
    return (sums - ((a**2).sum(axis=1) / d + 1) ** 3) / (len(b) - 1)


def _centred(x, y):
    """Both about the mean of the first: near 0, |x - y|^2 = |x|^2 + |y|^2 - 2 x . y loses least."""
    centre = x.mean(axis=0, dtype=np.float64)
    return x - centre, y - centre


def _share_among(x, others, k):
    """Share of the rows of x that lie among the others."""
    squared_radii = _squared_radii(others, k)
    among = [(_squared_distances(y, others) <= squared_radii).any(axis=1) for y in _blocks(x)]
    return float(np.concatenate(among).mean())


def _squared_radii(x, k):
    """Squared distance of each row to its k-th nearest other row: nearest of all is that row itself, which is none of its neighbours."""
    return np.concatenate([np.partition(_squared_distances(y, x), k)[:, k] for y in _blocks(x)])


def _squared_distances(x, y):
    return np.maximum((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T, 0)


def _blocks(x) -> Iterator[np.ndarray]:
    return (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))
