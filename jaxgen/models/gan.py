"""Generators, and the discriminators, critics and classifiers that face them.

    generator      z (b, *noise_shape), labels -> (b, *shape), images or points
    trunk          (b, *shape) -> features (b, m)
    Discriminator  a trunk and a score; Classifier: a trunk and a logit per class; Encoder: a trunk and a code

There are four pairs of generator and trunk. `Generator` and `Trunk` are built from first principles: convolutions, non-linearities, nearest
unpooling and pooling. The others are in the style of DCGAN, residual, and fully connected. Level i of the convolutional ones has
width * multipliers[i] channels and half the resolution of the level before; all non-linearities are leaky rectifiers. Nothing is
normalised over the batch, in discriminators nothing at all: each score is a function of its own image, as a gradient penalty needs.

``labels`` are int32 (b,); a network with num_classes = 0 does not look at them.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import MLP, Conv3x3, GroupNorm, pool, smallest_size, unpool

he = nn.initializers.he_normal()
"""He et al. 2015: keeps the size of what passes through rectifiers."""

SLOPE = 0.2
"""Of a leaky rectifier where its argument is negative."""

activate = partial(jax.nn.leaky_relu, negative_slope=SLOPE)


class Generator(nn.Module):
    """Noise -> image, from first principles: z (b, n, m, 1), labels -> (b, *shape), where (n, m) is the size of the smallest level.

    The noise is a small picture with one channel. Two 3x3 convolutions widen it; each level then doubles the picture (every pixel becomes
    a 2x2 square) and has two convolutions of fewer channels, so that never two doublings follow each other; the last
    convolution has the image's channels. A label adds a picture of its own to the noise, as a second channel.

    Raises:
        ValueError: if the height or width of ``shape`` is not a multiple of 2**(levels - 1), or the noise has another shape.
    """

    shape: Sequence[int]
    width: int = 16
    multipliers: Sequence[int] = (1, 2, 4)
    num_classes: int = 0

    @property
    def noise_shape(self):
        return (*smallest_size(self.shape[:2], len(self.multipliers)), 1)

    @nn.compact
    def __call__(self, z, labels=None):
        if z.shape[1:] != self.noise_shape:
            raise ValueError(f"noise for images of {self.shape} has the shape (b, *{self.noise_shape}); got {z.shape}")
        if self.num_classes:
            label_map = nn.Embed(self.num_classes, math.prod(self.noise_shape), name="label")(labels)
            z = jnp.concatenate([z, label_map.reshape(z.shape)], axis=-1)
        *lower, peak = (self.width * multiplier for multiplier in self.multipliers)
        h = activate(Conv3x3(max(peak // 2, 1), kernel_init=he, name="widen")(z))
        h = activate(Conv3x3(peak, kernel_init=he, name="peak")(h))
        for level, channels in reversed(list(enumerate(lower))):
            h = activate(Conv3x3(channels, upsample=True, kernel_init=he, name=f"unpool{level}")(h))
            h = activate(Conv3x3(channels, kernel_init=he, name=f"conv{level}")(h))
        return jnp.tanh(Conv3x3(self.shape[-1], name="image")(h))


class Trunk(nn.Module):
    """Image -> features, from first principles: (b, h, w, c) -> (b, m). Two 3x3 convolutions per level, then the mean over 2x2 squares.

    Raises:
        ValueError: if the height or width is not a multiple of 2**(levels - 1).
    """

    width: int = 16
    multipliers: Sequence[int] = (1, 2, 4)

    @nn.compact
    def __call__(self, x):
        smallest_size(x.shape[1:3], len(self.multipliers))
        for level, multiplier in enumerate(self.multipliers):
            x = x if level == 0 else pool(x)
            for i in range(2):
                x = activate(Conv3x3(self.width * multiplier, kernel_init=he, name=f"conv{level}_{i}")(x))
        return x.reshape(len(x), -1)


class DCGANGenerator(nn.Module):
    """Noise -> image: z (b, latent_dim), labels -> (b, *shape), in the style of Radford et al. 2016, arXiv:1511.06434.

    A dense layer makes the smallest map; one convolution per doubling, of the nearest-neighbour upsampled map in place of a transposed
    one, which leaves no checkerboard; group normalisation, or with groups = 0 none, in place of that over the batch.

    Raises:
        ValueError: if the height or width of ``shape`` is not a multiple of 2**(levels - 1), or ``groups`` does not divide the channels.
    """

    shape: Sequence[int]
    latent_dim: int = 64
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 4)
    groups: int = 0
    num_classes: int = 0

    @property
    def noise_shape(self):
        return (self.latent_dim,)

    @nn.compact
    def __call__(self, z, labels=None):
        lower = [self.width * multiplier for multiplier in self.multipliers[:-1]]
        h = activate(_norm(self.groups, "norm_noise")(_smallest_map(self, z, labels)))
        for level, channels in reversed(list(enumerate(lower))):
            h = Conv3x3(channels, upsample=True, kernel_init=he, name=f"level{level}")(h)
            h = activate(_norm(self.groups, f"norm{level}")(h))
        return jnp.tanh(Conv3x3(self.shape[-1], name="image")(h))


class DCGANTrunk(nn.Module):
    """Image -> features: (b, h, w, c) -> (b, m), by a convolution per level, all but the first with stride 2.

    Raises:
        ValueError: if the height or width is not a multiple of 2**(levels - 1).
    """

    width: int = 32
    multipliers: Sequence[int] = (1, 2, 4)

    @nn.compact
    def __call__(self, x):
        smallest_size(x.shape[1:3], len(self.multipliers))
        for level, multiplier in enumerate(self.multipliers):
            stride = 1 if level == 0 else 2
            x = activate(Conv3x3(self.width * multiplier, stride=stride, kernel_init=he, name=f"level{level}")(x))
        return x.reshape(len(x), -1)


class ResidualGenerator(nn.Module):
    """Noise -> image: z (b, latent_dim), labels -> (b, *shape), by residual blocks (Gulrajani et al. 2017, arXiv:1704.00028, appendix F).

    Raises:
        ValueError: as `DCGANGenerator`.
    """

    shape: Sequence[int]
    latent_dim: int = 128
    width: int = 32
    multipliers: Sequence[int] = (1, 2, 4)
    groups: int = 0
    num_classes: int = 0

    @property
    def noise_shape(self):
        return (self.latent_dim,)

    @nn.compact
    def __call__(self, z, labels=None):
        lower = [self.width * multiplier for multiplier in self.multipliers[:-1]]
        h = _smallest_map(self, z, labels)
        for level, channels in reversed(list(enumerate(lower))):
            y = activate(_norm(self.groups, f"norm{level}_0")(h))
            y = Conv3x3(channels, upsample=True, kernel_init=he, name=f"unpool{level}")(y)
            y = Conv3x3(channels, kernel_init=he, name=f"conv{level}")(
                activate(_norm(self.groups, f"norm{level}_1")(y))
            )
            h = unpool(nn.Dense(channels, name=f"shortcut{level}")(h)) + y
        return jnp.tanh(Conv3x3(self.shape[-1], name="image")(activate(_norm(self.groups, "norm_image")(h))))


class ResidualTrunk(nn.Module):
    """Image -> features: (b, h, w, c) -> (b, m), by residual blocks that pool, and a mean over what is left of the picture.

    Raises:
        ValueError: if the height or width is not a multiple of 2**(levels - 1).
    """

    width: int = 32
    multipliers: Sequence[int] = (1, 2, 4)

    @nn.compact
    def __call__(self, x):
        smallest_size(x.shape[1:3], len(self.multipliers))
        channels = [self.width * multiplier for multiplier in self.multipliers]
        h = Conv3x3(channels[0], kernel_init=he, name="image")(x)
        for level, c in enumerate(channels[1:]):
            y = Conv3x3(channels[level], kernel_init=he, name=f"conv{level}")(activate(h))
            y = Conv3x3(c, pool=True, kernel_init=he, name=f"pool{level}")(activate(y))
            h = nn.Dense(c, name=f"shortcut{level}")(pool(h)) + y
        y = Conv3x3(channels[-1], kernel_init=he, name="last0")(activate(h))
        h = h + Conv3x3(channels[-1], kernel_init=he, name="last1")(activate(y))
        return activate(h).mean(axis=(1, 2))


class MLPGenerator(nn.Module):
    """Noise -> image or point: z (b, latent_dim), labels -> (b, *shape), fully connected. Nothing bounds what comes out."""

    shape: Sequence[int]
    latent_dim: int = 2
    hidden: Sequence[int] = (128, 128, 128)
    num_classes: int = 0

    @property
    def noise_shape(self):
        return (self.latent_dim,)

    @nn.compact
    def __call__(self, z, labels=None):
        h = MLP(self.hidden, activate, he, name="hidden")(_with_label(self, z, labels))
        return nn.Dense(math.prod(self.shape), name="out")(h).reshape(len(z), *self.shape)


class MLPTrunk(nn.Module):
    """Image or point -> features: (b, ...) -> (b, hidden[-1]), fully connected.

    With ``frequencies``, it sees beside a point v the waves cos(W v) and sin(W v) for as many rows of W, which begin as N(0, (2 pi)^2)
    and are learnt: from coordinates alone fine detail is learnt late (Tancik et al. 2020, arXiv:2006.10739).
    """

    hidden: Sequence[int] = (128, 128, 128)
    frequencies: int = 0

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        if self.frequencies:
            begin = nn.initializers.normal(2 * math.pi)
            phases = x @ self.param("frequencies", begin, (x.shape[1], self.frequencies))
            x = jnp.concatenate([x, jnp.cos(phases), jnp.sin(phases)], axis=1)
        return MLP(self.hidden, activate, he, name="hidden")(x)


class Discriminator(nn.Module):
    """x (b, ...), labels -> score (b,), and the features that it is linear in, (b, m).

    With classes, score = w . h + b + e_y . h: each class has a direction e_y of its own (Miyato and Koyama 2018, arXiv:1802.05637).
    """

    trunk: nn.Module
    num_classes: int = 0

    @nn.compact
    def __call__(self, x, labels=None):
        h = self.trunk(x)
        score = nn.Dense(1, name="score")(h)[:, 0]
        if self.num_classes:
            score = score + (nn.Embed(self.num_classes, h.shape[-1], name="label")(labels) * h).sum(axis=-1)
        return score, h


class Classifier(nn.Module):
    """x (b, ...) -> logits (b, num_classes), and the features that they are linear in, (b, m)."""

    trunk: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, x):
        h = self.trunk(x)
        return nn.Dense(self.num_classes, name="logits")(h), h


class Encoder(nn.Module):
    """x (b, ...), labels -> mean and logvar of a Gaussian of what a generator takes, (b, *noise_shape) each."""

    trunk: nn.Module
    noise_shape: Sequence[int]
    num_classes: int = 0

    @nn.compact
    def __call__(self, x, labels=None):
        h = self.trunk(x)
        if self.num_classes:
            h = jnp.concatenate([h, nn.Embed(self.num_classes, h.shape[-1], name="label")(labels)], axis=-1)
        code = nn.Dense(2 * math.prod(self.noise_shape), name="code")(h)
        return tuple(part.reshape(len(x), *self.noise_shape) for part in jnp.split(code, 2, axis=-1))


def _with_label(module, z, labels):
    """z, and beside it what is learnt of the label, as many numbers."""
    if not module.num_classes:
        return z
    return jnp.concatenate([z, nn.Embed(module.num_classes, z.shape[-1], name="label")(labels)], axis=-1)


def _smallest_map(module, z, labels):
    """What the noise becomes first, by a dense layer: a map with the size and the channels of the smallest level."""
    size = smallest_size(module.shape[:2], len(module.multipliers))
    channels = module.width * module.multipliers[-1]
    dense = nn.Dense(math.prod(size) * channels, kernel_init=he, name="noise")
    return dense(_with_label(module, z, labels)).reshape(len(z), *size, channels)


def _norm(groups, name):
    return GroupNorm(groups, name=name) if groups else lambda x: x
