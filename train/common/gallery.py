"""Pictures of a model at work, and its vital numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.common import data, parallel, pictures
from train.common.files import write_atomically
from train.common.recipe import Recipe, State, root_key
from train.common.sources import Images


def drawer(
    function: Callable, on: Sequence[jax.Device], how: str = "pmap", convolutions: bool = True
) -> Callable[[State, dict, jax.Array], Any]:
    """A recipe's ``sample``, or another function of (state, batch, key) to arrays with one row per row of the batch, run on this
    host's devices and brought to the host.

    Compiled once, for the shapes of the first call; any number of rows goes, rounded up to what the devices can share evenly.
    """
    here = [d for d in on if d.process_index == jax.process_index()]
    program = parallel.parallelize(
        function, here, rows=(False, True, False), gather=True, convolutions=convolutions, how=how
    )

    def draw(state, batch, key):
        num = len(next(iter(batch.values())))
        padded = np.resize(np.arange(num), -(-num // len(here)) * len(here))
        batch = {name: column[padded] for name, column in batch.items()}
        if jax.process_count() > 1:  # the state spans devices of other hosts
            state = parallel.place(parallel.local(state), here)
        drawn = program(state, batch, parallel.place(key, here))
        return jax.tree.map(lambda x: np.asarray(x)[:num], drawn)

    return draw


MEASURED = 1000
"""Rows, at most, over which a recipe's statistics are averaged."""


class Gallery:
    """What a run shows of its model: the same noise drawn again and again while it learns, further pictures and numbers in the end."""

    def __init__(self, recipe: Recipe, source: Images, *, num: int, seed: int, on: Sequence[jax.Device], how: str):
        self._batch = source.rows(data.indices(seed, 0, num, len(source)))
        here = sum(d.process_index == jax.process_index() for d in on)
        # A picture of the few is whole only if the devices share them evenly.
        self._few = np.resize(np.arange(num), max(here, min(num, pictures.EXAMPLES) // here * here))
        self._key = root_key(seed, "gallery")
        self._sample = drawer(recipe.sample, on, how)
        self._pictures = {name: drawer(function, on, how) for name, function in recipe.pictures.items()}
        self._statistics = {name: drawer(function, on, how) for name, function in recipe.statistics.items()}
        self._measured = lambda: source.rows(data.indices(seed, 0, min(MEASURED, len(source)), len(source)))

    def draw(self, path: Path, state: State) -> None:
        """Write a grid of samples."""
        images = pictures.to_uint8(self._sample(state, self._batch, self._key))
        pictures.save_png(path, pictures.grid(images))

    def draw_pictures(self, folder: Path, state: State) -> None:
        """Write the recipe's further pictures: NAME.png, and NAME.gif of those that have moments."""
        few = {name: column[self._few] for name, column in self._batch.items()}
        for name, draw in self._pictures.items():
            images = pictures.to_uint8(draw(state, few, self._key))
            if images.ndim == 5:
                moments = images.swapaxes(0, 1)
                pictures.save_gif(folder / f"{name}.gif", pictures.film(moments))
                pictures.save_png(folder / f"{name}.png", pictures.strip(moments))
            else:
                pictures.save_png(folder / f"{name}.png", pictures.grid(images))

    def measure(self, path: Path, step: int, state: State) -> None:
        """Write the recipe's statistics, averaged over rows, as JSON; nothing if it has none."""
        if self._statistics:
            batch = self._measured()
            means = {name: draw(state, batch, self._key).mean(0).tolist() for name, draw in self._statistics.items()}
            write_atomically(path, (json.dumps({"step": step, "statistics": means}) + "\n").encode())
