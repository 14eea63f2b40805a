"""Images and points come with the labels that were asked for; what a run's model cannot draw is refused in words."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.train.tiny import RECIPES, save_run
from train import trained
from train.common import config, points, scatter
from train.common.errors import UserError
from train.common.recipe import Recipe
from train.edits import Edit
from train.sample import Options, Wish, sample

RUNS = ("ae", "vae", "cvae", "ddpm")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in RUNS}
    for name, folder in folders.items():
        save_run(folder, name)
    return folders


def drawn(run, out, **options):
    """The images as they were written, each in a file of its own, (n, h, w) bytes."""
    written = sample(Options(run, out=out, separate=True, accelerator="cpu", **options))
    assert written == sorted(out.iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in written])


@pytest.fixture
def telling(monkeypatch):
    """Every model's images are of one grey level, 10 times the label."""

    def tell(state, batch, key):
        return jnp.ones(batch["image"].shape) * (10 * batch["label"] / 127.5 - 1)[:, None, None, None]

    original = trained.recipe
    monkeypatch.setattr(trained, "recipe", lambda *arguments: original(*arguments)._replace(sample=tell))


def test_the_classes_come_in_turn_whatever_the_batch_size(runs, telling, tmp_path):
    for batch_size in (8, 25):
        images = drawn(runs["cvae"], tmp_path / str(batch_size), num=25, batch_size=batch_size)
        assert images.shape == (25, 8, 8)
        assert (images // 10).max((1, 2)).tolist() == [i % 10 for i in range(25)]


@pytest.mark.parametrize("label", [0, 9])
def test_one_class_alone_is_drawn_on_request(runs, telling, tmp_path, label):
    images = drawn(runs["cvae"], tmp_path, num=3, label=label)
    assert set(images.flat) == {10 * label}


def test_the_same_noise_as_another_class_is_another_image_and_the_same_seed_the_same(runs, tmp_path):
    in_turn, threes, again = (
        drawn(runs["cvae"], tmp_path / str(i), num=5, label=label) for i, label in enumerate([None, 3, 3])
    )
    np.testing.assert_array_equal(threes, again)
    assert (in_turn != threes).any((1, 2)).tolist() == [True, True, True, False, True]


def test_another_seed_draws_other_images_into_another_grid(runs):
    written = [sample(Options(runs["vae"], num=3, seed=seed, accelerator="cpu"))[0] for seed in (0, 1)]
    assert [path.name for path in written] == ["images_seed0.png", "images_seed1.png"]
    assert written[0].parent == runs["vae"] / "samples"
    pictures = [Image.open(path) for path in written]
    assert pictures[1].text == {"run": str(runs["vae"]), "step": "7", "seed": "1"}
    assert (np.asarray(pictures[0]) != np.asarray(pictures[1])).any()


def test_files_are_named_after_what_was_asked_for(runs, telling, tmp_path):
    for asked, name in (
        ({"label": 3}, "label3_seed0.png"),
        ({"separate": True, "num": 1, "seed": 2}, "images_seed2_00000.png"),
        ({"separate": True, "num": 1, "label": 0}, "label0_seed0_00000.png"),
    ):
        options = Options(runs["cvae"], out=tmp_path, accelerator="cpu", **asked)
        assert [path.name for path in sample(options)] == [name]


def test_a_ddpm_is_drawn_with_the_sampler_that_is_asked_for(runs, monkeypatch):
    seen = []

    def stop(run, description, change):
        seen.append(change(RECIPES["ddpm"][0]))
        raise UserError("enough")

    monkeypatch.setattr(trained, "recipe", stop)
    wishes = ({}, {"steps": 9}, {"sampler": "unipc", "order": 3}, {"grid": "karras", "eta": 0.5})
    for wish in wishes:
        with pytest.raises(UserError, match="enough"):
            sample(Options(runs["ddpm"], accelerator="cpu", wish=Wish(**wish)))
    configured = RECIPES["ddpm"][0].drawing
    changes = ({}, {"sample_steps": 9}, *wishes[2:])
    assert [config.drawing for config in seen] == [replace(configured, **change) for change in changes]


@pytest.fixture(scope="module")
def pictures_to_edit(tmp_path_factory):
    """A picture that is bright above, a mask that is white below, and one of another size."""
    folder = tmp_path_factory.mktemp("edit")
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8] = 255
    Image.fromarray(picture).save(folder / "picture.png")
    Image.fromarray(255 - picture).save(folder / "mask.png")
    Image.fromarray(picture[:4]).save(folder / "small.png")
    return folder


