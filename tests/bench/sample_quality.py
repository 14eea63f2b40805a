"""How good a run's samples of labelled grey digits, such as MNIST, are, by the features of our own classifier.

    python -m train.gan --dataset mnist && python -m tests.bench.sample_quality runs/gan-mnist

For any run that draws images of such a set; they are drawn as ``train.sample`` draws them, with labels in turn. The classifier,
`train.classifier`, is trained on the run's training images, which takes minutes the first time; it judges only where it is right
on 99 % of the test images. Its features are the 128 numbers that its logits are linear in: the Frechet distance in them is not the
FID, which is that in the features of Inception.

Three sets of as many images are compared with the same training images, drawn by a fixed seed: the samples; the test images, which
neither model nor classifier has seen; and other training images. The last two are the floor, what real images get. Precision and recall
are those of the third nearest neighbour. Kernel distances are given with a standard error.
"""

import sys

import tyro

from tests.bench import drawing
from train import trained
from train.common import command, quality
from train.common import config as configuration
from train.common.errors import UserError, check_counts


def main(options: drawing.Options) -> int:
    """Measure, and say what came out.

    Raises:
        UserError: if the run does not draw images of a labelled set with a test split, the classifier is not good enough to judge, or there
            are not so many images.
    """
    check_counts(options, "num")
    description = configuration.read(options.run)
    about = description["data"]
    if len(about["shape"]) != 3 or about["num_classes"] < 2:
        raise UserError(f"{options.run} is a run on {about['name']}; this is for images with labels, such as mnist")
    if about["name"] == "stacked_mnist":
        raise UserError(
            f"{options.run} is a run on stacked_mnist; python -m tests.bench.stacked_mnist {options.run} judges it"
        )
    draw, step = drawing.drawer(options, description)

    import numpy as np

    from train import classifier
    from train.common import data, images

    train, test = (trained.images(description, split, options.data_dir) for split in ("train", "test"))
    most = min(len(test), len(train) // 2)
    if options.num > most:
        raise UserError(f"--num must be at most {most:,}, to be compared with as many images; got {options.num:,}")
    judge = classifier.good_enough(train, test)

    def pictures(source, first):
        rows = data.indices(0, 0, first + options.num, len(source))[first:]
        return images.to_unit_range(source.rows(rows)["image"])

    sets = {
        "samples": draw(trained.labels_in_turn(description, options.num)),
        "test images": pictures(test, 0),
        "other training images": pictures(train, options.num),
    }
    _, reference = classifier.judge(*judge, pictures(train, 0))
    print(f"{options.run} at step {step}, seed {options.seed}; {reference.shape[1]} features of our classifier\n")
    print(
        f"| {options.num:,} of each against {options.num:,} training images | Frechet distance | kernel distance |",
        end="",
    )
    print(" precision | recall | classes | KL to uniform, nats |\n|---|---|---|---|---|---|---|", flush=True)
    shares = {}
    for name, x in sets.items():
        labels, features = classifier.judge(*judge, x)
        distance = quality.frechet_distance(features, reference)
        kernel, error = quality.kernel_distance(features, reference)
        precision, recall = quality.precision_recall(reference, features)
        found, divergence = quality.modes(labels, train.num_classes)
        shares[name] = np.bincount(labels, minlength=train.num_classes) / len(labels)
        print(f"| {name} | {distance:.3f} | {kernel:.3f} ± {error:.3f} | {precision:.3f} | {recall:.3f} | ", end="")
        print(f"{found} | {divergence:.4f} |", flush=True)
    print("\n| share of class | " + " | ".join(train.class_names) + " |\n|" + "---|" * (1 + train.num_classes))
    for name, column in shares.items():
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in column) + " |")
    return 0


if __name__ == "__main__":
    options = tyro.cli(drawing.Options, description=__doc__)
    sys.exit(command.reporting_errors(lambda: main(options)))
