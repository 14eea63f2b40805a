"""Older spellings of names of tensors are read."""

import numpy as np

from jaxgen.models.stable_diffusion import weights
from tests.jaxgen.models.named import SHAPES, assert_same, random_tensors


def test_names_of_transformers_5_and_the_table_of_positions_of_old_checkpoints_are_read():
    tensors = random_tensors()
    expected = weights.from_tensors(tensors, SHAPES)
    old = tensors | {"text_model.embeddings.position_ids": np.arange(5)[None]}
    new = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    assert_same(weights.from_tensors(old, SHAPES), expected)
    assert_same(weights.from_tensors(new, SHAPES), expected)


def test_the_old_names_of_the_autoencoders_attention_are_read():
    modern = ["to_q", "to_k", "to_v", "to_out.0"]
    for old, name in zip(["query", "key", "value", "proj_attn"], modern, strict=True):
        for half in ("encoder", "decoder"):
            path = f"{half}.mid_block.attentions.0"
            assert weights.modern_name(f"{path}.{old}.weight") == f"{path}.{name}.weight"
            assert weights.modern_name(f"{path}.{name}.bias") == f"{path}.{name}.bias"
