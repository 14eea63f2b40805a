"""Layers that the U-Net, the ControlNet and the autoencoder have in common, where those of `jaxgen.models.layers` differ."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import Conv3x3, GroupNorm, convolve, glorot, unpool, zeros


def timestep_embedding(t, dim, cosines_first=True, shift=0.0):
    """Sinusoidal position code of each timestep, float32, (b,) -> (b, dim).

    Cosines and then sines (or the other way round) of t w_i, with w_i = 10000^(-i / (m - shift)), m = dim / 2. With sines first and
    shift 1 it is that of Ho et al. 2020, `jaxgen.models.layers.timestep_embedding`; Stable Diffusion has the other form.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000.0) / (half - shift) * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate(waves if cosines_first else waves[::-1], axis=1)


class Conv1x1(nn.Module):
    """A matrix product per pixel and a bias: (b, h, w, c) -> (b, h, w, features). Its kernel is a convolution's, (1, 1, c, features)."""

    features: int
    kernel_init: Any = glorot
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (1, 1, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        return x.astype(self.dtype) @ kernel[0, 0] + bias[None, None, None, :]


class Downsample(nn.Module):
    """3x3 convolution of every other pixel, zeros on all sides: (b, h, w, c) -> (b, ceil(h / 2), ceil(w / 2), features).

    `jaxgen.models.layers.Conv3x3` with stride 2 is another: its zeros are below and to the right alone.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", glorot, (3, 3, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, stride=2, padding=((1, 1), (1, 1)))
        return y + bias[None, None, None, :]


def upsample(x, size, dtype, name):
    """3x3 convolution of x, every pixel a 2x2 square, the last row or column left out where ``size`` = (h', w') is odd:
    (b, h, w, c) -> (b, h', w', c). A submodule ``name`` of the module it is called in."""
    _, h, w, c = x.shape
    if size == (2 * h, 2 * w):
        return Conv3x3(c, upsample=True, dtype=dtype, name=name)(x)
    return Conv3x3(c, dtype=dtype, name=name)(unpool(x)[:, : size[0], : size[1]])


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + projected timestep))): (b, h, w, c), (b, e) or None -> (b, h, w, features).

    The block of Ho et al. 2020, or without embedding that of an autoencoder; where the channels change, x goes through a 1x1
    convolution.
    """

    features: int
    groups: int
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, embedding=None):
        def norm(name):
            return GroupNorm(self.groups, silu=True, epsilon=self.epsilon, dtype=self.dtype, name=name)

        h = Conv3x3(self.features, dtype=self.dtype, name="conv1")(norm("norm1")(x))
        if embedding is not None:
            shift = nn.Dense(self.features, dtype=self.dtype, name="time_emb_proj")(nn.silu(embedding))
            h = h + shift[:, None, None, :]
        h = Conv3x3(self.features, kernel_init=zeros, dtype=self.dtype, name="conv2")(norm("norm2")(h))
        if x.shape[-1] != self.features:
            x = Conv1x1(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h