@pytest.mark.parametrize("resamplings", [1, 2])
def test_what_a_mask_keeps_of_a_picture_is_in_every_image_and_the_rest_is_made_up(
    runs, pictures_to_edit, tmp_path, resamplings
):
    edit = Edit(pictures_to_edit / "picture.png", mask=pictures_to_edit / "mask.png", resamplings=resamplings)
    images = drawn(runs["ddpm"], tmp_path, num=3, edit=edit, wish=Wish(steps=12))
    assert images[:, :4].min() > 230  # the filter that shrinks the picture blurs its edge
    assert (images[0, 4:] != images[1, 4:]).any()


def test_the_less_the_strength_the_more_an_image_stays_like_the_picture(runs, pictures_to_edit, tmp_path):
    kept = []
    for strength in (0.1, 1.0):
        edit = Edit(pictures_to_edit / "picture.png", strength=strength)
        images = drawn(runs["ddpm"], tmp_path / str(strength), num=4, edit=edit, wish=Wish(steps=20))
        kept.append(np.abs(images.mean(0) - np.repeat([255, 0], 4)[:, None]).mean())
    assert kept[0] < 40
    assert kept[1] > kept[0] + 20


def test_a_mask_of_another_size_is_refused(runs, pictures_to_edit):
    edit = Edit(pictures_to_edit / "picture.png", mask=pictures_to_edit / "small.png")
    with pytest.raises(
        UserError, match=r"small\.png has 16x4 pixels and .*picture\.png 16x16; they must be of one size"
    ):
        sample(Options(runs["ddpm"], accelerator="cpu", edit=edit))


def adversarial_run(folder, name="gan", labels=False):
    """A run folder without a model: what it says of itself."""
    job = {"dataset": "ring8", "data_dir": None, "image_size": None}
    data = {"name": "ring8", "shape": (2,), "num_classes": 8}
    config.write(folder, {"recipe": name, "config": {"job": job, "labels": labels}, "data": data})
    return folder


@pytest.fixture
def drawing(monkeypatch):
    """The arguments with which points are drawn, of a model that draws each at the mean of its label."""

    def means(state, batch, key):
        assert batch["point"].shape[1:] == (2,)
        return jnp.asarray(points.MIXTURES["ring8"].means, jnp.float32)[batch["label"]]

    seen = []
    monkeypatch.setattr(trained, "recipe", lambda *_: Recipe(None, None, means))
    monkeypatch.setattr(trained, "restore", lambda *_: (np.float32(0), 7))
    monkeypatch.setattr(scatter, "picture", lambda *arguments: seen.append(arguments) or np.zeros((4, 4, 3), np.uint8))
    return seen


def test_points_are_drawn_into_one_picture_in_the_square_of_the_data(tmp_path, drawing):
    run = adversarial_run(tmp_path)
    written = sample(Options(run, num=25, batch_size=10, seed=3, accelerator="cpu"))
    assert written == [run / "samples" / "points_seed3.png"]
    assert Image.open(written[0]).text == {"run": str(run), "step": "7", "seed": "3"}
    ((drawn, data, square),) = drawing
    everything = points.load("ring8").rows(np.arange(points.NUM_POINTS))["point"]
    np.testing.assert_allclose(drawn, points.MIXTURES["ring8"].means[np.arange(25) % 8], atol=1e-6)
    assert data.shape == (scatter.POINTS, 2)
    np.testing.assert_array_equal(square, scatter.square_around(everything))


