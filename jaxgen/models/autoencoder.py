"""Encoders and decoders for autoencoders: images to the parameters of a code, and codes to the parameters of pixels.

Both kinds, fully connected and convolutional, are called alike:

    encoder  (b, h, w, c) -> (b, code_dim): a code, or what describes its distribution, such as mean and log-variance
    decoder  (b, d) -> (b, h, w, c'): a code to pixels, or to what describes their distribution

and both take an optional ``context`` (b, e), such as a class as a one-hot vector, which joins what comes in.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import MLP, Conv3x3, GroupNorm, smallest_size, zeros


class MLPEncoder(nn.Module):
    """Image -> code: (b, h, w, c) -> (b, code_dim).

    Burda et al. 2016, arXiv:1509.00519, have hidden sizes (200, 200) and tanh. The first layer sees pixels from 0 to 1: where most are
    black, as in handwriting, learning is much quicker when black is 0.
    """

    code_dim: int
    hidden: Sequence[int] = (200, 200)
    activation: Callable = nn.silu

    @nn.compact
    def __call__(self, x, context=None):
        pixels = (x.reshape(len(x), -1) + 1) / 2
        h = MLP(self.hidden, self.activation, name="hidden")(_with(pixels, context))
        return nn.Dense(self.code_dim, name="code")(h)


class MLPDecoder(nn.Module):
    """Code -> pixels: (b, d) -> (b, *shape). The hidden sizes are in the decoder's order."""

    shape: Sequence[int]
    hidden: Sequence[int] = (200, 200)
    activation: Callable = nn.silu

    @nn.compact
    def __call__(self, z, context=None):
        h = MLP(self.hidden, self.activation, name="hidden")(_with(z, context))
        return nn.Dense(math.prod(self.shape), name="pixels")(h).reshape(len(z), *self.shape)


class ResidualPair(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second convolution zero at first: (b, h, w, c) -> (b, h, w, c)."""

    groups: int

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        h = Conv3x3(c, name="conv1")(GroupNorm(self.groups, silu=True, name="norm1")(x))
        return x + Conv3x3(c, kernel_init=zeros, name="conv2")(GroupNorm(self.groups, silu=True, name="norm2")(h))


class ConvEncoder(nn.Module):
    """Image -> code, by convolutions: (b, h, w, c) -> (b, code_dim).

    Level i has width * multipliers[i] channels and half the resolution of the level before, and ``blocks`` residual pairs. A last
    dense layer sees the whole of the smallest map.

    Raises:
        ValueError: if the height or width is not a multiple of 2**(levels - 1).
    """

    code_dim: int
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 1
    groups: int = 8

    @nn.compact
    def __call__(self, x, context=None):
        smallest_size(x.shape[1:3], len(self.multipliers))
        if context is not None:
            maps = jnp.broadcast_to(context[:, None, None, :], (*x.shape[:3], context.shape[-1]))
            x = jnp.concatenate([x, maps], axis=-1)
        h = x
        for level, multiplier in enumerate(self.multipliers):
            stride = 1 if level == 0 else 2
            h = Conv3x3(self.width * multiplier, stride=stride, name=f"level{level}")(h)
            for i in range(self.blocks):
                h = ResidualPair(self.groups, name=f"block{level}_{i}")(h)
        h = GroupNorm(self.groups, silu=True, name="norm_out")(h)
        return nn.Dense(self.code_dim, name="code")(h.reshape(len(h), -1))


class ConvDecoder(nn.Module):
    """Code -> pixels, by convolutions: (b, d) -> (b, *shape). The `ConvEncoder` backwards.

    Raises:
        ValueError: if the height or width of ``shape`` is not a multiple of 2**(levels - 1).
    """

    shape: Sequence[int]
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 1
    groups: int = 8

    @nn.compact
    def __call__(self, z, context=None):
        height, width = smallest_size(self.shape[:2], len(self.multipliers))
        channels = [self.width * multiplier for multiplier in self.multipliers]
        h = nn.Dense(height * width * channels[-1], name="code")(_with(z, context))
        h = h.reshape(len(z), height, width, channels[-1])
        for level in reversed(range(len(channels))):
            for i in range(self.blocks):
                h = ResidualPair(self.groups, name=f"block{level}_{i}")(h)
            if level > 0:
                h = Conv3x3(channels[level - 1], upsample=True, name=f"level{level}")(h)
        h = GroupNorm(self.groups, silu=True, name="norm_out")(h)
        return Conv3x3(self.shape[-1], name="pixels")(h)


def _with(x, context):
    return x if context is None else jnp.concatenate([x, context], axis=-1)
