"""What the network is told, what it must say, and that what is drawn has the low resolution that was given, at any size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import diffusion, resampling
from jaxgen.models.unet import UNet
from tests.train.tiny import SUPER_RESOLUTION, change, draw, save_run, state_of, step
from train import denoising, diffusing, evaluate, super_resolution, trained
from train.common import config, data, images
from train.common.errors import UserError
from train.conditions import Condition
from train.edits import Edit
from train.sample import Options, sample

SHAPE = (8, 8, 1)
DIGITS = data.load("digits").rows(np.arange(6))
KEY = jax.random.key(0)
BASIS = {"deviation": 0.3}


def recipe(**values):
    return super_resolution.recipe(change(SUPER_RESOLUTION, **values), SHAPE, 10, BASIS)


def blank(low):
    return {"image": np.zeros((len(low), *SHAPE), np.uint8), "label": np.zeros(len(low), np.int32), "low": low}


@pytest.fixture
def network(monkeypatch):
    """In the place of the U-Net, this function of x_t, the enlarged image, t and the level."""

    def put(say):
        def apply(self, variables, x, t, keys=None, level=None):
            return say(*jnp.split(x, 2, axis=-1), t, level)

        monkeypatch.setattr(UNet, "apply", apply)

    return put


def knowing(image, predicts):
    """A network that knows the image, and so its difference from the enlarged one in units of 0.3."""
    schedule = denoising.schedule("cosine", 20)

    def say(xt, wide, t, level):
        x0 = (image - wide) / 0.3
        return diffusion.target(schedule, x0, t, diffusion.predict_eps(schedule, xt, t, x0), predicts)

    return say


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_the_loss_is_zero_for_a_network_that_knows_the_difference_from_the_enlarged_image(network, predicts):
    """Each batch is of one image."""
    batch = {name: np.repeat(column[:1], 16, axis=0) for name, column in DIGITS.items()}
    network(knowing(images.to_unit_range(jnp.asarray(batch["image"])), predicts))
    made = recipe(predicts=predicts, noise_levels=1)
    assert step(made, state_of(made, 0), batch, KEY)["loss"] < 1e-8


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver_sde"])
def test_such_a_network_draws_the_image(network, predicts, sampler):
    original = images.to_unit_range(jnp.asarray(DIGITS["image"]))
    network(knowing(original, predicts))
    made = recipe(predicts=predicts, sampler=sampler, consistent=False)
    np.testing.assert_allclose(draw(made.sample, state_of(made, 0), DIGITS, KEY), original, atol=1e-4)


PREPARED = Path(__file__).parents[3] / "shared" / "data" / "tfds"


@pytest.mark.parametrize(
    ("name", "factor", "deviation"), [("digits", 2, 0.44), ("mnist", 4, 0.38), ("cifar10", 4, 0.19)]
)
def test_the_unit_is_the_spread_of_the_datas_differences_as_it_was_when_the_run_began(name, factor, deviation):
    """So that what is diffused has the variance 1 that the chain is made for."""
    if name != "digits" and not PREPARED.exists():
        pytest.skip(f"needs {PREPARED}")
    settings = change(SUPER_RESOLUTION, factor=factor)
    source = data.load(name, data_dir=PREPARED)
    same, stands = super_resolution.prepare(settings, source, None)
    assert same is source
    assert stands.about == {"deviation": pytest.approx(deviation, abs=0.015)}
    assert super_resolution.prepare(settings, source, {"deviation": 0.7})[1].about == {"deviation": 0.7}


def test_images_without_such_a_low_resolution_are_refused_before_they_are_measured():
    with pytest.raises(UserError, match="images of 8x8 pixels have no low resolution of --factor 3"):
        super_resolution.prepare(change(SUPER_RESOLUTION, factor=3), data.load("digits"), None)


def test_in_training_the_enlarged_image_is_as_noisy_as_the_level_says(network):
    """Its low resolution before is sqrt(alpha_bar) low + sqrt(1 - alpha_bar) eps after so many steps, 0 of them being none."""
    seen = []

    def say(xt, wide, t, level):
        jax.debug.callback(lambda *arrays: seen.append([np.asarray(a) for a in arrays]), wide, level)
        return xt

    network(say)
    made = recipe()
    batch = {name: np.repeat(column[:1], 4000, axis=0) for name, column in DIGITS.items()}
    step(made, state_of(made, 0), batch, KEY)
    jax.effects_barrier()
    wide, level = seen[0]
    clean = resampling.upsample(super_resolution.low_resolution(DIGITS, 2)[:1], 2)
    schedule = denoising.schedule("linear", 20)
    assert set(level) == set(range(5))
    np.testing.assert_allclose(wide[level == 0], np.broadcast_to(clean, wide[level == 0].shape), atol=1e-5)
    for s in range(1, 5):
        alpha_bar, these = schedule.alpha_bars[s - 1], wide[level == s]
        error = 5 * np.sqrt((1 - alpha_bar) / len(these))
        np.testing.assert_allclose(these.mean(0), np.sqrt(alpha_bar) * clean[0], atol=error)
        # Interpolation keeps the variance of white noise in part, the same for all levels.
        ratio = these.var(0) / (1 - alpha_bar)
        unit = resampling.upsample(jax.random.normal(KEY, (4000, 4, 4, 1)), 2).var(0)
        np.testing.assert_allclose(ratio, unit, rtol=0.5)


@pytest.fixture
def telling(network):
    """A network whose images are all bright, and what it was told: the enlarged image and the level."""
    seen = []

    def say(xt, wide, t, level):
        jax.debug.callback(lambda *arrays: seen.append([np.asarray(a) for a in arrays]), wide, level)
        return jnp.full_like(xt, 0.9) + 0.05 * xt

    network(say)
    return seen


def test_what_is_drawn_has_the_low_resolution_of_the_images_or_without_the_constraint_has_not(telling):
    low = super_resolution.low_resolution(DIGITS, 2)
    for consistent in (True, False):
        made = recipe(consistent=consistent, predicts="x0")
        found = draw(made.sample, state_of(made, 0), DIGITS, KEY)
        error = np.abs(resampling.downsample(jnp.asarray(found), 2) - low).max()
        assert error < 1e-5 if consistent else error > 0.5
        assert np.abs(found).max() <= 1


def test_at_drawing_the_low_resolution_is_as_noisy_as_asked_and_by_default_clean(telling):
    clean = resampling.upsample(super_resolution.low_resolution(DIGITS, 2), 2)
    for level in (0, 4):
        del telling[:]
        made = recipe(noise_level=level)
        draw(made.sample, state_of(made, 0), DIGITS, KEY)
        jax.effects_barrier()
        for wide, said in telling:
            assert set(said) == {level}
            assert (np.abs(wide - clean).max() < 1e-5) == (level == 0)


@pytest.mark.parametrize("size", [(4, 4), (4, 7), (9, 6)])
def test_any_size_is_enlarged_in_tiles_of_the_size_of_training_and_keeps_its_low_resolution(telling, size):
    low = np.random.default_rng(0).integers(0, 256, (3, *size, 1), dtype=np.uint8)
    made = recipe()
    found = draw(made.sample, state_of(made, 0), blank(low), KEY)
    assert found.shape == (3, 2 * size[0], 2 * size[1], 1)
    again = resampling.downsample(jnp.asarray(found), 2)
    np.testing.assert_allclose(again, images.to_unit_range(jnp.asarray(low)), atol=1e-5)
    jax.effects_barrier()
    assert {wide.shape for wide, _ in telling} == {(3, *SHAPE)}


def test_a_network_that_acts_on_each_pixel_alone_gives_large_images_as_if_it_had_been_trained_on_them(network):
    network(lambda xt, wide, t, level: 0.3 * xt - jnp.sin(2 * wide))
    low = np.random.default_rng(1).integers(0, 256, (2, 9, 6, 1), dtype=np.uint8)
    found = [
        draw(made.sample, state_of(made, 0), blank(low), KEY)
        for made in (super_resolution.recipe(SUPER_RESOLUTION, shape, 10, BASIS) for shape in (SHAPE, (18, 12, 1)))
    ]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_a_low_resolution_that_is_given_counts_as_that_of_an_image(telling):
    low = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    made = recipe()
    of_images = {"image": low.repeat(2, 1).repeat(2, 2), "label": np.zeros(3, np.int32)}
    found = [draw(made.sample, state_of(made, 0), batch, KEY) for batch in (blank(low), of_images)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_the_originals_are_perfectly_like_themselves_and_bicubic_is_measured_beside(monkeypatch):
    original = images.to_unit_range(jnp.asarray(DIGITS["image"]))
    built = diffusing.build(SUPER_RESOLUTION, super_resolution.model(SUPER_RESOLUTION, SHAPE, BASIS))
    perfect = built._replace(sample=lambda state, batch, key: images.to_unit_range(batch["image"]))
    monkeypatch.setattr(diffusing, "build", lambda *_: perfect)
    made = recipe()
    found = draw(lambda *a: made.evaluate(*a, 2), np.float32(0), DIGITS, KEY)
    assert (found["psnr"] > 100).all()
    np.testing.assert_allclose(found["ssim"], 1, rtol=1e-5)
    np.testing.assert_allclose(found["consistency_error"], 0, atol=1e-6)

    low = np.asarray(original).reshape(6, 4, 2, 4, 2).mean((2, 4))
    for i in range(6):
        wide = Image.fromarray(low[i]).resize((8, 8), Image.Resampling.BICUBIC)
        wide = np.rint(127.5 * (np.asarray(wide).clip(-1, 1) + 1))
        again = wide.reshape(4, 2, 4, 2).mean((1, 3))
        error = np.sqrt(((again / 255 - (low[i] + 1) / 2) ** 2).mean())
        ratio = 10 * np.log10(255**2 / ((wide - DIGITS["image"][i, ..., 0]) ** 2).mean())
        np.testing.assert_allclose(found["bicubic_consistency_error"][i], error, rtol=1e-2)
        np.testing.assert_allclose(found["bicubic_psnr"][i], ratio, rtol=1e-2)


def test_the_reports_picture_has_low_resolution_bicubic_ours_and_the_original(telling):
    made, low = recipe(), super_resolution.low_resolution(DIGITS, 2)
    found = draw(made.pictures["enlarged"], state_of(made, 0), DIGITS, KEY)
    assert found.shape == (6, 8, 32, 1)
    np.testing.assert_allclose(found[:, :, :8], resampling.repeat(low, 2), atol=1e-6)
    np.testing.assert_allclose(found[:, :, 8:16], resampling.upsample(low, 2).clip(-1, 1), atol=1e-6)
    np.testing.assert_array_equal(found[:, :, 24:], jax.jit(images.to_unit_range)(DIGITS["image"]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"factor": 3}, "images of 8x8 pixels have no low resolution of --factor 3"),
        ({"noise_levels": 0}, "--noise-levels must lie between 1 and 20; got 0"),
        ({"noise_level": 5}, "--noise-level must lie between 0 and 4; got 5"),
        ({"guidance": 2.0}, "--guidance is for models with labels"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(values, said):
    with pytest.raises(UserError, match=said):
        recipe(**values)


@pytest.mark.slow
def test_a_learned_variance_and_importance_go_with_it():
    made = recipe(learn_variance=True, timesteps="importance", sampler="ancestral")
    state = state_of(made, 0, scale=0.1)
    found = draw(made.sample, state, DIGITS, KEY)
    low = super_resolution.low_resolution(DIGITS, 2)
    np.testing.assert_allclose(resampling.downsample(jnp.asarray(found), 2), low, atol=1e-4)
    assert np.isfinite(step(made, made.init(KEY), DIGITS, KEY)["loss"])
    larger = {
        **DIGITS,
        "low": np.random.default_rng(0).integers(0, 256, (len(DIGITS["image"]), 6, 6, 1), dtype=np.uint8),
    }
    assert np.isfinite(draw(made.sample, state, larger, KEY)).all()


# Drawing from files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, "super_resolution")
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)).save(path)
    return path


def test_a_picture_is_enlarged_by_the_factor_as_often_as_asked_and_in_low_resolution_is_the_picture(
    run, picture, tmp_path
):
    written = sample(Options(run, num=3, out=tmp_path, accelerator="cpu", condition=Condition(low_res=picture)))
    assert [path.name for path in written] == [f"a_seed0_{i:05d}.png" for i in range(3)]
    found = np.stack([np.asarray(Image.open(path)) for path in written]).astype(float)
    assert found.shape == (3, 8, 14)
    low = np.asarray(Image.open(picture).convert("L"))
    np.testing.assert_allclose(found.reshape(3, 4, 2, 7, 2).mean((2, 4)), np.stack([low] * 3), atol=0.51)
    assert (found[0] != found[1]).any()


def test_without_a_picture_the_runs_own_data_are_enlarged(run, telling, tmp_path):
    written = sample(Options(run, num=5, out=tmp_path, accelerator="cpu", separate=True))
    assert len(written) == 5
    source = data.load("digits")
    last = source.rows(data.indices(0, 0, len(source), len(source))[:-6:-1])["image"][..., 0]
    found = np.stack([np.asarray(Image.open(path)) for path in written])
    for a, b in zip(found, last, strict=True):
        low = [x.astype(float).reshape(4, 2, 4, 2).mean((1, 3)) for x in (a, b)]
        np.testing.assert_allclose(*low, atol=0.51)


def test_one_picture_is_one_image_if_nobody_says_how_many(run, telling, picture, tmp_path):
    condition = Condition(low_res=picture, noise_level=3)
    assert len(sample(Options(run, out=tmp_path, accelerator="cpu", condition=condition))) == 1
    jax.effects_barrier()
    assert {int(level) for _, levels in telling for level in levels} == {3}


def test_what_cannot_be_enlarged_is_refused_in_words(run, picture, tmp_path):
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((3, 9), np.uint8)).save(small)
    save_run(tmp_path / "vae", "vae")
    for options, said in (
        (
            Options(run, condition=Condition(low_res=small)),
            r"small\.png has 9x3 pixels; the smallest picture that this run can enlarge has 4x4",
        ),
        (Options(run, condition=Condition(low_res=tmp_path / "no.png")), r"no\.png cannot be read as a picture"),
        (Options(run, edit=Edit(picture)), "--init-image: this is for runs of diffusion models that draw without"),
        (Options(run, label=3), "--label is for runs of"),
        (
            Options(tmp_path / "vae", condition=Condition(low_res=picture)),
            r"--low-res is for runs of train\.super_resolution; .* is one of train\.vae",
        ),
        (
            Options(tmp_path / "vae", condition=Condition(noise_level=1)),
            r"--noise-level is for runs of train\.super_resolution; .* is one of train\.vae",
        ),
    ):
        with pytest.raises(UserError, match=said):
            sample(options)


# Measuring a run


def test_a_run_is_evaluated_by_likeness_and_not_in_bits(run, telling):
    found = evaluate.evaluate(evaluate.Options(run, split="train", num=5, batch_size=5, accelerator="cpu"))["train"]
    assert found.keys() == {f"{of}{name}" for of in ("", "bicubic_") for name in ("psnr", "ssim", "consistency_error")}
    assert found["consistency_error"]["mean"] < 0.002 < found["bicubic_consistency_error"]["mean"]


def test_what_is_compared_with_the_first_images_is_drawn_of_the_last_ones(run):
    """Digits have training images alone; more rows than there are begin again."""
    description, source = config.read(run), data.load("digits")
    order = data.indices(0, 0, len(source), len(source))
    made = recipe()
    for num in (3, 1800):
        rows = trained.rows(description, made, num)
        np.testing.assert_array_equal(rows["image"][:3], source.rows(order[:-4:-1])["image"])
        np.testing.assert_array_equal(rows["image"][1797:], rows["image"][: max(0, num - 1797)])
    assert not np.asarray(trained.rows(description, made._replace(draws_of_data=False), 3)["image"]).any()
