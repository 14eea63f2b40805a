"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752): images from text: python -m train.latent_diffusion --dataset mnist

An autoencoder makes small images of images (`train.first_stage`), once and for all; these are diffused, by a U-Net that looks at a
caption through cross-attention. Captions come from labels or from files (`train.common.captions`). The text encoder is trained
along; or it is CLIP's of a checkpoint of Stable Diffusion, and frozen. With ``--weights`` the whole is such a checkpoint, and training goes
on with it (`train.finetuning`).
"""

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from train import ddpm, diffusing, finetuning, first_stage, reading
from train.ae import Optimizer
from train.common.config import Job
from train.common.errors import UserError, check_levels, check_ranges
from train.denoising import Drawing
from train.diffusing import Chain
from train.finetuning import Checkpoint
from train.first_stage import FirstStage
from train.reading import Text


@dataclass(frozen=True)
class Network:
    """The U-Net with cross-attention."""

    width: int = 128
    """Channels at the latent image's resolution."""
    multipliers: tuple[int, ...] = (1, 2, 3)
    """Channels at each resolution, as multiples of the width; each level has half the resolution of the one before."""
    blocks: int = 2
    """Residual blocks per level, each with a transformer after it."""
    head_dim: int = 32
    """Channels per attention head."""
    groups: int = 32
    """Groups of the group normalisation."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of convolutions and products; parameters are float32 always."""


@dataclass(frozen=True)
class Config:
    """A text-to-image model and how to train it."""

    job: Job = field(default_factory=Job)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    first_stage: FirstStage = field(default_factory=FirstStage)
    text: Text = field(default_factory=Text)
    network: Network = field(default_factory=Network)
    chain: Chain = field(default_factory=Chain)
    optimizer: Optimizer = ddpm.ADAM
    pieces: int = 1
    """Pieces in which a device takes its rows one after the other, adding up gradients, to save memory."""
    caption_dropout: float = 0.1
    """Probability of hiding a caption in training, so that the model also knows images without one, as guidance needs."""
    drawing: Drawing = field(default_factory=Drawing)


LARGE = Config(
    job=Job(steps=200_000, batch_size=128, checkpoint_every=2000, sample_every=5000),
    first_stage=FirstStage(autoencoder_steps=50_000, autoencoder_width=64),
    text=Text(text_width=256, text_layers=4, text_heads=8, vocabulary=8192),
    optimizer=replace(ddpm.ADAM, warmup_steps=1000),
    drawing=Drawing("dpm_solver", sample_steps=30, guidance=4.0),
)
"""For data sets without a preset of their own, on a GPU or TPU."""

MNIST = replace(
    LARGE,
    job=Job(dataset="mnist", image_size=32, steps=3000, batch_size=64, checkpoint_every=500, sample_every=1000),
    first_stage=FirstStage(autoencoder_steps=1000, pixel_variance=0.03),
    text=Text(),
    network=Network(width=48, multipliers=(1, 2), blocks=1, head_dim=24, groups=8),
    optimizer=replace(ddpm.ADAM, learning_rate=1e-3, warmup_steps=200, decay_steps=3000, ema_decay=0.999),
)
"""Half an hour on two CPU cores, the first stage included."""

DIGITS = replace(
    MNIST,
    job=Job(dataset="digits", steps=2000, batch_size=64, checkpoint_every=500, sample_every=500),
    first_stage=FirstStage(autoencoder_steps=1000, autoencoder_multipliers=(1, 2), pixel_variance=0.03),
    network=Network(width=32, multipliers=(1, 2), blocks=1, head_dim=16, groups=8),
    optimizer=replace(MNIST.optimizer, decay_steps=2000, ema_decay=0.995),
)
"""A few minutes on two CPU cores."""

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "*": LARGE,
}


