"""Charts as inline SVG, drawn by Matplotlib: they follow the page's light or dark colours and any width."""

import io
import math
import re
from collections.abc import Sequence

import numpy as np

from train.common import page

INK, CURVE = "#010203", "#030201"
"""Stand-ins, for Matplotlib knows no colour that follows its page."""

STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.sans-serif": ["DejaVu Sans"], "path.simplify_threshold": 0.5,
    "figure.figsize": (5.0, 2.75), "figure.constrained_layout.use": True,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.spines.bottom": False,
    "axes.xmargin": 0.0, "axes.grid": True, "axes.grid.axis": "y", "axes.formatter.limits": (-3, 5),
    "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.2, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.size": 0.0, "ytick.major.size": 0.0, "lines.solid_capstyle": "round",
}  # fmt: skip

FEW, MANY = 8, 100
"""Up to FEW bars carry their numbers, and fewer are not wider; from MANY on there is no room for gaps between them."""

ROUND = (1, 2, 5, 10)
"""First digits of the gaps between the numbers at an axis."""


def line_chart(title: str, steps: np.ndarray, values: np.ndarray, resumed_at: Sequence[float] = ()) -> str:
    """An SVG element: the values over the steps faintly, their moving average strongly.

    Values beyond the average and beyond 99 per cent of the others are drawn at the edge, lest they flatten the rest. The
    scale is logarithmic where all values are positive and the drawn ones span a factor of ten. The same arguments give
    the same text. The page gives the colours: `color` for the text, and `--accent` for the curve.

    Args:
        title: the name of the quantity, different for each chart of a page.
        steps: (n,) ascending, n >= 1.
        values: (n,) finite.
        resumed_at: steps to mark by a dotted line.
    """
    average = smooth(values)
    low, high = np.percentile(values, [0.5, 99.5])
    low, high = min(low, average.min()), max(high, average.max())

    def draw(axes):
        dot = "." if len(steps) == 1 else ""
        axes.plot(steps, np.clip(values, low, high), color=CURVE, alpha=0.4, linewidth=0.8, clip_on=False)
        axes.plot(steps, average, color=CURVE, linewidth=1.5, clip_on=False, marker=dot)
        for step in resumed_at:
            if steps[0] < step < steps[-1]:
                axes.axvline(step, color=INK, alpha=0.6, linewidth=0.8, linestyle=":", clip_on=False)
        _number_whole(axes.xaxis)
        _scale(axes, "y", low, high, values.min() > 0 and high >= 10 * low)
        axes.grid(axis="y", clip_on=False)

    first, last = (f"{number(average[i])} at step {number(steps[i])}" for i in (0, -1))
    return _svg(title, f"{first}, {last}", draw)


def bar_chart(title: str, values: np.ndarray, threshold: float) -> str:
    """An SVG element: the values as bars, the largest first, those not above the threshold faintly.

    The scale is logarithmic where no value is negative and the smallest is below a hundredth of the largest; it goes down
    to a hundredth of the threshold at most, and what lies below is not seen. A few bars carry their numbers. Text and
    colours as in `line_chart`.

    Args:
        title: the name of the quantity, different for each chart of a page.
        values: (n,) finite, n >= 1.
        threshold: positive; a dotted line where it can be told from zero.
    """
    bars = np.sort(values)[::-1]
    n, top = len(bars), max(bars[0], 0.0)
    logarithmic = 0 <= bars[-1] < top / 100
    base = 10.0 ** np.floor(np.log10(max(bars[bars > 0][-1], min(threshold, top) / 100))) if logarithmic else 0.0
    heights = np.maximum(bars, base) if logarithmic else bars
    half = 0.4 if n < MANY else 0.5

    def draw(axes):
        places = np.arange(1, n + 1)
        for chosen, alpha in ((bars > threshold, 1.0), (bars <= threshold, 0.4)):
            if chosen.any():
                edges = np.stack([places[chosen] - half, places[chosen] + half], axis=1).ravel()
                steps = np.stack([heights[chosen], np.full(chosen.sum(), base)], axis=1).ravel()[:-1]
                axes.stairs(
                    steps, edges, baseline=base, fill=True, color=CURVE, alpha=alpha, linewidth=0, clip_on=False
                )
        if n <= FEW:
            for place, bar, height in zip(places, bars, heights, strict=True):
                at = (place, max(height, base))
                axes.annotate(
                    number(bar), at, (0, 3), textcoords="offset points", ha="center", color=INK, fontsize="small"
                )
            axes.set_xticks(places)
        else:
            _number_whole(axes.xaxis)
        axes.set_xlim((n + 1 - max(n, FEW)) / 2, (n + 1 + max(n, FEW)) / 2)
        _scale(axes, "y", base, top, logarithmic)
        if base < threshold < top and (logarithmic or threshold > top / 20):
            axes.axhline(threshold, color=INK, alpha=0.6, linewidth=0.8, linestyle=":", clip_on=False)
        axes.grid(axis="y", clip_on=False)

    return _svg(title, f"{n} values, {number(bars[0])} to {number(bars[-1])}", draw)


