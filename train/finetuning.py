"""Going on with a checkpoint of Stable Diffusion: its U-Net, or low-rank changes of its attention, trained on pictures with captions; its
autoencoder and text encoder stay as they are.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from train import denoising, diffusing
from train.common.config import dataclass_from, free
from train.common.errors import UserError, check_ranges
from train.diffusing import Chain


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of Stable Diffusion to go on with."""

    weights: Path | None = free(None)
    """A folder in diffusers' layout. Its networks, its text encoder and its chain take the place of those described by --autoencoder...,
    --text..., --width and so on, and --num-timesteps and so on."""
    lora_rank: int = 0
    """With --weights: train low-rank changes of this rank of the U-Net's attention, in place of the U-Net."""


def prepare(weights: Path, source: Any, begun: dict | None) -> Any:
    """The `Basis` that the checkpoint in this folder is, or of the run that has begun on one.

    Raises:
        UserError: if the folder holds none that can be trained so, or not on these pictures, or not that of the run that has begun.
    """
    from train import pretrained
    from train.common.recipe import Basis

    if begun is not None:
        pretrained.check_unchanged(weights, begun.get("sha256"))
        return Basis(begun)

    import jax.numpy as jnp

    from train.common import diffusers_folder

    checkpoint = pretrained.read(weights, jnp.float32)
    unet, autoencoder = checkpoint.unet.config, checkpoint.autoencoder.config
    if unet.trunk.in_channels != autoencoder.latent_channels or unet.trunk.classes is not None:
        raise UserError(
            f"the U-Net in {weights} looks at more than a latent image and a text; go on with one that does not"
        )
    h, w, c = source.shape
    multiple = autoencoder.factor * 2 ** (len(unet.trunk.channels) - 1)
    if c != autoencoder.in_channels or h % multiple or w % multiple:
        raise UserError(
            f"{weights} is for pictures of {autoencoder.in_channels} channels whose sides are multiples of {multiple}; "
            f"those of {source.name} are {h}x{w}x{c}. Choose another --image-size"
        )
    about = {
        "unet": asdict(unet),
        "autoencoder": asdict(autoencoder),
        "text": {"tokenizer": checkpoint.tokenizer.describe(), "frozen": asdict(checkpoint.text.config)},
        "chain": asdict(_chain(checkpoint.chain, weights)),
        "unet_options": diffusers_folder.read_config(weights / "unet"),
        "sha256": pretrained.digest(weights),
    }

    def parameters():
        return {part: pretrained.read_params(weights, checkpoint, part) for part in ("unet", "autoencoder", "text")}

    return Basis(about, parameters)


def _chain(chain, weights):
    """The checkpoint's, in our words."""
    import numpy as np

    T = chain.schedule.num_steps
    for name in ("scaled_linear", "linear", "cosine"):
        for zero in (False, True):
            ours = denoising.schedule(name, T, zero_terminal_snr=zero)
            if np.allclose(ours.betas, chain.schedule.betas, rtol=1e-4):
                return Chain(T, name, zero, chain.predicts)
    raise UserError(
        f"{weights} was trained with noise of a kind of its own; only linear, scaled_linear and cosine can be gone on with"
    )


def configured(config: Any, basis: dict) -> Any:
    """The configuration with the checkpoint's chain, and what of the chain is chosen."""
    chosen = {"min_snr": config.chain.min_snr, "timesteps": config.chain.timesteps}
    return replace(config, chain=replace(dataclass_from(Chain, basis["chain"]), **chosen))


def model(rank: int, basis: dict, image_shape: tuple[int, int, int], tokens: Any, no_tokens: Any) -> diffusing.Model:
    """What is diffused: the checkpoint's latent images of images (h, w, c).

    Args:
        tokens: batch, keys or None -> ids (b, n), hidden at random if there are keys.
        no_tokens: ids -> those of hidden captions.

    Raises:
        UserError: if the rank is negative.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import gaussian
    from jaxgen.models.stable_diffusion import lora
    from jaxgen.models.stable_diffusion.autoencoder import Autoencoder, AutoencoderConfig
    from jaxgen.models.stable_diffusion.text import TextConfig, TextEncoder
    from jaxgen.models.stable_diffusion.unet import UNet, UNetConfig, unet_shapes
    from train import pipelines
    from train.common import images

    check_ranges(("lora-rank", rank, 0, math.inf))
    unet = UNet(dataclass_from(UNetConfig, basis["unet"]))
    autoencoder = Autoencoder(dataclass_from(AutoencoderConfig, basis["autoencoder"]))
    text = TextEncoder(dataclass_from(TextConfig, basis["text"]["frozen"]))
    scale, factor = autoencoder.config.scale, autoencoder.config.factor
    shape = (image_shape[0] // factor, image_shape[1] // factor, autoencoder.config.latent_channels)

    def made_up(key):
        unet_key, autoencoder_key, text_key = jax.random.split(key, 3)
        ids = jnp.zeros((1, text.config.positions), jnp.int32)
        context = jnp.zeros((1, 1, text.config.width))
        return {
            "unet": unet.init(unet_key, jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32), context)["params"],
            "autoencoder": autoencoder.init(autoencoder_key, jnp.zeros((1, *image_shape)))["params"],
            "text": text.init(text_key, ids)["params"],
        }

    def init(key, given=None):
        lora_key, given_key = jax.random.split(key)
        given = made_up(given_key) if given is None else given
        if rank:
            return {"lora": lora.fresh(lora_key, unet_shapes(unet.config), rank)}, given
        return {"unet": given["unet"]}, {name: given[name] for name in ("autoencoder", "text")}

    def apply(weights, zt, t, context, _):
        params = lora.merged(weights["unet"], lora.changes(weights["lora"])) if rank else weights["unet"]
        return unet.apply({"params": params}, zt, t, context)

    def z0(weights, batch, keys):
        x = images.to_unit_range(batch["image"])
        mean, logvar = autoencoder.apply({"params": weights["autoencoder"]}, x, method="encode")
        return scale * (mean if keys is None else jax.vmap(gaussian.reparameterize)(keys, mean, logvar))

    def context(weights, ids):
        return text.apply({"params": weights["text"]}, ids)

    def image(weights, z, told):
        return pipelines.decode(autoencoder, weights["autoencoder"], z)

    return diffusing.Model(shape, init, apply, z0, tokens, no_tokens, context, image, of_pixels=False)
