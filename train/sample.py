"""Draw images, or points of the plane, with a trained model: python -m train.sample RUN --num 64"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts


@dataclass(frozen=True)
class Options:
    """Which run, how many images, drawn how."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    num: int = 64
    """Number of images; of points, some thousands show more."""
    sampler: Literal["ancestral", "ddim"] | None = None
    """ddpm: how to draw. Default: as the run was configured."""
    steps: int | None = None
    """ddpm: steps of the sampler. Default: as the run was configured."""
    label: int | None = None
    """Models with labels: the class to draw. Default: all, in turn."""
    seed: int = 0
    """Another seed gives other images or points."""
    batch_size: int = trained.BATCH
    """Images or points drawn at a time; number i depends on the seed and on this."""
    separate: bool = False
    """Write every image as a PNG of its own instead of one grid."""
    out: Path | None = None
    """Where to write. Default: RUN/samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    devices: int | None = None
    """Devices to use."""


def sample(options: Options) -> list[Path]:
    """Draw the images, or the points, and write them; returns what was written.

    Raises:
        UserError: if the folder is no run, the run has no sound checkpoint, or its model cannot draw as asked.
    """
    check_counts(options, "num", "batch_size")
    description = configuration.read(options.run)
    recipe = trained.recipe(options.run, description, _change(description, options))

    from train.common import devices

    on = devices.select(options.accelerator, options.devices)
    devices.use_compilation_cache()

    import numpy as np

    from train.common import pictures, scatter

    state, step = trained.restore(options.run, description, recipe, on)
    labels = trained.labels_in_turn(description, options.num)
    if options.label is not None:
        labels = np.full_like(labels, options.label)
    drawn = trained.draw(description, recipe, state, on, labels, seed=options.seed, batch_size=options.batch_size)

    out = options.out or options.run / "samples"
    text = {"run": str(options.run), "step": str(step), "seed": str(options.seed)}
    if len(description["data"]["shape"]) == 1:
        written = [out / f"points_seed{options.seed}.png"]
        source = trained.images(description, "train", None)
        data = source.rows(np.arange(len(source)))["point"]
        picture = scatter.picture(drawn, data[: scatter.POINTS], scatter.square_around(data))
        pictures.save_png(written[0], picture, text)
        return written
    images = pictures.to_uint8(drawn)
    if options.separate:
        written = [out / f"sample_{i:05d}.png" for i in range(len(images))]
        for path, image in zip(written, images, strict=True):
            pictures.save_png(path, image, text)
    else:
        written = [out / f"grid_seed{options.seed}.png"]
        pictures.save_png(written[0], pictures.grid(images), text)
    return written


def _change(description: dict, options: Options) -> Callable[[Any], Any]:
    """What the options change in the run's configuration; a UserError for those that its model does not have."""
    name, classes = description["recipe"], description["data"]["num_classes"]
    if name != "ddpm" and (options.sampler, options.steps) != (None, None):
        raise UserError(f"--sampler and --steps are for runs of train.ddpm; {options.run} is one of train.{name}")
    if options.separate and len(description["data"]["shape"]) == 1:
        raise UserError(f"--separate is for images, and {options.run} is a run whose model draws points; leave it out")
    if options.label is not None and not _knows_labels(description):
        raise UserError(
            "--label is for runs of train.cvae, of train.cvae_gan, and of train.gan and train.wgan_gp with --labels; "
            f"{options.run} is a run of train.{name} that knows no labels"
        )
    if options.label is not None and not 0 <= options.label < classes:
        raise UserError(
            f"--label must lie between 0 and {classes - 1}, the classes of {description['data']['name']}; "
            f"got {options.label}"
        )
    if name != "ddpm":
        return lambda config: config

    def drawing_so(config):
        if options.steps is not None and not 1 <= options.steps <= config.num_timesteps:
            raise UserError(
                f"--steps must lie between 1 and the {config.num_timesteps} of the run; got {options.steps}"
            )
        steps = config.sample_steps if options.steps is None else options.steps
        return replace(config, sampler=options.sampler or config.sampler, sample_steps=steps)

    return drawing_so


def _knows_labels(description: dict) -> bool:
    name = description["recipe"]
    return name in ("cvae", "cvae_gan") or (name in ("gan", "wgan_gp") and description["config"]["labels"])


def main(options: Options) -> int:
    """Draw, and say where the pictures are."""
    written = sample(options)
    print(written[0] if len(written) == 1 else f"{len(written)} pictures: {written[0]} ... {written[-1].name}")
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
