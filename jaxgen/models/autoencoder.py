"""Encoders and decoders for autoencoders: images to the parameters of a code, and codes to the parameters of pixels.

All kinds, fully connected, convolutional, and convolutional with a code that is itself a small image, are called alike:

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
        h = _down(_with_maps(x, context), self.width, self.multipliers, self.blocks, self.groups)
        return nn.Dense(self.code_dim, name="code")(h.reshape(len(h), -1))


class MapEncoder(nn.Module):
    """Image -> code that is one or several small images, by convolutions: (b, h, w, c) -> (b, code_dim).

    As the `ConvEncoder`, but a pixel of the smallest map gives ``channels`` numbers of each small image, (h', w', channels), and the
    code has these one after the other: a mean, then a log-variance. The first stage of latent diffusion (Rombach et al. 2022, arXiv
    2112.10752, section 3.1), by whose kind of code any size of image goes.

    Raises:
        ValueError: if the height or width is not a multiple of 2**(levels - 1).
    """

    code_dim: int
    channels: int
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 1
    groups: int = 8

    @nn.compact
    def __call__(self, x, context=None):
        h = _down(_with_maps(x, context), self.width, self.multipliers, self.blocks, self.groups)
        b, height, width, _ = h.shape
        images = self.code_dim // (height * width * self.channels)
        code = nn.Dense(images * self.channels, name="code")(h).reshape(b, height, width, images, self.channels)
        return code.transpose(0, 3, 1, 2, 4).reshape(b, self.code_dim)


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
        channels = self.width * self.multipliers[-1]
        h = nn.Dense(height * width * channels, name="code")(_with(z, context))
        h = h.reshape(len(z), height, width, channels)
        return _up(h, self.shape[-1], self.width, self.multipliers, self.blocks, self.groups)


class MapDecoder(nn.Module):
    """Code that is a small image -> pixels, by convolutions: (b, h' w' channels) -> (b, *shape). The `MapEncoder` backwards.

    Raises:
        ValueError: if the height or width of ``shape`` is not a multiple of 2**(levels - 1).
    """

    shape: Sequence[int]
    channels: int
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 1
    groups: int = 8

    @nn.compact
    def __call__(self, z, context=None):
        height, width = smallest_size(self.shape[:2], len(self.multipliers))
        z = _with_maps(z.reshape(len(z), height, width, self.channels), context)
        h = Conv3x3(self.width * self.multipliers[-1], name="code")(z)
        return _up(h, self.shape[-1], self.width, self.multipliers, self.blocks, self.groups)


def _down(h, width, multipliers, blocks, groups):
    """(b, h, w, c) to the smallest map. To be called inside a module, whose submodules it makes."""
    smallest_size(h.shape[1:3], len(multipliers))
    for level, multiplier in enumerate(multipliers):
        h = Conv3x3(width * multiplier, stride=1 if level == 0 else 2, name=f"level{level}")(h)
        for i in range(blocks):
            h = ResidualPair(groups, name=f"block{level}_{i}")(h)
    return GroupNorm(groups, silu=True, name="norm_out")(h)


def _up(h, out_channels, width, multipliers, blocks, groups):
    """`_down` backwards, to pixels. To be called inside a module."""
    for level in reversed(range(len(multipliers))):
        for i in range(blocks):
            h = ResidualPair(groups, name=f"block{level}_{i}")(h)
        if level > 0:
            h = Conv3x3(width * multipliers[level - 1], upsample=True, name=f"level{level}")(h)
    h = GroupNorm(groups, silu=True, name="norm_out")(h)
    return Conv3x3(out_channels, name="pixels")(h)


def _with_maps(x, context):
    """x (b, h, w, c) with the context, (b, e), as further channels, the same everywhere."""
    if context is None:
        return x
    return jnp.concatenate([x, jnp.broadcast_to(context[:, None, None, :], (*x.shape[:3], context.shape[-1]))], axis=-1)


def _with(x, context):
    return x if context is None else jnp.concatenate([x, context], axis=-1)
