"""Pictures to begin from, and masks of what of them is to be kept, from files."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from train.common.errors import UserError, check_counts, one_line


@dataclass(frozen=True)
class Edit:
    """Diffusion models: draw images like a given one, or fill in a part of it."""

    init_image: Path | None = None
    """A picture to begin from, or to keep a part of."""
    strength: float | None = None
    """How much of the way to go from it, more than 0 to 1, which keeps nothing. Default: 0.6; with a mask, 1."""
    mask: Path | None = None
    """A picture of the same size: what is white is made up, what is black stays."""
    resamplings: int = 1
    """With a mask: how often each stretch of the way is gone over, so that both parts fit; RePaint's authors take 10. More than once is
    by its ancestral chain, from noise, whatever the sampler."""


def read(edit: Edit, shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """The picture, uint8 (h, w, c), and where it is known, float32 (h, w, 1), or None without a mask; brought to the size and colours of a
    model's images.

    Raises:
        UserError: if there is a mask and no picture, a number is out of range, a file is no picture, or their sizes differ.
    """
    import numpy as np

    check_counts(edit, "resamplings")
    if edit.init_image is None:
        given = next(field.name for field in fields(edit) if getattr(edit, field.name) != field.default)
        raise UserError(f"--{given} says how a picture is to be changed: give the picture too, with --init-image")
    if edit.strength is not None and not 0 < edit.strength <= 1:
        raise UserError(f"--strength must be more than 0 and at most 1; got {edit.strength}")
    if edit.mask is None and edit.resamplings > 1:
        raise UserError("--resamplings make a part fit another; give the part that is known with --mask")
    if edit.strength is not None and edit.resamplings > 1:
        raise UserError("--resamplings begin from noise alone, which is --strength 1; leave one of the two out")
    picture, mask = open_picture(edit.init_image), None if edit.mask is None else open_picture(edit.mask)
    if mask is not None and mask.size != picture.size:
        raise UserError(
            f"the mask {edit.mask} has {mask.size[0]}x{mask.size[1]} pixels and {edit.init_image} "
            f"{picture.size[0]}x{picture.size[1]}; they must be of one size"
        )
    known = None if mask is None else (fitted(mask, (*shape[:2], 1)) < 128).astype(np.float32)
    return fitted(picture, shape), known


def open_picture(path: Path) -> Any:
    """The picture in this file, as Pillow's.

    Raises:
        UserError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        return ImageOps.exif_transpose(Image.open(path))
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise UserError(f"{path} cannot be read as a picture ({one_line(error)})") from error


def fitted(picture: Any, shape: tuple[int, int, int]) -> Any:
    """The middle of the picture, of the proportions of this shape (h, w, c), at this size and with so many channels, uint8."""
    from PIL import Image, ImageOps

    from train.common import sources

    h, w, c = shape
    array = sources.pixels(picture, grey=c == 1, size=None)  # first of all: a palette's numbers cannot be averaged
    if array.shape == shape:
        return array
    full = Image.fromarray(array[..., 0] if c == 1 else array)
    return sources.pixels(ImageOps.fit(full, (w, h), method=Image.Resampling.LANCZOS), grey=c == 1, size=None)
