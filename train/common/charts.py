"""Line charts as inline SVG, drawn by Matplotlib: they follow the page's light or dark colours and any width."""

import io
import math
import re
from collections.abc import Sequence

import numpy as np

from train.common import page

INK, CURVE = "#010203", "#030201"
"""Stand-ins, for Matplotlib knows no colour that follows its page."""

STYLE = {
    "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"], "path.simplify_threshold": 0.5,
    "figure.figsize": (5.0, 2.75), "figure.constrained_layout.use": True,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.spines.bottom": False,
    "axes.xmargin": 0.0, "axes.grid": True, "axes.grid.axis": "y", "axes.formatter.limits": (-3, 5),
    "grid.color": INK, "grid.alpha": 0.2, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.size": 0.0, "ytick.major.size": 0.0, "lines.solid_capstyle": "round",
}  # fmt: skip

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
    # Half a second to import, and only a report needs it.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    average = smooth(values)
    low, high = np.percentile(values, [0.5, 99.5])
    low, high = min(low, average.min()), max(high, average.max())
    name, written = page.escape(title), io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own style is for their own plots
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure = Figure()
        axes = figure.subplots()
        dot = "." if len(steps) == 1 else ""
        axes.plot(steps, np.clip(values, low, high), color=CURVE, alpha=0.4, linewidth=0.8, clip_on=False)
        axes.plot(steps, average, color=CURVE, linewidth=1.5, clip_on=False, marker=dot)
        for step in resumed_at:
            if steps[0] < step < steps[-1]:
                axes.axvline(step, color=INK, alpha=0.6, linewidth=0.8, linestyle=":", clip_on=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if values.min() > 0 and high >= 10 * low:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 1000 * low else (1,), numticks=6))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axes.grid(axis="y", clip_on=False)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    _, _, svg = written.getvalue().partition("<svg")
    told = f"{name}: {number(average[0])} at step {number(steps[0])}, {number(average[-1])} at step {number(steps[-1])}"
    # The names of groups are the same in each chart, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(INK, "currentColor").replace(CURVE, "var(--accent)")
    return f'<svg role="img" aria-label="{told}"{svg}'


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