def path_chart(title: str, names: tuple[str, str], steps: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
    """An SVG element: the path of (x, y) in their plane, both as moving averages, from a ring to a dot, and faint lines along
    which x + y is the number at their end.

    The first fiftieth is left out: a plunge, beside which nothing else would be seen. A scale is logarithmic where its
    values are positive and span a factor of ten. Text and colours as in `line_chart`.

    Args:
        title: different for each chart of a page.
        names: of x and y.
        steps: (n,) ascending, n >= 1.
        x: (n,) finite.
        y: (n,) finite.
    """
    steps, x, y = (values[len(steps) // 50 :] for values in (steps, smooth(x), smooth(y)))
    near = max(1, len(steps) // 10)

    def mark(axes, i, neighbour):
        """The step, where the path does not run."""
        right = axes.transAxes.inverted().transform(axes.transData.transform((x[i], y[i])))[0] > 0.5
        axes.annotate(
            f"step {number(steps[i])}", (x[i], y[i]), (-6 if right else 6, -7 if y[neighbour] > y[i] else 7), color=INK,
            textcoords="offset points", ha="right" if right else "left", va="top" if y[neighbour] > y[i] else "bottom",
        )  # fmt: skip

    def draw(axes):
        axes.plot(x, y, color=CURVE, linewidth=1.5, clip_on=False)
        axes.plot(x[:1], y[:1], color=CURVE, marker="o", markerfacecolor="none", clip_on=False)
        axes.plot(x[-1:], y[-1:], color=CURVE, marker="o", clip_on=False)
        axes.margins(0.05, 0.12)
        axes.tick_params("x", pad=5)
        for name, values in (("x", x), ("y", y)):
            _scale(axes, name, values.min(), values.max(), values.min() > 0 and values.max() >= 10 * values.min())
        _lines_of_equal_sum(axes)
        mark(axes, -1, max(0, len(steps) - 1 - near))
        if len(steps) > 1:
            mark(axes, 0, min(near, len(steps) - 1))
        axes.set_xlabel(names[0], color=INK)
        axes.set_ylabel(names[1], color=INK)
        axes.grid(False)

    first, last = (f"{number(x[i])} and {number(y[i])} at step {number(steps[i])}" for i in (0, -1))
    return _svg(title, f"{names[0]} and {names[1]}, {first}, {last}", draw)


def _lines_of_equal_sum(axes):
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(bottom, top))
    spread = np.geomspace if axes.get_xscale() == "log" else np.linspace
    for total in MaxNLocator(7, steps=ROUND).tick_values(left + bottom, right + top):
        first, last = max(left, total - top), min(right, total - bottom)
        if last - first > 0.1 * (right - left):
            x = spread(first, last, 2 if axes.get_xscale() == axes.get_yscale() == "linear" else 50)
            y = np.clip(total - x, bottom, top)
            axes.plot(x, y, color=INK, alpha=0.2, linewidth=0.8, clip_on=False)
            style = {"textcoords": "offset points", "color": INK, "alpha": 0.6, "fontsize": "small"}
            if last == right:
                axes.annotate(number(total), (x[-1], y[-1]), (4, 0), va="center", **style)
            elif y[0] >= top:
                axes.annotate(number(total), (x[0], y[0]), (0, 4), ha="center", **style)


def _number_whole(axis):
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _scale(axes, name, low, high, logarithmic):
    """Logarithmic or not, with a few round numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    if logarithmic:
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 3) if high < 1000 * low else (1,), numticks=6))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=ROUND))


def _svg(title, told, draw):
    """What `draw` puts into Matplotlib's axes, as an SVG element that follows its page."""
    # Half a second to import, and only a report needs it.
    import matplotlib
    from matplotlib.figure import Figure

    label, written = f"{page.escape(title)}: {page.escape(told)}", io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own style is for their own plots
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": label})
        figure = Figure()
        draw(figure.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    _, _, svg = written.getvalue().partition("<svg")
    # The names of groups are the same in each chart, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(INK, "currentColor").replace(CURVE, "var(--accent)")
    return f'<svg role="img" aria-label="{label}"{svg}'


def smooth(values: np.ndarray) -> np.ndarray:
    """Moving average (n,) of `values` (n,): the mean over h_i values on either side of i, as far as they exist.

    h_i = min(n / 25, i / 2): the window is narrow at the start, where a loss falls steeply, and one-sided at the end.
    """
    n = len(values)
    i = np.arange(n)
    half = np.minimum(n // 25, i // 2)
    first, past_last = i - half, np.minimum(i + half + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (total[past_last] - total[first]) / (past_last - first)


def number(value: float) -> str:
    """A number as a person writes it: three significant digits, or all digits of a whole number."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value + 0.0:,.0f}"  # -0.0 + 0.0 is 0.0
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, 2 - math.floor(math.log10(abs(value))))
        written = f"{value:,.{decimals}f}"
        return written.rstrip("0").rstrip(".") if decimals else written
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
