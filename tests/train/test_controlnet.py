"""A control branch begins as nothing, learns alone, and follows what it is given; bases and controls that do not fit are refused."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import controls
from tests.train.tiny import BASES, CONTROLNET, GUIDED_CONTROLNET, build, change, described, given, save_run, state_of
from train import controlnet, ddpm, trained
from train.common import checkpoint, config, data, gallery, images, loop
from train.common.errors import UserError

SOURCE = data.load("digits")
ROWS = SOURCE.rows(np.arange(6))
NAMES = pytest.mark.parametrize("name", ["controlnet", "guided_controlnet"])


def start(name, devices=1):
    """The recipe, and its state before the first step."""
    recipe = build(name, SOURCE)
    return recipe, loop.initial_state(recipe, 0, jax.devices()[:devices], given(name, SOURCE))


def drawn(recipe, state):
    return gallery.drawer(recipe.sample, jax.devices()[:1])(state, ROWS, jax.random.key(0))


def bits(tree):
    return checkpoint.fingerprint(jax.device_get(tree), {})


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_usual")
@NAMES
def test_before_the_first_step_it_draws_what_its_base_draws_to_the_bit(name):
    recipe, state = start(name)
    base = build(BASES[name], SOURCE)
    alone = state_of(base, 5, scale=0.2)
    assert bits(state.frozen["base"]) == bits(alone.ema)
    images_of_base = drawn(base, alone)
    assert images_of_base.std() > 0.1
    np.testing.assert_array_equal(drawn(recipe, state), images_of_base)


def test_the_branch_begins_as_a_copy_of_all_that_it_shares_with_the_base():
    _, state = start("controlnet")
    branch, base = state.params["branch"], state.frozen["base"]
    shared = branch.keys() & base.keys()
    assert {"conv_in", "time1", "down0_0", "middle_0", "middle_attention"} <= shared
    for name in shared:
        assert bits(branch[name]) == bits(base[name])
    assert not any(jax.tree.leaves(branch["to_middle"]["kernel"].any()))


@pytest.mark.slow
@NAMES
def test_only_the_branch_descends(name):
    recipe, state = start(name)
    base, branch = bits(state.frozen), bits(state.params)
    fold = loop.steps(recipe, state, SOURCE, batch_size=16, seed=0, on=jax.devices()[:1])
    *_, (state, _) = itertools.islice(fold, 4)
    assert bits(state.frozen) == base
    assert bits(state.params) != branch
    assert state.params.keys() == state.ema.keys() == {"branch"}


@NAMES
def test_no_gradient_of_the_base_is_ever_asked_for(name, monkeypatch):
    """Its parameters pass through a function that refuses to be differentiated, and the branch's do not."""

    @jax.custom_vjp
    def kept(tree):
        return tree

    def refuse(tree):
        raise AssertionError("differentiated")

    kept.defvjp(refuse, lambda *_: None)
    original = ddpm.model

    def model(*arguments):
        base = original(*arguments)
        return base._replace(apply=lambda weights, *rest: base.apply(kept(weights), *rest))

    monkeypatch.setattr(ddpm, "model", model)
    recipe = build(name, SOURCE)
    state = jax.eval_shape(recipe.init, jax.random.key(0))
    rows = jax.tree.map(lambda x: jnp.asarray(x[:2]), ROWS)
    step = jax.vmap(lambda _: recipe.step(state_of(recipe, 0), rows, jax.random.key(0)), axis_name="data")
    after, _ = jax.eval_shape(step, jnp.zeros(1))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    base = model(config_of_base(name), SOURCE.shape, 10)
    with pytest.raises(AssertionError, match="differentiated"):
        weights, _ = base.init(jax.random.key(0))
        x, t = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, jnp.int32)
        jax.eval_shape(jax.grad(lambda w: base.apply(w, x, t, t, None).sum()), weights)


def config_of_base(name):
    return config.dataclass_from(ddpm.Config, described(BASES[name], SOURCE)["config"])


def told(settings, batch, keys=None):
    return controlnet.control_of(settings, jax.tree.map(jnp.asarray, batch), keys)


def test_controls_are_computed_from_the_pictures_or_are_those_of_the_batch():
    x = images.to_unit_range(jnp.asarray(ROWS["image"]))
    for kind, expected in [
        ("edges", controls.edges(x)),
        ("scribble", controls.scribble(x)),
        ("low_resolution", controls.low_resolution(x)),
    ]:
        settings = replace(CONTROLNET, control=kind)
        np.testing.assert_array_equal(told(settings, ROWS), expected)
        assert expected.shape[-1] == controlnet.control_channels(settings, 1)
        own = {**ROWS, "control": ROWS["image"][::-1]}
        np.testing.assert_array_equal(told(settings, own), x[::-1])
    assert controlnet.control_channels(CONTROLNET, 3) == 1
    assert controlnet.control_channels(replace(CONTROLNET, control_folder="hints"), 3) == 3


def test_what_a_mask_hides_is_drawn_in_training_and_always_the_same_of_a_picture_when_images_are_drawn():
    first, second = (told(GUIDED_CONTROLNET, ROWS, jax.random.split(jax.random.key(i), 6)) for i in (0, 1))
    assert (first != second).any((1, 2, 3)).all()
    always = told(GUIDED_CONTROLNET, ROWS)
    turned = told(GUIDED_CONTROLNET, {name: column[::-1] for name, column in ROWS.items()})
    np.testing.assert_array_equal(turned, always[::-1])
    assert len({(image == 0).tobytes() for image in np.asarray(always)}) > 3


