import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.common import codes, gallery, pictures, points, scatter
from train.common.recipe import Recipe, State, example_keys
from train.common.sources import in_memory

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
SOURCE = in_memory("few", IMAGES, np.arange(50) % 5, "abcde")


def picture(state, batch, key):
    return state.params * batch["image"] / 127.5 - 1.0


def moments(state, batch, key):
    return jnp.stack([0 * picture(state, batch, key), picture(state, batch, key)], axis=1)


def about(state, batch, key):
    """Of each row its label and its number."""
    first = jax.lax.axis_index("data") * len(batch["label"])
    return jnp.stack([state.params * batch["label"], first + jnp.arange(len(batch["label"]))], axis=1)


STATE = State(np.int32(0), np.float32(1), np.float32(1), (), np.uint32(0))


def build(num=40, devices=1, **parts):
    on = jax.devices()[:devices]
    recipe = Recipe(None, None, picture, **parts)
    return gallery.Gallery(recipe, SOURCE, num=num, seed=0, on=on, how="pmap")


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_any_number_of_rows_is_drawn_by_any_number_of_devices_with_the_noise_of_their_index(devices):
    def function(state, batch, key):
        noise = jax.vmap(jax.random.normal)(example_keys(key, len(batch["label"])))
        return {"noise": noise, "nested": [state * batch["label"]]}

    batch, key = SOURCE.rows(np.arange(5)), jax.random.key(3)
    drawn = gallery.drawer(function, jax.devices()[:devices])(np.float32(2), batch, key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
    np.testing.assert_allclose(drawn["noise"], jax.vmap(jax.random.normal)(keys), rtol=1e-6)
    np.testing.assert_array_equal(drawn["nested"][0], 2 * batch["label"])
    assert isinstance(drawn["noise"], np.ndarray)


def test_what_gives_an_image_makes_a_grid_and_what_gives_moments_a_strip_and_an_animation(tmp_path):
    shown = build(pictures={"still": picture, "film": moments})
    shown.draw_pictures(tmp_path, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.png", "still.png"]
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 2


def test_a_picture_has_so_many_examples_and_no_more(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(gallery.pictures, "save_png", lambda path, picture: None)
    monkeypatch.setattr(gallery.pictures, "grid", lambda images: sizes.append(len(images)))
    shown = build(num=40, pictures={"still": picture})
    shown.draw(tmp_path / "grid.png", STATE)
    shown.draw_pictures(tmp_path, STATE)
    assert sizes == [40, pictures.EXAMPLES]


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_a_map_of_codes_is_square_and_whole_on_any_number_of_devices(tmp_path, monkeypatch, devices):
    def decode(state, codes, labels):
        return codes[:, None, :, None]  # a code as an image of 1x2 pixels

    seen = []
    monkeypatch.setattr(gallery.pictures, "save_png", lambda path, picture: None)
    monkeypatch.setattr(gallery.pictures, "grid", lambda images: seen.append(images))
    shown = build(devices=devices, pictures={"map": codes.manifold(decode)})
    shown.draw_pictures(tmp_path, STATE)
    rows, _, width, _ = seen[0].shape
    assert width == 2 * rows
    cells = seen[0].reshape(rows, rows, 2)
    np.testing.assert_array_equal(cells, cells.swapaxes(0, 1)[..., ::-1])
    np.testing.assert_allclose(cells.astype(int) + cells[::-1, ::-1], 255, atol=1)


@pytest.mark.parametrize("devices", [1, 8])
def test_statistics_are_averaged_over_rows_that_a_sample_of_the_data_has_once_each(tmp_path, devices):
    path = tmp_path / "statistics.json"
    shown = build(devices=devices, statistics={"about": about})
    shown.measure(path, 12, STATE)
    assert json.loads(path.read_text()) == {"step": 12, "statistics": {"about": [2.0, 24.5]}}


def swap(state, batch, key):
    return state.params * batch["point"][:, ::-1]


def shown_points(monkeypatch, folder, devices=1, **parts):
    """The arguments with which a picture of points is drawn, of a model that swaps the coordinates of its data."""
    seen = []
    monkeypatch.setattr(gallery.scatter, "picture", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(gallery.pictures, "save_png", lambda path, picture: None)
    recipe = Recipe(None, None, swap, **parts)
    on = jax.devices()[:devices]
    shown = gallery.Gallery(recipe, points.load("grid25"), num=4, seed=0, on=on, how="pmap")
    shown.draw(folder / "plane.png", STATE)
    return seen[0]


@pytest.mark.parametrize("devices", [1, 3])
def test_of_points_so_many_are_drawn_beside_as_many_of_the_data_in_the_square_of_them_all(
    tmp_path, monkeypatch, devices
):
    samples, data, square, landscape = shown_points(monkeypatch, tmp_path, devices)
    assert len(data) == scatter.POINTS
    np.testing.assert_array_equal(samples, data[:, ::-1])
    everything = points.load("grid25").rows(np.arange(points.NUM_POINTS))["point"]
    np.testing.assert_array_equal(square, scatter.square_around(everything))
    assert landscape is None


@pytest.mark.parametrize("devices", [1, 3])
def test_the_landscape_is_what_the_model_thinks_of_each_place(tmp_path, monkeypatch, devices):
    *_, square, landscape = shown_points(
        monkeypatch, tmp_path, devices, landscape=lambda state, places: state.params * places @ jnp.array([1.0, 10.0])
    )
    np.testing.assert_allclose(landscape, scatter.lattice(square) @ [1, 10], rtol=1e-5, atol=1e-5)


def test_of_points_it_is_measured_which_gaussians_have_how_many(tmp_path):
    """A grid is its own mirror image, so the data themselves, their coordinates swapped, have them all."""
    path = tmp_path / "statistics.json"
    shown = gallery.Gallery(
        Recipe(None, None, swap), points.load("grid25"), num=4, seed=0, on=jax.devices()[:1], how="pmap"
    )
    shown.measure(path, 12, STATE)
    shares = json.loads(path.read_text())["statistics"][points.SHARES]
    assert len(shares) == 25
    np.testing.assert_allclose(shares, 1 / 25, atol=5 * np.sqrt(1 / 25 / scatter.POINTS))
    np.testing.assert_allclose(sum(shares), 0.989, atol=0.01)


LEVELS = np.rint(np.linspace(0, 255, gallery.COLOURS)).astype(np.uint8)


def grids(folder, *sizes):
    """Sample grids of one grey level each, which an animation has, too, in the order of their steps."""
    paths = [folder / f"step_{i:08d}.png" for i in range(len(sizes))]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        pictures.save_png(path, np.full((size, size, 1), LEVELS[i % len(LEVELS)]))
    return paths


def frames(path):
    with Image.open(path) as film:
        found = []
        for i in range(film.n_frames):
            film.seek(i)
            found.append(np.asarray(film.convert("L")))
        return found


def test_the_animation_of_a_training_has_its_grids_in_order(tmp_path):
    gallery.animate(grids(tmp_path, *[8] * 5), tmp_path / "training.gif")
    assert [frame.mean() for frame in frames(tmp_path / "training.gif")] == LEVELS[:5].tolist()


def test_of_many_grids_so_many_are_in_it_the_first_and_the_last_among_them(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(gallery, "_read", lambda path: seen.append(path))
    paths = grids(tmp_path, *[8] * 200)
    gallery.animate(paths, tmp_path / "training.gif")
    assert len(seen) == gallery.MOMENTS
    assert (seen[0], seen[-1]) == (paths[0], paths[-1])


@pytest.mark.parametrize("sizes", [(), (8, 8), (9, 8, 9, 8)])
def test_of_fewer_than_three_grids_of_one_size_there_is_no_animation(tmp_path, sizes):
    gallery.animate(grids(tmp_path, *sizes), tmp_path / "training.gif")
    assert not (tmp_path / "training.gif").exists()


def test_a_grid_that_is_broken_or_of_another_size_is_left_out(tmp_path):
    paths = grids(tmp_path, 9, 8, 8, 8, 8)
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    gallery.animate(paths, tmp_path / "training.gif")
    assert [frame.mean() for frame in frames(tmp_path / "training.gif")] == LEVELS[[1, 2, 4]].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_large_grids_are_made_smaller_and_lose_few_colours(tmp_path, channels):
    ramp = np.broadcast_to(np.linspace(0, 255, 960).astype(np.uint8)[:, None, None], (960, 480, channels))
    paths = [tmp_path / f"step_{i}.png" for i in range(3)]
    for path in paths:
        pictures.save_png(path, ramp)
    gallery.animate(paths, tmp_path / "training.gif")
    for frame in frames(tmp_path / "training.gif"):
        assert frame.shape == (480, 240)
        np.testing.assert_allclose(frame, ramp[::2, ::2, 0], atol=6)


def test_an_animation_too_large_for_a_report_has_fewer_frames(tmp_path, monkeypatch):
    paths = grids(tmp_path, *[8] * 12)
    gallery.animate(paths, tmp_path / "training.gif")
    monkeypatch.setattr(gallery.page, "ANIMATION_BYTES", (tmp_path / "training.gif").stat().st_size // 2)
    gallery.animate(paths, tmp_path / "training.gif")
    shown = [frame.mean() for frame in frames(tmp_path / "training.gif")]
    assert 3 <= len(shown) <= 6
    assert (tmp_path / "training.gif").stat().st_size <= gallery.page.ANIMATION_BYTES
    assert (shown[0], shown[-1]) == (LEVELS[0], LEVELS[11])


def test_without_statistics_nothing_is_written(tmp_path):
    shown = build()
    shown.measure(tmp_path / "statistics.json", 12, STATE)
    assert not list(tmp_path.iterdir())
