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


def bars(values, threshold=0.01):
    return ET.fromstring(charts.bar_chart("KL", np.asarray(values, float), threshold))


def heights(root):
    """Of each bar that is seen, as drawn, from left to right."""
    found = []
    for path in root.iter(f"{SVG}path"):
        if "fill: var(--accent)" in path.get("style", ""):
            x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float).T
            tops = y.max() - y[:-1][np.diff(x) > 1e-3]
            found += tops[tops > 1e-3].tolist()
    return np.array(found)


def path(x, y):
    steps = 10.0 * np.arange(1, len(x) + 1)
    return ET.fromstring(charts.path_chart("tug", ("kl", "error"), steps, np.asarray(x, float), np.asarray(y, float)))


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


def test_bars_descend_and_equal_differences_take_equal_room():
    drawn = heights(bars([1.0, 3.0, 2.0]))
    np.testing.assert_allclose(drawn / drawn[0], [1, 2 / 3, 1 / 3], rtol=1e-4)


def test_equal_factors_of_bars_take_equal_room_where_they_span_a_factor_of_a_hundred():
    drawn = heights(bars([1.0, 0.1, 0.0011]))
    assert (np.diff(drawn) < 0).all()
    rise = heights(bars([1.0, 0.1, 0.01, 0.001 + 1e-9, 0.0001]))
    np.testing.assert_allclose(np.diff(rise), np.diff(rise)[0], rtol=1e-3)


def test_bars_above_the_threshold_are_strong_and_the_others_faint():
    root = bars([1.0] * 17 + [0.005] * 33)
    strong, faint = (path.get("style") for path in root.iter(f"{SVG}path") if "fill: var" in path.get("style", ""))
    assert "opacity" not in strong
    assert "opacity: 0.4" in faint
    assert len(heights(root)) == 50
    assert len(lines(root, "stroke-dasharray")) == 1


def test_a_few_bars_carry_their_numbers():
    assert {"1.61", "0.0052"} <= {text.text for text in bars([0.0052, 1.61]).iter(f"{SVG}text")}


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.0], [-1.0], [0.0, 0.0], [1.0, 0.0], [1.0, -1.0], [-1e300, 1e299], [1e-300, 1e-299], [1e-9, 5e8], [1e-6] * 9],
)  # fmt: skip
def test_every_finite_vector_has_a_chart(values):
    root = bars(values)
    assert len({text.text for text in root.iter(f"{SVG}text")}) >= 2
    assert len(heights(root)) <= len(values)


def test_a_thousand_bars_are_two_shapes():
    svg = charts.bar_chart("KL", 10.0 ** np.random.default_rng(0).uniform(-4, 1, 1000), 0.01)
    assert svg.count("fill: var(--accent)") == 2
    assert len(svg) < 120_000


def test_a_path_goes_from_its_ring_to_its_dot():
    root = path(np.arange(40.0), 60 - np.arange(40.0))
    ring, dot = list(root.iter(f"{SVG}use"))
    corners = max(curves(root), key=len)
    np.testing.assert_allclose([float(ring.get(name)) for name in "xy"], corners[0], atol=1e-3)
    np.testing.assert_allclose([float(dot.get(name)) for name in "xy"], corners[-1], atol=1e-3)
    assert {"step 10", "step 400", "kl", "error"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_path_of_constant_sum_runs_along_the_faint_lines():
    root = path([0.0, 5.0, 10.0], [10.0, 5.0, 0.0])
    faint = lines(root, "stroke-opacity: 0.2")
    assert len(faint) >= 3
    slopes = [y / x for x, y in (corners[-1] - corners[0] for corners in [max(curves(root), key=len), *faint])]
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-4)


def test_the_first_fiftieth_of_a_long_path_is_left_out():
    label = path(np.ones(200), np.where(np.arange(200) < 2, 1000.0, 3.0)).get("aria-label")
    assert label == "tug: kl and error, 1 and 3 at step 50, 1 and 3 at step 2,000"


@pytest.mark.parametrize(
    ("x", "y"),
    [([1.0], [2.0]), ([0.0], [0.0]), ([1.0] * 9, [2.0] * 9), ([1e-3, 5.0], [500.0, 2.0]), ([-1e300, 1e299], [1.0, 2.0]),
     ([3.0, 1e-9], [-50.0, -900.0])],
)  # fmt: skip
def test_every_finite_path_has_a_chart_within_its_box(x, y):
    root = path(x, y)
    left, top, width, height = map(float, root.get("viewBox").split())
    for corners in curves(root) + lines(root, "stroke-opacity: 0.2"):
        assert (corners >= (left, top)).all()
        assert (corners <= (left + width, top + height)).all()


def test_bars_and_paths_too_are_the_same_for_the_same_numbers_and_take_their_colours_from_the_page():
    values = np.random.default_rng(0).uniform(0.001, 3, 60)
    for draw in (
        lambda: charts.bar_chart("<b>", values, 0.01),
        lambda: charts.path_chart("<b>", ("<i>", "$\\frac$"), np.arange(60.0), values, values[::-1]),
    ):
        svg = draw()
        assert draw() == svg
        assert ET.fromstring(svg).get("aria-label").startswith("<b>: ")
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {"none", "currentColor", "var(--accent)"}
        assert "url(" not in svg


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