def prepare(config: Config, source: Any, begun: dict | None) -> tuple[Any, Any]:
    """The data set with the tokens of each picture's caption, and the `Basis`: the first stage and what reads captions.

    Raises:
        UserError: if the first stage is no run that will do, pictures have no captions, or the checkpoint cannot be read.
    """
    from train import trained
    from train.common import captions
    from train.common.recipe import Basis

    if config.checkpoint.weights is not None:
        made = finetuning.prepare(config.checkpoint.weights, source, begun)
        return furnish(config, source, made.about), made
    said = captions.of(source)
    text = reading.basis(config.text, said.texts, begun and begun["text"])
    stage = trained.basis(config.first_stage.autoencoder, ("vae",), begun and begun["autoencoder"])
    coder = first_stage.coder(stage.about)
    if tuple(stage.about["data"]["shape"]) != source.shape:
        raise UserError(
            f"the images of {source.name} are {source.shape}, and those of the first stage {config.first_stage.autoencoder} "
            f"{tuple(stage.about['data']['shape'])}; give the same --image-size"
        )

    def parameters():
        given = stage.parameters()
        return {"autoencoder": given, "scale": first_stage.scale(coder, given, source), "text": text.parameters()}

    about = {"autoencoder": stage.about, "text": text.about}
    return _furnished(source, said, about), Basis(about, parameters)


def furnish(config: Config, source: Any, basis: dict) -> Any:
    """The data set with the tokens of each picture's caption.

    Raises:
        UserError: if pictures have no captions.
    """
    from train.common import captions

    return _furnished(source, captions.of(source), basis)


def _furnished(source, said, basis):
    """`furnish` by captions that have been read."""
    from train.common import sources

    ids = reading.ids(basis["text"], said.texts)
    return sources.with_column(source, "tokens", lambda *row: ids[said.number(*row)], sources.digest(ids))


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int, basis: dict):
    """A latent diffusion model of images (h, w, c) given their captions. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    built = model(config, image_shape, num_classes, basis)
    config = finetuning.configured(config, basis) if "unet" in basis else config
    return diffusing.build(config, built)._replace(draws_of_data=True)


def model(config: Config, image_shape: tuple[int, int, int], num_classes: int, basis: dict) -> diffusing.Model:
    """What `recipe` diffuses.

    Raises:
        UserError: if a number is out of range.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import gaussian
    from train import trained
    from train.common import images

    check_ranges(("caption-dropout", config.caption_dropout, 0.0, 1.0))
    nothing = reading.ids(basis["text"], [""])

    def tokens(batch, keys):
        if keys is None:
            return batch["tokens"]
        hidden = jax.vmap(lambda k: jax.random.bernoulli(k, config.caption_dropout))(keys)
        return jnp.where(hidden[:, None], nothing, batch["tokens"])

    def no_tokens(ids):
        return jnp.broadcast_to(nothing, ids.shape)

    if "unet" in basis:
        return finetuning.model(config.checkpoint.lora_rank, basis, image_shape, tokens, no_tokens)
    if config.checkpoint.lora_rank:
        raise UserError("--lora-rank is for going on with a checkpoint: give it with --weights")
    coder, text = first_stage.coder(basis["autoencoder"]), reading.encoder(config.text, basis["text"])
    net = unet(config.network, config.chain, coder.shape[-1], text.config.width)

    def init(key, given=None):
        unet_key, text_key, given_key = jax.random.split(key, 3)
        context = jnp.zeros((1, text.config.positions, text.config.width))
        x, t = jnp.zeros((1, *coder.shape)), jnp.zeros(1, jnp.int32)
        params = {"unet": net.init(unet_key, x, t, context)["params"]}
        if given is None:
            vae = trained.recipe(Path(), basis["autoencoder"])
            given = {"autoencoder": vae.init(given_key).params, "scale": jnp.ones(()), "text": None}
        kept = {"autoencoder": given["autoencoder"], "scale": given["scale"]}
        encoder = given["text"] or text.init(text_key, nothing)["params"]
        if basis["text"]["frozen"]:
            return params, {**kept, "text": encoder}
        return {**params, "text": encoder}, kept

    def apply(weights, zt, t, context, _):
        return net.apply({"params": weights["unet"]}, zt, t, context)

    def z0(weights, batch, keys):
        """A draw from q(z | x), or without keys its mean, at the scale of the chain."""
        mean, logvar = coder.encode(weights["autoencoder"], images.to_unit_range(batch["image"]))
        z = mean if keys is None else jax.vmap(gaussian.reparameterize)(keys, mean, logvar)
        return weights["scale"] * z

    def context(weights, ids):
        return text.apply({"params": weights["text"]}, ids)

    def image(weights, z, told):
        return coder.decode(weights["autoencoder"], z / weights["scale"])

    untold = no_tokens if config.caption_dropout else None
    return diffusing.Model(coder.shape, init, apply, z0, tokens, untold, context, image, of_pixels=False)


