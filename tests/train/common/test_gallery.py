import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.common import codes, gallery, pictures
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


def test_without_statistics_nothing_is_written(tmp_path):
    shown = build()
    shown.measure(tmp_path / "statistics.json", 12, STATE)
    assert not list(tmp_path.iterdir())
