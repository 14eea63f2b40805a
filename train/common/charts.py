"""Line charts as plain HTML and SVG: they follow the page's light or dark colours and any width, without a script.

The curve is an SVG stretched to its box with strokes that keep their width; the numbers beside it are HTML text placed
in per cent, so they keep their size on a phone. The page's style sheet holds the colours (`train.common.page`).
"""

import html
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POINTS = 400
"""Points drawn per curve at most; a run of a million steps makes no larger file than a short one."""

LOG_FROM = 10.0
"""Positive values that span this factor or more are drawn on a logarithmic axis."""


class Axis(NamedTuple):
    """The range low..high of an axis (low < high) and how values spread over it."""

    low: float
    high: float
    log: bool

    def place(self, values) -> np.ndarray:
        """Position in [0, 1] of each value, same shape; values beyond the range go to its ends."""
        low, high, values = (_scaled(v, self.log) for v in (self.low, self.high, np.clip(values, self.low, self.high)))
        return (values - low) / (high - low)

    def ticks(self, at_most: int) -> list[float]:
        """At most so many round numbers within the range, ascending."""
        return _log_ticks(self.low, self.high, at_most) if self.log else _linear_ticks(self.low, self.high, at_most)


def line_chart(title: str, steps: np.ndarray, values: np.ndarray, resumed_at: Sequence[float] = ()) -> str:
    """A figure, as HTML: the values over the steps faintly, their moving average strongly.

    Args:
        title: the name of the quantity.
        steps: (n,) ascending, n >= 1.
        values: (n,) finite.
        resumed_at: steps to mark by a dashed line.
    """
    average = smooth(values)
    x_axis, y_axis = _step_axis(steps), _value_axis(values, average)
    curves = "".join(
        f'<path class="{name}" d="{_path(x_axis.place(xs), y_axis.place(ys))}"/>'
        for name, (xs, ys) in (("raw", envelope(steps, values)), ("mean", _thinned(steps, average)))
    )
    marks = "".join(
        f'<path class="mark" d="M{1000 * x:.1f} 0V1000"/>'
        for x in x_axis.place(np.asarray(resumed_at, float))
        if 0 < x < 1
    )
    y_ticks = [(y, 100 * float(y_axis.place(y))) for y in y_axis.ticks(5)]
    x_ticks = [(x, 100 * float(x_axis.place(x))) for x in x_axis.ticks(5)]
    lines = "".join(f'<path class="rule" d="M0 {1000 - 10 * up:.1f}H1000"/>' for _, up in y_ticks)
    numbers = "".join(f'<span class="y" style="bottom:{up:.2f}%">{number(y)}</span>' for y, up in y_ticks)
    # A number at the very end would hang over the edge of a phone's page.
    numbers += "".join(
        f'<span class="x" style="left:{right:.2f}%">{number(x)}</span>'
        if right < 97
        else f'<span class="x end">{number(x)}</span>'
        for x, right in x_ticks
    )
    name, now = html.escape(title), number(average[-1])
    told = f"{name}: {number(average[0])} at step {number(steps[0])}, {now} at step {number(steps[-1])}"
    scale = "logarithmic scale" if y_axis.log else "linear scale"
    return (
        f'<figure class="chart"><figcaption><b>{name}</b><span>{scale}</span><output>{now}</output></figcaption>'
        f'<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{told}">'
        f"{lines}{marks}{curves}</svg>{numbers}</div></figure>"
    )


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


def envelope(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve with at most `POINTS` points that still touches the extremes: the least and greatest of each stretch."""
    if len(steps) <= POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), POINTS // 2 + 1).astype(int)
    kept = []
    for a, b in itertools.pairwise(edges):
        kept += sorted({a + int(np.argmin(values[a:b])), a + int(np.argmax(values[a:b]))})
    return steps[kept], values[kept]


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


def _scaled(values, log: bool):
    return np.log(values) if log else np.asarray(values, float)


def _step_axis(steps: np.ndarray) -> Axis:
    first, last = float(steps[0]), float(steps[-1])
    # A run logs first after some steps; an axis from 0 shows where training began.
    low = 0.0 if first < 0.2 * last else first
    return Axis(low, last if last > low else low + 1.0, log=False)


def _value_axis(values: np.ndarray, average: np.ndarray) -> Axis:
    # A few wild values must not flatten all others; the average always fits.
    low, high = np.percentile(values, [0.5, 99.5])
    low, high = float(min(low, average.min())), float(max(high, average.max()))
    if low > 0 and high >= LOG_FROM * low:
        return Axis(low / 1.1, high * 1.1, log=True)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low - margin, high + margin, log=False)


def _linear_ticks(low: float, high: float, at_most: int) -> list[float]:
    size = 10.0 ** math.floor(math.log10((high - low) / at_most))
    for gap in (size, 2 * size, 2.5 * size, 5 * size, 10 * size, 20 * size):
        first, last = math.ceil(low / gap), math.floor(high / gap)
        if last - first < at_most:
            break
    # 15 digits: 3 * 0.1 is to read 0.3.
    return [float(f"{i * gap:.15g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, at_most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= at_most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / at_most)]


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))
    return steps[kept], values[kept]


def _path(xs: np.ndarray, ys: np.ndarray) -> str:
    points = "L".join(f"{1000 * x:.1f} {1000 - 1000 * y:.1f}" for x, y in zip(xs, ys, strict=True))
    # One point alone has no line: round ends turn a line of no length into a dot.
    return f"M{points}" + ("h0" if len(xs) == 1 else "")
