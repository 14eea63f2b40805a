"""Draw images with a trained model: python -m train.sample RUN --num 64 --sampler ddim --steps 50"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from train.common import command
from train.common import config as configuration
from train.common.errors import UserError


@dataclass(frozen=True)
class Options:
    """Which run, how many images, drawn how."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    num: int = 64
    """Number of images."""
    sampler: Literal["ancestral", "ddim"] | None = None
    """How to draw. Default: as the run was configured."""
    steps: int | None = None
    """Steps of the sampler. Default: as the run was configured."""
    seed: int = 0
    """Another seed gives other images."""
    batch_size: int = 256
    """Images drawn at a time; image i depends on the seed and on this number."""
    separate: bool = False
    """Write every image as a PNG of its own instead of one grid."""
    out: Path | None = None
    """Where to write. Default: RUN/samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    devices: int | None = None
    """Devices to use."""


def sample(options: Options) -> list[Path]:
    """Draw the images and write them; returns what was written.

    Raises:
        UserError: if the folder is no run, the run has no sound checkpoint, or the sampler cannot be as asked.
    """
    for name in ("num", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    description = configuration.read(options.run)
    recipe = _recipe(description, options)

    from train.common import devices

    on = devices.select(options.accelerator, options.devices)
    devices.use_compilation_cache()

    import jax
    import numpy as np

    from train.common import checkpoint, gallery, parallel, pictures
    from train.common.recipe import root_key

    restored = checkpoint.read(options.run / "checkpoints", jax.eval_shape(recipe.init, jax.random.key(0)))
    if restored is None:
        raise UserError(
            f"{options.run} has no checkpoint yet; train it further with python -m train.{description['recipe']}"
        )
    state, key = parallel.place(restored.state, on), root_key(options.seed, "sample")
    draw = gallery.drawer(recipe.sample, on)
    size = min(options.num, options.batch_size)
    batch = {"image": np.zeros((size, *description["data"]["shape"]), np.uint8), "label": np.zeros(size, np.int32)}
    num_batches = -(-options.num // size)
    images = [
        draw(state, batch, jax.random.fold_in(key, i)) for i in tqdm(range(num_batches), unit="batch", disable=None)
    ]
    images = pictures.to_uint8(np.concatenate(images)[: options.num])

    out = options.out or options.run / "samples"
    text = {"run": str(options.run), "step": str(restored.step), "seed": str(options.seed)}
    if options.separate:
        written = [out / f"sample_{i:05d}.png" for i in range(len(images))]
        for path, image in zip(written, images, strict=True):
            pictures.save_png(path, image, text)
    else:
        written = [out / f"grid_seed{options.seed}.png"]
        pictures.save_png(written[0], pictures.grid(images), text)
    return written


def _recipe(description, options):
    """The recipe of the run, drawing as the options say."""
    match description["recipe"]:
        case "ddpm":
            from train import ddpm

            config = configuration.dataclass_from(ddpm.Config, description["config"])
            if options.steps is not None and not 1 <= options.steps <= config.num_timesteps:
                raise UserError(
                    f"--steps must lie between 1 and the {config.num_timesteps} of the run; got {options.steps}"
                )
            config = replace(
                config,
                sampler=options.sampler or config.sampler,
                sample_steps=config.sample_steps if options.steps is None else options.steps,
            )
            return ddpm.recipe(config, tuple(description["data"]["shape"]))
        case other:
            raise UserError(f"{options.run} is a run of train.{other}, which this version cannot draw from")


def main(options: Options) -> int:
    """Draw, and say where the pictures are."""
    written = sample(options)
    print(written[0] if len(written) == 1 else f"{len(written)} pictures: {written[0]} ... {written[-1].name}")
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