@pytest.mark.parametrize("name", ["gan", "wgan_gp"])
def test_one_class_alone_is_drawn_of_an_adversarial_run_with_labels(tmp_path, drawing, name):
    run = adversarial_run(tmp_path, name, labels=True)
    sample(Options(run, num=3, label=2, accelerator="cpu"))
    np.testing.assert_allclose(drawing[0][0], [[0, 1]] * 3, atol=1e-6)


@pytest.mark.parametrize("name", ["gan", "wgan_gp"])
def test_an_adversarial_run_without_labels_knows_none(tmp_path, name):
    said = rf"of train\.gan and train\.wgan_gp with --labels, .* is a run of train\.{name} that knows no labels"
    with pytest.raises(UserError, match=said):
        sample(Options(adversarial_run(tmp_path, name), label=2, accelerator="cpu"))


def test_points_have_no_files_of_their_own(tmp_path):
    with pytest.raises(UserError, match="--separate is for images, and .* is a run whose model draws points"):
        sample(Options(adversarial_run(tmp_path), separate=True, accelerator="cpu"))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("cvae", {"label": 10}, "--label must lie between 0 and 9, the classes of digits; got 10"),
        ("cvae", {"label": -1}, "--label must lie between 0 and 9"),
        ("vae", {"label": 3}, r"--label is for runs of train\.cvae, .* is a run of train\.vae that knows no labels"),
        ("ddpm", {"label": 3}, "--label is for runs of train.cvae"),
        (
            "vae",
            {"wish": Wish(sampler="ddim")},
            r"--sampler: this is for runs of diffusion models; .* one of train\.vae",
        ),
        ("cvae", {"wish": Wish(steps=5, grid="karras")}, "--steps, --grid: this is for runs of diffusion models"),
        ("ae", {"edit": Edit(Path("a.png"))}, "--init-image: this is for runs of diffusion models"),
        ("ddpm", {"wish": Wish(steps=0)}, "--steps must lie between 1 and the 20 of the run; got 0"),
        ("ddpm", {"wish": Wish(steps=21)}, "--steps must lie between 1 and the 20 of the run; got 21"),
        (
            "ddpm",
            {"wish": Wish(guidance=2.0)},
            r"--guidance is for models with labels \(train\.ddpm --conditional\), captions or controls",
        ),
        ("ddpm", {"wish": Wish(sampler="heun", order=3)}, "--order must lie between 1 and 2; got 3"),
        ("ddpm", {"edit": Edit(mask=Path("m.png"))}, "give the picture too, with --init-image"),
        ("ddpm", {"edit": Edit(strength=1.0)}, "--strength says how a picture is to be changed"),
        ("ddpm", {"edit": Edit(strength=0.5)}, "--strength says how a picture is to be changed: give the picture"),
        ("ddpm", {"edit": Edit(resamplings=3)}, "--resamplings says how a picture is to be changed"),
        (
            "ddpm",
            {"edit": Edit(Path("a.png"), 0.5, Path("m.png"), 2)},
            "--resamplings begin from noise alone, which is --strength 1",
        ),
        ("ddpm", {"edit": Edit(Path("nowhere.png"))}, r"nowhere\.png cannot be read as a picture"),
        ("ddpm", {"edit": Edit(Path("a.png"), strength=0.0)}, "--strength must be more than 0 and at most 1; got 0.0"),
        ("ddpm", {"edit": Edit(Path("a.png"), resamplings=2)}, "give the part that is known with --mask"),
        ("vae", {"seed": -1}, "--seed must lie between 0 and 4294967295; got -1"),
        ("vae", {"num": 0}, "--num must be at least 1; got 0"),
        ("vae", {"batch_size": 0}, "--batch-size must be at least 1; got 0"),
    ],
)
def test_what_a_model_cannot_draw_is_refused_in_words(runs, name, change, said):
    with pytest.raises(UserError, match=said):
        sample(Options(runs[name], accelerator="cpu", **change))
