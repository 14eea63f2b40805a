"""Latent diffusion stands on an autoencoder that never moves, sees latent images of mean square 1, and reads captions."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.train.tiny import JOB, LATENT_DIFFUSION, change
from train import first_stage, latent_diffusion, reading, sample
from train.common import checkpoint, config, data, images
from train.common.errors import UserError
from train.conditions import Condition
from train.edits import Edit

pytestmark = pytest.mark.slow

CONFIG = replace(LATENT_DIFFUSION, job=replace(JOB, steps=4, accelerator="cpu"))


def steps(settings, number):
    return replace(settings, job=replace(settings.job, steps=number))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the command, its first stage inside."""
    folder = tmp_path_factory.mktemp("latent")
    settings = replace(CONFIG, job=replace(CONFIG.job, run=str(folder)))
    assert latent_diffusion.train(settings) == 0
    return folder, settings


def state_of(folder):
    from train import trained

    description = config.read(folder)
    recipe = trained.recipe(folder, description)
    like = jax.eval_shape(recipe.init, jax.random.key(0))
    return checkpoint.read(folder / "checkpoints", like).state, recipe, description


def test_the_first_stage_is_a_run_of_its_own_and_stays_as_it_is(run):
    folder, _ = run
    first, _, about = state_of(folder / "autoencoder")
    assert (about["recipe"], int(first.step)) == ("vae", 6)
    state = state_of(folder)[0]
    assert int(state.step) == 4
    assert checkpoint.fingerprint(state.frozen["autoencoder"], {}) == checkpoint.fingerprint(first.ema, {})


def test_unet_and_text_encoder_are_trained_together(run):
    state, _, _ = state_of(run[0])
    assert state.params.keys() == {"unet", "text"}
    assert state.frozen.keys() == {"autoencoder", "scale"}
    momentum = state.opt[1][0].mu
    assert all(max(np.abs(leaf).max() for leaf in jax.tree.leaves(momentum[part])) > 0 for part in momentum)


def test_the_same_command_goes_on_and_ends_with_the_bits_of_an_uninterrupted_run(run, tmp_path):
    _, settings = run
    folder = tmp_path / "twice"
    stopped = replace(settings, job=replace(settings.job, run=str(folder), steps=2))
    assert latent_diffusion.train(stopped) == 0
    assert latent_diffusion.train(steps(stopped, 4)) == 0
    ours, straight = state_of(folder)[0], state_of(run[0])[0]
    assert checkpoint.fingerprint(ours, {}) == checkpoint.fingerprint(straight, {})


def test_latent_images_have_mean_square_one_about_their_mean(run):
    state, _, description = state_of(run[0])
    coder, source = first_stage.coder(description["basis"]["autoencoder"]), data.load("digits")
    x = images.to_unit_range(source.rows(np.arange(first_stage.MEASURED))["image"])
    mean, logvar = coder.encode(state.frozen["autoencoder"], x)
    z = mean + jnp.exp(logvar / 2) * jax.random.normal(jax.random.key(0), mean.shape)
    assert mean.shape == (first_stage.MEASURED, 4, 4, 2)
    np.testing.assert_allclose(state.frozen["scale"] ** 2 * np.var(z), 1, rtol=0.02)


def test_a_hidden_caption_is_the_empty_one(run):
    _, _, description = state_of(run[0])
    for dropout in (0.0, 1.0):
        settings = replace(CONFIG, caption_dropout=dropout)
        model = latent_diffusion.model(settings, (8, 8, 1), 10, description["basis"])
        source = latent_diffusion.furnish(settings, data.load("digits"), description["basis"])
        batch, keys = source.rows(np.arange(3)), jax.random.split(jax.random.key(0), 3)
        empty = np.repeat(reading.ids(description["basis"]["text"], [""]), 3, axis=0)
        np.testing.assert_array_equal(model.told(batch, keys), empty if dropout else batch["tokens"])
        if dropout:
            np.testing.assert_array_equal(model.untold(batch["tokens"]), empty)
        else:
            assert model.untold is None  # of what was never hidden nothing is known without it


def test_a_prompt_is_what_is_drawn(run, tmp_path, monkeypatch):
    """Samples of a prompt are those of rows with its tokens."""
    folder, _ = run

    def tell(state, batch, key):
        return jnp.zeros((len(batch["tokens"]), 8, 8, 1)) + batch["tokens"][:, 2, None, None, None] / 1000

    from train import trained

    original = trained.recipe
    monkeypatch.setattr(trained, "recipe", lambda *given: original(*given)._replace(sample=tell))
    text = config.read(folder)["basis"]["text"]
    for prompt in ("a handwritten seven", "six"):
        options = sample.Options(folder, num=3, out=tmp_path / prompt[-3:], separate=True, accelerator="cpu")
        written = sample.sample(replace(options, condition=Condition(prompt)))
        assert written[0].name == f"{prompt.replace(' ', '-')}_seed0_00000.png"
        expected = round((reading.prompt(text, prompt)[2] / 1000 + 1) * 127.5)
        assert {int(np.asarray(Image.open(path)).max()) for path in written} == {expected}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("  ", "--prompt is empty"), ("nine" + " nine" * 8, "3 tokens too long for this run, which reads 6")],
)
def test_a_prompt_that_cannot_be_read_is_refused(run, prompt, message):
    options = sample.Options(run[0], condition=Condition(prompt), accelerator="cpu")
    with pytest.raises(UserError, match=message):
        sample.sample(options)


