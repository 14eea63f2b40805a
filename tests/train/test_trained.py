import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.train.tiny import RECIPES, build, save_run
from train import trained
from train.common import config, data
from train.common.checkpoint import fingerprint
from train.common.errors import UserError


@pytest.fixture(scope="module", params=RECIPES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, save_run(folder, request.param)


def test_the_model_and_the_newest_state_of_a_run_come_back_from_its_folder(run):
    name, folder, saved = run
    description = config.read(folder)
    recipe = trained.recipe(folder, description)
    original = build(name, data.load("digits"))
    shapes = [jax.eval_shape(r.init, jax.random.key(0)) for r in (recipe, original)]
    assert str(shapes[0]) == str(shapes[1])
    assert list(recipe.pictures) == list(original.pictures)
    for devices in (1, 8):
        state, step = trained.restore(folder, description, recipe, jax.devices()[:devices])
        assert step == 7
        assert len(jax.tree.leaves(state.params)[0].addressable_shards) == devices
        assert fingerprint(state, {}) == fingerprint(saved, {})


def test_what_is_drawn_of_a_label_depends_on_its_place_and_on_the_batch_size_and_not_on_its_fellows(tmp_path):
    save_run(tmp_path, "cvae")
    description = config.read(tmp_path)
    recipe, on = trained.recipe(tmp_path, description), jax.devices()[:1]
    state, _ = trained.restore(tmp_path, description, recipe, on)
    labels = trained.labels_in_turn(description, 12)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]

    def draw(labels, **options):
        rows = trained.rows_of_labels(description, labels)
        return trained.draw(recipe.sample, state, on, rows, **{"seed": 0, "batch_size": 5, **options})

    images = draw(labels)
    assert images.shape == (12, 8, 8, 1)
    np.testing.assert_array_equal(draw(labels[:11]), images[:11])
    same = (draw(np.full_like(labels, 1)) == images).all((1, 2, 3))
    assert same.tolist() == (labels == 1).tolist()
    for other in ({"seed": 1}, {"batch_size": 4}):
        assert (draw(labels, **other)[5:] != images[5:]).any((1, 2, 3)).all()


def test_its_configuration_is_the_one_it_was_trained_with_and_may_be_changed(run):
    name, folder, _ = run
    seen = []

    def change(settings):
        seen.append(settings)
        return replace(settings, job=replace(settings.job, dataset="elsewhere"))

    trained.recipe(folder, config.read(folder), change)
    assert seen == [RECIPES[name][0]]


@pytest.mark.parametrize("change", [{"num_classes": 9}, {"shape": [8, 8, 3]}])
def test_data_that_are_no_longer_those_it_was_trained_on_are_refused(tmp_path, change):
    save_run(tmp_path, "cvae")
    description = config.read(tmp_path)
    was = {**description, "data": {**description["data"], **change}}
    assert trained.images(description, "train", None).num_classes == 10
    with pytest.raises(UserError, match="digits now has train examples 8x8x1 of 10 classes; the run's were 8x8x"):
        trained.images(was, "train", None)


def test_only_a_data_set_without_test_images_has_none(tmp_path, monkeypatch):
    save_run(tmp_path, "cvae")
    description = config.read(tmp_path)
    assert trained.test_images(description, None) is None  # digits have one split

    def damaged(*_, **__):
        raise UserError("t10k-images-idx3-ubyte.gz is damaged")

    monkeypatch.setattr(data, "load", damaged)
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte.gz is damaged"):
        trained.test_images(description, None)


def test_a_run_of_a_recipe_from_elsewhere_is_refused(tmp_path):
    description = {"recipe": "flow", "config": {}, "data": {"shape": [8, 8, 1], "num_classes": 10}}
    with pytest.raises(UserError, match=r"is a run of train\.flow, which this version does not know"):
        trained.recipe(tmp_path, description)


def test_a_run_without_a_checkpoint_is_refused_with_what_to_do(tmp_path):
    description = config.describe("ae", RECIPES["ae"][0], {"shape": (8, 8, 1), "num_classes": 10})
    recipe = trained.recipe(tmp_path, description)
    with pytest.raises(UserError, match=r"has no checkpoint yet; train it further with python -m train\.ae"):
        trained.restore(tmp_path, description, recipe, jax.devices()[:1])


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    save_run(tmp_path, "ae")
    for path in (tmp_path / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1])
    description = config.read(tmp_path)
    recipe = trained.recipe(tmp_path, description)
    with pytest.raises(UserError, match="no checkpoint in .* is sound"):
        trained.restore(tmp_path, description, recipe, jax.devices()[:1])


@pytest.fixture(scope="module")
def stood_on(tmp_path_factory):
    """A run that another may stand on."""
    folder = tmp_path_factory.mktemp("stood_on")
    save_run(folder, "ae")
    return folder


def test_a_basis_is_a_runs_description_step_and_the_parameters_that_it_draws_with(stood_on):
    about, parameters = trained.basis(stood_on, ("vae", "ae"), None)
    description = config.read(stood_on)
    assert about == {**description, "step": 7, "sha256": about["sha256"]}
    assert json.loads(json.dumps(about)) == about
    recipe = trained.recipe(stood_on, description)
    state, _ = trained.restore(stood_on, description, recipe, jax.devices()[:1])
    assert fingerprint(parameters(), {}) == fingerprint(state.ema, {}) == about["sha256"]
    assert trained.basis(stood_on, ("ae",), about).about == about


def test_a_basis_that_has_changed_stops_the_run_that_began_on_it(stood_on, tmp_path):
    begun = trained.basis(stood_on, ("ae",), None).about
    save_run(tmp_path, "ae", seed=1, number=9)
    said = "has changed: this run began on what that was at step 7, and now it is another, at step 9. Begin another run"
    with pytest.raises(UserError, match=said):
        trained.basis(tmp_path, ("ae",), begun)


def test_a_basis_that_is_gone_stops_only_a_run_without_a_copy_of_it(stood_on, tmp_path):
    begun = trained.basis(stood_on, ("ae",), None).about
    about, parameters = trained.basis(tmp_path / "gone", ("ae",), begun)
    assert about == begun
    with pytest.raises(
        UserError, match="gone is gone, and this run has no checkpoint yet, so no copy of it; put it back"
    ):
        parameters()


def test_what_is_no_finished_run_of_the_recipe_is_no_basis(stood_on, tmp_path):
    with pytest.raises(UserError, match=r"is a run of train\.ae; this needs one of train\.vae or train\.ddpm"):
        trained.basis(stood_on, ("vae", "ddpm"), None)
    with pytest.raises(UserError, match="gone is not a run folder"):
        trained.basis(tmp_path / "gone", ("ae",), None)
    config.write(tmp_path, config.read(stood_on))
    with pytest.raises(UserError, match=r"has no checkpoint yet; train it further with python -m train\.ae"):
        trained.basis(tmp_path, ("ae",), None)