def unet(network: Network, chain: Chain, channels: int, context_dim: int) -> Any:
    """The U-Net for latent images of so many channels, told contexts of so many.

    Raises:
        UserError: if a number is out of range.
    """
    import jax.numpy as jnp

    from jaxgen.models.stable_diffusion.trunk import TrunkConfig
    from jaxgen.models.stable_diffusion.unet import UNet, UNetConfig

    levels, features = len(network.multipliers), [network.width * m for m in network.multipliers]
    check_levels(network)
    check_ranges(
        ("blocks", network.blocks, 1, math.inf),
        ("head-dim", network.head_dim, 1, math.inf),
        ("groups", network.groups, 1, math.inf),
    )
    if uneven := [c for c in features if c % network.head_dim or c % network.groups]:
        raise UserError(
            f"levels of {uneven[0]} channels do not divide into heads of {network.head_dim} or {network.groups} groups; "
            "change --width, --multipliers, --head-dim or --groups"
        )
    trunk = TrunkConfig(
        in_channels=channels,
        channels=tuple(features),
        residual_blocks=(network.blocks,) * levels,
        transformers=(1,) * levels,
        heads=tuple(c // network.head_dim for c in features),
        only_cross_attention=(False,) * levels,
        linear_projection=True,
        context_dim=context_dim,
        groups=network.groups,
    )
    out_channels = 2 * channels if chain.learn_variance else channels
    return UNet(UNetConfig(trunk, out_channels, (1,) * levels), jnp.dtype(network.dtype))


def train(config: Config) -> int:
    """Train the first stage if there is none yet, and then on it; returns the process's exit status. What can be known to be wrong with
    the second is refused before the first.
    """
    from train import vae
    from train.common import captions, command
    from train.common.config import describe
    from train.common.recipe import Basis

    folder = command.run_folder("latent_diffusion", config.job)
    begun = command.begun("latent_diffusion", folder)
    if begun and ("unet" in begun["basis"]) != (config.checkpoint.weights is not None):
        remedy = "leave --weights out" if config.checkpoint.weights else "give it again with --weights"
        raise UserError(
            f"{folder} {'did not begin' if config.checkpoint.weights else 'began'} on a checkpoint: {remedy}, or take another --run"
        )

    def rehearse(first, source, _):
        if not begun:
            text = reading.basis(config.text, captions.of(source).texts, None).about
            about = {"autoencoder": describe("vae", first, source.describe(), None), "text": text}
            recipe(config, source.shape, source.num_classes, about)
        return source, Basis(None)

    if config.checkpoint.weights is None and config.first_stage.autoencoder is None:
        first = first_stage.config(config.first_stage, config.job, folder)
        config = replace(config, first_stage=replace(config.first_stage, autoencoder=Path(first.job.run)))
        status = command.main("vae", first, vae.recipe, prepare=rehearse)
        if status:
            return status
    return command.main("latent_diffusion", config, recipe, prepare=prepare)


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.reporting_errors(lambda: train(command.parse(Config, PRESETS, __doc__))))
