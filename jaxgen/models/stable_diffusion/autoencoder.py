"""The autoencoder of Stable Diffusion: images to the mean and log-variance of latent images, and latent images to images.

Rombach et al. 2022 (arXiv 2112.10752) section 3.1 and appendix G, after Esser et al. 2021 (arXiv 2012.09841).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import Conv3x3, GroupNorm, smallest_size
from jaxgen.models.stable_diffusion import options as config_options
from jaxgen.models.stable_diffusion.layers import Conv1x1, ResidualBlock
from jaxgen.models.stable_diffusion.transformer import Attention

EPSILON = 1e-6
"""Of every normalisation here."""

UNDERSTOOD = frozenset(
    {
        "block_out_channels",
        "in_channels",
        "latent_channels",
        "layers_per_block",
        "mid_block_add_attention",
        "norm_num_groups",
        "out_channels",
        "scaling_factor",
        "use_post_quant_conv",
        "use_quant_conv",
        # Nothing depends on these: the size is the input's, and the caller chooses the precision.
        "force_upcast",
        "sample_size",
    }
)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The defaults are those of Stable Diffusion 1.x. The x4 upscaler has three levels instead of four."""

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """At each level, the finest first; each level has half the resolution of the one before."""
    residual_blocks: int = 2
    """Per level on the way down; on the way up there is one more."""
    latent_channels: int = 4
    groups: int = 32
    scale: float = 0.18215
    """What the U-Net sees is a latent image times this."""
    middle_attention: bool = True
    quant_conv: bool = True
    """A 1x1 convolution after the encoder."""
    post_quant_conv: bool = True
    """A 1x1 convolution before the decoder."""

    @property
    def factor(self) -> int:
        """Height and width of an image over those of its latent image."""
        return 2 ** (len(self.channels) - 1)


def autoencoder_config(options: config_options.Options) -> AutoencoderConfig:
    """The configuration in a ``vae/config.json``.

    Raises:
        ValueError: for an option that is not supported, or groups that do not divide the channels.
    """
    model = "autoencoder"
    channels = tuple(options.get("block_out_channels", (64,)))
    config_options.check(
        model,
        options,
        UNDERSTOOD,
        only={
            "act_fn": ("silu", "swish"),
            "down_block_types": (["DownEncoderBlock2D"] * len(channels), ("DownEncoderBlock2D",) * len(channels)),
            "up_block_types": (["UpDecoderBlock2D"] * len(channels), ("UpDecoderBlock2D",) * len(channels)),
        },
    )
    config = AutoencoderConfig(
        in_channels=options.get("in_channels", 3),
        out_channels=options.get("out_channels", 3),
        channels=channels,
        residual_blocks=options.get("layers_per_block", 1),
        latent_channels=options.get("latent_channels", 4),
        groups=options.get("norm_num_groups", 32),
        scale=options.get("scaling_factor", 0.18215),
        middle_attention=options.get("mid_block_add_attention", True),
        quant_conv=options.get("use_quant_conv", True),
        post_quant_conv=options.get("use_post_quant_conv", True),
    )
    for c in channels:
        if c % config.groups:
            raise ValueError(f"{model}: norm_num_groups={config.groups} does not divide {c} channels")
    return config


class Autoencoder(nn.Module):
    """Both halves. Call ``autoencoder.apply({"params": params}, x, method="encode")``, or ``method="decode"`` with z."""

    config: AutoencoderConfig
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.encoder = Encoder(config, self.dtype)
        self.decoder = Decoder(config, self.dtype)
        if config.quant_conv:
            self.quant_conv = Conv1x1(2 * config.latent_channels, dtype=self.dtype)
        if config.post_quant_conv:
            self.post_quant_conv = Conv1x1(config.latent_channels, dtype=self.dtype)

    def __call__(self, x):
        """The reconstruction from the mean."""
        return self.decode(self.encode(x)[0])

    def encode(self, x):
        """Images to mean and log-variance of q(z | x), float32, not scaled for the U-Net:
        (b, h, w, in_channels) -> (b, h / factor, w / factor, latent_channels) twice. The log-variance is kept within [-30, 20].

        Raises:
            ValueError: if the height or width is not a multiple of the factor.
        """
        smallest_size(x.shape[1:3], len(self.config.channels))
        h = self.encoder(x)
        if self.config.quant_conv:
            h = self.quant_conv(h)
        mean, logvar = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z):
        """Latent images, not scaled for the U-Net, to images, float32:
        (b, h, w, latent_channels) -> (b, factor h, factor w, out_channels)."""
        if self.config.post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)


class Encoder(nn.Module):
    """(b, h, w, in_channels) -> (b, h / factor, w / factor, 2 latent_channels)."""

    config: AutoencoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x):
        config, dtype = self.config, self.dtype
        h = Conv3x3(config.channels[0], dtype=dtype, name="conv_in")(x)
        for level, features in enumerate(config.channels):
            block = f"down_blocks.{level}"
            for i in range(config.residual_blocks):
                h = ResidualBlock(features, config.groups, EPSILON, dtype, name=f"{block}.resnets.{i}")(h)
            if level < len(config.channels) - 1:
                h = Conv3x3(features, stride=2, dtype=dtype, name=f"{block}.downsamplers.0.conv")(h)
        h = middle(config, dtype, h)
        h = GroupNorm(config.groups, silu=True, epsilon=EPSILON, dtype=dtype, name="conv_norm_out")(h)
        return Conv3x3(2 * config.latent_channels, dtype=dtype, name="conv_out")(h)


class Decoder(nn.Module):
    """(b, h, w, latent_channels) -> (b, factor h, factor w, out_channels)."""

    config: AutoencoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, z):
        config, dtype = self.config, self.dtype
        h = Conv3x3(config.channels[-1], dtype=dtype, name="conv_in")(z)
        h = middle(config, dtype, h)
        for number, features in enumerate(config.channels[::-1]):
            block = f"up_blocks.{number}"
            for i in range(config.residual_blocks + 1):
                h = ResidualBlock(features, config.groups, EPSILON, dtype, name=f"{block}.resnets.{i}")(h)
            if number < len(config.channels) - 1:
                h = Conv3x3(features, upsample=True, dtype=dtype, name=f"{block}.upsamplers.0.conv")(h)
        h = GroupNorm(config.groups, silu=True, epsilon=EPSILON, dtype=dtype, name="conv_norm_out")(h)
        return Conv3x3(config.out_channels, dtype=dtype, name="conv_out")(h)


def middle(config, dtype, h):
    """Residual block, attention among the pixels in one head if the configuration has it, residual block:
    (b, h, w, c) -> (b, h, w, c). To be called inside a module."""
    features = config.channels[-1]
    h = ResidualBlock(features, config.groups, EPSILON, dtype, name="mid_block.resnets.0")(h)
    if config.middle_attention:
        y = GroupNorm(config.groups, epsilon=EPSILON, dtype=dtype, name="mid_block.attentions.0.group_norm")(h)
        y = y.reshape(len(h), -1, features)
        h = h + Attention(1, bias=True, dtype=dtype, name="mid_block.attentions.0")(y, y).reshape(h.shape)
    return ResidualBlock(features, config.groups, EPSILON, dtype, name="mid_block.resnets.1")(h)


def autoencoder_shapes(config: AutoencoderConfig):
    """Shape and dtype of each parameter of the `Autoencoder`, without computing any."""
    x = jax.ShapeDtypeStruct((1, config.factor, config.factor, config.in_channels), jnp.float32)
    return jax.eval_shape(Autoencoder(config).init, jax.random.key(0), x)["params"]
