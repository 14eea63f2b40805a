"""The classifier of `train.classifier` as a judge of samples, if it is good enough for one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from train import classifier
from train.common import images
from train.common.errors import UserError

LEAST_ACCURACY = 0.99
"""Of a classifier that may judge, on the test images."""


def good_enough(train_source: Any, test_source: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The function images (n, h, w, c) in [-1, 1] -> their likeliest classes, (n,); and a line on standard output that says which
    classifier judges here, and how good it is on the test images.

    Raises:
        UserError: if it is right on fewer than `LEAST_ACCURACY` of them.
    """
    apply, params = classifier.train(train_source)

    def labels(x):
        return classifier.judge(apply, params, x)[0]

    rows = test_source.rows(np.arange(len(test_source)))
    share = (labels(images.to_unit_range(rows["image"])) == rows["label"]).mean()
    if share < LEAST_ACCURACY:
        raise UserError(
            f"a classifier that is right on {share:.2%} of the test images of {test_source.name} is no judge of samples: this "
            f"benchmark asks for {LEAST_ACCURACY:.0%}, which it has on mnist"
        )
    print(
        f"classifier: right on {share:.2%} of the {len(test_source):,} test images of {test_source.name}, "
        f"weights sha256 {classifier.fingerprint(params)[:16]}"
    )
    return labels
