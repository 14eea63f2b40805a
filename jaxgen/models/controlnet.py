"""A control branch for the U-Net of denoising diffusion (Zhang et al. 2023, arXiv 2302.05543)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.layers import Conv3x3, zeros
from jaxgen.models.unet import UNet, squares, trunk


class ControlNet(nn.Module):
    """What to add to the `UNet`, as its ``residuals``, float32: x (b, h, w, c), t (b,) and a control image (b, m h, m w, c') of m times the
    size, m a natural number -> ([(b, h', w', c'') ...], (b, h'', w'', c''')).

    The way down and the middle of the U-Net once more, with parameters of the same names, which are to begin as copies of the U-Net's;
    to its first layer is added what a small network makes of the control image. That network's last convolution, and those of width 1
    behind each output, start at zero: a fresh branch, and one that is copied, says zero.

    Pixels of the control image that fall on one pixel of the first layer are its channels; the authors, whose control images
    are eight times as large, have convolutions with strides there.

    ``keys`` and ``labels`` are the U-Net's.

    Raises:
        ValueError: for a control image of another size.
    """

    unet: UNet
    """The network that is controlled, for its size; its parameters are its own."""
    hint: Sequence[int] = (16, 32)
    """Channels of the network that looks at the control image."""

    @nn.compact
    def __call__(self, x, t, control, keys=None, labels=None):
        net, dtype = self.unet, self.unet.dtype
        times = max(1, control.shape[1] // x.shape[1])
        expected = (times * x.shape[1], times * x.shape[2])
        if control.shape[1:3] != expected:
            raise ValueError(
                f"for these images the control image must be {expected[0]}x{expected[1]}, height x width; "
                f"got {control.shape[1]}x{control.shape[2]}"
            )
        hint = squares(control, times * net.patch)
        for i, features in enumerate(self.hint):
            hint = nn.silu(Conv3x3(features, dtype=dtype, name=f"hint{i}")(hint))
        hint = Conv3x3(net.width, kernel_init=zeros, dtype=dtype, name="hint_out")(hint)
        h, skips, _ = trunk(net, x, t, keys, labels, hint)

        def last(y, name):
            return nn.Dense(y.shape[-1], kernel_init=zeros, dtype=dtype, name=name)(y).astype(jnp.float32)

        return [last(skip, f"to_skip{i}") for i, skip in enumerate(skips)], last(h, "to_middle")
