"""ControlNet against diffusers, in each of its options, made small."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.stable_diffusion import controlnet
from tests.jaxgen.models.stable_diffusion import peers

diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/bench/requirements.txt")

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "conditioning_embedding_out_channels": (4, 8),
}
KINDS = {
    "version 1": TINY,
    "version 2": TINY
    | {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "conditioning_channels": 1,
        "global_pool_conditions": True,
        "num_class_embeds": 5,
    },
    "blue first": TINY
    | {"controlnet_conditioning_channel_order": "bgr", "conditioning_embedding_out_channels": (4, 8, 8)},
}


@functools.cache
def pair(kind):
    """Their model, our configuration and our parameters; the configuration goes the way of a config.json."""
    model = peers.randomised(diffusers.ControlNetModel(**KINDS[kind]))
    config = controlnet.controlnet_config(json.loads(model.to_json_string()))
    return model, config, peers.params(model, controlnet.controlnet_shapes(config))


def inputs(kind):
    times = 2 ** (len(KINDS[kind]["conditioning_embedding_out_channels"]) - 1)
    x, context = peers.normal(1, 2, 4, 6, 4), peers.normal(2, 2, 5, 12)
    image = peers.normal(3, 2, times * 4, times * 6, KINDS[kind].get("conditioning_channels", 3))
    return x, np.array([999, 1]), context, image, np.array([4, 0]) if kind == "version 2" else None


def say(config, params, *arguments):
    return jax.jit(controlnet.ControlNet(config).apply)({"params": params}, *arguments)


def they_say(model, x, t, context, image, labels, **options):
    torch = peers.torch
    with torch.no_grad():
        y = model(
            peers.channels_first(x),
            torch.from_numpy(t),
            torch.from_numpy(context),
            peers.channels_first(image),
            class_labels=None if labels is None else torch.from_numpy(labels),
            **options,
        )
    return [peers.channels_last(r) for r in y.down_block_res_samples], peers.channels_last(y.mid_block_res_sample)


def assert_all_agree(ours, theirs):
    for y, z in zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True):
        peers.assert_agree(y, z)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_that_of_diffusers(kind):
    (model, config, params), arguments = pair(kind), inputs(kind)
    assert_all_agree(say(config, params, *arguments, 0.7), they_say(model, *arguments, conditioning_scale=0.7))


def test_each_layer_may_have_a_scale_of_its_own_as_in_the_mode_that_guesses():
    (model, config, params), arguments = pair("version 1"), inputs("version 1")
    scales = np.logspace(-1, 0, 5)
    theirs = they_say(model, *arguments, guess_mode=True)
    ours = say(config, params, *arguments, jnp.asarray(scales, jnp.float32))
    for y, z in zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True):
        np.testing.assert_allclose(y, z, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_names_is_invertible(kind):
    model, config, _ = pair(kind)
    peers.assert_map_is_invertible(model, controlnet.controlnet_shapes(config))


def test_a_fresh_one_says_exactly_zero_so_the_unet_stays_as_it_is():
    (_, config, params), (x, t, context, image, _) = pair("version 1"), inputs("version 1")

    @jax.jit
    def last_layers(key):  # of the others no first values are computed
        fresh = controlnet.ControlNet(config).init(key, x, t, context, image)["params"]
        return {
            name: values for name, values in fresh.items() if name.startswith(("controlnet_down", "controlnet_mid"))
        }

    said = say(config, params | last_layers(jax.random.key(0)), x, t, context, image)
    assert all((y == 0).all() for y in jax.tree.leaves(said))


def test_it_is_finite_in_bfloat16():
    (model, config, params), (x, t, context, image, _) = pair("version 1"), inputs("version 1")
    first = they_say(model, x, t, context, image, None)[0][0]
    peers.assert_finite_in_bfloat16(controlnet.ControlNet(config), params, first, x, t, context, image)


def test_an_image_of_another_size_is_refused():
    config = controlnet.controlnet_config(TINY)
    x, t, context, image, _ = inputs("version 1")
    with pytest.raises(ValueError, match=r"must be \(8, 12, 3\); got \(8, 8, 3\)"):
        controlnet.ControlNet(config).apply({"params": {}}, x, t, context, image[:, :, :8])


@pytest.mark.parametrize(
    ("option", "value"),
    [("controlnet_conditioning_channel_order", "gbr"), ("mid_block_type", None), ("encoder_hid_dim", 4)],
)
def test_an_option_that_is_not_supported_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"ControlNet: .*{option}="):
        controlnet.controlnet_config(TINY | {option: value})


def test_the_defaults_are_those_for_stable_diffusion_1_with_361_279_120_parameters():
    sd1 = {"attention_head_dim": 8, "cross_attention_dim": 768}
    assert controlnet.controlnet_config(sd1) == controlnet.ControlNetConfig()
    shapes = controlnet.controlnet_shapes(controlnet.ControlNetConfig())
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 361_279_120
