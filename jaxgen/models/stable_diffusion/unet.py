"""The U-Net of Stable Diffusion: a noisy latent image, its timestep and a context to the predicted noise or velocity."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import Conv3x3, GroupNorm, zeros
from jaxgen.models.stable_diffusion import options as config_options
from jaxgen.models.stable_diffusion.layers import upsample
from jaxgen.models.stable_diffusion.trunk import ONLY, UNDERSTOOD, TrunkConfig, attending, stage, trunk, trunk_config


@dataclass(frozen=True)
class UNetConfig:
    """The defaults are those of Stable Diffusion 1.x."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    out_channels: int = 4
    up_transformers: tuple[int, ...] = (0, 1, 1, 1)
    """Transformer blocks after each residual block on the way up, the coarsest level first."""


def unet_config(options: config_options.Options) -> UNetConfig:
    """The configuration in a ``unet/config.json``.

    Raises:
        ValueError: for an option that is not supported.
    """
    model = "U-Net"
    only = ONLY | {
        "attention_type": ("default",),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "resnet_out_scale_factor": (1.0,),
        "time_embedding_type": ("positional",),
    }
    config_options.check(model, options, UNDERSTOOD | {"out_channels", "up_block_types"}, only)
    trunk = trunk_config(model, options)
    levels = len(trunk.channels)
    transformers = config_options.per_level(model, options, "transformer_layers_per_block", 1, levels)
    with_attention = attending(
        model, options, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", levels, default=(False, True, True, True)
    )
    return UNetConfig(
        trunk=trunk,
        out_channels=options.get("out_channels", 4),
        up_transformers=tuple(
            n if attends else 0 for n, attends in zip(transformers[::-1], with_attention, strict=True)
        ),
    )


class UNet(nn.Module):
    """The network's prediction at each pixel, float32, of whatever kind it was trained to predict:
    (b, h, w, in_channels), (b,), (b, keys, context_dim) -> (b, h, w, out_channels).

    ``labels``, int32 (b,), where the configuration has classes. ``residuals``, from one or several ControlNets, are what is added to
    the skip connections, first layer first, and to the middle: ([(b, h', w', c') ...], (b, h'', w'', c'')). Any height and width will do;
    each level has half of them, rounded up. As in the official code, the last convolution, the second one of each residual block and
    the end of each transformer start at zero, and so does what a fresh network predicts.

    Raises:
        ValueError: for another number of channels, or labels without classes or the other way round.
    """

    config: UNetConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, t, context, labels=None, residuals=None):
        config, dtype = self.config.trunk, self.dtype
        h, skips, embedding = trunk(config, dtype, x, t, context, labels)
        if residuals is not None:
            to_skips, to_middle = residuals
            skips = [skip + y.astype(dtype) for skip, y in zip(skips, to_skips, strict=True)]
            h = h + to_middle.astype(dtype)

        for number, transformers in enumerate(self.config.up_transformers):
            level = len(config.channels) - 1 - number
            block = f"up_blocks.{number}"
            for i in range(config.residual_blocks[level] + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = stage(config, dtype, h, embedding, context, block, i, level, transformers)
            if level > 0:
                h = upsample(h, skips[-1].shape[1:3], dtype, f"{block}.upsamplers.0.conv")
        norm = GroupNorm(config.groups, silu=True, epsilon=config.epsilon, dtype=dtype, name="conv_norm_out")
        conv_out = Conv3x3(self.config.out_channels, kernel_init=zeros, dtype=dtype, name="conv_out")
        return conv_out(norm(h)).astype(jnp.float32)


def unet_shapes(config: UNetConfig):
    """Shape and dtype of each parameter of the `UNet`, without computing any."""
    side = 2 ** (len(config.trunk.channels) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, config.trunk.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = jax.ShapeDtypeStruct((1, 1, config.trunk.context_dim), jnp.float32)
    labels = None if config.trunk.classes is None else t
    return jax.eval_shape(UNet(config).init, jax.random.key(0), x, t, context, labels)["params"]