@pytest.mark.slow
def test_its_pictures_show_control_drawing_and_original_side_by_side_and_a_given_control_replaces_the_computed():
    recipe = build("controlnet", SOURCE)
    state, on = state_of(recipe, 1), jax.devices()[:1]
    shown = gallery.drawer(recipe.pictures["controls"], on)(state, ROWS, jax.random.key(0))
    assert shown.shape == (6, 8, 24, 1)
    np.testing.assert_array_equal(shown[:, :, :8], told(CONTROLNET, ROWS))
    np.testing.assert_array_equal(shown[:, :, 8:16], drawn(recipe, state))
    np.testing.assert_array_equal(shown[:, :, 16:], jax.jit(images.to_unit_range)(ROWS["image"]))
    computed = np.asarray(told(CONTROLNET, ROWS) > 0).astype(np.uint8) * 255
    with_own = gallery.drawer(recipe.sample, on)(state, {**ROWS, "control": computed}, jax.random.key(0))
    np.testing.assert_allclose(with_own, shown[:, :, 8:16], atol=1e-6)
    other = gallery.drawer(recipe.sample, on)(state, {**ROWS, "control": computed[::-1]}, jax.random.key(0))
    assert np.abs(other - with_own).max() > 1e-3


# From the command line


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of train.ddpm."""
    folder = tmp_path_factory.mktemp("base") / "ddpm-digits"
    save_run(folder, "ddpm")
    return folder


def test_a_command_line_takes_data_and_drawing_from_the_base_unless_it_says_otherwise(base):
    settings = controlnet.parse(["--base", str(base), "--control", "mask", "--sample-steps", "3"])
    of_base = config_of_base("controlnet")
    assert settings.job.dataset == "digits"
    assert settings.job.steps == controlnet.DIGITS.job.steps
    assert settings.drawing == replace(of_base.drawing, sample_steps=3)
    assert (settings.control, settings.base) == ("mask", str(base))
    assert controlnet.parse(["--base", str(base), "--dataset", "mnist"]).job.dataset == "mnist"
    assert controlnet.parse(["--dataset", "mnist", "--base", str(base / "gone")]) == replace(
        controlnet.MNIST, base=str(base / "gone")
    )


def fit(settings, folder):
    """Train in the folder, on one device, as the command does."""
    settings = change(settings, run=str(folder))
    begun = config.read(folder)["basis"] if (folder / "config.json").exists() else None
    _, stands = controlnet.prepare(settings, SOURCE, begun)
    recipe = controlnet.recipe(settings, SOURCE.shape, SOURCE.num_classes, stands.about)
    description = config.describe("controlnet", settings, described("ddpm", SOURCE)["data"], stands.about)
    return loop.fit(settings, description, recipe, SOURCE, folder, jax.devices()[:1], stands.parameters)


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_copy_of_the_base_and_ends_with_the_same_bits(base, tmp_path):
    """Taken in one go; and cut in the middle, the base moved away."""
    settings = replace(CONTROLNET, base=str(base), job=replace(CONTROLNET.job, steps=4, checkpoint_every=2))
    assert fit(settings, tmp_path / "whole") == 0
    assert fit(change(settings, steps=2), tmp_path / "cut") == 0
    away = base.rename(tmp_path / "away")
    try:
        assert fit(settings, tmp_path / "cut") == 0
    finally:
        away.rename(base)
    whole, cut = (newest(tmp_path / name) for name in ("whole", "cut"))
    assert whole.step == cut.step == 4
    assert bits(whole.state) == bits(cut.state)
    assert bits(whole.state.frozen["base"]) == config.read(tmp_path / "cut")["basis"]["sha256"]
    assert (tmp_path / "whole" / "samples" / "controls.png").exists()


def newest(folder):
    recipe = trained.recipe(folder, config.read(folder))
    return checkpoint.read(folder / "checkpoints", jax.eval_shape(recipe.init, jax.random.key(0)))


def test_a_base_that_cannot_be_controlled_is_refused_in_words(tmp_path):
    def basis(folder):
        return controlnet.prepare(replace(CONTROLNET, base=folder), SOURCE, None)

    with pytest.raises(UserError, match="--base must name the run to control"):
        basis(None)
    with pytest.raises(UserError, match="is not a run folder"):
        basis(str(tmp_path / "nothing"))
    config.write(tmp_path / "vae", described("vae", SOURCE))
    for refused in (basis, lambda folder: controlnet.parse(["--base", folder])):
        with pytest.raises(UserError, match=r"vae is a run of train\.vae; this needs one of train\.ddpm"):
            refused(str(tmp_path / "vae"))


def test_images_unlike_the_bases_are_refused_in_words():
    about = described("ddpm", SOURCE)
    with pytest.raises(UserError, match="the images of digits are 28x28x1, and those of the base 8x8x1"):
        controlnet.recipe(CONTROLNET, (28, 28, 1), 10, about)
    with pytest.raises(UserError, match="the base knows the 10 labels of digits, and digits has 7"):
        controlnet.recipe(CONTROLNET, (8, 8, 1), 7, described("guided_ddpm", SOURCE))
    of_six = {**about, "data": {**about["data"], "shape": [6, 6, 1]}}
    with pytest.raises(UserError, match="6x6 are not made of squares of 4 x 4 pixels"):
        controlnet.recipe(replace(CONTROLNET, control="low_resolution"), (6, 6, 1), 10, of_six)
    with pytest.raises(UserError, match="--hint must be at least 1"):
        controlnet.recipe(replace(CONTROLNET, hint=(0,)), (8, 8, 1), 10, about)
