"""Pictures of a model at work, and its vital numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from train.common import data, page, parallel, pictures, points, scatter
from train.common.files import write_atomically
from train.common.recipe import Recipe, State, root_key
from train.common.sources import Source


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


FEWEST, MOMENTS = 3, 60
"""Frames in the animation of a training."""

MOMENT_SIDE = 480
"""Pixels along the longer side of such a frame, at most."""

COLOURS = 64
"""In each of them but the last."""


class Gallery:
    """What a run shows of its model: the same noise drawn again and again while it learns, further pictures and numbers in the end."""

    def __init__(self, recipe: Recipe, source: Source, *, num: int, seed: int, on: Sequence[jax.Device], how: str):
        self._mixture = points.MIXTURES.get(source.name)
        if source.is_points:
            num = scatter.POINTS
            self._square = scatter.square_around(source.rows(np.arange(len(source)))["point"])
        self._batch = source.rows(data.indices(seed, 0, num, len(source)))
        here = sum(d.process_index == jax.process_index() for d in on)
        # A picture of the few is whole only if the devices share them evenly.
        self._few = np.resize(np.arange(num), max(here, min(num, pictures.EXAMPLES) // here * here))
        self._key = root_key(seed, "gallery")
        self._sample = drawer(recipe.sample, on, how)
        self._pictures = {name: drawer(function, on, how) for name, function in recipe.pictures.items()}
        self._landscape = None
        if recipe.landscape is not None:
            self._landscape = drawer(lambda state, batch, _: recipe.landscape(state, batch["point"]), on, how)
        self._statistics = {name: drawer(function, on, how) for name, function in recipe.statistics.items()}
        self._measured = lambda: source.rows(data.indices(seed, 0, min(MEASURED, len(source)), len(source)))

    def draw(self, path: Path, state: State) -> None:
        """Write a grid of samples; of points, a picture of the plane."""
        samples = self._sample(state, self._batch, self._key)
        plane = "point" in self._batch
        pictures.save_png(path, self._plane(samples, state) if plane else pictures.grid(pictures.to_uint8(samples)))

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
        """Write the recipe's statistics, averaged over rows, and of points which Gaussians have how many, as JSON; nothing if there are
        none.
        """
        found = {}
        if self._statistics:
            batch = self._measured()
            found = {name: draw(state, batch, self._key).mean(0).tolist() for name, draw in self._statistics.items()}
        if self._mixture is not None:
            found[points.SHARES] = points.shares(self._sample(state, self._batch, self._key), self._mixture).tolist()
        if found:
            write_atomically(path, (json.dumps({"step": step, "statistics": found}) + "\n").encode())

    def _plane(self, samples, state):
        landscape = None
        if self._landscape is not None:
            landscape = self._landscape(state, {"point": scatter.lattice(self._square)}, self._key)
        return scatter.picture(samples, self._batch["point"], self._square, landscape)


def animate(grids: Sequence[Path], path: Path) -> None:
    """Write the animation of these pictures, oldest first, at most `MOMENTS` of them, evenly chosen; nothing if fewer than `FEWEST` are
    readable and of the size of the last.

    It is made of files, so that a run that went on shows all of its time. Where it would be too large for a report, it has fewer frames.
    """
    frames = [frame for i in pictures.evenly(len(grids), MOMENTS) if (frame := _read(grids[i])) is not None]
    frames = [frame for frame in frames if frame.shape == frames[-1].shape]
    while len(frames) >= FEWEST:
        pictures.save_gif(path, frames, colours=COLOURS)
        share = page.ANIMATION_BYTES / path.stat().st_size
        if share >= 1:
            return
        frames = [frames[i] for i in pictures.evenly(len(frames), int(0.95 * share * len(frames)))]


def _read(path: Path) -> np.ndarray | None:
    """The picture, reduced to `MOMENT_SIDE` pixels along its longer side if it has more, (height, width, 1 or 3) uint8."""
    try:
        with Image.open(path) as image:
            image.thumbnail((MOMENT_SIDE, MOMENT_SIDE), Image.Resampling.LANCZOS)
            return np.atleast_3d(np.asarray(image))
    # Pillow raises many kinds of exception on a broken file, SyntaxError among them.
    except Exception:
        return None
