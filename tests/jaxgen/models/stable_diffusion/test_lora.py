"""Low-rank changes: the layer computes W x + scale up down x, and each spelling of the same file makes the same network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import lora, text, unet
from jaxgen.models.stable_diffusion.lora import LowRank
from jaxgen.models.stable_diffusion.trunk import TrunkConfig
from tests.jaxgen.models.stable_diffusion.peers import normal, torch

conv2d = torch.nn.functional.conv2d

TRUNK = TrunkConfig(
    channels=(8, 16),
    residual_blocks=(1, 1),
    transformers=(1, 0),
    heads=(2, 2),
    only_cross_attention=(False, False),
    context_dim=12,
    groups=4,
)
SHAPES = unet.unet_shapes(unet.UNetConfig(TRUNK, up_transformers=(0, 1)))
TEXT_SHAPES = text.text_shapes(text.TextConfig(vocabulary=9, positions=5, width=4, hidden=6, layers=1, heads=2))
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
QUERY, PROJECTION = f"{BLOCK}.attn1.to_q", "down_blocks.0.attentions.0.proj_in"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
WORD = "text_model.encoder.layers.0.self_attn.q_proj"
RANK = 3

PARAMS = jax.tree.map(lambda leaf: normal(0, *leaf.shape), SHAPES)
# Of each layer the factors in PyTorch's layout: down, up.
FACTORS = {
    QUERY: (normal(1, RANK, 8), normal(2, 8, RANK)),
    PROJECTION: (normal(3, RANK, 8, 1, 1), normal(4, 8, RANK, 1, 1)),
    CONVOLUTION: (normal(5, RANK, 8, 3, 3), normal(6, 8, RANK, 1, 1)),
}

SPELLINGS = {
    "diffusers": lambda layer: (f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"),
    "older diffusers": lambda layer: (f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"),
    "kohya": lambda layer: tuple(f"lora_unet_{layer.replace('.', '_')}.lora_{end}.weight" for end in ("down", "up")),
}


def file(spelling):
    """A file's tensors, with some of the text encoder."""
    tensors = {"text_encoder." + WORD + ".lora_A.weight": normal(7, 2, 4)}
    tensors["text_encoder." + WORD + ".lora_B.weight"] = normal(8, 4, 2)
    for layer, factors in FACTORS.items():
        tensors |= dict(zip(SPELLINGS[spelling](layer), factors, strict=True))
    return tensors


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_layer_computes_its_own_product_and_that_of_the_factors(spelling):
    changes = lora.from_tensors(file(spelling), SHAPES, "unet", {})
    assert changes.keys() == FACTORS.keys()
    before, after = (pytorch.to_tensors(p) for p in (PARAMS, lora.merged(PARAMS, changes, 0.5)))
    for layer, (down, up) in FACTORS.items():
        x = torch.from_numpy(normal(9, 2, 8, 4, 4))
        w, changed, down, up = (
            torch.from_numpy(np.asarray(y)).reshape(*y.shape[:2], *(y.shape[2:] or (1, 1)))
            for y in (before[f"{layer}.weight"], after[f"{layer}.weight"], down, up)
        )
        pad = w.shape[-1] // 2
        expected = conv2d(x, w, padding=pad) + 0.5 * conv2d(conv2d(x, down, padding=pad), up)
        np.testing.assert_allclose(conv2d(x, changed, padding=pad), expected, atol=1e-4)
    for name, tensor in before.items():
        if name.removesuffix(".weight") not in FACTORS:
            np.testing.assert_array_equal(after[name], tensor)


def test_the_scale_is_alpha_over_the_rank():
    tensors = file("kohya") | {f"lora_unet_{QUERY.replace('.', '_')}.alpha": np.float32(6)}
    changes = lora.from_tensors(tensors, SHAPES, "unet", {})
    assert changes[QUERY].scale == 2
    assert changes[CONVOLUTION].scale == 1
    of_all = lora.from_tensors(file("diffusers"), SHAPES, "unet", {"unet": 1.5})
    assert {change.scale for change in of_all.values()} == {0.5}


def test_processors_of_old_are_understood():
    tensors = {f"unet.{BLOCK}.attn1.processor.to_out_lora.{end}.weight": normal(1, RANK, 8) for end in ("down",)}
    tensors[f"unet.{BLOCK}.attn1.processor.to_out_lora.up.weight"] = normal(2, 8, RANK)
    assert list(lora.from_tensors(tensors, SHAPES, "unet", {})) == [f"{BLOCK}.attn1.to_out.0"]


@pytest.mark.parametrize("prefix", ["text_encoder.", "text_encoder.text_model."])
def test_each_part_takes_its_own_changes(prefix):
    name = prefix + WORD.removeprefix("text_model.")
    tensors = {f"{name}.lora_A.weight": normal(7, 2, 4), f"{name}.lora_B.weight": normal(8, 4, 2)}
    assert list(lora.from_tensors(tensors, TEXT_SHAPES, "text_encoder", {})) == [WORD]
    assert lora.from_tensors(tensors, SHAPES, "unet", {}) == {}


def test_a_change_keeps_the_dtype_and_nothing_changes_at_strength_zero():
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), PARAMS)
    changes = lora.from_tensors(file("diffusers"), SHAPES, "unet", {})
    jax.tree.map(np.testing.assert_array_equal, lora.merged(half, changes, 0.0), half)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.mid_block.nothing.lora_A.weight": normal(0, 3, 8)}, "is no low-rank change of a layer of this unet"),
        ({f"unet.{QUERY}.lora_magnitude_vector": normal(0, 8)}, "is no low-rank change"),
        ({f"unet.{QUERY}.lora_A.weight": normal(0, 3, 8)}, "there is only down"),
        (
            {f"unet.{QUERY}.lora_A.weight": normal(0, 3, 9), f"unet.{QUERY}.lora_B.weight": normal(0, 8, 3)},
            "does not fit its kernel",
        ),
    ],
)
def test_what_is_no_change_of_this_network_is_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        lora.from_tensors(tensors, SHAPES, "unet", {})


def test_a_change_of_no_layer_is_refused():
    with pytest.raises(ValueError, match="no layer has the name nowhere"):
        lora.merged(PARAMS, {"nowhere": LowRank(np.zeros((1, 1)), np.zeros((1, 1)))})
