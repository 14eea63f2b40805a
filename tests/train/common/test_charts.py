"""A chart shows its numbers: where they are, how they move, and at which round values."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from train.common import charts

RANGES = [(0.0, 1.0), (0.03, 1.2), (-3e-5, 2e-5), (999.0, 1001.0), (0.0, 800_000.0), (1e-9, 5e8), (7.0, 7.0001)]


def chart(values, **arguments):
    values = np.asarray(values, float)
    return ET.fromstring(charts.line_chart("loss", 50.0 * np.arange(1, len(values) + 1), values, **arguments))


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(low, high, log) for low, high in RANGES for log in (False, True) if low > 0 or not log],
)
def test_ticks_ascend_within_the_range_and_are_never_too_many(low, high, log):
    for at_most in (3, 5, 8):
        ticks = charts.Axis(low, high, log).ticks(at_most)
        assert len(ticks) <= at_most
        assert ticks == sorted(set(ticks))
        assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_linear_axis_always_has_at_least_two_ticks(low, high):
    assert len(charts.Axis(low, high, log=False).ticks(5)) >= 2


def test_equal_steps_on_a_linear_axis_and_equal_factors_on_a_logarithmic_one_take_equal_room():
    np.testing.assert_allclose(charts.Axis(0.0, 4.0, False).place([0.0, 1.0, 2.0, 4.0, 9.0]), [0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose(charts.Axis(0.01, 1.0, True).place([0.001, 0.01, 0.1, 1.0]), [0, 0, 0.5, 1], atol=1e-12)


def test_a_constant_is_its_own_moving_average():
    np.testing.assert_allclose(charts.smooth(np.full(300, 0.25)), 0.25)


def test_the_moving_average_is_the_mean_over_its_window():
    values = np.random.default_rng(0).normal(size=120)
    for i, average in enumerate(charts.smooth(values)):
        half = min(120 // 25, i // 2)
        np.testing.assert_allclose(average, values[i - half : i + half + 1].mean())


def test_the_envelope_of_a_long_curve_is_short_and_keeps_the_extremes():
    values = np.random.default_rng(0).normal(size=100_000)
    xs, ys = charts.envelope(np.arange(100_000), values)
    assert len(xs) <= charts.POINTS
    assert (np.diff(xs) > 0).all()
    assert (ys.min(), ys.max()) == (values.min(), values.max())
    np.testing.assert_array_equal(ys, values[xs])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (-0.0, "0"), (1, "1"), (100_000, "100,000"), (0.0369, "0.0369"), (0.1 + 0.2, "0.3"), (12.345, "12.3"),
        (1234.5, "1,234"), (-0.5, "-0.5"), (5e-5, "5e-5"), (1.25e-7, "1.25e-7"), (2.5e20, "2.5e20"), (0.9999, "1"),
    ],
)  # fmt: skip
def test_numbers_are_written_with_three_significant_digits(value, written):
    assert charts.number(value) == written


def test_a_falling_loss_is_drawn_on_a_logarithmic_axis_and_a_narrow_or_signed_one_is_not():
    for values, scale in (([1.0, 0.3, 0.03], "logarithmic"), ([1.0, 0.9, 0.8], "linear"), ([1.0, -1.0, 0.1], "linear")):
        assert f"{scale} scale" in "".join(chart(values).itertext())


def test_a_few_wild_values_do_not_flatten_the_curve():
    values = np.random.default_rng(0).uniform(1.0, 2.0, 2000)
    values[700] = 1e9
    heights = [
        float(y) for y in re.findall(r"[ML]\S+ (\S+?)(?=L|$)", chart(values).find(".//path[@class='raw']").get("d"))
    ]
    assert np.ptp(heights) > 500


@pytest.mark.parametrize("values", [[0.5], [0.0], [0.5] * 100, [-1e300, 1e299], [1e-300, 1e-299], [1e15, 1e15 + 1]])
def test_every_finite_series_has_a_chart_within_its_box(values):
    for path in chart(values).iter("path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
        assert numbers
        assert all(0 <= n <= 1000 for n in numbers)


def test_sessions_that_went_on_are_marked_unless_they_lie_outside():
    marks = chart(np.ones(20), resumed_at=[0, 250, 5000]).findall(".//path[@class='mark']")
    assert [mark.get("d") for mark in marks] == ["M250.0 0V1000"]


def test_the_chart_says_in_words_what_it_shows():
    assert chart([1.0, 0.5]).find(".//svg").get("aria-label") == "loss: 1 at step 50, 0.5 at step 100"


def test_the_name_of_a_quantity_cannot_become_markup():
    assert "<b>x</b>" not in charts.line_chart("<b>x</b>", np.ones(1), np.ones(1)).removeprefix("<figure")
