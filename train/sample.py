"""Draw images, or points of the plane, with a trained model: python -m train.sample RUN --num 64"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import conditions, edits, trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts, check_seed
from train.conditions import Condition
from train.denoising import Grid, Sampler
from train.edits import Edit

DIFFUSION = ("ddpm", "latent_diffusion", "controlnet", "super_resolution")
"""The recipes whose drawing may be chosen."""

EDITABLE = ("ddpm", "latent_diffusion", "controlnet")
"""Those that change a given picture."""


@dataclass(frozen=True)
class Wish:
    """Diffusion models: how to draw. Default: as the run was configured."""

    sampler: Sampler | None = None
    """Which sampler."""
    steps: int | None = None
    """Its timesteps."""
    grid: Grid | None = None
    """Which timesteps."""
    order: int | None = None
    """Of dpm_solver, dpm_solver_sde and unipc, 1 to 3, and heun, 1 or 2."""
    eta: float | None = None
    """ddim: noise of a step, 0 to 1."""
    guidance: float | None = None
    """Conditional models: how closely to follow the condition."""
    rescale: float | None = None
    """Conditional models: how far to bring guided predictions back to the spread of unguided ones, 0 to 1."""

    def on(self, drawing: Any) -> Any:
        """The run's own `Drawing`, changed as wished."""
        wishes = {{"steps": "sample_steps"}.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        return replace(drawing, **{name: value for name, value in wishes.items() if value is not None})


@dataclass(frozen=True)
class Options:
    """Which run, how many images, drawn how."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    num: int | None = None
    """Number of images; of points, some thousands show more. Default: 64; of --low-res, 1."""
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
    condition: Condition = field(default_factory=Condition)
    wish: Wish = field(default_factory=Wish)
    edit: Edit = field(default_factory=Edit)


def sample(options: Options) -> list[Path]:
    """Draw the images, or the points, and write them; returns what was written.

    Raises:
        UserError: if the folder is no run, the run has no sound checkpoint, or its model cannot draw as asked.
    """
    check_counts(options, "num", "batch_size")
    check_seed(options.seed)
    description = configuration.read(options.run)
    change = _change(description, options)

    from train.common import devices

    on = devices.select(options.accelerator, options.devices)
    devices.use_compilation_cache()
    recipe = trained.recipe(options.run, description, change)
    told = conditions.columns(options.condition, str(options.run), description)

    import numpy as np

    from train.common import pictures, scatter

    low_res = options.condition.low_res
    num = options.num or (64 if low_res is None else 1)
    state, step = trained.restore(options.run, description, recipe, on)
    if told:
        rows = trained.rows_of_labels(description, trained.labels_in_turn(description, num))
        rows |= {name: np.broadcast_to(value, (num, *value.shape)) for name, value in told.items()}
    else:
        rows = trained.rows(description, recipe, num)
    if options.label is not None:
        rows["label"] = np.full_like(rows["label"], options.label)
    draw = recipe.sample
    if options.edit != Edit():
        draw, given = _editing(recipe, options.edit, description["data"]["shape"])
        rows |= {name: np.broadcast_to(value, (num, *value.shape)) for name, value in given.items()}
    drawn = trained.draw(draw, state, on, rows, seed=options.seed, batch_size=options.batch_size)

    out = options.out or options.run / "samples"
    text = {"run": str(options.run), "step": str(step), "seed": str(options.seed)}
    name = _name(options, description)
    if len(description["data"]["shape"]) == 1:
        written = [out / f"{name}.png"]
        source = trained.images(description, "train", None)
        data = source.rows(np.arange(len(source)))["point"]
        picture = scatter.picture(drawn, data[: scatter.POINTS], scatter.square_around(data))
        pictures.save_png(written[0], picture, text)
        return written
    images = pictures.to_uint8(drawn)
    if options.separate or low_res is not None:
        written = [out / f"{name}_{i:05d}.png" for i in range(len(images))]
        for path, image in zip(written, images, strict=True):
            pictures.save_png(path, image, text)
    else:
        written = [out / f"{name}.png"]
        pictures.save_png(written[0], pictures.grid(images), text)
    return written


def _name(options: Options, description: dict) -> str:
    """What was asked for, as the beginning of a file's name."""
    condition, kind = options.condition, "points" if len(description["data"]["shape"]) == 1 else "images"
    asked = [path.stem for path in (condition.low_res, condition.control, options.edit.init_image) if path]
    if condition.prompt is not None:
        asked.append("-".join(re.findall(r"\w+", condition.prompt))[:60])
    if options.label is not None:
        asked.append(f"label{options.label}")
    return "_".join([*(asked or [kind]), f"seed{options.seed}"])


def _change(description: dict, options: Options) -> Callable[[Any], Any]:
    """What the options change in the run's configuration; a UserError for those that its model does not have."""
    name, classes = description["recipe"], description["data"]["num_classes"]
    for group, recipes, kind in (
        (options.wish, DIFFUSION, "diffusion models"),
        (options.edit, EDITABLE, "diffusion models that draw without a picture"),
    ):
        flags = [f.name for f in fields(group) if getattr(group, f.name) != f.default]
        if flags and name not in recipes:
            named = ", ".join("--" + flag.replace("_", "-") for flag in flags)
            raise UserError(f"{named}: this is for runs of {kind}; {options.run} is one of train.{name}")
    if options.separate and len(description["data"]["shape"]) == 1:
        raise UserError(f"--separate is for images, and {options.run} is a run whose model draws points; leave it out")
    if options.label is not None and not _knows_labels(description):
        raise UserError(
            "--label is for runs of train.cvae, of train.cvae_gan, of train.gan and train.wgan_gp with --labels, of train.ddpm "
            "with --conditional, and of train.controlnet on these; "
            f"{options.run} is a run of train.{name} that knows no labels"
        )
    if options.label is not None and not 0 <= options.label < classes:
        raise UserError(
            f"--label must lie between 0 and {classes - 1}, the classes of {description['data']['name']}; "
            f"got {options.label}"
        )

    basis = description.get("basis", {})
    chain = basis.get("chain") or (basis if name == "controlnet" else description)["config"].get("chain")

    def drawing_so(config):
        config = conditions.configured(options.condition, str(options.run), description, config)
        if options.wish == Wish():
            return config
        steps = options.wish.steps
        if steps is not None and not 1 <= steps <= chain["num_timesteps"]:
            raise UserError(f"--steps must lie between 1 and the {chain['num_timesteps']} of the run; got {steps}")
        return replace(config, drawing=options.wish.on(config.drawing))

    return drawing_so


def _editing(recipe, edit, shape):
    """The function that draws with a picture given, and the picture."""
    image, known = edits.read(edit, shape)
    strength = edit.strength or (0.6 if known is None else 1.0)

    def draw(state, batch, key):
        return recipe.edit(state, batch, key, strength, edit.resamplings)

    return draw, {"image": image} if known is None else {"image": image, "mask": known}


def _knows_labels(description: dict) -> bool:
    if description["recipe"] == "controlnet":
        return _knows_labels(description["basis"])
    config = description["config"]
    return {"cvae": True, "cvae_gan": True, "ddpm": config.get("conditional"), "gan": config.get("labels")}.get(
        description["recipe"].replace("wgan_gp", "gan"), False
    )


def main(options: Options) -> int:
    """Draw, and say where the pictures are."""
    written = sample(options)
    print(written[0] if len(written) == 1 else f"{len(written)} pictures: {written[0]} ... {written[-1].name}")
    return 0


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