def test_a_known_part_of_a_picture_stays_to_the_bit(run, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 3:] = 255  # in latent images a square is known only where all of its pixels are
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = Edit(init_image=tmp_path / "picture.png", mask=tmp_path / "mask.png")
    options = sample.Options(run[0], num=2, out=tmp_path / "out", separate=True, accelerator="cpu", edit=edit)
    for path in sample.sample(options):
        drawn = np.asarray(Image.open(path))
        np.testing.assert_array_equal(drawn[:, :3], picture[:, :3])
        assert (drawn[:, 3:] != picture[:, 3:]).any()


def test_a_first_stage_of_another_kind_or_size_is_refused(run, tmp_path):
    folder, settings = run
    about = config.read(folder / "autoencoder")
    with pytest.raises(UserError, match="--architecture map, and this has mlp"):
        flat = {**about["config"], "network": {**about["config"]["network"], "architecture": "mlp"}}
        first_stage.coder({**about, "config": flat})
    given = replace(settings, first_stage=replace(settings.first_stage, autoencoder=folder / "autoencoder"))
    with pytest.raises(UserError, match=r"\(16, 16, 1\), and those of the first stage .* \(8, 8, 1\)"):
        latent_diffusion.prepare(given, data.load("digits", image_size=16), None)
    with pytest.raises(UserError, match=r"is a run of train\.latent_diffusion; this needs one of train\.vae"):
        other = replace(given, first_stage=replace(given.first_stage, autoencoder=folder))
        latent_diffusion.prepare(other, data.load("digits"), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head_dim": 3}, "levels of 8 channels do not divide into heads of 3"),
        ({"text_heads": 3}, "--text-heads 3 do not divide --text-width 8"),
        ({"caption_dropout": 1.5}, "--caption-dropout"),
        ({"caption_dropout": 0.0, "guidance": 2.0}, "--guidance is for .* hidden now and then in training"),
        ({"lora_rank": 4}, "give it with --weights"),
        ({"text_layers": -1}, "--text-layers"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(run, values, message):
    basis = config.read(run[0])["basis"]
    with pytest.raises(UserError, match=message):
        latent_diffusion.recipe(change(CONFIG, **values), (8, 8, 1), 10, basis)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "has neither captions nor labels"),
        ({"dataset": "digits", "head_dim": 5}, "do not divide into heads of 5"),
        ({"dataset": "digits", "caption_dropout": 2.0}, "--caption-dropout must lie between"),
        ({"dataset": "digits", "sample_steps": 1000}, "--sample-steps must lie between"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_first_stage_is_trained(tmp_path, capsys, values, said):
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    Image.new("L", (8, 8)).save(pictures / "a.png")
    asked = {"dataset": f"folder:{pictures}", "run": str(folder), "accelerator": "cpu", **values}
    assert latent_diffusion.train(change(LATENT_DIFFUSION, **asked)) == 1
    assert said in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("basis", "weights", "said"),
    [
        ({"unet": {}}, None, "began on a checkpoint: give it again with --weights, or take another --run"),
        ({"autoencoder": {}}, Path("sd"), "did not begin on a checkpoint: leave --weights out, or take another --run"),
    ],
)
def test_a_run_goes_on_as_it_began_with_a_checkpoint_or_without(tmp_path, basis, weights, said):
    asked = change(LATENT_DIFFUSION, run=str(tmp_path), weights=weights)
    description = config.describe("latent_diffusion", asked, data.load("digits").describe(), basis)
    config.write(tmp_path, description)
    saved = tmp_path / "checkpoints" / "1"
    saved.mkdir(parents=True)
    (saved / "commit_success.txt").touch()
    with pytest.raises(UserError, match=said):
        latent_diffusion.train(asked)


def test_a_run_reads_its_captions_as_it_began_and_needs_no_first_stage_any_more(run, tmp_path):
    folder, settings = run
    gone = replace(settings, first_stage=replace(settings.first_stage, autoencoder=Path(tmp_path / "gone")))
    begun = config.read(folder)["basis"]
    source, basis = latent_diffusion.prepare(gone, data.load("digits"), begun)
    assert basis.about == begun
    assert source.fingerprint == config.read(folder)["data"]["fingerprint"]
