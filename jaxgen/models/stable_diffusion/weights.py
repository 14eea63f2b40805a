"""Tensors of a checkpoint in diffusers' layout, by name, to the parameters of our modules, and back.

The whole map: a parameter's path joined by dots is its tensor's name, in PyTorch's words for the last part, and

    "kernel" (in, out)                  of a dense layer      is "weight" (out, in)
    "kernel" (height, width, in, out)   of a convolution      is "weight" (out, in, height, width)
    "scale", "embedding", "bias"                              are "weight", "weight", "bias" as they are

Two older spellings are read too; they are never written.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_WORDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_TO_PYTORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
_TO_JAX = {2: (1, 0), 4: (2, 3, 1, 0)}

# The autoencoder's attention before diffusers 0.17, by today's names.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# A table of 0, 1, 2 ... that transformers before 4.31 saved with the weights.
_NOT_A_WEIGHT = re.compile(r"(text_model\.)?embeddings\.position_ids")


def modern_name(name: str) -> str:
    """Today's name of a tensor that may come from an old checkpoint, or from transformers 5, which leaves "text_model." away."""
    name = re.sub(
        r"(mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.(?=weight$|bias$)",
        lambda match: f"{match[1]}.{_OLD_ATTENTION[match[2]]}.",
        name,
    )
    return re.sub(r"^(?=embeddings\.|encoder\.layers\.|final_layer_norm\.)", "text_model.", name)


def from_tensors(tensors: Mapping[str, Any], shapes: Any) -> Any:
    """Parameters as numpy arrays in a tree like ``shapes``, whose leaves have the shape and dtype of each.

    A tensor is anything with a shape that numpy can make an array of. Each is made an array once, when it is its turn, so
    tensors that are read from a file only then never lie in memory all at once.

    Raises:
        ValueError: if tensors are missing, surplus or of another shape; it names them, at most 8 of each kind.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {_name(path): (_is_kernel(path), leaf) for path, leaf in leaves}
    found = {modern_name(name): name for name in tensors if not _NOT_A_WEIGHT.fullmatch(name)}
    _check(wanted, {name: tuple(tensors[old].shape) for name, old in found.items()})
    return tree.unflatten(
        [_to_jax(np.asarray(tensors[found[name]]), kernel, leaf.dtype) for name, (kernel, leaf) in wanted.items()]
    )


def to_tensors(params: Any) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, each an array of its own, contiguous, with the dtype of its parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): _to_pytorch(np.asarray(leaf), _is_kernel(path)) for path, leaf in leaves}


def _name(path):
    *modules, leaf = (entry.key for entry in path)
    return ".".join([*modules, _WORDS[leaf]])


def _is_kernel(path):
    return path[-1].key == "kernel"


def _to_jax(array, kernel, dtype):
    return np.array(array.transpose(_TO_JAX[array.ndim]) if kernel else array, dtype, order="C")


def _to_pytorch(array, kernel):
    return np.ascontiguousarray(array.transpose(_TO_PYTORCH[array.ndim]) if kernel else array)


def _pytorch_shape(kernel, leaf):
    return tuple(leaf.shape[axis] for axis in _TO_PYTORCH[len(leaf.shape)]) if kernel else tuple(leaf.shape)


def _check(wanted, found):
    shapes = {name: _pytorch_shape(kernel, leaf) for name, (kernel, leaf) in wanted.items()}
    misshapen = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in shapes.items()
        if name in found and found[name] != shape
    ]
    complaints = {
        "missing": [name for name in shapes if name not in found],
        "surplus": [name for name in found if name not in shapes],
        "misshapen": misshapen,
    }
    if any(complaints.values()):
        raise ValueError(
            "the tensors are not those of this model: "
            + "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in complaints.items() if names)
        )


def _listed(names):
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
