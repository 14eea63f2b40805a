"""What diffusion buys in super-resolution: a run of it beside bicubic interpolation and beside its own network trained to squared error.

    python -m train.super_resolution --dataset mnist && python -m tests.bench.super_resolution runs/super_resolution-mnist

Of the data set's test images, or of training images where it has no others: PSNR, SSIM and consistency error, their means over images;
and the Frechet distance to as many training images by the features of `train.comparison`. The regression is trained here, as long as
the run by default, into a folder beside the run, and goes on from there if it is stopped. It is the mean of all images of one low
resolution, which no other estimate beats in squared error, and is blurred. The last line is the run without its projection onto the
low resolution.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import super_resolution, trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts


@dataclass(frozen=True)
class Options:
    """Which run, how many images, how long to train the regression."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder, of train.super_resolution."""
    num: int = 2000
    """Images to enlarge."""
    steps: int | None = None
    """Optimiser steps of the regression. Default: the run's."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: where the run found its own."""
    seed: int = 0
    """Another seed draws other samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def regression(config: super_resolution.Config, image_shape: tuple[int, int, int]) -> Any:
    """The recipe of the same network and optimiser that says the image at once, by squared error: x_t is blank and t is 0."""
    import jax
    import jax.numpy as jnp

    from jaxgen import resampling
    from train import diffusing
    from train.common import images, optimizer
    from train.common.recipe import Recipe

    h, w, c = image_shape
    net = diffusing.unet(config.network, replace(config.chain, learn_variance=False), c)
    rate = config.optimizer
    adam = optimizer.adam(rate.learning_rate, rate.warmup_steps, rate.clip_norm, rate.decay_steps)

    def init(key):
        params_key, run_key = jax.random.split(key)
        t = jnp.zeros(1, jnp.int32)
        return optimizer.start(net.init(params_key, jnp.zeros((1, h, w, 2 * c)), t, level=t)["params"], adam, run_key)

    def mean(params, batch):
        wide = resampling.upsample(super_resolution.low_resolution(batch, config.factor), config.factor)
        t = jnp.zeros(len(wide), jnp.int32)
        x = jnp.concatenate([jnp.zeros_like(wide), wide], axis=-1)
        return wide + net.apply({"params": params}, x, t, level=t)

    def step(state, batch, key):
        def loss(params):
            return ((mean(params, batch) - images.to_unit_range(batch["image"])) ** 2).mean()

        value, grads = jax.lax.pmean(jax.value_and_grad(loss)(state.params), "data")
        state = optimizer.descend(state, grads, adam, rate.ema_decay)
        return state, {"loss": value, "grad_norm": optimizer.global_norm(grads)}

    def sample(state, batch, key):
        return mean(state.ema, batch).clip(-1, 1)

    return Recipe(init, step, sample, draws_of_data=True)


def trained_regression(options: Options, description: dict, on: Any) -> tuple[Any, Any]:
    """Its recipe and its state, trained if it has not been."""
    from train.common import loop

    config = configuration.dataclass_from(super_resolution.Config, description["config"])
    folder = options.run.with_name(f"{options.run.name}-regression")
    job = replace(config.job, run=str(folder), data_dir=options.data_dir or config.job.data_dir)
    config = replace(config, job=replace(job, steps=options.steps or job.steps, accelerator=options.accelerator))
    built = regression(config, tuple(description["data"]["shape"]))
    source = trained.images(description, "train", options.data_dir)
    about = configuration.describe("regression", config, description["data"])
    status = loop.fit(config, about, built, source, folder, on)
    if status:
        raise UserError(f"the training in {folder} was stopped; the same command goes on")
    return built, trained.restore(folder, about, built, on)[0]


def main(options: Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is none of train.super_resolution, or has no sound checkpoint.
    """
    check_counts(options, "num", "steps")
    description = configuration.read(options.run)
    if description["recipe"] != "super_resolution":
        said = f"{options.run} is a run of train.{description['recipe']}"
        raise UserError(f"{said}; this is for runs of train.super_resolution")
    from train.common import devices

    on = devices.select(options.accelerator, 1)
    devices.use_compilation_cache()

    import jax.numpy as jnp
    import numpy as np

    from train import classifier
    from train.common import data, images, quality

    train = trained.images(description, "train", options.data_dir)
    judge = classifier.train(train)
    reference = images.to_unit_range(train.rows(data.indices(0, 0, options.num, len(train)))["image"])
    _, features = classifier.judge(*judge, np.asarray(reference))

    factor = description["config"]["factor"]
    regressed = trained_regression(options, description, on)
    recipe = trained.recipe(options.run, description)
    state, step = trained.restore(options.run, description, recipe, on)
    loose = trained.recipe(options.run, description, lambda config: replace(config, consistent=False))
    rows = trained.rows(description, recipe, options.num, options.data_dir)

    def drawn(recipe, state):
        return trained.draw(recipe.sample, state, on, rows, seed=options.seed)

    def line(name, x):
        x = np.asarray(x)
        found = super_resolution.measures(jnp.asarray(x), rows, factor)
        means = {name: float(values.mean()) for name, values in found.items()}
        distance = quality.frechet_distance(classifier.judge(*judge, x)[1], features)
        numbers = f"{means['psnr']:.2f} | {means['ssim']:.4f} | {distance:.2f} | {means['consistency_error']:.5f}"
        print(f"| {name} | {numbers} |", flush=True)

    where = f"{options.run} at step {step}, {options.num:,} images, {factor} x, seed {options.seed}"
    print(f"{where}\n\n| | PSNR, dB | SSIM | Frechet distance | consistency error |\n|---|---|---|---|---|")
    line("the originals", images.to_unit_range(rows["image"]))
    line("bicubic", super_resolution.bicubic(super_resolution.low_resolution(rows, factor), factor))
    line("regression, the same network", drawn(*regressed))
    line("diffusion", drawn(recipe, state))
    line("diffusion, low resolution not kept", drawn(loose, state))
    return 0


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
