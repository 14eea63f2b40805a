"""Tensors of a checkpoint in diffusers' layout to the parameters of our modules: `pytorch.from_tensors`, by today's names.

Older spellings are read too; they are never written.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxgen.models import pytorch

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

    Raises:
        ValueError: as `pytorch.from_tensors`.
    """
    named = {modern_name(name): tensor for name, tensor in tensors.items() if not _NOT_A_WEIGHT.fullmatch(name)}
    return pytorch.from_tensors(named, shapes)
