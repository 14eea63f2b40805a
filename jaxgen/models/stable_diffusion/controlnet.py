"""ControlNet (Zhang et al. 2023, arXiv 2302.05543): a copy of the U-Net's trunk that looks at an image, such as edges, and says
what to add to the U-Net's skip connections and middle."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import Conv3x3, zeros
from jaxgen.models.stable_diffusion import options as config_options
from jaxgen.models.stable_diffusion.layers import Conv1x1, Downsample
from jaxgen.models.stable_diffusion.trunk import ONLY, UNDERSTOOD, TrunkConfig, trunk, trunk_config


@dataclass(frozen=True)
class ControlNetConfig:
    """The defaults are those of the ControlNets for Stable Diffusion 1.5."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    image_channels: int = 3
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    """Channels of the network that brings the image to the size of the latent image, halving it after each but the last."""
    blue_first: bool = False
    """The checkpoint wants the image's channels the other way round."""
    pooled: bool = False
    """What is added is the mean over all pixels."""


def controlnet_config(options: config_options.Options) -> ControlNetConfig:
    """The configuration in a ``controlnet/config.json``.

    Raises:
        ValueError: for an option that is not supported.
    """
    model = "ControlNet"
    understood = UNDERSTOOD | {"conditioning_channels", "conditioning_embedding_out_channels", "global_pool_conditions"}
    config_options.check(model, options, understood, ONLY | {"controlnet_conditioning_channel_order": ("rgb", "bgr")})
    return ControlNetConfig(
        trunk=trunk_config(model, options),
        image_channels=options.get("conditioning_channels", 3),
        hint_channels=tuple(options.get("conditioning_embedding_out_channels", (16, 32, 96, 256))),
        blue_first=options.get("controlnet_conditioning_channel_order", "rgb") == "bgr",
        pooled=options.get("global_pool_conditions", False),
    )


class ControlNet(nn.Module):
    """What to add to the U-Net, as its ``residuals``, float32: (b, h, w, in_channels), (b,), (b, keys, context_dim) and the image
    (b, 8 h, 8 w, image_channels) in [0, 1] -> ([(b, h', w', c') ...], (b, h'', w'', c'')).

    ``scale`` is a factor for all that is added, or an array of one for each array of it, the middle's last. What several ControlNets
    say is summed. A fresh one says zero: its last layers start there.

    Raises:
        ValueError: for an image of another size, another number of channels, or labels without classes or the other way round.
    """

    config: ControlNetConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, t, context, image, labels=None, scale=1.0):
        config, dtype = self.config, self.dtype
        times = 2 ** (len(config.hint_channels) - 1)
        expected = (times * x.shape[1], times * x.shape[2], config.image_channels)
        if image.shape[1:] != expected:
            raise ValueError(
                f"for these latent images the ControlNet's image must be {expected}; got {image.shape[1:]}"
            )
        hint = self.hint(image[..., ::-1] if config.blue_first else image)
        h, skips, _ = trunk(config.trunk, dtype, x, t, context, labels, hint)

        def last(y, name):
            y = Conv1x1(y.shape[-1], zeros, dtype, name=name)(y).astype(jnp.float32)
            return y.mean((1, 2), keepdims=True) if config.pooled else y

        outputs = [last(skip, f"controlnet_down_blocks.{i}") for i, skip in enumerate(skips)]
        outputs.append(last(h, "controlnet_mid_block"))
        *to_skips, to_middle = (y * s for y, s in zip(outputs, jnp.broadcast_to(scale, len(outputs)), strict=True))
        return to_skips, to_middle

    def hint(self, image):
        """(b, times h, times w, image_channels) -> (b, h, w, channels[0])."""
        root, channels = "controlnet_cond_embedding", self.config.hint_channels
        y = nn.silu(Conv3x3(channels[0], dtype=self.dtype, name=f"{root}.conv_in")(image))
        for i, (features, wider) in enumerate(itertools.pairwise(channels)):
            y = nn.silu(Conv3x3(features, dtype=self.dtype, name=f"{root}.blocks.{2 * i}")(y))
            y = nn.silu(Downsample(wider, self.dtype, name=f"{root}.blocks.{2 * i + 1}")(y))
        conv_out = Conv3x3(self.config.trunk.channels[0], kernel_init=zeros, dtype=self.dtype, name=f"{root}.conv_out")
        return conv_out(y)


def controlnet_shapes(config: ControlNetConfig):
    """Shape and dtype of each parameter of the `ControlNet`, without computing any."""
    side, trunk = 2 ** (len(config.trunk.channels) - 1), config.trunk
    pixels = side * 2 ** (len(config.hint_channels) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, trunk.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = jax.ShapeDtypeStruct((1, 1, trunk.context_dim), jnp.float32)
    image = jax.ShapeDtypeStruct((1, pixels, pixels, config.image_channels), jnp.float32)
    labels = None if trunk.classes is None else t
    return jax.eval_shape(ControlNet(config).init, jax.random.key(0), x, t, context, image, labels)["params"]
