"""Data sets by name, and the order in which a run sees them.

    source = data.load("digits")
    batch = source.rows(data.indices(seed, step, batch_size, len(source)))

A batch is a function of (seed, step), so the whole state of the data is one integer.
"""

import collections
import difflib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from train.common import folder, points, sources, stacked
from train.common.errors import NoSuchSplit, UserError
from train.common.files import expanded
from train.common.sources import Source

T = TypeVar("T")


def load(name: str, *, data_dir: str | None = None, image_size: int | None = None, split: str = "train") -> Source:
    """The data set `name`, its images cut to the centred square and resampled to `image_size` if that is given.

    - "digits": the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn; needs no network.
    - "mnist", "fashion_mnist", "kmnist", "cifar10": prepared by tensorflow-datasets if they are in `data_dir`, else
      from their original files, which are downloaded if need be.
    - "stacked_mnist": three digits of "mnist" in one picture, as its colours.
    - any other name in tensorflow-datasets that has images: from `data_dir`; preparing it first needs TensorFlow.
    - "folder:PATH": the pictures under PATH.
    - "grid25", "ring8": points of the plane from a mixture of Gaussians, in place of images.

    `data_dir` is $TFDS_DATA_DIR or ~/tensorflow_datasets if not given. `split` is a tfds split ("test", "train[:10%]")
    for prepared sets, "train" or "test" for original files, "train" otherwise.

    Raises:
      UserError: unknown name or split, missing or damaged files, no network, no TensorFlow where it is needed.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size must be at least 1; got {image_size}")
    if (name == "digits" or name in points.MIXTURES or name.startswith("folder:")) and split != "train":
        raise NoSuchSplit(f"{name} has one split, 'train'; got {split!r}: take --split train")
    if name in points.MIXTURES:
        if image_size is not None:
            raise UserError(f"--image-size is for images, and {name} holds points of the plane; leave it out")
        return points.load(name)
    if name == "stacked_mnist":
        return stacked.stack(load("mnist", data_dir=data_dir, image_size=image_size, split=split))
    if name == "digits" or name.startswith("folder:"):
        return _digits(image_size) if name == "digits" else folder.load(name.removeprefix("folder:"), image_size)

    # tensorflow-datasets takes a second to import, which only those who need it pay.
    from train.common import originals, prepared

    builder = prepared.builder(name, prepared.root(data_dir))
    if builder is None:
        raise UserError(
            _unknown(name, ["digits", "stacked_mnist", *points.MIXTURES, *originals.NAMES, *prepared.names()])
        )
    if prepared.is_readable(builder):
        return prepared.load(name, builder, split, image_size)
    if name in originals.NAMES:
        return originals.load(name, builder, split, image_size)
    return prepared.load(name, prepared.prepare(name, builder), split, image_size)


def indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Which examples step `step` sees, int32 (batch_size,).

    Entry i is number p = step * batch_size + i of an endless stream: one permutation of all examples after the other,
    that of epoch p // num_examples drawn from (seed, epoch) alone. A batch may straddle epochs.
    """
    if batch_size < 1 or num_examples < 1 or step < 0 or seed < 0:
        raise ValueError(
            "indices needs seed >= 0, step >= 0, batch_size >= 1, num_examples >= 1;"
            f" got {seed=}, {step=}, {batch_size=}, {num_examples=}"
        )
    first, end = step * batch_size, (step + 1) * batch_size
    epochs = range(first // num_examples, (end - 1) // num_examples + 1)
    return np.concatenate(
        [
            _permutation(seed, epoch, num_examples)[max(0, first - epoch * num_examples) : end - epoch * num_examples]
            for epoch in epochs
        ]
    )


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    permutation = np.random.default_rng([seed, epoch]).permutation(num_examples).astype(np.int32)
    permutation.flags.writeable = False  # it is shared by all callers
    return permutation


def prefetch(fetch: Callable[[int], T], start: int, depth: int = 2) -> Iterator[T]:
    """fetch(start), fetch(start + 1), ... without end, computed on one background thread up to `depth` ahead.

    What `fetch` raises is raised here, in its turn. Closing the iterator (`.close()`, or dropping it) ends the thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        ahead = collections.deque(thread.submit(fetch, step) for step in range(start, start + depth))
        step = start + depth
        try:
            while True:
                item = ahead.popleft().result()
                ahead.append(thread.submit(fetch, step))
                step += 1
                yield item
        finally:
            for future in ahead:
                future.cancel()


def _digits(image_size: int | None) -> Source:
    """The test part of the UCI "optical recognition of handwritten digits" (Alpaydin and Kaynak 1998), 8x8, grey.

    Ink v in 0..16 becomes the byte floor(255 v / 16 + 1/2), from which v = round(16 byte / 255).
    """
    # Importing scikit-learn takes a second and more; its table is a file, and in any release so far this one.
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = package / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        rows = np.loadtxt(table, np.int32, delimiter=",")
        ink, labels = rows[:, :64], rows[:, 64]
    else:
        from sklearn.datasets import load_digits

        ink, labels = load_digits(return_X_y=True)
    images = ((255 * ink.astype(np.int32) + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return sources.in_memory("digits", sources.resized(images, image_size), labels, map(str, range(10)))


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    if expanded(name).is_dir():
        close = [f"folder:{name}"]
    return (
        f"unknown data set {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}: there are digits; mnist,"
        " fashion_mnist, kmnist, cifar10; stacked_mnist, three digits of mnist in one picture; folder:PATH for pictures of your own; grid25"
        " and ring8, points of the plane; and every name of tensorflow-datasets (www.tensorflow.org/datasets)"
    )
