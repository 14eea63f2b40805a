"""Grids, strips and animations are their images, enlarged and side by side."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.common import pictures
from train.common.errors import UserError


def images(n, h=4, w=5, c=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def trajectory(steps, n, h=4, w=5, c=1):
    return images(steps * n, h, w, c).reshape(steps, n, h, w, c)


@pytest.mark.parametrize(
    ("value", "level"), [(-1, 0), (0, 128), (1, 255), (-7, 0), (7, 255), (-np.inf, 0), (1 / 255, 128)]
)
def test_to_uint8_sends_the_unit_range_to_the_nearest_grey_level(value, level):
    assert pictures.to_uint8(np.full((1, 2, 2, 1), value, np.float32)).tolist() == [[[[level]] * 2] * 2]


def test_to_uint8_inverts_the_scaling_of_every_grey_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(pictures.to_uint8(levels.astype(np.float32) / 127.5 - 1.0), levels)


def test_to_uint8_reads_jax_arrays_of_any_float_type():
    for dtype in (jnp.float32, jnp.bfloat16):
        assert pictures.to_uint8(jnp.array([[[[-1.0, 0.0, 1.0]]]], dtype)).tolist() == [[[[0, 128, 255]]]]


def test_to_uint8_refuses_nan_and_says_how_many():
    with pytest.raises(UserError, match="2 of 4 image values are NaN"):
        pictures.to_uint8(np.array([np.nan, 0.0, np.nan, 1.0], np.float32))


def test_to_uint8_refuses_what_is_already_grey_levels():
    with pytest.raises(ValueError, match="uint8"):
        pictures.to_uint8(images(1))


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(("n", "columns", "pad", "scale"), [(1, 1, 0, 1), (7, 3, 2, 2), (6, 6, 1, 3), (4, 5, 0, 2)])
def test_grid_places_image_i_at_row_i_div_columns_and_column_i_mod_columns(n, columns, pad, scale, c):
    given = images(n, c=c)
    picture = pictures.grid(given, columns=columns, pad=pad, scale=scale)
    rows = -(-n // columns)
    assert picture.shape == (rows * (4 * scale + pad) - pad, columns * (5 * scale + pad) - pad, c)
    for i in range(n):
        top, left = (i // columns) * (4 * scale + pad), (i % columns) * (5 * scale + pad)
        enlarged = picture[top : top + 4 * scale, left : left + 5 * scale]
        np.testing.assert_array_equal(enlarged, np.kron(given[i], np.ones((scale, scale, 1), np.uint8)))


def test_grid_is_of_one_grey_wherever_there_is_no_image():
    picture = pictures.grid(np.zeros((3, 2, 2, 1), np.uint8), columns=2, pad=1, scale=1)
    assert picture[..., 0].tolist() == [
        [0, 0, pictures.GAP, 0, 0],
        [0, 0, pictures.GAP, 0, 0],
        [pictures.GAP] * 5,
        [0, 0, pictures.GAP, pictures.GAP, pictures.GAP],
        [0, 0, pictures.GAP, pictures.GAP, pictures.GAP],
    ]


@pytest.mark.parametrize(
    ("n", "shape"), [(64, (8, 8)), (32, (4, 8)), (12, (3, 4)), (10, (2, 5)), (7, (3, 3)), (2, (1, 2))]
)
def test_grid_is_nearly_square_and_has_no_empty_cells_where_it_can(n, shape):
    picture = pictures.grid(images(n, 4, 4), pad=0, scale=1)
    assert (picture.shape[0] // 4, picture.shape[1] // 4) == shape


@pytest.mark.parametrize(("w", "shape"), [(4, (6, 6)), (8, (6, 6)), (16, (12, 3)), (36, (18, 2)), (144, (36, 1))])
def test_the_wider_the_images_the_fewer_stand_side_by_side(w, shape):
    picture = pictures.grid(images(36, 4, w), pad=0, scale=1)
    assert (picture.shape[0] // 4, picture.shape[1] // w) == shape


@pytest.mark.parametrize(("n", "side"), [(64, 8), (64, 28), (64, 32), (16, 64), (1, 8), (36, 16)])
def test_grid_is_large_enough_to_see_and_small_enough_for_a_page(n, side):
    assert 550 <= max(pictures.grid(images(n, side, side)).shape) <= 850


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 4, 4, 1)), images(2, c=2), images(2)[0], images(0), images(2).astype(np.int32)],
    ids=["float", "two channels", "no batch", "empty", "int32"],
)
def test_grid_refuses_anything_but_a_batch_of_grey_or_rgb_levels(bad):
    with pytest.raises(ValueError, match=r"must be uint8 \(n, h, w, 1 or 3\)"):
        pictures.grid(bad)


@pytest.mark.parametrize("arguments", [{"columns": 0}, {"pad": -1}, {"scale": 0}])
def test_grid_refuses_a_layout_that_does_not_exist(arguments):
    with pytest.raises(ValueError, match="need columns >= 1"):
        pictures.grid(images(2), **arguments)


def test_a_strip_is_the_grid_whose_rows_are_examples_and_columns_are_moments():
    chain = trajectory(3, 2)
    expected = pictures.grid(np.stack([chain[t, i] for i in range(2) for t in range(3)]), columns=3)
    np.testing.assert_array_equal(pictures.strip(chain), expected)


def test_a_strip_runs_from_the_first_moment_to_the_last():
    chain = np.arange(101, dtype=np.uint8).reshape(101, 1, 1, 1, 1)
    shades = pictures.strip(chain, moments=11, pad=0)[0, :, 0]
    assert sorted(set(shades.tolist())) == list(range(0, 101, 10))


def test_a_film_shows_the_first_and_the_last_moment_as_small_grids():
    chain = trajectory(50, 9, 8, 8)
    frames = pictures.film(chain, moments=5)
    assert len(frames) == 5
    for frame, moment in zip((frames[0], frames[-1]), (chain[0], chain[-1]), strict=True):
        np.testing.assert_array_equal(frame, pictures.grid(moment, long_side=pictures.FILM_SIDE))


def test_a_film_of_large_pictures_shows_fewer_of_them():
    chain = trajectory(2, 36, 128, 128, 3)
    frame = pictures.film(chain)[-1]
    np.testing.assert_array_equal(frame, pictures.grid(chain[-1, :1], long_side=pictures.FILM_SIDE))


@pytest.mark.parametrize("function", [pictures.strip, pictures.film])
def test_a_chain_without_moments_or_examples_is_refused(function):
    for bad in (trajectory(0, 2), trajectory(2, 0), images(3)):
        with pytest.raises(ValueError, match=r"trajectory must be \(steps, n, h, w, c\)"):
            function(bad)


def test_evenly_keeps_both_ends_and_repeats_nothing():
    for count in range(1, 40):
        for at_most in range(2, 15):
            chosen = pictures.evenly(count, at_most)
            assert chosen == sorted(set(chosen))
            assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, at_most))
            gaps = np.diff(chosen)
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("c", [1, 3])
def test_a_png_holds_the_picture_without_loss_and_its_text(tmp_path, c):
    picture, path = images(1, 9, 7, c)[0], tmp_path / "samples" / "step_00000001.png"
    pictures.save_png(path, picture, {"step": "1", "made of": "ε ~ N(0, I)"})
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
        assert image.text == {"step": "1", "made of": "ε ~ N(0, I)"}
    assert os.listdir(path.parent) == [path.name]


def test_equal_pictures_make_equal_files(tmp_path):
    for name in ("a", "b"):
        pictures.save_png(tmp_path / f"{name}.png", images(1)[0])
        pictures.save_gif(tmp_path / f"{name}.gif", list(images(3)))
    for kind in ("png", "gif"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_gif_loops_for_ever_and_holds_its_last_frame(tmp_path):
    pictures.save_gif(tmp_path / "x.gif", list(images(5)), seconds=1.0, hold=2.0)
    with Image.open(tmp_path / "x.gif") as image:
        durations = []
        for i in range(image.n_frames):
            image.seek(i)
            durations.append(image.info["duration"])
        assert durations == [200, 200, 200, 200, 2200]
        assert image.info["loop"] == 0


@pytest.mark.parametrize("c", [1, 3])
def test_the_last_frame_of_a_gif_is_the_picture_itself_up_to_256_colours(tmp_path, c):
    # 64 pixels have at most 64 colours, so nothing may be lost.
    frames = list(images(3, 8, 8, c))
    pictures.save_gif(tmp_path / "x.gif", frames)
    with Image.open(tmp_path / "x.gif") as image:
        image.seek(image.n_frames - 1)
        shown = np.asarray(image.convert("RGB")).astype(int)
    np.testing.assert_array_equal(shown, np.broadcast_to(frames[-1], (8, 8, 3)))


def test_the_other_frames_of_a_grey_gif_are_off_by_half_a_level_at_most(tmp_path):
    frames = list(images(3, 16, 16))
    pictures.save_gif(tmp_path / "x.gif", frames, colours=32)
    with Image.open(tmp_path / "x.gif") as image:
        for i, frame in enumerate(frames[:-1]):
            image.seek(i)
            error = np.asarray(image.convert("L")).astype(float) - frame[..., 0]
            assert np.abs(error).max() <= 255 / 31 / 2 + 0.5


def test_a_long_chain_makes_a_gif_that_browsers_play_in_time(tmp_path):
    pictures.save_gif(tmp_path / "x.gif", list(images(300, 2, 2)), seconds=1.0, hold=0.0)
    with Image.open(tmp_path / "x.gif") as image:
        durations = []
        for i in range(image.n_frames):
            image.seek(i)
            durations.append(image.info["duration"])
    assert min(durations) >= pictures.SHORTEST_FRAME
    assert sum(durations) == 1000


@pytest.mark.parametrize(
    ("frames", "colours", "message"),
    [([], 32, "frames"), ([images(1)[0], images(1, 5)[0]], 32, "equal shape"), ([images(1)[0]], 1, "2..256")],
)
def test_a_gif_needs_frames_of_one_shape_and_two_colours(tmp_path, frames, colours, message):
    with pytest.raises(ValueError, match=message):
        pictures.save_gif(tmp_path / "x.gif", frames, colours=colours)
    assert not os.listdir(tmp_path)
