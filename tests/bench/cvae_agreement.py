"""Whether a conditional VAE draws what it is asked for: the share of its samples that a classifier assigns to the class asked for.

    python -m train.cvae --dataset mnist && python -m tests.bench.cvae_agreement runs/cvae-mnist

Samples are what ``train.sample`` draws, the means of p(x | z), a thousand for each class. The classifier, `tests.bench.classifier`,
is trained on the run's training images, which takes minutes the first time; it judges only where it is right on 99 % of the
test images.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError

PER_CLASS = 1000


@dataclass(frozen=True)
class Options:
    """Which run, and where its data are."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: where the run found its own."""
    seed: int = 0
    """Another seed draws other samples."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def main(options: Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is not one of train.cvae on images with a test split, or the classifier is not good enough to judge.
    """
    description = configuration.read(options.run)
    if description["recipe"] != "cvae":
        raise UserError(f"{options.run} is a run of train.{description['recipe']}; this is for runs of train.cvae")
    recipe = trained.recipe(options.run, description)

    from train.common import devices

    on = devices.select(options.accelerator, 1)
    devices.use_compilation_cache()

    import jax
    import numpy as np

    from tests.bench import classifier
    from train.common import gallery
    from train.common.recipe import root_key

    state, step = trained.restore(options.run, description, recipe, on)
    train, test = (trained.images(description, split, options.data_dir) for split in ("train", "test"))
    apply, params = classifier.good_enough(train, test)

    draw, key = gallery.drawer(recipe.sample, on), root_key(options.seed, "sample")
    blank = np.zeros((PER_CLASS, *description["data"]["shape"]), np.uint8)
    shares = []
    for label in range(train.num_classes):
        asked = np.full(PER_CLASS, label, np.int32)
        samples = draw(state, {"image": blank, "label": asked}, jax.random.fold_in(key, label))
        shares.append((classifier.labels(apply, params, samples) == asked).mean())
    print(
        f"{options.run} at step {step}, seed {options.seed}: of {PER_CLASS:,} samples for each of {len(shares)} classes, the class "
        f"asked for: {np.mean(shares):.2%}"
    )
    print("  ".join(f"{name}: {share:.1%}" for name, share in zip(train.class_names, shares, strict=True)))
    return 0


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
