"""Images at lower and higher resolution: what "low resolution" means here, and images that agree with it.

The low resolution of an image is the means over its squares of factor x factor pixels. Images are (b, h, w, c).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HALVINGS = 32
"""Of the interval in which `project` looks for the shift of a square."""


def downsample(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h/factor w/factor c"]:
    """Low resolution: the mean over each square of factor x factor pixels, in the unit of x.

    Raises:
        ValueError: if the factor does not divide height and width.
    """
    b, h, w, c = x.shape
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"images of {h}x{w} pixels have no squares of {factor}x{factor}: it must divide both sides")
    return x.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def repeat(low: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h*factor w*factor c"]:
    """Each pixel as a square of factor x factor equal ones. Its low resolution is ``low``, and of all such images it is the smallest."""
    return low.repeat(factor, axis=1).repeat(factor, axis=2)


def upsample(low: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h*factor w*factor c"]:
    """Bicubic interpolation, by the kernel of Keys 1981 with a = -1/2; pixels are squares, and `downsample` is about their centres too.

    Beyond the border nothing is made up: there the weights of the pixels that are left are scaled to sum to one. Away from it a
    quadratic polynomial is reproduced exactly. Values may overshoot the range of ``low``. That is Pillow's BICUBIC.
    """
    b, h, w, c = low.shape
    return jax.image.resize(low, (b, h * factor, w * factor, c), "cubic", antialias=False)


def project(
    x: Float[Array, "b h w c"],
    low: Float[Array, "b h/factor w/factor c"],
    factor: int,
    within: tuple[float, float] | None = None,
) -> Float[Array, "b h w c"]:
    """The image nearest to x, in Euclidean distance, whose low resolution is ``low``.

        x + repeat(low - downsample(x)):    every square is shifted, to its mean

    ``within`` bounds, of the images in them: clip(x + shift) with one shift for each square, found by halving an interval (the
    conditions of Karush, Kuhn and Tucker). Where nothing is clipped it is the same. Such images exist where ``low`` lies within the
    bounds itself; else the result is as near as they allow.

    As what revises the estimates of a denoiser (`guidance.revised`) it is the null-space method (Wang et al. 2023, "DDNM",
    arXiv:2212.00490, section 3) for means over squares, whose pseudo-inverse is `repeat`; within bounds, which the paper does not
    keep, clipping x_0 later changes nothing.
    """
    if within is None:
        return x + repeat(low - downsample(x, factor), factor)
    least, most = within
    b, h, w, c = low.shape
    squares = x.reshape(b, h, factor, w, factor, c)
    wanted = low[:, :, None, :, None, :]

    def mean(shift):
        return jnp.clip(squares + shift, least, most).mean(axis=(2, 4), keepdims=True)

    def halve(_, interval):
        below, above = interval
        middle = (below + above) / 2
        enough = mean(middle) >= wanted
        return jnp.where(enough, below, middle), jnp.where(enough, middle, above)

    ends = least - squares.max(axis=(2, 4), keepdims=True), most - squares.min(axis=(2, 4), keepdims=True)
    below, above = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    return jnp.clip(squares + (below + above) / 2, least, most).reshape(x.shape)
