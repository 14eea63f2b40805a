"""Layers: those of the DDPM U-Net (Ho et al. 2020, arXiv 2006.11239, appendix B), channels last, and what other networks add.

Some are computed by a route that is quicker than the textbook's and equal to it up to rounding; each such route is a small function
with the reason beside it, and a test compares it with the textbook. Parameters are always those of the textbook formulation.

Parameters are float32; ``dtype`` is the precision of convolutions and matrix products. Statistics of normalisation and the softmax are
float32 always. "Official code" means github.com/hojonathanho/diffusion.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxgen.models.attention import attend
from jaxgen.models.normalization import affine, group_statistics, norm_silu

# The official code's default, for every convolution and matrix: uniform with variance 2 / (fan_in + fan_out).
glorot = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# Where the official code scales that by 1e-10, we take zero itself: a fresh network then predicts exactly 0.
zeros = nn.initializers.zeros_init()


def timestep_embedding(t, dim):
    """Sinusoidal position code of each timestep, float32, (b,) -> (b, dim).

    [sin(t w_0), ..., sin(t w_{m-1}), cos(t w_0), ..., cos(t w_{m-1})] with m = dim // 2 and w_i = 10000^(-i / (m - 1)); an odd
    ``dim`` gets a last column of zeros. Vaswani et al. 2017 (arXiv 1706.03762) section 3.5, in the form of the official code: sines first
    and then cosines instead of interleaved, and m - 1 instead of m, so that the slowest frequency is exactly 1/10000.

    Raises:
        ValueError: if dim < 4, where the frequencies are undefined.
    """
    if dim < 4:
        raise ValueError(f"the timestep embedding needs at least 4 dimensions; got {dim}")
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000.0) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.pad(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1), ((0, 0), (0, dim % 2)))


def smallest_size(size, levels, patch=1):
    """Height and width, in squares of ``patch`` pixels, after levels - 1 halvings of ``size``, (height, width).

    Raises:
        ValueError: if they cannot be halved so often.
    """
    multiple = patch * 2 ** (levels - 1)
    if any(side % multiple for side in size):
        raise ValueError(
            f"images of height x width {size[0]}x{size[1]} do not fit {levels} levels: both must be multiples of {multiple}; "
            "resize the images or pass fewer multipliers"
        )
    return size[0] // multiple, size[1] // multiple


def fold_in(keys, index):
    """One key per example, (b,) -> (b,), for the draw numbered ``index``; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def dropout(x, keys, rate):
    """Each entry of x with probability 1 - rate, divided by it, else 0; (b, ...) -> (b, ...).

    Example i's mask depends on keys[i] and nothing else, so it does not depend on how a batch is spread over devices. Without
    keys (None), or at rate 0, x itself.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


class GroupNorm(nn.Module):
    """Group normalisation of Wu and He 2018 (arXiv 1803.08494): (b, h, w, c) -> (b, h, w, c), each group of c / groups channels
    of each image with mean 0 and variance 1, then gamma x + beta per channel, and with ``silu`` then x sigmoid(x).

    Raises:
        ValueError: if ``groups`` does not divide the channels.
    """

    groups: int = 32
    silu: bool = False
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        if c % self.groups:
            raise ValueError(
                f"groups={self.groups} does not divide {c} channels; "
                f"choose a width that is a multiple of it, or groups={math.gcd(self.groups, c)}"
            )
        gamma = self.param("scale", nn.initializers.ones_init(), (c,))
        beta = self.param("bias", zeros, (c,))
        x = x.astype(self.dtype)
        if self.silu:
            return norm_silu(x, gamma, beta, self.groups, self.epsilon)
        return affine(x, gamma, beta, *group_statistics(x, self.groups, self.epsilon)).astype(self.dtype)


def convolve(x, kernel, stride=1, padding="SAME"):
    """Cross-correlation without bias: (b, h, w, c) with (kh, kw, c, c') -> (b, h', w', c')."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def upsample_convolve(x, kernel):
    """``convolve(nearest-neighbour upsampling by 2 of x, kernel)`` for a 3x3 kernel: (b, h, w, c) -> (b, 2h, 2w, c').

    In one dimension the upsampled row is x0 x0 x1 x1 ..., so a 3-tap filter (k0, k1, k2) sees only two different pixels of x:
    an even output is k0 x[i-1] + (k1 + k2) x[i], an odd one (k0 + k1) x[i] + k2 x[i+1]. In two dimensions these are four 2x2
    filters, one for each phase of the output, on the small grid: 16 products for each pixel of x instead of 36.
    (As one convolution with 4 c' channels they would be slower: XLA:CPU's kernel gradient of it takes 30 times as long.)
    """
    b, h, w, _ = x.shape
    even, odd = [[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]
    taps = jnp.array([even, odd], kernel.dtype)  # (phase, tap of the small filter, tap of the kernel)
    filters = jnp.einsum("pki,qlj,ijcd->pqklcd", taps, taps, kernel)
    y = [[convolve(x, filters[p, q], padding=((1 - p, p), (1 - q, q))) for q in (0, 1)] for p in (0, 1)]
    rows = [jnp.stack(row, axis=3) for row in y]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def pool(x):
    """The mean over each 2x2 square: (b, h, w, c) -> (b, h/2, w/2, c)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def unpool(x):
    """Every pixel becomes a 2x2 square: (b, h, w, c) -> (b, 2h, 2w, c)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def convolve_pool(x, kernel):
    """The mean over each 2x2 square of ``convolve(x, kernel)`` for a 3x3 kernel and even h, w: (b, h, w, c) -> (b, h/2, w/2, c').

    In one dimension, (y[2i] + y[2i+1]) / 2 with y[j] = k0 x[j-1] + k1 x[j] + k2 x[j+1] sees four pixels, with taps
    (k0, k0 + k1, k1 + k2, k2) / 2. In two dimensions it is one 4x4 filter with stride 2: 16 products for each pixel of the result
    instead of 36.
    """
    taps = (
        jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], kernel.dtype) / 2
    )  # (tap of the filter, tap of the kernel)
    return convolve(x, jnp.einsum("ki,lj,ijcd->klcd", taps, taps, kernel), stride=2, padding=((1, 1), (1, 1)))


