"""What diffusion costs in the space of pixels and in that of a first stage's codes: images of 64x64 pixels, networks of the same width.

    python -m tests.bench.latent_cost

Of each: parameters that are trained, operations of a training step per image as XLA counts them, and the time to draw a batch of images,
in turns, the decoder included. The networks are fresh: this says what they cost, not how good they are.
"""

import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial

from train.common import command

SHAPE = (64, 64, 3)


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    num: int = 8
    """Images in a batch."""
    steps: int = 10
    """Timesteps of the sampler."""
    pairs: int = 5
    """Times that each is measured, in turns."""


def recipes(steps: int) -> dict:
    """Both, by name."""
    from pathlib import Path

    from train import ddpm, first_stage, latent_diffusion
    from train.common import captions, config, tokenizer

    drawing = replace(ddpm.SMALL.drawing, sampler="ddim", sample_steps=steps)
    pixels = ddpm.recipe(replace(ddpm.SMALL, drawing=drawing), SHAPE, 0)
    stage = first_stage.FirstStage(autoencoder_width=32, autoencoder_multipliers=(1, 2, 2))
    network = latent_diffusion.Network(width=64, multipliers=(1, 2, 2))
    settings = replace(latent_diffusion.MNIST, first_stage=stage, network=network, drawing=drawing)
    about = {"name": "", "num_examples": 0, "shape": SHAPE, "num_classes": 0, "fingerprint": ""}
    encoder = config.describe("vae", first_stage.config(stage, settings.job, Path()), about)
    learnt = tokenizer.learn(captions.of_labels("mnist", list("0123456789")).texts, 512, 32)
    basis = {"autoencoder": encoder, "text": {"tokenizer": learnt.describe(), "frozen": None}}
    return {"pixels": pixels, "codes": latent_diffusion.recipe(settings, SHAPE, 0, basis)}


def main(options: Options) -> int:
    """Measure, and say what came out."""
    import jax
    import numpy as np

    from train.common import gallery, loop, parallel

    on = jax.devices()[:1]
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (options.num, *SHAPE), np.uint8),
        "label": np.zeros(options.num, np.int32),
        "tokens": np.zeros((options.num, 32), np.int32),
    }
    key, draws = jax.random.key(0), {}
    for name, recipe in recipes(options.steps).items():
        state = loop.initial_state(recipe, 0, on)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        step = jax.vmap(recipe.step, (None, 0, None), axis_name="data")
        cost = jax.jit(step).lower(state, jax.tree.map(lambda x: x[None], batch), key).compile().cost_analysis()
        print(
            f"{name}: {count / 1e6:.2f} million parameters, {cost['flops'] / options.num / 1e9:.2f} GFLOP per image and step"
        )
        draw = gallery.drawer(recipe.sample, on)
        placed = parallel.place(key, on)
        draw(state, batch, placed)
        draws[name] = partial(draw, state, batch, placed)
    times = [{name: _seconds(draw) for name, draw in draws.items()} for _ in range(options.pairs)]
    ratios = sorted(pair["pixels"] / pair["codes"] for pair in times)
    for name in draws:
        median = statistics.median(pair[name] for pair in times)
        print(f"{name}: {median:.2f} s to draw {options.num} images in {options.steps} steps")
    print(f"pixels over codes: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return 0


def _seconds(draw):
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


if __name__ == "__main__":
    options = command.options(Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
