"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): small changes of a network's kernels, kept apart from them.

    W' = W + scale down up        down (in, rank), up (rank, out)        (eq. 3; scale is the paper's alpha / rank)

A change of a convolution has a convolution (height, width, in, rank) for ``down``. The files that people exchange have names in three
spellings, all of which are read:

    unet.mid_block.….to_q.lora_A.weight, lora_B                        diffusers since 0.22
    unet.mid_block.….to_q.lora.down.weight, lora.up, or processor.to_q_lora.down     diffusers before
    lora_unet_mid_block_…_to_q.lora_down.weight, lora_up               kohya's scripts
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PREFIXES = {"unet": ("unet.", "lora_unet_"), "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_")}
"""Of the names of a part's changes."""

_DOWN = r"lora_A|lora\.down|lora_down|lora_linear_layer\.down"
_UP = r"lora_B|lora\.up|lora_up|lora_linear_layer\.up"
_NAME = re.compile(rf"(?P<layer>.+?)\.(?:(?P<down>{_DOWN})\.weight|(?P<up>{_UP})\.weight|(?P<alpha>alpha))")


class LowRank(NamedTuple):
    """A change of one kernel."""

    down: Any
    """(in, rank), or (height, width, in, rank) for a convolution."""
    up: Any
    """(rank, out)."""
    scale: Any = 1.0


def merged(params: Any, changes: Mapping[str, LowRank], strength: Any = 1.0) -> Any:
    """The parameters with each kernel W of the layers named become W + strength scale down up, in W's dtype. A layer's name is its path,
    joined by dots; parameters without a change are as they were.

    Raises:
        ValueError: for a change of a layer that is not there.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [_layer(path) for path, _ in leaves]
    if unknown := [name for name in changes if name not in names]:
        raise ValueError(f"no layer has the name {unknown[0]} ({len(unknown)} such of {len(changes)})")

    def changed(name, kernel):
        if name not in changes:
            return kernel
        down, up, scale = (jnp.asarray(x, jnp.float32) for x in changes[name])
        return (kernel.astype(jnp.float32) + strength * scale * (down @ up)).astype(kernel.dtype)

    return tree.unflatten([changed(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)])


def fresh(key: jax.Array, shapes: Any, rank: int) -> dict[str, dict[str, jax.Array]]:
    """Changes of this rank to the projections of every attention of a network whose parameters have these shapes, by the layer's name:
    {"down": (in, rank) normal with variance 1 / rank, "up": (rank, out) zero}, so that at first nothing changes; to be trained."""
    kernels = {_layer(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    attention = {name: shape for name, shape in kernels.items() if re.search(r"\.attn\d\.to_(q|k|v|out\.0)$", name)}
    return {
        name: {
            "down": jax.random.normal(layer_key, (shape[0], rank)) / rank**0.5,
            "up": jnp.zeros((rank, shape[1])),
        }
        for layer_key, (name, shape) in zip(
            jax.random.split(key, len(attention)), sorted(attention.items()), strict=True
        )
    }


def changes(trained: Mapping[str, Mapping[str, Any]]) -> dict[str, LowRank]:
    """What `merged` takes, of what `fresh` began."""
    return {name: LowRank(change["down"], change["up"]) for name, change in trained.items()}


def to_tensors(trained: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, np.ndarray]:
    """The tensors of a file of these changes to a part, "unet" or "text_encoder", as diffusers spells them since 0.22."""
    spelled = {"down": "lora_A", "up": "lora_B"}
    return {
        f"{part}.{name}.{spelled[side]}.weight": np.ascontiguousarray(np.asarray(change[side]).T)
        for name, change in trained.items()
        for side in spelled
    }


def from_tensors(tensors: Mapping[str, Any], shapes: Any, part: str, alphas: Mapping[str, float]) -> dict[str, LowRank]:
    """The changes of a part, "unet" or "text_encoder", whose parameters have these shapes, as NumPy, by the name of the layer.

    Args:
        tensors: of a file; those of other parts are left out.
        alphas: by part, where the file says it apart from its tensors; without any the scale is 1.

    Raises:
        ValueError: for tensors that belong to no layer, that do not fit theirs, or that are of another kind of adaptation.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    kernels = {_layer(path): leaf.shape for path, leaf in leaves if _layer(path)}
    layers = {spelling: name for name in kernels for spelling in _spellings(name)}
    found: dict[str, dict[str, np.ndarray]] = {}
    for full, tensor in tensors.items():
        name = _without_prefix(full, PREFIXES[part])
        if name is None:
            continue
        match = _NAME.fullmatch(name.replace("_lora.", ".lora."))
        layer = layers.get(match["layer"]) if match else None
        if layer is None:
            raise ValueError(f"the tensor {full} is no low-rank change of a layer of this {part}")
        found.setdefault(layer, {})[match.lastgroup] = np.asarray(tensor, np.float32)
    return {layer: _change(layer, given, kernels[layer], alphas.get(part)) for layer, given in found.items()}


def _change(layer, given, shape, alpha):
    if not given.keys() >= {"down", "up"}:
        raise ValueError(f"of the change of {layer} there is only {' and '.join(given)}")
    down, up = given["down"], given["up"]
    rank = len(down)
    alpha = given.get("alpha", rank if alpha is None else alpha)
    down = down.reshape(rank, -1).T if len(shape) == 2 or down.ndim == 2 else down.transpose(2, 3, 1, 0)
    up = up.reshape(len(up), -1).T
    if len(shape) == 4 and down.ndim == 2:
        down = down[None, None]
    if (*down.shape[:-1], up.shape[-1]) != tuple(shape) or len(up) != rank:
        raise ValueError(
            f"the change of {layer}, {down.shape} times {up.shape}, does not fit its kernel {tuple(shape)}"
        )
    return LowRank(down, up, np.float32(alpha / rank))


def _layer(path):
    """The layer's name, or "" if this is not its kernel."""
    *modules, leaf = (entry.key for entry in path)
    return ".".join(modules) if leaf == "kernel" else ""


def _spellings(name):
    """As it is, as kohya's scripts have it, as diffusers before 0.17 had an attention's projections, and as transformers 5 does."""
    through_processor = re.sub(r"\.(to_q|to_k|to_v|to_out)(\.0)?$", r".processor.\1", name)
    return name, name.replace(".", "_"), through_processor, name.removeprefix("text_model.")


def _without_prefix(name, prefixes):
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), None)
