"""How alike two images are, pixel by pixel: peak signal-to-noise ratio and structural similarity. Images are (b, h, w, c)."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgen.diffusion import Images

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window of `ssim`, in pixels."""

K1, K2 = 0.01, 0.03
"""What keeps its quotients finite, relative to the range."""


def psnr(x: Images, y: Images, peak: float = 2.0) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio, in dB, one per image: 10 log10 [peak^2 / mean (x - y)^2]; infinity where they are equal.

    ``peak`` is the range of the values: 2 for images in [-1, 1], 1 for [0, 1], 255 for bytes; the ratio is the same for all three.
    """
    error = ((x - y) ** 2).reshape(len(x), -1).mean(axis=1)
    return 10 * jnp.log10(peak**2 / error)


def ssim(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w c"], data_range: float = 2.0, window: int = WINDOW
) -> Float[Array, " b"]:
    """Structural similarity, no unit, at most 1, one per image: the mean over windows and channels of

        (2 m_x m_y + C_1) (2 s_xy + C_2) / [(m_x^2 + m_y^2 + C_1) (s_x^2 + s_y^2 + C_2)],    C_i = (K_i data_range)^2

    with the means m, variances s^2 and covariance s_xy under a Gaussian window of 11 x 11 pixels, sigma 1.5 and sum 1; all windows that
    lie in the image whole, and no others. Wang et al. 2004, "Image quality assessment", IEEE Trans. Image Processing 13(4), eq. 13 to
    17; channels are averaged, which the paper leaves open.

    Images of fewer than 11 pixels on a side have no such window; for those pass a smaller odd ``window``, and say so beside the number.

    Raises:
        ValueError: if the window is even, or the images are smaller than it.
    """
    _, h, w, _ = x.shape
    if window % 2 == 0 or min(h, w) < window:
        raise ValueError(f"a window of {window}x{window} pixels must be odd and fit into images of {h}x{w}")
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()

    mean_x, mean_y = _filtered(x, weights), _filtered(y, weights)
    # About one centre for the whole image: variances as differences of squares lose less.
    cx, cy = (z - z.mean(axis=(1, 2), keepdims=True) for z in (x, y))
    about_x, about_y = _filtered(cx, weights), _filtered(cy, weights)
    var_x = _filtered(cx**2, weights) - about_x**2
    var_y = _filtered(cy**2, weights) - about_y**2
    covariance = _filtered(cx * cy, weights) - about_x * about_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return ((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).mean(axis=(1, 2, 3))


def _filtered(x, weights):
    """The weighted mean over each window that lies in the image, channel by channel: one pass along the columns, one along the rows."""
    b, h, w, c = x.shape
    x = x.transpose(0, 3, 1, 2).reshape(b * c, 1, h, w)
    kernel = jnp.asarray(weights, x.dtype)
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        x = lax.conv_general_dilated(x, kernel.reshape(shape), (1, 1), "VALID", precision=lax.Precision.HIGHEST)
    return x.reshape(b, c, *x.shape[2:]).transpose(0, 2, 3, 1)
