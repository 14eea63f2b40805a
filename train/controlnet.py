"""Control of a trained diffusion model (Zhang et al. 2023, arXiv 2302.05543):

    python -m train.controlnet --base runs/ddpm-mnist --control edges

A branch beside the base's network learns to draw images of which something is given: their edges, for instance. The base stays as it
is. Guidance leads from what the base draws of nothing to what both draw of the control, and of the label if the base knows labels; so
nothing is hidden in training but labels, as often as the base hides them.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from train import ddpm, diffusing, trained
from train.ae import Optimizer
from train.common import command
from train.common import config as configuration
from train.common.config import Job, free
from train.common.errors import UserError, check_ranges
from train.denoising import Drawing

BASES = ("ddpm",)
"""Recipes whose runs can be controlled."""


@dataclass(frozen=True)
class Config:
    """A control branch and how to train it."""

    job: Job = field(default_factory=Job)
    base: str | None = free(None)
    """Run folder of the model to control, of train.ddpm. The run keeps its own copy of it."""
    control: Literal["edges", "scribble", "low_resolution", "mask"] = "edges"
    """What is given of an image: its edges; thick strokes along the coarsest of them; the means of squares of 4x4 pixels; or all but a
    rectangle of it."""
    control_folder: str | None = free(None)
    """With --dataset folder:PATH: another folder, whose pictures of the same names are given in place of that."""
    hint: tuple[int, ...] = (16, 32)
    """Channels of the network that looks at the control."""
    optimizer: Optimizer = ddpm.ADAM
    pieces: int = 1
    """Pieces in which a device takes its rows one after the other, adding up gradients, to save memory."""
    drawing: Drawing = field(default_factory=Drawing)


SMALL = Config(
    job=Job(steps=20_000, batch_size=64, checkpoint_every=1000, sample_every=2500),
    optimizer=replace(ddpm.SMALL.optimizer, learning_rate=1e-4),
    drawing=ddpm.SMALL.drawing,
)
"""For data sets without a preset of their own."""

MNIST = replace(
    SMALL,
    job=replace(ddpm.MNIST.job, steps=2000, sample_every=500),
    optimizer=replace(ddpm.MNIST.optimizer, decay_steps=2000),
)
"""Ten minutes on two CPU cores, after train.ddpm."""

DIGITS = replace(SMALL, job=replace(ddpm.DIGITS.job, steps=800), optimizer=ddpm.DIGITS.optimizer)
"""Two minutes on two CPU cores, after train.ddpm."""

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "*": SMALL,
}


def preset(base: str) -> Config:
    """For this run as the base: its data, and drawn as it draws.

    Raises:
        UserError: if the folder is no run of `BASES`.
    """
    description = trained.read(Path(base), BASES)
    settings = configuration.dataclass_from(
        trained.recipe_module(Path(base), description).Config, description["config"]
    )
    chosen, data = PRESETS.get(settings.job.dataset, SMALL), settings.job
    job = replace(chosen.job, dataset=data.dataset, data_dir=data.data_dir, image_size=data.image_size)
    return replace(chosen, job=job, base=base, drawing=settings.drawing)


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The configuration that the command line asks for; what it does not say is as the base has it. Where the base's folder is gone, it
    must say all that is not a preset's.

    Raises:
        UserError: if the base is no run that can be controlled.
    """
    base = command.ahead("--base", arguments)
    known = base is not None and Path(base).exists()
    return command.parse(Config, {"*": preset(base)} if known else PRESETS, __doc__, arguments)


def prepare(config: Config, source: Any, begun: dict | None) -> tuple[Any, Any]:
    """The data set with its controls, if there is a folder of them; and the base, as the `Basis`.

    Raises:
        UserError: if the base is not named, is no run that can be controlled, or has changed since the run began; or the pictures of the
            folder are not those.
    """
    if config.base is None:
        raise UserError("--base must name the run to control, of train.ddpm: --base runs/ddpm-mnist")
    base = trained.basis(Path(config.base), BASES, begun)
    return furnish(config, source, base.about), base


def furnish(config: Config, source: Any, about: dict) -> Any:
    """The data set with the column "control", if there is a folder of controls.

    Raises:
        UserError: if the folder's pictures are not those.
    """
    if config.control_folder is None:
        return source
    from train.common import folder

    return folder.beside(source, "control", config.control_folder, config.job.image_size)


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int, about: dict):
    """A control branch for the run of this description and images of its shape. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or the images are not like the base's.
    """
    import jax.numpy as jnp

    from train.common import images

    module, data = trained.recipe_module(Path(str(config.base)), about), about["data"]
    if list(image_shape) != data["shape"]:
        own, bases = ("x".join(map(str, shape)) for shape in (image_shape, data["shape"]))
        raise UserError(
            f"the images of {config.job.dataset} are {own}, and those of the base {bases}; take such as it was trained on"
        )
    settings = configuration.dataclass_from(module.Config, about["config"])
    stands = [about["basis"]] if "basis" in about else []
    base = module.model(settings, image_shape, data["num_classes"], *stands)
    if base.network.num_classes not in (0, num_classes):
        raise UserError(
            f"the base knows the {data['num_classes']} labels of {data['name']}, and {config.job.dataset} has {num_classes}"
        )
    controlled = model(config, base, image_shape)
    same = replace(settings, optimizer=config.optimizer, pieces=config.pieces, drawing=config.drawing)
    built = diffusing.build(same, controlled)

    def side_by_side(state, batch, key):
        drawn = built.sample(state, batch, key)
        control = jnp.broadcast_to(control_of(config, batch, None), drawn.shape)
        return jnp.concatenate([control, drawn, images.to_unit_range(batch["image"])], axis=2)

    return built._replace(pictures={**built.pictures, "controls": side_by_side}, draws_of_data=True)


