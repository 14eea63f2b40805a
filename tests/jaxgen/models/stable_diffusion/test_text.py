"""CLIP's text encoder against transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.stable_diffusion import text
from tests.jaxgen.models.stable_diffusion import peers

transformers = pytest.importorskip("transformers", reason="pip install -r tests/bench/requirements.txt")

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "bos_token_id": 97,
    "eos_token_id": 98,
}
KINDS = {
    "quick_gelu": SIZES,
    "gelu": SIZES | {"num_hidden_layers": 2, "num_attention_heads": 2, "layer_norm_eps": 1e-3},
}
IDS = np.random.default_rng(0).integers(0, 99, (2, 77))


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """Their model, our configuration and our parameters; the configuration goes the way of a config.json."""
    their_config = transformers.CLIPTextConfig(hidden_act=request.param, **KINDS[request.param])
    model = peers.randomised(transformers.CLIPTextModel(their_config))
    config = text.text_config(json.loads(their_config.to_json_string(use_diff=False)))
    return model, config, peers.params(model, text.text_shapes(config))


def context(model, ids):
    with peers.torch.no_grad():
        return model(peers.torch.from_numpy(ids)).last_hidden_state


def encode(config, params, ids, dtype=jnp.float32):
    return jax.jit(text.TextEncoder(config, dtype).apply)({"params": params}, jnp.asarray(ids))


def test_the_context_is_that_of_transformers(pair):
    model, config, params = pair
    peers.assert_agree(encode(config, params, IDS), context(model, IDS))


def test_a_short_prompt_of_one_is_encoded_alike(pair):
    model, config, params = pair
    peers.assert_agree(encode(config, params, IDS[:1, :5]), context(model, IDS[:1, :5]))


def test_the_map_of_names_is_invertible(pair):
    model, config, _ = pair
    shapes = text.text_shapes(config)
    peers.assert_map_is_invertible(model, shapes, lambda name: "text_model." + name.removeprefix("text_model."))


def test_a_token_sees_itself_and_those_before_it(pair):
    _, config, params = pair
    changed = IDS.copy()
    changed[:, 40:] = 1
    before, after = encode(config, params, IDS), encode(config, params, changed)
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert (before[:, 40:] != after[:, 40:]).any(-1).all()


def test_it_is_finite_in_bfloat16(pair):
    model, config, params = pair
    peers.assert_finite_in_bfloat16(text.TextEncoder(config), params, context(model, IDS), jnp.asarray(IDS))


def test_a_prompt_beyond_the_positions_is_refused(pair):
    _, config, params = pair
    with pytest.raises(ValueError, match="78 tokens does not fit into 77 positions"):
        encode(config, params, np.zeros((1, 78), int))


@pytest.mark.parametrize(
    ("option", "value"), [("hidden_act", "relu"), ("model_type", "t5"), ("num_attention_heads", 5), ("dropout", 0.5)]
)
def test_an_option_that_is_not_supported_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"text encoder: .*{option}="):
        text.text_config(SIZES | {option: value})


def test_the_default_configuration_is_that_of_stable_diffusion_1():
    sd1 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    assert text.text_config(sd1) == text.TextConfig()
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(text.text_shapes(text.TextConfig())))
    assert count == 123_060_480  # Radford et al.'s ViT-L/14: the text half without its projection
