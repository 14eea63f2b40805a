"""Pictures of points of the plane: those that a model drew, those of the data, and what the model thinks of every place."""

import numpy as np

from train.common import pictures

POINTS = 2000
"""Points of each kind in one picture."""

SIDE = 480
"""Pixels along either side of a picture."""

LATTICE = 96
"""Places along either side at which the landscape is known."""

MARGIN = 0.15
"""Room around the data on each side, as a share of the data's extent."""

PAPER, LOW, HIGH, DATA, SAMPLES = "#faf9f6", "#bccbd3", "#fdfcf8", "#5d6671", "#c4410f"


def square_around(points: np.ndarray) -> np.ndarray:
    """The square to be shown of data (n, 2): its lower left and its upper right corner, (2, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = (0.5 + MARGIN) * (high - low).max()
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half])


def lattice(square: np.ndarray) -> np.ndarray:
    """Places that cover the square evenly, its corners among them, row by row from below, (LATTICE^2, 2) float32."""
    x, y = np.linspace(*square, LATTICE).T
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def picture(
    samples: np.ndarray, data: np.ndarray, square: np.ndarray, landscape: np.ndarray | None = None
) -> np.ndarray:
    """One picture, (SIDE, SIDE, 3) uint8: the samples strongly, the data faintly, both cut off where the square ends; behind
    them, where it is given, the landscape, lighter where it is higher, whatever its scale.

    Args:
        samples: (n, 2).
        data: (m, 2).
        square: its corners, (2, 2), as from `square_around`.
        landscape: (LATTICE^2,), a number for each place of the `lattice`.

    Raises:
        UserError: a sample or the landscape holds NaN.
    """
    # Half a second to import, and only pictures of points need it.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures.check_defined(samples, "values of the samples")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own style is for their own plots
        figure = Figure((SIDE / 100, SIDE / 100), dpi=100, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=square[:, 0], ylim=square[:, 1])
        axes.set_axis_off()
        if landscape is not None:
            pictures.check_defined(landscape, "values of the landscape")
            _shade(axes, square, landscape)
        dots = {"marker": "o", "linestyle": "none", "markeredgewidth": 0}
        axes.plot(*data.T, color=DATA, alpha=0.4, markersize=2.0, **dots)
        axes.plot(*samples.T, color=SAMPLES, alpha=0.8, markersize=2.6, **dots)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _shade(axes, square, landscape):
    """A few flat shades and the lines between them: they show the shape, and compress well."""
    from matplotlib.colors import LinearSegmentedColormap

    low, high = np.percentile(landscape, [1, 99]) if np.isfinite(landscape).all() else (0.0, 0.0)
    if low < high:
        x, y = np.linspace(*square, LATTICE).T
        levels = np.linspace(low, high, 11)
        shades = LinearSegmentedColormap.from_list("ground", [LOW, HIGH])
        heights = np.clip(landscape, low, high).reshape(LATTICE, LATTICE)
        axes.contourf(x, y, heights, levels, cmap=shades)
        axes.contour(x, y, heights, levels[1:-1], colors=DATA, linewidths=0.5, alpha=0.3, linestyles="solid")
