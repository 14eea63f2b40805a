"""The autoencoder against diffusers, in the configurations of each kind of checkpoint, made small."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.stable_diffusion import autoencoder, weights
from tests.jaxgen.models.stable_diffusion import peers

diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/bench/requirements.txt")


def levels(*channels):
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "norm_num_groups": 4,
    }


KINDS = {
    "version 1": levels(4, 8, 8, 8),
    "upscaler": levels(4, 8, 12) | {"scaling_factor": 0.08333},
    "bare": levels(8, 8)
    | {
        "layers_per_block": 2,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
        "latent_channels": 3,
        "in_channels": 1,
        "out_channels": 2,
    },
}


@functools.cache
def pair(kind):
    """Their model, our configuration and our parameters; the configuration goes the way of a config.json."""
    model = peers.randomised(diffusers.AutoencoderKL(**KINDS[kind]))
    config = autoencoder.autoencoder_config(json.loads(model.to_json_string()))
    return model, config, peers.params(model, autoencoder.autoencoder_shapes(config))


def images(kind):
    return peers.normal(1, 2, 16, 24, KINDS[kind].get("in_channels", 3))


def latents(kind):
    return peers.normal(2, 1, 4, 2, KINDS[kind].get("latent_channels", 4))


def their_decoding(model, z):
    with peers.torch.no_grad():
        return peers.channels_last(model.decode(peers.channels_first(z)).sample)


def run(config, params, x, method):
    return jax.jit(functools.partial(autoencoder.Autoencoder(config).apply, method=method))({"params": params}, x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_of_latent_images_is_that_of_diffusers(kind):
    model, config, params = pair(kind)
    with peers.torch.no_grad():
        theirs = model.encode(peers.channels_first(images(kind))).latent_dist
    for ours, moment in zip(run(config, params, images(kind), "encode"), (theirs.mean, theirs.logvar), strict=True):
        peers.assert_agree(ours, peers.channels_last(moment))


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoding_is_that_of_diffusers(kind):
    model, config, params = pair(kind)
    peers.assert_agree(run(config, params, latents(kind), "decode"), their_decoding(model, latents(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_names_is_invertible(kind):
    model, config, _ = pair(kind)
    peers.assert_map_is_invertible(model, autoencoder.autoencoder_shapes(config))


def test_the_old_names_of_the_attention_give_the_same_parameters():
    model, config, params = pair("version 1")
    old = peers.tensors(model)
    for today, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        old = {name.replace(f".{today}.", f".{before}."): tensor for name, tensor in old.items()}
    assert sum("proj_attn" in name for name in old) == 4
    again = weights.from_tensors(old, autoencoder.autoencoder_shapes(config))
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_it_is_finite_in_bfloat16():
    model, config, params = pair("version 1")
    z = latents("version 1")
    module = autoencoder.Autoencoder(config)
    peers.assert_finite_in_bfloat16(module, params, their_decoding(model, z), z, method="decode")


def test_the_log_variance_is_bounded():
    _, config, params = pair("bare")
    conv_out = jax.tree.map(lambda p: 1e4 * p, params["encoder"]["conv_out"])
    params = params | {"encoder": params["encoder"] | {"conv_out": conv_out}}
    _, logvar = run(config, params, images("bare"), "encode")
    assert (logvar.min(), logvar.max()) == (-30, 20)


def test_images_that_cannot_be_halved_so_often_are_refused():
    _, config, params = pair("version 1")
    with pytest.raises(ValueError, match="16x20 do not fit 4 levels: both must be multiples of 8"):
        autoencoder.Autoencoder(config).apply({"params": params}, jnp.zeros((1, 16, 20, 3)), method="encode")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("act_fn", "gelu"),
        ("down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("latents_mean", [0.0]),
        ("shift_factor", 0.1),
        ("norm_num_groups", 3),
    ],
)
def test_an_option_that_is_not_supported_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"autoencoder: .*{option}="):
        autoencoder.autoencoder_config(KINDS["bare"] | {option: value})


def test_the_defaults_are_stable_diffusion_1_with_83_653_863_parameters():
    sd1 = levels(128, 256, 512, 512) | {"layers_per_block": 2, "norm_num_groups": 32}
    assert autoencoder.autoencoder_config(sd1) == autoencoder.AutoencoderConfig()
    assert autoencoder.AutoencoderConfig().factor == 8
    shapes = autoencoder.autoencoder_shapes(autoencoder.AutoencoderConfig())
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 83_653_863
