"""Samples of a finished run, for the benchmarks that judge them: their options, and how to draw."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import trained
from train.common.errors import UserError
from train.sample import DIFFUSION, Wish


@dataclass(frozen=True)
class Options:
    """Which run, how many samples, and where its data are."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    num: int = 10_000
    """Number of samples, of all classes alike."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: where the run found its own."""
    seed: int = 0
    """Another seed draws other samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    wish: Wish = field(default_factory=Wish)


def drawer(options: Options, description: dict) -> tuple[Callable, int]:
    """What draws images of labels, so many at a time, by the run with this `config.read`; and the step of its newest sound checkpoint.

    Raises:
        UserError: if the run has none, or there is no such accelerator.
    """
    from train.common import devices

    if options.wish != Wish() and description["recipe"] not in DIFFUSION:
        raise UserError(f"{options.run} is a run of train.{description['recipe']}, whose drawing has nothing to choose")

    def wished(config):
        return config if options.wish == Wish() else replace(config, drawing=options.wish.on(config.drawing))

    on = devices.select(options.accelerator, 1)
    devices.use_compilation_cache()
    recipe = trained.recipe(options.run, description, wished)
    state, step = trained.restore(options.run, description, recipe, on)
    told = _captions(options, description)

    def draw(labels, batch_size=trained.BATCH):
        rows = trained.rows_of_labels(description, labels) | told(labels)
        return trained.draw(recipe.sample, state, on, rows, seed=options.seed, batch_size=batch_size)

    return draw, step


def _captions(options, description):
    """labels (n,) -> the tokens of a caption for each, where the model reads captions."""
    if description["recipe"] != "latent_diffusion":
        return lambda labels: {}

    import numpy as np

    from train import reading
    from train.common import captions

    source = trained.images(description, "train", options.data_dir)
    said = captions.of_labels(source.name, source.class_names)
    ids = reading.ids(description["basis"]["text"], said.texts)
    return lambda labels: {"tokens": ids[said.number(np.zeros_like(labels), labels)]}
