"""The U-Net of denoising diffusion (Ho et al. 2020, arXiv 2006.11239, appendix B)."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import (
    Conv3x3,
    GroupNorm,
    ResidualBlock,
    SelfAttention,
    fold_in,
    glorot,
    smallest_size,
    timestep_embedding,
    zeros,
)


class UNet(nn.Module):
    """eps_theta(x_t, t), or with labels eps_theta(x_t, t, y), float32, one value per pixel and channel: (b, h, w, c), (b,) -> (b, h, w,
    out_channels).

    The defaults are the paper's CIFAR-10 network (35.7 million parameters) but for its dropout of 0.1. As in the official code, the last
    convolution, the second one of each residual block and the output of each attention start at zero; here at zero itself, so a fresh
    network predicts eps = 0 and the mean squared error per dimension starts at E[eps^2] = 1.

    Call ``unet.apply({"params": params}, x, t, keys, labels)``. ``keys``, (b,) typed keys, one for each example, switch dropout on; each
    residual block folds its own number into them, and a mask depends on nothing but its example's key and that number.
    ``residuals`` are what a `controlnet.ControlNet` says to add to the skip connections, the first layer's first, and to the middle.

    A network with classes takes ``labels``, (b,) in {0, ..., num_classes}; the last of them, num_classes, is no label. Each adds a vector
    of its own to the embedding of the timestep. So does ``level``, (b,), where it is given: how noisy it is what stands beside x_t in the
    further channels of x (Ho et al. 2021, "Cascaded diffusion models", arXiv 2106.15282, section 4).

    Differentiable to any order in reverse mode (``jax.grad``, ``jax.vjp``); its layers write out their gradients, so ``jax.jvp`` refuses.

    Raises:
        ValueError: if the height or width is not a multiple of patch 2**(levels - 1), or ``groups`` or ``head_dim`` do not divide the
            channels.
    """

    out_channels: int = 3
    """Channels of the prediction."""
    width: int = 128
    """Channels at the finest resolution; the timestep embedding has 4 times as many."""
    multipliers: Sequence[int] = (1, 2, 2, 2)
    """Channels over ``width`` at each level; each level has half the resolution of the one before."""
    blocks: int = 2
    """Residual blocks per level on the way down; on the way up there is one more."""
    attention: Sequence[int] = (16,)
    """Heights, in squares, at which self-attention follows each residual block; the middle has it always."""
    head_dim: int | None = None
    """Channels per attention head; None is the paper's single head."""
    dropout: float = 0.0
    """Probability to drop an activation between the convolutions of a residual block."""
    groups: int = 32
    """Groups of each normalisation."""
    patch: int = 1
    """Side of the squares of pixels that become the channels of one: 2 makes every layer four times cheaper, for finer images than
    the width is meant for (Hoogeboom et al. 2023, "simple diffusion", arXiv 2301.11093, section 3.2)."""
    num_classes: int = 0
    """Classes that it knows by their labels; 0 for none."""
    dtype: Any = jnp.float32
    """Precision of convolutions and matrix products; parameters and the output are float32."""

    @nn.compact
    def __call__(self, x, t, keys=None, labels=None, residuals=None, level=None):
        h, skips, stage = trunk(self, x, t, keys, labels, level=level)
        if residuals is not None:
            to_skips, to_middle = residuals
            skips = [skip + y.astype(skip.dtype) for skip, y in zip(skips, to_skips, strict=True)]
            h += to_middle.astype(h.dtype)

        dtype, p = self.dtype, self.patch
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = self.width * multiplier
            for i in range(self.blocks + 1):
                h = stage(jnp.concatenate([h, skips.pop()], axis=-1), features, f"up{level}_{i}")
            if level > 0:
                h = Conv3x3(features, upsample=True, dtype=dtype, name=f"upsample{level}")(h)

        h = GroupNorm(self.groups, silu=True, dtype=dtype, name="norm_out")(h)
        h = Conv3x3(p * p * self.out_channels, kernel_init=zeros, dtype=dtype, name="conv_out")(h).astype(jnp.float32)
        b, height, width, _ = h.shape
        return h.reshape(b, height, width, p, p, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, p * height, p * width, -1)


def trunk(net, x, t, keys=None, labels=None, hint=None, level=None):
    """The way down and the middle of this `UNet`, which its control branch has too. To be called inside a module, whose submodules it
    makes.

    Args:
        hint: (b, h / patch, w / patch, width), to be added to the first layer's output.

    Returns:
        The middle's output; those of the layers before it, the first layer's first; and the function h, features, name -> h of
        a residual block and, at the heights that have it, self-attention, which numbers the blocks for their dropout.
    """
    smallest_size(x.shape[1:3], len(net.multipliers), net.patch)
    dtype, groups = net.dtype, net.groups
    channels = [net.width * multiplier for multiplier in net.multipliers]
    numbers = itertools.count()

    embedding = timestep_embedding(t, net.width)
    embedding = nn.Dense(4 * net.width, dtype=dtype, kernel_init=glorot, name="time1")(embedding)
    embedding = nn.Dense(4 * net.width, dtype=dtype, kernel_init=glorot, name="time2")(nn.silu(embedding))
    if net.num_classes:
        embedding += nn.Embed(net.num_classes + 1, 4 * net.width, dtype=dtype, name="label")(labels)
    if level is not None:
        code = timestep_embedding(level, net.width)
        embedding += nn.Dense(4 * net.width, dtype=dtype, kernel_init=glorot, name="level")(code)

    def residual(h, features, name):
        block = ResidualBlock(features, net.dropout, groups, dtype, name=name)
        return block(h, embedding, fold_in(keys, next(numbers)))

    def attend(h, name):
        return SelfAttention(net.head_dim, groups, dtype, name=name)(h)

    def stage(h, features, name):
        h = residual(h, features, name)
        return attend(h, f"{name}_attention") if h.shape[1] in net.attention else h

    h = Conv3x3(net.width, dtype=dtype, name="conv_in")(squares(x, net.patch))
    if hint is not None:
        h += hint
    skips = [h]
    for level, features in enumerate(channels):
        for i in range(net.blocks):
            h = stage(h, features, f"down{level}_{i}")
            skips.append(h)
        if level < len(channels) - 1:
            h = Conv3x3(features, stride=2, dtype=dtype, name=f"downsample{level}")(h)
            skips.append(h)

    h = residual(h, channels[-1], "middle_0")
    h = attend(h, "middle_attention")
    h = residual(h, channels[-1], "middle_1")
    return h, skips, stage


def squares(x, side):
    """Each square of ``side`` x ``side`` pixels as one pixel of more channels: (b, h, w, c) -> (b, h / side, w / side, side side c)."""
    b, h, w, _ = x.shape
    x = x.reshape(b, h // side, side, w // side, side, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // side, w // side, -1)
