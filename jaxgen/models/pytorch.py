"""Tensors by PyTorch's names to the parameters of our modules, and back.

The whole map, of modules that are called as PyTorch's: a parameter's path joined by dots is its tensor's name, in PyTorch's words for the
last part, and

    "kernel" (in, out)                  of a dense layer      is "weight" (out, in)
    "kernel" (height, width, in, out)   of a convolution      is "weight" (out, in, height, width)
    "scale", "embedding"                                      are "weight" as they are

and any other is called as it is.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_TO_PYTORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
_TO_JAX = {2: (1, 0), 4: (2, 3, 1, 0)}


def from_tensors(tensors: Mapping[str, Any], shapes: Any, whose: str = "this model") -> Any:
    """Parameters as numpy arrays in a tree like ``shapes``, whose leaves have the shape and dtype of each.

    A tensor is anything with a shape that numpy can make an array of. Each is made an array once, when it is its turn, so
    tensors that are read from a file only then never lie in memory all at once.

    Raises:
        ValueError: if tensors are missing, surplus or of another shape; it names them, at most 8 of each kind.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {_name(path): (_is_kernel(path), leaf) for path, leaf in leaves}
    expected = {name: _pytorch_shape(kernel, leaf) for name, (kernel, leaf) in wanted.items()}
    _check(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, whose)
    return tree.unflatten(
        [_to_jax(np.asarray(tensors[name]), kernel, leaf.dtype) for name, (kernel, leaf) in wanted.items()]
    )


def to_tensors(params: Any) -> dict[str, np.ndarray]:
    """The tensors of these parameters, each an array of its own, contiguous, with the dtype of its parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): _to_pytorch(np.asarray(leaf), _is_kernel(path)) for path, leaf in leaves}


def _name(path):
    *modules, leaf = (entry.key for entry in path)
    return ".".join([*modules, _WORDS.get(leaf, leaf)])


def _is_kernel(path):
    return path[-1].key == "kernel"


def _to_jax(array, kernel, dtype):
    return np.array(array.transpose(_TO_JAX[array.ndim]) if kernel else array, dtype, order="C")


def _to_pytorch(array, kernel):
    return np.ascontiguousarray(array.transpose(_TO_PYTORCH[array.ndim]) if kernel else array)


def _pytorch_shape(kernel, leaf):
    return tuple(leaf.shape[axis] for axis in _TO_PYTORCH[len(leaf.shape)]) if kernel else tuple(leaf.shape)


def _check(expected, found, whose):
    complaints = {
        "missing": [name for name in expected if name not in found],
        "surplus": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    if any(complaints.values()):
        told = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in complaints.items() if names)
        raise ValueError(f"the tensors are not those of {whose}: {told}")


def _listed(names):
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
