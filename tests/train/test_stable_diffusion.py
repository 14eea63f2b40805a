"""The command draws what diffusers draws from the same folder, on any number of devices; what does not fit is refused in one line."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import samplers
from tests.jaxgen.models.stable_diffusion.peers import channels_first
from tests.train import checkpoints
from tests.train.checkpoints import FACTOR, SIDE
from train import pretrained, prompted
from train.common.errors import UserError
from train.common.recipe import root_key
from train.prompted import Options
from train.stable_diffusion import Control, ImageToImage, Inpaint, TextToImage, Upscale, draw

ROOT = Path(__file__).parents[2]
LATENT = SIDE // FACTOR


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints, by how many channels they take, and pictures."""
    root = tmp_path_factory.mktemp("checkpoints")
    for channels in (4, 7, 9):
        checkpoints.save(root / str(channels), channels)
    checkpoints.control().save_pretrained(root / "control")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(root / "picture.png")
    Image.fromarray(pixels[: SIDE - 1]).save(root / "uneven.png")
    Image.fromarray(255 * (np.indices((SIDE, SIDE))[1] >= SIDE // 2).astype(np.uint8)).save(root / "mask.png")
    return root


def options(folder, out=Path("unused"), **more):
    more = {"prompt": "a lighthouse", "steps": 3, "accelerator": "cpu"} | more
    return Options(weights=folder, out=out, **more)


def pixels(paths):
    return np.stack([np.asarray(Image.open(path), np.float32) for path in paths])


def lighthouses(folders, out, **more):
    wanted = {"num": 3, "batch_size": 8, "negative_prompt": "été", "sampler": "ddim", "guidance": 3}
    return draw(TextToImage(options(folders / "4", out, **wanted | more)))


def test_images_of_a_prompt_are_those_of_diffusers(folders, tmp_path):
    written = lighthouses(folders, tmp_path, devices=8)
    assert [path.name for path in written] == [f"seed0_0000{i}.png" for i in range(3)]

    keys = jnp.stack([jax.random.fold_in(root_key(0, "sample"), i) for i in range(3)])
    noise = samplers.normal(samplers.fold_in(keys, 0), (3, LATENT, LATENT, 4))
    pipeline = checkpoints.diffusers.StableDiffusionPipeline.from_pretrained(folders / "4", safety_checker=None)
    theirs = pipeline(
        ["a lighthouse"] * 3,
        negative_prompt=["été"] * 3,
        num_inference_steps=3,
        guidance_scale=3,
        latents=channels_first(noise),
        output_type="np",
    ).images
    assert theirs.std() > 0.05
    np.testing.assert_allclose(pixels(written), 255 * theirs, atol=1)

    about = Image.open(written[2]).text
    assert about["negative_prompt"] == "été"
    assert {"number": "2", "seed": "0", "steps": "3", "sampler": "ddim"}.items() <= about.items()


@pytest.mark.slow
def test_a_seed_has_the_same_images_on_one_device_and_on_eight_and_in_batches_of_any_size(folders, tmp_path):
    eight = lighthouses(folders, tmp_path / "8", devices=8)
    one = lighthouses(folders, tmp_path / "1", batch_size=2)
    np.testing.assert_allclose(pixels(one), pixels(eight), atol=1)


@pytest.mark.slow
def test_the_command_draws_and_says_where_the_images_are(folders, tmp_path):
    flags = ["--weights", str(folders / "4"), "--prompt", "a lighthouse", "--steps", "2", "--accelerator", "cpu"]
    module = [sys.executable, "-m", "train.stable_diffusion"]
    done = subprocess.run(
        [*module, "text-to-image", *flags, "--num", "2", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"2 images: {tmp_path}/seed0_00000.png ... seed0_00001.png\n"
    wrong = subprocess.run([*module, "upscale", *flags, "--image", "x.png"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("error: the U-Net in ")


@pytest.mark.slow
def test_every_subcommand_draws(folders, tmp_path):
    picture = folders / "picture.png"
    for i, (wanted, size) in enumerate(
        [
            (ImageToImage(options(folders / "4"), picture, 0.5), SIDE),
            (ImageToImage(options(folders / "4", dtype="bfloat16"), picture, height=8, width=8), 8),
            (Inpaint(options(folders / "4"), picture, folders / "mask.png"), SIDE),
            (Inpaint(options(folders / "9", sampler="ancestral"), picture, folders / "mask.png", 0.7), SIDE),
            (Control(options(folders / "4"), (picture,), (folders / "control",)), SIDE),
            (Upscale(options(folders / "7", guidance=1), picture), FACTOR * SIDE),
        ]
    ):
        out = tmp_path / str(i)
        [path] = draw(dataclasses.replace(wanted, options=dataclasses.replace(wanted.options, out=out)))
        assert Image.open(path).size == (size, size)


def test_the_end_of_a_prompt_that_is_too_long_is_named(folders, capsys):
    tokenizer = pretrained.read(folders / "4", np.float32).tokenizer
    assert tokenizer.rest("a") == ""
    prompt = "aé " * 30 + "the tail"
    kept = prompt.removesuffix(tokenizer.rest(prompt))
    assert len(tokenizer.rest(prompt)) > 0
    assert tokenizer.cut(kept) == 0
    np.testing.assert_array_equal(tokenizer.encode([kept]), tokenizer.encode([prompt]))
    prompted.say_what_is_cut(options(folders / "4", negative_prompt=prompt), tokenizer)
    assert capsys.readouterr().err == (
        f"the negative prompt is longer than 77 tokens: without its end, {tokenizer.rest(prompt)!r}\n"
    )


def test_a_chain_without_signal_at_its_end_is_not_for_every_sampler(folders, tmp_path):
    shutil.copytree(folders / "4", tmp_path / "4")
    checkpoints.ddim(rescale_betas_zero_snr=True).save_pretrained(tmp_path / "4" / "scheduler")
    with pytest.raises(UserError, match="--sampler heun needs some signal at the end of the chain"):
        draw(TextToImage(options(tmp_path / "4", sampler="heun")))
    with pytest.raises(UserError, match="infinite noise level: take a grid of timesteps"):
        draw(TextToImage(options(tmp_path / "4", grid="karras")))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (lambda root: TextToImage(options(root / "nowhere")), "there is no folder"),
        (lambda root: TextToImage(options(root)), "has no model_index.json"),
        (lambda root: TextToImage(options(root / "picture.png")), "is a single file"),
        (lambda root: TextToImage(options(root / "7")), "takes 7 channels: such checkpoints are for upscale"),
        (lambda root: TextToImage(options(root / "9")), "takes 9 channels: such checkpoints are for inpaint"),
        (lambda root: Upscale(options(root / "4"), root / "picture.png"), "for text-to-image, image-to-image"),
        (lambda root: TextToImage(options(root / "4"), height=17), "--height must be a multiple of 2; 17 is not: try"),
        (lambda root: TextToImage(options(root / "4", steps=0)), "--steps must be at least 1"),
        (lambda root: TextToImage(options(root / "4", seed=-1)), "--seed must lie between 0 and 4294967295"),
        (lambda root: TextToImage(options(root / "4", steps=1001)), "--steps 1001 are too many"),
        (lambda root: TextToImage(options(root / "4", guidance=-1.0)), "--guidance must be at least 0"),
        (lambda root: TextToImage(options(root / "4", guidance=1, negative_prompt="x")), "--guidance 1 follows"),
        (lambda root: TextToImage(options(root / "4", batch_size=3, devices=2)), "does not divide over 2 devices"),
        (lambda root: ImageToImage(options(root / "4"), root / "no.png"), "cannot be read as a picture"),
        (lambda root: ImageToImage(options(root / "4"), root / "picture.png", 0.0), "--strength must be more than 0"),
        (lambda root: ImageToImage(options(root / "4"), root / "uneven.png"), "15, that of .*uneven.png, is not"),
        (lambda root: Inpaint(options(root / "9"), root / "picture.png", root / "uneven.png"), "must be of one size"),
        (lambda root: Control(options(root / "4"), ()), "a ControlNet needs a picture to look at"),
        (lambda root: Control(options(root / "4"), (root / "picture.png",)), "has no ControlNet of its own"),
        (
            lambda root: Control(options(root / "4"), (root / "picture.png",), (root / "control",) * 2),
            "there are 2, and 1 --image",
        ),
        (
            lambda root: Control(options(root / "4"), (root / "picture.png",), (root / "control",), (1.0, 2.0)),
            "--control-scale takes one number",
        ),
        (lambda root: Upscale(options(root / "7"), root / "picture.png", 351), "--noise-level must lie between 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folders, wanted, message):
    with pytest.raises(UserError, match=message) as error:
        draw(wanted(folders))
    assert "\n" not in str(error.value)
