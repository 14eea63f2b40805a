"""Images drawn to a prompt with a checkpoint of Stable Diffusion, on all devices: what its subcommands have in common."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from train import edits, pretrained
from train.common.errors import UserError, in_words
from train.common.tokenizer import Tokenizer
from train.denoising import Drawing, Grid, Sampler
from train.pretrained import Checkpoint


@dataclass(frozen=True)
class Options:
    """What to draw with, how, and where."""

    weights: Path
    """The checkpoint: a folder in diffusers' layout, with model_index.json."""
    prompt: str
    """What the images should show."""
    negative_prompt: str = ""
    """What they should not show."""
    steps: int = 30
    """Timesteps of the sampler."""
    guidance: float = 7.5
    """How closely to follow the prompt; 1 is without guidance, at half the cost."""
    rescale: float = 0.0
    """How far to bring guided predictions back to the spread of unguided ones, 0 to 1."""
    seed: int = 0
    """Image number i depends on this and on i."""
    num: int = 1
    """Number of images."""
    batch_size: int | None = None
    """Images drawn at a time. Default: as many as are wanted, at most 4 on a device."""
    sampler: Sampler = "dpm_solver"
    """Which sampler."""
    grid: Grid | None = None
    """Which timesteps. Default: those of the checkpoint."""
    order: int | None = None
    """Of dpm_solver, dpm_solver_sde and unipc, 1 to 3, and heun, 1 or 2. Default: 2."""
    eta: float = 0.0
    """ddim: noise of a step, from 0, none, to 1, as much as an ancestral one."""
    lora: tuple[Path, ...] = ()
    """Files of low-rank changes to the checkpoint."""
    lora_scale: tuple[float, ...] = (1.0,)
    """How much of them; one number for all, or for each."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the U-Net and the text encoder; in bfloat16 their weights take half the memory."""
    out: Path = Path("out")
    """Where to write."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    devices: int | None = None
    """Devices to use."""


class Task(NamedTuple):
    """What a subcommand comes to."""

    pipeline: Callable[[tuple, Any, Any], Any]
    """(model, drawing, params, keys, noise, wish, timesteps), one key per image for more noise, data -> images."""
    size: tuple[int, int]
    """Pixels of an image, height and width."""
    data: Any = None
    """What else the pipeline needs, a tree of arrays whose rows are for all images."""
    strength: float = 1.0
    """Share of the way from noise to image that is gone."""
    networks: tuple[Any, ...] = ()
    """ControlNets."""
    folders: tuple[Path, ...] = ()
    """Where each has its weights."""
    controls: tuple[Any, ...] = ()
    """A `Control` for each."""


def precision(name: str) -> Any:
    """The NumPy type of this name."""
    import jax.numpy as jnp

    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[name]


def check_scales(flag: str, scales: Sequence[float], number: int) -> None:
    """Nothing, if there is one scale for all, or one for each of this number.

    Raises:
        UserError: otherwise.
    """
    if len(scales) not in (1, number):
        raise UserError(f"--{flag} takes one number, or one for each of {number}; got {len(scales)}")


def controlled(
    options: Options,
    checkpoint: Checkpoint,
    size: tuple[int, int],
    images: Sequence[Path],
    folders: Sequence[Path],
    scales: Sequence[float],
) -> Task:
    """Text to image with a ControlNet from each folder, or those in the checkpoint's, that looks at one of the images.

    Raises:
        UserError: if there are not as many images as ControlNets, or as many scales.
    """
    import numpy as np

    from train import pipelines

    folders = folders or sorted(options.weights.glob("controlnet*/"))
    if not folders:
        raise UserError(f"{options.weights} has no ControlNet of its own: say which to use with --controlnet")
    if len(images) != len(folders):
        raise UserError(
            f"each ControlNet looks at a picture of its own: there are {len(folders)}, and {len(images)} --image"
        )
    check_scales("control-scale", scales, len(folders))
    networks, controls = tuple(pretrained.read_control(folder, checkpoint) for folder in folders), []
    for network, image, scale in zip(networks, images, np.resize(scales, len(folders)), strict=True):
        pixels = edits.fitted(edits.open_picture(image), (*size, network.config.image_channels))
        controls.append(pipelines.Control(np.asarray(pixels, np.float32)[None] / 255, np.float32(scale)))
    return Task(
        lambda given, keys, data: pipelines.text_to_image(*given),
        size,
        None,
        1.0,
        networks,
        tuple(folders),
        tuple(controls),
    )


def enlarge(given: tuple, keys: Any, data: Any) -> Any:
    """`pipelines.upscale`, noise for the picture drawn from the keys."""
    from jaxgen import samplers
    from train import pipelines

    picture, level = data
    noise = samplers.normal(keys, (len(keys), *picture.shape[1:]))
    return pipelines.upscale(*given, picture, noise, level)


def draw(options: Options, checkpoint: Checkpoint, task: Task, on: Sequence, settings: dict[str, Any]) -> list[Path]:
    """Draw the images, batch after batch, and write each as a PNG with the settings in it; returns what was written.

    Image number i has noise from fold_in(key of the seed, i), so it does not depend on the batch size or on the devices.

    Raises:
        UserError: if the devices cannot share a batch, the steps are not of the chain, or an image is not finite.
    """
    import jax
    import numpy as np

    from jaxgen import samplers
    from jaxgen.models.stable_diffusion import lora
    from train import pipelines
    from train.common import gallery, parallel, pictures
    from train.common.recipe import root_key

    b = options.batch_size or len(on) * min(4, math.ceil(options.num / len(on)))
    parallel.check_divisible(b, len(on))
    chain, factor = checkpoint.chain, checkpoint.autoencoder.config.factor
    model = pipelines.Model(
        checkpoint.unet,
        checkpoint.autoencoder,
        chain.schedule,
        chain.predicts,
        task.networks,
        checkpoint.low_resolution,
    )
    drawing = Drawing(options.sampler, order=options.order, eta=options.eta, rescale=options.rescale)
    latent = (*(side // factor for side in task.size), checkpoint.autoencoder.config.latent_channels)

    def program(state, batch, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["number"])
        noise_keys, sampler_keys, other_keys = (samplers.fold_in(keys, i) for i in range(3))
        noise = samplers.normal(noise_keys, (len(keys), *latent))
        given = model, drawing, state["params"], sampler_keys, noise, state["wish"], state["timesteps"]
        return task.pipeline(given, other_keys, state["data"])

    if options.sampler in ("heun", "pndm") and not np.isfinite(chain.schedule.log_snrs[-1]):
        raise UserError(
            f"--sampler {options.sampler} needs some signal at the end of the chain, and this checkpoint's has none: "
            "take dpm_solver, dpm_solver_sde, ddim, unipc or ancestral"
        )
    say_what_is_cut(options, checkpoint.tokenizer)
    with in_words():
        moments = pretrained.timesteps(chain, options.grid, options.steps, task.strength)
    changes = [pretrained.read_changes(file, checkpoint) for file in options.lora]
    params = {}
    for part in ("text", "unet", "autoencoder"):
        read = pretrained.read_params(options.weights, checkpoint, part)
        for change, scale in zip(changes, np.resize(options.lora_scale, len(changes)), strict=True):
            read = lora.merged(read, change.get(part, {}), scale)
        params[part] = parallel.place(read, on)
    params["controls"] = [
        parallel.place(pretrained.read_control_params(folder, network), on)
        for folder, network in zip(task.folders, task.networks, strict=True)
    ]
    state = {
        "wish": pipelines.Wish(*_embedded(options, checkpoint, params), np.float32(options.guidance), task.controls),
        "timesteps": moments,
        "data": task.data,
    }
    state = parallel.place(state, on) | {"params": params}
    drawer, key, written = gallery.drawer(program, on), root_key(options.seed, "sample"), []
    text = {name: str(value) for name, value in settings.items()}
    for first in tqdm(range(0, options.num, b), unit="batch", disable=None):
        images = drawer(state, {"number": np.arange(first, first + b, dtype=np.int32)}, key)
        for i, image in enumerate(images[: options.num - first], first):
            if not np.isfinite(image).all():
                raise UserError(
                    f"image {i} is not finite: the weights may be damaged; or try --dtype float32, --guidance 7.5"
                )
            written.append(options.out / f"seed{options.seed}_{i:05d}.png")
            pictures.save_png(written[-1], pictures.to_uint8(image), text | {"number": str(i)})
    return written


def say_what_is_cut(options: Options, tokenizer: Tokenizer) -> None:
    """Prints, for people, the end of a prompt that the text encoder cannot take."""
    for name, prompt in (("prompt", options.prompt), ("negative prompt", options.negative_prompt)):
        if rest := tokenizer.rest(prompt):
            said = f"the {name} is longer than {tokenizer.length} tokens: without its end, {rest!r}"
            print(said, file=sys.stderr)


def _embedded(options, checkpoint, params):
    """The prompt and, if there is guidance, the negative one, (1, tokens, d) each or None."""
    import jax
    import numpy as np

    ids = checkpoint.tokenizer.encode([options.prompt, options.negative_prompt])
    encode = jax.jit(lambda params, ids: checkpoint.text.apply({"params": params}, ids))
    prompt, negative = np.asarray(encode(params["text"], ids))[:, None]
    return prompt, None if options.guidance == 1 else negative
