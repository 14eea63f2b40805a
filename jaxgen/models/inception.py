"""Inception v3 up to the features that the FID is measured in: the network of TensorFlow's graph of 2015-12-05.

Szegedy et al. 2015, arXiv:1512.00567, with what that graph has otherwise: an average pool divides by the pixels that are there and not by
those of the padding, and the last block takes the maximum where its twin takes the average. Heusel et al. 2017, arXiv:1706.08500, measure
the FID in its 2048 averaged features.

Modules and parameters are called as in the PyTorch package pytorch-fid, which has converted the weights; `from_tensors` takes them. With
any other weights a distance in these features is no FID.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.models import pytorch
from jaxgen.models.layers import zeros

SIDE = 299
FEATURES = 2048
EPSILON = 1e-3
"""Of batch normalisation."""

_LOGITS = {
    "kernel": jax.ShapeDtypeStruct((FEATURES, 1008), np.float32),
    "bias": jax.ShapeDtypeStruct((1008,), np.float32),
}
"""In the file, and not needed for the features."""


def prepare(x):
    """What the network sees of images: (b, h, w, 1 or 3) in [-1, 1] -> (b, 299, 299, 3) in [-1, 1].

    Bilinear between pixel centres, without a filter against aliasing, as pytorch-fid has it; grey is repeated. The FID depends on this:
    Heusel et al.'s own code puts the centres elsewhere, and clean-fid filters and interpolates by cubics (Parmar et al. 2022,
    arXiv:2104.11222, who show how far FIDs by different resizing lie apart).

    Raises:
        ValueError: if the images have neither 1 channel nor 3.
    """
    b, _, _, c = x.shape
    if c not in (1, 3):
        raise ValueError(f"Inception sees images of 1 channel or 3; got {c}")
    x = jax.image.resize(x, (b, SIDE, SIDE, c), "bilinear", antialias=False)
    return jnp.broadcast_to(x, (b, SIDE, SIDE, 3))


class Inception(nn.Module):
    """The features, each the mean over the last map: (b, 299, 299, 3) in [-1, 1] -> (b, 2048)."""

    @nn.compact
    def __call__(self, x):
        x = Convolution(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Convolution(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Convolution(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _halved(x)
        x = Convolution(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = Convolution(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _halved(x)
        for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
            x = Squares(pooled, name=f"Mixed_5{letter}")(x)
        x = FirstReduction(name="Mixed_6a")(x)
        for letter, features in zip("bcde", (128, 160, 160, 192), strict=True):
            x = Strips(features, name=f"Mixed_6{letter}")(x)
        x = SecondReduction(name="Mixed_7a")(x)
        x = Forks("average", name="Mixed_7b")(x)
        x = Forks("maximum", name="Mixed_7c")(x)
        return x.mean(axis=(1, 2))


class BatchNorm(nn.Module):
    """gamma (x - mean) / (variance + 1e-3)^(1/2) + beta per channel, with the mean and the variance of the training set, which are
    parameters here: (b, h, w, c) -> (b, h, w, c).

    Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2.
    """

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones_init(), (c,))
        beta = self.param("bias", zeros, (c,))
        mean = self.param("running_mean", zeros, (c,))
        variance = self.param("running_var", nn.initializers.ones_init(), (c,))
        factor = gamma / jnp.sqrt(variance + EPSILON)
        return x * factor[None, None, None, :] + (beta - mean * factor)[None, None, None, :]


class Convolution(nn.Module):
    """max(0, batch normalisation of a convolution): (b, h, w, c) -> (b, h', w', features). It is never trained here, and starts at zero."""

    features: int
    size: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        strides = (self.stride, self.stride)
        x = nn.Conv(self.features, self.size, strides, self.padding, use_bias=False, kernel_init=zeros, name="conv")(x)
        return nn.relu(BatchNorm(name="bn")(x))


class Squares(nn.Module):
    """Squares of 1, 3 and 5 pixels beside a pool, after figure 5 of the paper: (b, 35, 35, c) -> (b, 35, 35, 224 + pooled)."""

    pooled: int

    @nn.compact
    def __call__(self, x):
        one = Convolution(64, (1, 1), name="branch1x1")(x)
        five = _chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5)))
        twice_three = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
        pool = Convolution(self.pooled, (1, 1), name="branch_pool")(_average(x))
        return jnp.concatenate([one, five, twice_three, pool], axis=-1)


class FirstReduction(nn.Module):
    """Half the side, figure 10 of the paper: (b, 35, 35, c) -> (b, 17, 17, 480 + c)."""

    @nn.compact
    def __call__(self, x):
        three = Convolution(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        twice_three = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3), 2, "VALID"))
        return jnp.concatenate([three, twice_three, _halved(x)], axis=-1)


class Strips(nn.Module):
    """Strips of 7 pixels, along and across, beside a pool, figure 6 of the paper: (b, 17, 17, c) -> (b, 17, 17, 768)."""

    features: int

    @nn.compact
    def __call__(self, x):
        d, across, down = self.features, (1, 7), (7, 1)
        one = Convolution(192, (1, 1), name="branch1x1")(x)
        seven = _chain(x, "branch7x7", (d, (1, 1)), (d, across), (192, down))
        twice_seven = _chain(x, "branch7x7dbl", (d, (1, 1)), (d, down), (d, across), (d, down), (192, across))
        pool = Convolution(192, (1, 1), name="branch_pool")(_average(x))
        return jnp.concatenate([one, seven, twice_seven, pool], axis=-1)


class SecondReduction(nn.Module):
    """Half the side again: (b, 17, 17, c) -> (b, 8, 8, 512 + c)."""

    @nn.compact
    def __call__(self, x):
        last = ((3, 3), 2, "VALID")
        three = _chain(x, "branch3x3", (192, (1, 1)), (320, *last))
        seven = _chain(x, "branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, *last))
        return jnp.concatenate([three, seven, _halved(x)], axis=-1)


class Forks(nn.Module):
    """Branches that end in two strips of 3 pixels side by side, and a pool, figure 7 of the paper: (b, 8, 8, c) -> (b, 8, 8, 2048).

    The pool is the "average" or the "maximum", in the weights' graph the one in its first such block and the other in its second.
    """

    pool: str

    @nn.compact
    def __call__(self, x):
        one = Convolution(320, (1, 1), name="branch1x1")(x)
        h = Convolution(384, (1, 1), name="branch3x3_1")(x)
        three = [Convolution(384, size, name=f"branch3x3_2{i}")(h) for i, size in (("a", (1, 3)), ("b", (3, 1)))]
        h = _chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
        twice = [Convolution(384, size, name=f"branch3x3dbl_3{i}")(h) for i, size in (("a", (1, 3)), ("b", (3, 1)))]
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.pool == "maximum" else _average(x)
        pool = Convolution(192, (1, 1), name="branch_pool")(pooled)
        return jnp.concatenate([one, *three, *twice, pool], axis=-1)


def shapes():
    """Shape and dtype of each parameter of the `Inception`, without computing any."""
    x = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]


def from_tensors(tensors: Mapping[str, Any], shapes: Any) -> Any:
    """The parameters, float32 numpy arrays in a tree like ``shapes``, of tensors by pytorch-fid's names: those of the logits and the
    counters of batches, which its file has too, are left out.

    Raises:
        ValueError: if tensors are missing, surplus or of another shape, as those of torchvision's Inception are, in whose features
            a distance is no FID; it names them, at most 8 of each kind.
    """
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    logits = {"fc": _LOGITS} if any(name.startswith("fc.") for name in found) else {}
    params = pytorch.from_tensors(found, shapes | logits, "the FID's Inception")
    return {name: params[name] for name in shapes}


def _chain(x, name, *convolutions):
    """One convolution after the other, called name_1, name_2 ..."""
    for i, convolution in enumerate(convolutions, 1):
        x = Convolution(*convolution, name=f"{name}_{i}")(x)
    return x


def _average(x):
    """The mean over those of the 3x3 pixels around each that are there: (b, h, w, c) -> (b, h, w, c)."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halved(x):
    """The maximum over every other 3x3 square: (b, h, w, c) -> (b, (h - 1) // 2, (w - 1) // 2, c)."""
    return nn.max_pool(x, (3, 3), (2, 2))
