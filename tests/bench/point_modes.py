"""How many Gaussians of a mixture a recipe finds, and how many of its samples are good, over several seeds.

    python -m tests.bench.point_modes --recipe gan --dataset grid25 --seeds 10

Each seed is a training of its own with the recipe's preset, as the command would run it, without its files. As Srivastava et al. 2017
(VEEGAN), arXiv:1705.07761, count: of 2,500 samples those are good that lie within three standard deviations of the nearest mean, and a mode
is found if it is the nearest to good samples: for them to one, here to at least ten. Samples of the mixture itself are the ceiling.
The seconds are of the training alone, with its compilation.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train import gan, wgan_gp
from train.common import command, points
from train.common.errors import UserError, check_counts

RECIPES = {"gan": gan, "wgan_gp": wgan_gp}


@dataclass(frozen=True)
class Options:
    """What to train, and how often."""

    recipe: Literal["gan", "wgan_gp"] = "gan"
    """Whose preset for the data set is trained."""
    dataset: Literal["grid25", "ring8"] = "grid25"
    """The mixture."""
    seeds: int = 10
    """Trainings, with the seeds 0, 1, ..."""
    first_seed: int = 0
    """Where to begin instead."""
    steps: int | None = None
    """Other than the preset's, which shortens the fall of the learning rate as well."""
    num: int = 2500
    """Samples of each."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    save: Path | None = None
    """A folder for the samples, SEED.npy each."""


def main(options: Options) -> int:
    """Train, measure, and say what came out.

    Raises:
        UserError: if a count is not positive, or the accelerator is not there.
    """
    check_counts(options, "seeds", "steps", "num")
    if options.first_seed < 0:
        raise UserError(f"--first-seed must not be negative; got {options.first_seed}")
    from train.common import data, devices

    on = devices.select(options.accelerator, 1)
    source = data.load(options.dataset)
    mixture = points.MIXTURES[options.dataset]
    print(f"{options.recipe} on {options.dataset}, {devices.describe(on)}, {options.num:,} samples each\n")
    print("| seed | modes found | good samples | seconds |\n|---|---|---|---|")
    table = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        samples, seconds = train(RECIPES[options.recipe], configuration(options, seed), source, on, options.num)
        if options.save is not None:
            options.save.mkdir(parents=True, exist_ok=True)
            np.save(options.save / f"{seed}.npy", samples)
        table.append((*points.modes(samples, mixture), seconds))
        print("| {} | {} | {:.1%} | {:.0f} |".format(seed, *table[-1]), flush=True)
    found, good, seconds = (np.array(column) for column in zip(*table, strict=True))
    means = f"{found.mean():.1f}{error(found, '.1f')} | {good.mean():.1%}{error(good, '.1%')} | {seconds.mean():.0f}"
    print(f"| mean ± standard error | {means} |")
    ceiling = points.modes(source.rows(np.arange(options.num))["point"], mixture)
    print("| the mixture itself | {} | {:.1%} | |".format(*ceiling))
    return 0


def configuration(options: Options, seed: int) -> Any:
    """The preset with this seed, and with other steps if they are asked for."""
    preset = RECIPES[options.recipe].PRESETS[options.dataset]
    steps = options.steps or preset.job.steps
    optimizer = preset.optimizer
    if optimizer.decay_steps:
        optimizer = replace(optimizer, decay_steps=optimizer.decay_steps * steps // preset.job.steps)
    return replace(preset, job=replace(preset.job, seed=seed, steps=steps), optimizer=optimizer)


def train(module: Any, config: Any, source: Any, on: Sequence[Any], num: int) -> tuple[np.ndarray, float]:
    """So many samples (num, 2) of the averaged generator of a finished training, and the seconds that training took."""
    import jax

    from train.common import gallery, loop
    from train.common.recipe import root_key

    job = config.job
    start = time.perf_counter()
    recipe = module.recipe(config, source.shape, source.num_classes)
    start_state = loop.initial_state(recipe, job.seed, on)
    ends = (min(step + loop.STRIDE, job.steps) for step in range(0, job.steps, loop.STRIDE))
    common = {"batch_size": job.batch_size, "seed": job.seed, "on": on, "how": job.parallel}
    for state, _ in loop.strides(recipe, start_state, source, ends, longest=loop.STRIDE, **common):
        jax.block_until_ready(state)  # as one would wait for the metrics
    seconds = time.perf_counter() - start
    batch = {"label": np.zeros(num, np.int32)}
    return gallery.drawer(recipe.sample, on, convolutions=False)(state, batch, root_key(job.seed, "sample")), seconds


def error(values: np.ndarray, style: str) -> str:
    """The standard error of their mean, in words; of a single value nothing is known."""
    return f" ± {values.std(ddof=1) / np.sqrt(len(values)):{style}}" if len(values) > 1 else ""


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
