"""A small network's tensors by PyTorch's names."""

import jax
import numpy as np

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import text

SHAPES = text.text_shapes(text.TextConfig(vocabulary=9, positions=5, width=4, hidden=6, layers=1, heads=2))


def random_tensors():
    rng = np.random.default_rng(0)
    return pytorch.to_tensors(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), SHAPES))


def assert_same(params, expected):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), params, expected)
