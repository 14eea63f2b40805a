"""What lies where in the plane lies there in the picture."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from train.common import scatter
from train.common.errors import UserError

SQUARE = np.array([[-1.0, -1.0], [1.0, 1.0]])
NONE = np.zeros((0, 2))


def places(picture, colour):
    """Mean of the places (x, y) whose pixels are nearest to this colour among all that a picture has, and how many pixels there are."""
    palette = np.array([to_rgb(c) for c in (scatter.PAPER, scatter.DATA, scatter.SAMPLES)])
    nearest = np.abs(picture[:, :, None] / 255 - palette).sum(-1).argmin(-1)
    rows, columns = np.nonzero(nearest == [scatter.PAPER, scatter.DATA, scatter.SAMPLES].index(colour))
    if not len(rows):
        return None, 0
    side = scatter.SIDE
    return np.array([2 * (columns.mean() + 0.5) / side - 1, 1 - 2 * (rows.mean() + 0.5) / side]), len(rows)


def around(x, y, count=200):
    return np.random.default_rng(0).normal((x, y), 0.02, (count, 2))


def test_the_square_has_the_data_in_its_middle_with_room_around():
    low, high = scatter.square_around(np.array([[0.0, 5.0], [4.0, 6.0], [2.0, 5.2]]))
    np.testing.assert_allclose((low + high) / 2, [2.0, 5.5])
    np.testing.assert_allclose(high - low, 4 * (1 + 2 * scatter.MARGIN))


def test_the_lattice_covers_the_square_row_by_row_from_below():
    square = np.array([[-1.0, 2.0], [1.0, 4.0]])
    lattice = scatter.lattice(square)
    assert (lattice.shape, lattice.dtype) == ((scatter.LATTICE**2, 2), np.float32)
    np.testing.assert_allclose(lattice[[0, scatter.LATTICE - 1, -1]], [[-1, 2], [1, 2], [1, 4]])


def test_samples_and_data_are_where_they_are_in_their_own_colours():
    picture = scatter.picture(around(0.5, 0.25), around(-0.5, -0.25), SQUARE)
    assert (picture.shape, picture.dtype) == ((scatter.SIDE, scatter.SIDE, 3), np.uint8)
    for colour, place in ((scatter.SAMPLES, (0.5, 0.25)), (scatter.DATA, (-0.5, -0.25))):
        found, count = places(picture, colour)
        assert count > 50
        np.testing.assert_allclose(found, place, atol=0.02)


def test_samples_lie_above_the_data():
    picture = scatter.picture(around(0, 0), around(0, 0), SQUARE)
    assert places(picture, scatter.SAMPLES)[1] > places(picture, scatter.DATA)[1]


def test_what_lies_outside_the_square_changes_nothing():
    few = around(0.5, 0.25)
    far = np.array([[7.0, 0.0], [0.0, -1e6], [np.inf, 0.0]])
    np.testing.assert_array_equal(
        scatter.picture(np.concatenate([few, far]), NONE, SQUARE), scatter.picture(few, NONE, SQUARE)
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_ground_is_the_lighter_the_higher_the_landscape_whatever_its_scale(scale):
    lattice = scatter.lattice(SQUARE)
    across = scatter.picture(NONE, NONE, SQUARE, scale * lattice[:, 0]).mean(-1)
    upwards = scatter.picture(NONE, NONE, SQUARE, scale * lattice[:, 1]).mean(-1)
    middles = np.arange(24, scatter.SIDE, 48)  # of the shades
    assert (np.diff(across[240, middles]) > 0).all()
    assert (np.diff(upwards[middles, 240]) < 0).all()


def test_two_landscapes_of_one_shape_are_one_picture():
    lattice = scatter.lattice(SQUARE)
    heights = np.sin(3 * lattice[:, 0]) * lattice[:, 1]
    first, second = (scatter.picture(NONE, NONE, SQUARE, h) for h in (heights, 4 * heights + 2))
    assert (first != second).mean() < 1e-3


@pytest.mark.parametrize("height", [0.0, -3.0, np.inf])
def test_a_landscape_without_relief_is_bare_ground(height):
    bare = scatter.picture(around(0, 0), NONE, SQUARE)
    landscape = np.full(scatter.LATTICE**2, height, np.float32)
    np.testing.assert_array_equal(scatter.picture(around(0, 0), NONE, SQUARE, landscape), bare)


def test_a_wild_value_does_not_flatten_the_landscape():
    heights = scatter.lattice(SQUARE)[:, 0].copy()
    smooth = scatter.picture(NONE, NONE, SQUARE, heights).astype(float)
    heights[5000] = 1e9
    assert np.abs(scatter.picture(NONE, NONE, SQUARE, heights) - smooth).mean() < 1


def test_what_is_not_a_number_is_refused():
    nan = np.array([[np.nan, 0.0]])
    with pytest.raises(UserError, match="1 of 2 values of the samples are NaN: the model has diverged"):
        scatter.picture(nan, NONE, SQUARE)
    with pytest.raises(UserError, match="values of the landscape are NaN"):
        scatter.picture(NONE, NONE, SQUARE, np.full(scatter.LATTICE**2, np.nan))


def test_the_same_points_are_the_same_picture_whatever_style_a_person_has_for_other_plots():
    first = scatter.picture(around(0, 0), around(0.5, 0), SQUARE)
    with matplotlib.rc_context({"figure.dpi": 30, "lines.markersize": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(scatter.picture(around(0, 0), around(0.5, 0), SQUARE), first)
        assert dict(matplotlib.rcParams) == before