class MLP(nn.Module):
    """Dense layers of these sizes, each followed by the activation: (b, d) -> (b, sizes[-1])."""

    sizes: Sequence[int]
    activation: Callable
    kernel_init: Any = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x):
        for i, size in enumerate(self.sizes):
            x = self.activation(nn.Dense(size, kernel_init=self.kernel_init, name=f"dense{i}")(x))
        return x


class Conv3x3(nn.Module):
    """3x3 convolution with zero padding and a bias: (b, h, w, c) -> (b, h / s, w / s, features) for s = ``stride``; with
    ``upsample``, of the nearest-neighbour upsampled x: -> (b, 2h, 2w, features); with ``pool``, the mean over each 2x2 square of the
    result: -> (b, h/2, w/2, features)."""

    features: int
    stride: int = 1
    upsample: bool = False
    pool: bool = False
    kernel_init: Any = glorot
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.upsample:
            y = upsample_convolve(x, kernel)
        elif self.pool:
            y = convolve_pool(x, kernel)
        else:
            y = convolve(x, kernel, self.stride)
        return y + bias[None, None, None, :]


class SelfAttention(nn.Module):
    """x + attention among the pixels of each image: (b, h, w, c) -> (b, h, w, c).

    One head of all c channels as in the paper, or c / head_dim heads. The last projection starts at zero, as in the official
    code, so that the fresh layer is the identity.

    Raises:
        ValueError: if ``head_dim`` does not divide the channels.
    """

    head_dim: int | None = None
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        head_dim = self.head_dim or c
        if c % head_dim:
            raise ValueError(f"head_dim={head_dim} does not divide {c} channels")
        y = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)

        def heads(name):
            projected = nn.Dense(c, dtype=self.dtype, kernel_init=glorot, name=name)(y)
            return projected.reshape(b, h * w, c // head_dim, head_dim)

        y = attend(heads("query"), heads("key"), heads("value")).reshape(b, h, w, c)
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="out")(y)


class ResidualBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x))) + projected timestep)))): (b, h, w, c), (b, e), keys -> (b, h, w, features).

    The second convolution starts at zero, as in the official code, so that the fresh block is its shortcut: the identity, or where the
    channels change a 1x1 convolution, which is a matrix product per pixel and computed as one.
    """

    features: int
    dropout: float = 0.0
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, embedding, keys=None):
        h = GroupNorm(self.groups, silu=True, dtype=self.dtype, name="norm1")(x)
        h = Conv3x3(self.features, dtype=self.dtype, name="conv1")(h)
        shift = nn.Dense(self.features, dtype=self.dtype, kernel_init=glorot, name="time")(nn.silu(embedding))
        h = h + shift[:, None, None, :]
        h = GroupNorm(self.groups, silu=True, dtype=self.dtype, name="norm2")(h)
        h = dropout(h, keys, self.dropout)
        h = Conv3x3(self.features, kernel_init=zeros, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, kernel_init=glorot, name="shortcut")(x)
        return x + h
