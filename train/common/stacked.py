"""Stacked MNIST: three digits in one picture, one for each colour; a thousand kinds of picture, whose presence one can count
(Metz et al. 2017, arXiv:1611.02163).
"""

import numpy as np

from train.common import sources

NUM_IMAGES = 128_000
"""Images in a data set, as many as Lin et al. 2018 (PacGAN), arXiv:1712.04086, train on."""


def stack(digits: sources.Source) -> sources.Source:
    """Triples of grey digits as red, green and blue, each digit drawn evenly by a fixed seed; of the digits a, b, c the label is the number
    abc. Memory holds the digits once: a batch is stacked when it is read.
    """
    triples = np.random.default_rng(0).integers(len(digits), size=(NUM_IMAGES, 3))
    base = digits.num_classes

    def read(indices):
        images, labels = digits.read(triples[indices].reshape(-1))
        planes = images.reshape(-1, 3, *digits.shape[:2])
        labels = labels.reshape(-1, 3) @ np.array([base**2, base, 1], np.int32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels

    return sources.Source(
        name=f"stacked_{digits.name}",
        shape=(*digits.shape[:2], 3),
        num_examples=NUM_IMAGES,
        class_names=tuple(
            a + b + c for a in digits.class_names for b in digits.class_names for c in digits.class_names
        ),
        fingerprint=sources.digest(digits.fingerprint.encode(), triples),
        read=read,
    )
