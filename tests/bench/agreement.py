"""Whether a model draws what it is asked for: the share of its samples that a classifier assigns to the class asked for.

    python -m train.cvae --dataset mnist && python -m tests.bench.agreement runs/cvae-mnist
    python -m train.ddpm --dataset mnist --conditional && python -m tests.bench.agreement runs/ddpm-mnist --guidance 2
    python -m train.latent_diffusion --dataset mnist && python -m tests.bench.agreement runs/latent_diffusion-mnist

Classes are asked for by their labels, or by a caption such as "a handwritten seven", a thousand times each of ten. Samples are those of
``train.sample``. The classifier, `train.classifier`, is trained on the run's training images, which takes minutes the first time; it
judges only where it is right on 99 % of the test images.
"""

import sys

from tests.bench import drawing
from train import trained
from train.common import command
from train.common import config as configuration
from train.common.errors import check_counts


def main(options: drawing.Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run has no images with a test split, or the classifier is not good enough to judge.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    draw, step = drawing.drawer(options, description)

    import numpy as np

    from tests.bench import judging

    train, test = (trained.images(description, split, options.data_dir) for split in ("train", "test"))
    labels = judging.good_enough(train, test)

    each = max(1, options.num // train.num_classes)
    asked = np.repeat(np.arange(train.num_classes, dtype=np.int32), each)
    given = labels(draw(asked, batch_size=each))
    shares = (given == asked).reshape(-1, each).mean(axis=1)
    print(
        f"{options.run} at step {step}, seed {options.seed}: of {each:,} samples for each of {len(shares)} classes, the class asked "
        f"for: {np.mean(shares):.2%}"
    )
    print("  ".join(f"{name}: {share:.1%}" for name, share in zip(train.class_names, shares, strict=True)))
    return 0


if __name__ == "__main__":
    options = command.options(drawing.Options, __doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
