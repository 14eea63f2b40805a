"""How close a run's samples come to its data, by the features of a small classifier that is trained on the data, once, and kept; and by
those of Inception, for who has its weights.

Three sets of as many images are compared with the same training images: the samples; test images, which neither model nor classifier
has seen; and other training images. The last two are the floor, what real images get: all of these numbers depend on how many images
there are and on what the features are. They are the 128 numbers that the classifier's logits are linear in; the Frechet distance in
them is not the FID, which is that in the features of Inception (`train.inception`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from train import trained
from train.common.errors import UserError

LEAST = 10
"""Images of each kind; distances between neighbours need some."""
NEIGHBOURS = 12
"""Samples that are shown beside their nearest training images."""


def compare(
    run: Path,
    description: dict,
    draw: Callable[[int], Any],
    num: int,
    data_dir: str | None,
    inception: Callable[[Any], Any] | None = None,
) -> dict[str, dict[str, dict]]:
    """Of each set of images, by name: its estimates, each with a mean and, if it is known, a standard error. Of data without labels the
    FID alone; else beside it the picture RUN/samples/neighbours.png: samples, and the training images nearest to each.

    Args:
        draw: n -> images (n, h, w, c) in [-1, 1].
        inception: images -> features (n, d) of Inception, where the FID is wanted.

    Raises:
        UserError: if the data are no images, or have no labels to train a classifier by and the FID is not wanted, or there are not
            so many of them.
    """
    from train import classifier
    from train.common import data, images, quality

    about = description["data"]
    if len(about["shape"]) != 3:
        raise UserError(f"{run} is a run on {about['name']}, which are points; only images are compared")
    labelled = about["num_classes"] >= 2
    if not labelled and inception is None:
        raise UserError(
            f"{run} is a run on {about['name']}; samples are compared with data by a classifier of their labels, and these have none; "
            "with --inception-weights FILE they are compared by the FID"
        )
    train, test = trained.images(description, "train", data_dir), trained.test_images(description, data_dir)
    most = len(train) // 2 if test is None else min(len(test), len(train) // 2)
    if not LEAST <= num <= most:
        raise UserError(
            f"--compare must lie between {LEAST} and {most:,}, to have as many images of each kind; got {num:,}"
        )
    judge = partial(classifier.judge, *classifier.train(train)) if labelled else None

    def real(source, first):
        rows = data.indices(0, 0, first + num, len(source))[first:]
        return images.to_unit_range(source.rows(rows)["image"])

    reference = real(train, 0)
    sets = {"samples": draw(num)}
    if test is not None:
        sets["test images"] = real(test, 0)
    sets["other training images"] = real(train, num)
    found = {name: {} for name in sets}
    if labelled:
        found = _judged(run, judge, reference, sets, about["num_classes"])
    if inception is not None:
        features = inception(reference)
        for name, x in sets.items():
            found[name]["fid"] = {"mean": quality.frechet_distance(inception(x), features)}
    return found


def _judged(run, judge, reference, sets, num_classes):
    """The estimates by the classifier, and the picture."""
    import numpy as np

    from train.common import pictures, quality

    _, features = judge(reference)
    found = {}
    for name, x in sets.items():
        labels, seen = judge(x)
        kernel, error = quality.kernel_distance(seen, features)
        neighbour, distance = quality.nearest(seen, features)
        if name == "samples":
            rows = [np.asarray(x)[:NEIGHBOURS], np.asarray(reference)[neighbour[:NEIGHBOURS]]]
            pairs = np.stack(rows, axis=1).reshape(-1, *x.shape[1:])
            pictures.save_png(run / "samples" / "neighbours.png", pictures.grid(pictures.to_uint8(pairs)))
        numbers = {
            "frechet_distance": quality.frechet_distance(seen, features),
            **dict(zip(("precision", "recall"), quality.precision_recall(features, seen), strict=True)),
            **dict(zip(("density", "coverage"), quality.density_coverage(features, seen), strict=True)),
            "nearest_distance": float(np.median(distance)),
            **dict(zip(("classes", "kl_to_uniform"), quality.modes(labels, num_classes), strict=True)),
        }
        found[name] = {"kernel_distance": {"mean": kernel, "standard_error": error}}
        found[name] |= {key: {"mean": value} for key, value in numbers.items()}
    return found