def model(config: Config, base: diffusing.Model, image_shape: tuple[int, int, int]) -> diffusing.Model:
    """The base with a branch beside it. Its weights are the base's, frozen, and the branch's, which begin as their copies.

    Raises:
        UserError: if the control cannot be computed from images of this shape, or a number is out of range.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen.models.controlnet import ControlNet
    from train.common.errors import in_words

    check_ranges(*(("hint", channels, 1, math.inf) for channels in config.hint))
    if config.control_folder is None:
        with in_words():  # a control says itself which images have it
            image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
            jax.eval_shape(lambda image: control_of(config, {"image": image}, None), image)
    branch = ControlNet(base.network, config.hint)

    def init(key, given=None):
        base_key, branch_key = jax.random.split(key)
        if given is None:
            trainable, kept = base.init(base_key)
            given = {**trainable, **kept}
        x, t = jnp.zeros((1, *base.shape)), jnp.zeros(1, jnp.int32)
        control = jnp.zeros((1, *image_shape[:2], control_channels(config, image_shape[-1])))
        fresh = branch.init(branch_key, x, t, control, labels=t)["params"]
        copied = {name: given.get(name, parameters) for name, parameters in fresh.items()}
        # Of its own, since the state is donated: one buffer cannot be given away twice.
        return jax.tree.map(jnp.copy, ({"branch": copied}, {"base": given}))

    def apply(weights, xt, t, known, keys):
        # The frozen network keeps all it has: dropout is for what learns.
        told, control = known["base"], known["control"]
        residuals = None
        if control is not None:
            residuals = branch.apply({"params": weights["branch"]}, xt, t, control, keys, told)
        return base.apply(weights["base"], xt, t, told, None, residuals)

    def x0(weights, batch, keys):
        # As it is: an image that is mirrored has another control.
        return base.x0(weights["base"], batch, None)

    def told(batch, keys):
        if keys is None:
            return {"base": base.told(batch, None), "control": control_of(config, batch, None)}
        base_key, control_key = jax.vmap(jax.random.split, out_axes=1)(keys)
        return {"base": base.told(batch, base_key), "control": control_of(config, batch, control_key)}

    def untold(told):
        return {"base": told["base"] if base.untold is None else base.untold(told["base"]), "control": None}

    def known(weights, told):
        return {**told, "base": base.known(weights["base"], told["base"])}

    def image(weights, x0, told):
        return base.image(weights["base"], x0, told["base"])

    return diffusing.Model(base.shape, init, apply, x0, told, untold, known, image, of_pixels=base.of_pixels)


def control_channels(config: Config, image_channels: int) -> int:
    """Of the controls of images of so many."""
    drawn = config.control_folder is None and config.control in ("edges", "scribble")
    return 1 if drawn else image_channels


def control(description: dict, path: Path) -> Any:
    """The picture in this file as a control for the run with this `config.read`, uint8 (h, w, c).

    Raises:
        UserError: if it cannot be read, or has another size.
    """
    from train import edits
    from train.common import sources

    h, w, c = description["data"]["shape"]
    picture = edits.open_picture(path)
    if picture.size != (w, h):
        raise UserError(
            f"the control {path} has {picture.size[0]}x{picture.size[1]} pixels, and the model's images {w}x{h}; bring it to that size"
        )
    config = configuration.dataclass_from(Config, description["config"])
    return sources.pixels(picture, grey=control_channels(config, c) == 1, size=None)


def control_of(config: Config, batch: dict, keys: Any) -> Any:
    """The control of each row, (b, h, w, c) in [-1, 1]: the batch's own, or computed from its images."""
    import jax
    import jax.numpy as jnp

    from jaxgen import controls
    from train.common import images

    if "control" in batch:
        return images.to_unit_range(batch["control"])
    x = images.to_unit_range(batch["image"])
    match config.control:
        case "edges":
            return controls.edges(x)
        case "scribble":
            return controls.scribble(x)
        case "low_resolution":
            return controls.low_resolution(x)
    if keys is None:  # then what is hidden of an image is always the same
        numbers = jnp.arange(x[0].size, dtype=jnp.uint32).reshape(1, *x.shape[1:])
        content = (batch["image"].astype(jnp.uint32) * numbers).sum((1, 2, 3))
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(content)
    return controls.hide(x, controls.rectangles(keys, *x.shape[1:3]))


if __name__ == "__main__":
    sys.exit(command.reporting_errors(lambda: command.main("controlnet", parse(), recipe, prepare=prepare)))
