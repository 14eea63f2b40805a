"""Parameters for tests, drawn by numpy: nothing has to be compiled for them, as an initialisation has, for seconds."""

import jax
import numpy as np


def drawn(module, *inputs, seed=0, scale=0.2, **options):
    """Of this module for these inputs, none of them 0: normal of this size, and around 1 where they scale a normalisation."""
    shapes = jax.eval_shape(lambda key: module.init(key, *inputs, **options), jax.random.key(0))["params"]
    ones = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, path[-1].key == "scale", np.float32), shapes
    )
    return noised(ones, seed, scale)


def noised(tree, seed, scale=0.2):
    """The same parameters, moved by normal noise of this size."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + np.float32(scale) * rng.normal(size=leaf.shape).astype(np.float32), tree
    )
