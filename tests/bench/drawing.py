"""Samples of a finished run, for the benchmarks that judge them."""

from pathlib import Path
from typing import Any, NamedTuple

BATCH = 256
"""Images drawn at a time; as ``train.sample`` has it, which draws the same ones."""


class Trained(NamedTuple):
    """A run that can be drawn from."""

    run: Path
    description: dict
    """`config.read` of it."""
    step: int
    draw: Any
    """number, seed -> images float32 (number, h, w, c) in [-1, 1], of labels 0, 1, ... in turn."""


def trained_run(run: Path, description: dict, accelerator: str) -> Trained:
    """The run with this `config.read`, from its newest sound checkpoint.

    Raises:
        UserError: if it has none, or there is no such accelerator.
    """
    from train import trained
    from train.common import devices

    recipe = trained.recipe(run, description)
    on = devices.select(accelerator, 1)
    devices.use_compilation_cache()

    import jax
    import numpy as np
    from tqdm import tqdm

    from train.common import gallery
    from train.common.recipe import root_key

    state, step = trained.restore(run, description, recipe, on)
    shape, classes = description["data"]["shape"], max(1, description["data"]["num_classes"])

    def draw(number, seed):
        program, key = gallery.drawer(recipe.sample, on), root_key(seed, "sample")
        size = min(number, BATCH)
        drawn = []
        for i in tqdm(range(-(-number // size)), "drawing", unit="batch", disable=None):
            labels = ((i * size + np.arange(size)) % classes).astype(np.int32)
            batch = {"image": np.zeros((size, *shape), np.uint8), "label": labels}
            drawn.append(program(state, batch, jax.random.fold_in(key, i)))
        return np.concatenate(drawn)[:number]

    return Trained(run, description, step, draw)
