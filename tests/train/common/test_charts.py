"""A chart shows its numbers, wherever they lie, and nothing of the machine, the day or the person's own plots."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from train.common import charts

SVG = "{http://www.w3.org/2000/svg}"


def chart(values, **arguments):
    values = np.asarray(values, float)
    return ET.fromstring(charts.line_chart("loss", 50.0 * np.arange(1, len(values) + 1), values, **arguments))


def lines(root, pattern):
    """The corners (n, 2) of each drawn line whose style has the pattern; x to the right, y downwards."""
    paths = [path for path in root.iter(f"{SVG}path") if re.search(pattern, path.get("style"))]
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float) for path in paths]


def curves(root):
    """The values and their moving average, as drawn."""
    return lines(root, r"stroke: var\(--accent\)")


def test_a_constant_is_its_own_moving_average():
    np.testing.assert_allclose(charts.smooth(np.full(300, 0.25)), 0.25)


def test_the_moving_average_is_the_mean_over_its_window():
    values = np.random.default_rng(0).normal(size=120)
    for i, average in enumerate(charts.smooth(values)):
        half = min(120 // 25, i // 2)
        np.testing.assert_allclose(average, values[i - half : i + half + 1].mean())


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (-0.0, "0"), (1, "1"), (100_000, "100,000"), (0.0369, "0.0369"), (0.1 + 0.2, "0.3"), (12.345, "12.3"),
        (1234.5, "1,234"), (-0.5, "-0.5"), (5e-5, "5e-5"), (1.25e-7, "1.25e-7"), (2.5e20, "2.5e20"), (0.9999, "1"),
    ],
)  # fmt: skip
def test_numbers_are_written_with_three_significant_digits(value, written):
    assert charts.number(value) == written


def test_equal_factors_take_equal_room_where_positive_values_span_a_factor_of_ten():
    rise = np.diff(curves(chart([1.0, 0.1, 0.01]))[1][:, 1])
    np.testing.assert_allclose(rise[0], rise[1], rtol=1e-4)


@pytest.mark.parametrize("values", [[1.0, 0.9, 0.7], [1.0, 0.5, -0.5], [20.0, 10.0, -10.0]])
def test_equal_differences_take_equal_room_elsewhere(values):
    fall = np.diff(curves(chart(values))[1][:, 1])
    np.testing.assert_allclose(fall[1] / fall[0], 2, rtol=1e-4)


def test_a_wild_value_does_not_flatten_the_curve():
    values = np.random.default_rng(0).uniform(1.0, 2.0, 2000)
    values[700] = 100.0
    assert np.std(curves(chart(values))[0][:, 1]) > 20


@pytest.mark.parametrize(
    "values", [[0.5], [0.0], [0.5] * 100, [-1e300, 1e299], [1e-300, 1e-299], [1e15, 1e15 + 1], [1e-9, 1.0, 5e8]]
)
def test_every_finite_series_has_numbers_at_both_axes_and_its_curves_within_its_box(values):
    root = chart(values)
    left, top, width, height = map(float, root.get("viewBox").split())
    for corners in curves(root):
        assert (corners >= (left, top)).all()
        assert (corners <= (left + width, top + height)).all()
    assert len(curves(root)) >= 2
    assert len({text.text for text in root.iter(f"{SVG}text")}) >= 4


def test_a_single_value_is_a_dot():
    assert len(list(chart([0.5]).iter(f"{SVG}use"))) == 1


def test_a_curve_of_a_million_points_is_drawn_by_a_few_thousand():
    raw, average = curves(chart(np.random.default_rng(0).uniform(size=1_000_000)))
    assert len(raw) + len(average) < 5000
    assert np.ptp(raw[:, 1]) > 150


def test_sessions_that_went_on_are_marked_unless_they_lie_outside():
    (mark,) = lines(chart(np.ones(21), resumed_at=[0, 550, 5000]), "stroke-dasharray")
    (average,) = (curve for curve in curves(chart(np.ones(21)))[1:])
    np.testing.assert_allclose(mark[:, 0], average[[0, -1], 0].mean(), atol=1e-3)


def test_the_same_numbers_are_the_same_chart_whatever_style_a_person_has_for_other_plots():
    first = charts.line_chart("loss", np.arange(3.0), np.arange(3.0))
    with matplotlib.rc_context({"font.size": 30, "lines.linestyle": "--", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        assert charts.line_chart("loss", np.arange(3.0), np.arange(3.0)) == first
        assert dict(matplotlib.rcParams) == before


def test_two_charts_have_no_id_in_common():
    ids = [set(re.findall(r' id="(.*?)"', charts.line_chart(name, np.ones(1), np.ones(1)))) for name in "ab"]
    assert not ids[0] & ids[1]


def test_all_colours_are_those_of_the_page():
    svg = ET.tostring(chart(np.random.default_rng(0).normal(size=50), resumed_at=[500]), encoding="unicode")
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) == {"none", "currentColor", "var(--accent)"}
    assert "#" not in svg


def test_the_chart_says_in_words_what_it_shows():
    assert chart([1.0, 0.5]).get("aria-label") == "loss: 1 at step 50, 0.5 at step 100"


@pytest.mark.parametrize("name", ["<b>x</b>", '"', "$\\frac$", "\x00\ud800", ""])
def test_any_text_may_name_a_quantity(name):
    root = ET.fromstring(charts.line_chart(name, np.ones(1), np.ones(1)))
    assert root.get("aria-label") == re.sub("[\x00\ud800]", "\ufffd", name) + ": 1 at step 1, 1 at step 1"


def test_only_a_chart_imports_matplotlib():
    command = "import sys, train.common.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
