"""Older spellings of names of tensors are read."""

import jax
import numpy as np
import pytest

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import text, weights

CONFIG = text.TextConfig(vocabulary=9, positions=5, width=4, hidden=6, layers=1, heads=2)
SHAPES = text.text_shapes(CONFIG)


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return pytorch.to_tensors(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), SHAPES))


def test_names_of_transformers_5_and_the_table_of_positions_of_old_checkpoints_are_read(tensors):
    expected = weights.from_tensors(tensors, SHAPES)
    old = tensors | {"text_model.embeddings.position_ids": np.arange(5)[None]}
    new = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    for spelt in (old, new):
        jax.tree.map(np.testing.assert_array_equal, weights.from_tensors(spelt, SHAPES), expected)


def test_the_old_names_of_the_autoencoders_attention_are_read():
    modern = ["to_q", "to_k", "to_v", "to_out.0"]
    for old, name in zip(["query", "key", "value", "proj_attn"], modern, strict=True):
        for half in ("encoder", "decoder"):
            path = f"{half}.mid_block.attentions.0"
            assert weights.modern_name(f"{path}.{old}.weight") == f"{path}.{name}.weight"
            assert weights.modern_name(f"{path}.{name}.bias") == f"{path}.{name}.bias"
