"""Whether a conditional VAE draws what it is asked for: the share of its samples that a classifier assigns to the class asked for.

    python -m train.cvae --dataset mnist && python -m tests.bench.cvae_agreement runs/cvae-mnist

Samples are the means of p(x | z), as ``train.sample`` draws them, a thousand for each of ten classes. The classifier,
`train.classifier`, is trained on the run's training images, which takes minutes the first time; it judges only where it is
right on 99 % of the test images.
"""

import sys

import tyro

from tests.bench import drawing
from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import UserError, check_counts


def main(options: drawing.Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run is not one of train.cvae on images with a test split, or the classifier is not good enough to judge.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    if description["recipe"] != "cvae":
        raise UserError(f"{options.run} is a run of train.{description['recipe']}; this is for runs of train.cvae")
    draw, step = drawing.drawer(options, description)

    import numpy as np

    from train import classifier

    train, test = (trained.images(description, split, options.data_dir) for split in ("train", "test"))
    apply, params = classifier.good_enough(train, test)

    each = max(1, options.num // train.num_classes)
    asked = np.repeat(np.arange(train.num_classes, dtype=np.int32), each)
    given = classifier.labels(apply, params, draw(asked, batch_size=each))
    shares = (given == asked).reshape(-1, each).mean(axis=1)
    print(
        f"{options.run} at step {step}, seed {options.seed}: of {each:,} samples for each of {len(shares)} classes, the class asked "
        f"for: {np.mean(shares):.2%}"
    )
    print("  ".join(f"{name}: {share:.1%}" for name, share in zip(train.class_names, shares, strict=True)))
    return 0


if __name__ == "__main__":
    options = tyro.cli(drawing.Options, description=__doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
