"""The U-Net against diffusers, in the configurations of each kind of checkpoint, made small."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.stable_diffusion import unet
from tests.jaxgen.models.stable_diffusion import peers

diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/bench/requirements.txt")

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "sample_size": 8,
}
KINDS = {
    "version 1": TINY,
    "version 2": TINY
    | {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
        "transformer_layers_per_block": (2, 1),
    },
    "inpainting": TINY
    | {"in_channels": 9, "flip_sin_to_cos": False, "freq_shift": 1, "act_fn": "swish", "norm_eps": 1e-3},
    "upscaler": TINY
    | {
        "in_channels": 7,
        "out_channels": 3,
        "layers_per_block": (2, 1),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "only_cross_attention": (True, False),
        "num_class_embeds": 10,
        "use_linear_projection": True,
    },
}
SIZES = {  # batch, height, width, tokens of the context
    "version 1": (2, 8, 12, 5),
    "version 2": (1, 4, 4, 100),
    "inpainting": (1, 7, 9, 77),  # a height and a width that cannot be halved
    "upscaler": (2, 8, 4, 3),
}


@functools.cache
def pair(kind):
    """Their model, our configuration and our parameters; the configuration goes the way of a config.json."""
    model = peers.randomised(diffusers.UNet2DConditionModel(**KINDS[kind]))
    config = unet.unet_config(json.loads(model.to_json_string()))
    return model, config, peers.params(model, unet.unet_shapes(config))


def inputs(kind):
    b, h, w, tokens = SIZES[kind]
    channels = KINDS[kind].get("in_channels", 4)
    x, context = peers.normal(1, b, h, w, channels), peers.normal(2, b, tokens, 12)
    t, labels = np.array([999, 1])[:b], np.array([9, 0])[:b] if kind == "upscaler" else None
    return x, t, context, labels


def predict(config, params, *arguments):
    return jax.jit(unet.UNet(config).apply)({"params": params}, *arguments)


def their_prediction(model, x, t, context, labels, **options):
    torch = peers.torch
    with torch.no_grad():
        y = model(
            peers.channels_first(x),
            torch.from_numpy(t),
            torch.from_numpy(context),
            class_labels=None if labels is None else torch.from_numpy(labels),
            **options,
        )
    return peers.channels_last(y.sample)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_is_that_of_diffusers(kind):
    (model, config, params), arguments = pair(kind), inputs(kind)
    peers.assert_agree(predict(config, params, *arguments), their_prediction(model, *arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_names_is_invertible(kind):
    model, config, _ = pair(kind)
    peers.assert_map_is_invertible(model, unet.unet_shapes(config))


def test_what_control_networks_add_is_added_to_the_skip_connections_and_the_middle():
    (model, config, params), (x, t, context, labels) = pair("version 1"), inputs("version 1")
    shapes = [(2, 8, 12, 8), (2, 8, 12, 8), (2, 4, 6, 8), (2, 4, 6, 16), (2, 4, 6, 16)]
    *to_skips, to_middle = (peers.normal(i, *shape) for i, shape in enumerate(shapes))
    theirs = their_prediction(
        model,
        x,
        t,
        context,
        labels,
        down_block_additional_residuals=[peers.channels_first(y) for y in to_skips],
        mid_block_additional_residual=peers.channels_first(to_middle),
    )
    peers.assert_agree(predict(config, params, x, t, context, labels, (to_skips, to_middle)), theirs)


def test_it_is_finite_in_bfloat16():
    (model, config, params), arguments = pair("version 1"), inputs("version 1")
    theirs = their_prediction(model, *arguments)
    peers.assert_finite_in_bfloat16(unet.UNet(config), params, theirs, *arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("act_fn", "gelu"),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("down_block_types", ["CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("class_embed_type", "projection"),
        ("addition_embed_type", "text_time"),
        ("encoder_hid_dim", 32),
        ("dual_cross_attention", True),
        ("cross_attention_dim", [12, 24]),
        ("only_cross_attention", [True]),
        ("attention_head_dim", [2, 3]),
        ("norm_num_groups", None),
        ("time_cond_proj_dim", 256),
    ],
)
def test_an_option_that_is_not_supported_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"U-Net: .*{option}"):
        unet.unet_config(TINY | {option: value})


def test_channels_and_labels_must_be_those_of_the_checkpoint():
    config, upscaler = unet.unet_config(TINY), unet.unet_config(KINDS["upscaler"])
    x, t, context, labels = (jnp.asarray(a) for a in inputs("upscaler"))
    with pytest.raises(ValueError, match="takes 4 channels; got 7"):
        unet.UNet(config).apply({"params": {}}, x, t, context)
    with pytest.raises(ValueError, match="a class from 0 to 9 with each image"):
        unet.UNet(upscaler).apply({"params": {}}, x, t, context)
    with pytest.raises(ValueError, match="no classes"):
        unet.UNet(config).apply({"params": {}}, x[..., :4], t, context, labels)


def test_the_defaults_are_stable_diffusion_1_with_859_520_964_parameters():
    sd1 = {
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "center_input_sample": False,
        "_class_name": "UNet2DConditionModel",
    }
    assert unet.unet_config(sd1) == unet.UNetConfig()
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(unet.unet_shapes(unet.UNetConfig())))
    assert count == 859_520_964
