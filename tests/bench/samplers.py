"""Quality against number of function evaluations: the Frechet distance of a run's samples, by sampler and length of the grid.

    python -m train.ddpm --dataset mnist --conditional && python -m tests.bench.samplers runs/ddpm-mnist

Features are those of `train.comparison`, of as many samples as of training images; every sampler begins from the same noise. The first
line is what other training images get, the second the ancestral chain over all of the run's timesteps. An evaluation is one call of
the network on each image; Heun's method has 2 N - 1 of them on a grid of N, PNDM N + 1.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts

SAMPLERS = {
    "ancestral": ("ancestral", "trailing", None),
    "DDIM": ("ddim", "trailing", None),
    "DPM-Solver++ 2M": ("dpm_solver", "even_log_snr", 2),
    "DPM-Solver++ 2M, trailing": ("dpm_solver", "trailing", 2),
    "DPM-Solver++ 3M": ("dpm_solver", "even_log_snr", 3),
    "DPM-Solver++ 2M, SDE": ("dpm_solver_sde", "even_log_snr", 2),
    "UniPC 2": ("unipc", "even_log_snr", 2),
    "Heun": ("heun", "karras", 2),
    "PNDM": ("pndm", "trailing", None),
}
"""Sampler, grid and order."""


@dataclass(frozen=True)
class Options:
    """Which run, how many images, how many evaluations."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder, of train.ddpm."""
    num: int = 2000
    """Samples for each entry of the table."""
    evaluations: tuple[int, ...] = (5, 10, 15, 25, 50)
    """Of the network, per image."""
    chain: bool = True
    """Also draw by the ancestral chain over all timesteps, which takes as long as everything else together, or longer."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: where the run found its own."""
    seed: int = 0
    """Another seed draws other samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def main(options: Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is none of train.ddpm, or has no sound checkpoint.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    if description["recipe"] != "ddpm":
        raise UserError(f"{options.run} is a run of train.{description['recipe']}; this is for runs of train.ddpm")
    from train.common import devices

    on = devices.select(options.accelerator, 1)
    devices.use_compilation_cache()

    import numpy as np

    from train import classifier
    from train.common import data, images, quality

    source = trained.images(description, "train", options.data_dir)
    apply, params = classifier.train(source)

    def real(first):
        rows = data.indices(0, 0, first + options.num, len(source))[first:]
        return images.to_unit_range(source.rows(rows)["image"])

    _, reference = classifier.judge(apply, params, real(0))

    def distance(x):
        return quality.frechet_distance(classifier.judge(apply, params, np.asarray(x))[1], reference)

    def drawn(name, grid, order, steps):
        def change(config):
            how = {"sampler": name, "grid": grid, "order": order, "sample_steps": steps}
            return replace(config, drawing=replace(config.drawing, **how))

        recipe = trained.recipe(options.run, description, change)
        state, _ = trained.restore(options.run, description, recipe, on)
        rows = trained.rows(description, recipe, options.num)
        return trained.draw(recipe.sample, state, on, rows, seed=options.seed, batch_size=500)

    print(f"{options.run}, {options.num:,} samples against as many training images, seed {options.seed}")
    print(f"other training images: {distance(real(options.num)):.2f}", flush=True)
    if options.chain:
        T = description["config"]["chain"]["num_timesteps"]
        print(f"ancestral, all {T:,} timesteps: {distance(drawn(*SAMPLERS['ancestral'], T)):.2f}", flush=True)
    print("| evaluations | " + " | ".join(str(n) for n in options.evaluations))
    print("|---|" + "---|" * len(options.evaluations))
    for title, (name, grid, order) in SAMPLERS.items():
        print(f"| {title} |", end="", flush=True)
        for n in options.evaluations:
            steps = {"heun": (n + 1) // 2, "pndm": n - 1}.get(name, n)
            print(f" {distance(drawn(name, grid, order, steps)):.2f} |", end="", flush=True)
        print()
    return 0


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
