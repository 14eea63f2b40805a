"""Pictures for a person to look at: grids of samples, and the denoising chain as a strip or an animation.

Layout: a batch is (n, h, w, c) and a picture (height, width, c), both uint8 with c = 1 (grey) or 3 (RGB). Only the two
`save_` functions touch the disk; they write whole files or none, and leave an OSError to the caller.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from train.common.errors import UserError
from train.common.files import write_atomically

LONG_SIDE = 700
"""Pixels along the longer side of a grid, about: large enough to see 8x8 digits, small enough for a phone."""

FILM_SIDE = 330
"""The same for one frame of an animation, most of which is noise, which does not compress."""

FILM_PIXELS = 2**15
"""At most so many pixels of the sampler's own in one frame, before enlargement."""

EXAMPLES = 36
"""At most so many pictures in one frame."""

GAP = 40
"""Grey level between pictures: darker than most pictures, yet not the black that digits lie on."""

PALETTE_PIXELS = 2**14
"""Pixels after which a frame of an animation chooses its few colours, if it has more: choosing after all takes ten times as long."""

SHORTEST_FRAME = 20
"""Milliseconds a frame is shown at least: browsers play anything shorter at 100 ms instead."""


def to_uint8(images) -> np.ndarray:
    """Grey levels 0..255, uint8, of the same shape: x in [-1, 1] becomes the integer nearest to 127.5 (x + 1).

    Ties go to the even integer, so -1, 0, 1 become 0, 128, 255; values beyond [-1, 1] are clipped. It undoes
    u -> u / 127.5 - 1 exactly for every grey level u.

    Args:
        images: floating point, any shape; numpy or JAX, float32 or bfloat16 alike.

    Raises:
        ValueError: the array is not floating point.
        UserError: it holds NaN.
    """
    images = np.asarray(images)
    if images.dtype.kind in "iub":
        raise ValueError(f"images must be floating point in [-1, 1]; got dtype {images.dtype}")
    images = images.astype(np.float32)
    check_defined(images, "image values")
    return np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def check_defined(values: np.ndarray, what: str) -> None:
    """Nothing, if no value is NaN.

    Raises:
        UserError: if one is; `what` says what they are.
    """
    if missing := int(np.isnan(values).sum()):
        raise UserError(
            f"{missing} of {values.size} {what} are NaN: the model has diverged. "
            "A smaller --learning-rate usually helps, in a new --run"
        )


def grid(
    images: np.ndarray,
    columns: int | None = None,
    pad: int | None = None,
    scale: int | None = None,
    long_side: int = LONG_SIDE,
) -> np.ndarray:
    """One picture, (height, width, c) uint8, with image i at row i // columns and column i % columns.

    Args:
        images: (n, h, w, c) uint8, n >= 1.
        columns: images per row; by default a nearly square grid, without empty cells where n allows it.
        pad: pixels of grey between neighbours, none around the outside; by default half a `scale`, and at least 2.
        scale: each pixel becomes a scale x scale block, without blurring; by default the one that brings the longer
            side nearest to `long_side` pixels.
        long_side: used only where `scale` is not given.

    Raises:
        ValueError: shape, dtype, columns, pad or scale as said above is not given.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be uint8 (n, h, w, 1 or 3); got {images.dtype} {images.shape}")
    n, h, w, c = images.shape
    columns = _columns(n, h / w) if columns is None else columns
    if columns < 1 or (pad is not None and pad < 0) or (scale is not None and scale < 1):
        raise ValueError(f"need columns >= 1, pad >= 0, scale >= 1; got {columns=}, {pad=}, {scale=}")
    rows = math.ceil(n / columns)
    if scale is None:
        scale = max(1, round(min(long_side / (columns * w), long_side / (rows * h))))
    if pad is None:
        pad = max(2, scale // 2)

    enlarged = images.repeat(scale, axis=1).repeat(scale, axis=2)
    cells = np.full((rows * columns, h * scale + pad, w * scale + pad, c), GAP, np.uint8)
    cells[:n, : h * scale, : w * scale] = enlarged
    tiled = cells.reshape(rows, columns, *cells.shape[1:]).transpose(0, 2, 1, 3, 4)
    picture = tiled.reshape(rows * (h * scale + pad), columns * (w * scale + pad), c)
    return picture[: picture.shape[0] - pad, : picture.shape[1] - pad]


def strip(trajectory: np.ndarray, examples: int = 6, moments: int = 11, pad: int | None = None) -> np.ndarray:
    """One picture, (height, width, c) uint8, of a denoising chain: a row per example, time running to the right.

    Args:
        trajectory: (steps, n, h, w, c) uint8, in the order in which the sampler went: noise first.
        examples: at most so many rows, the first ones.
        moments: at most so many columns, evenly spread, the first and the last moment always among them.
        pad: as in `grid`.

    Raises:
        ValueError: the trajectory has another shape or dtype.
    """
    chosen = _moments(trajectory, moments)[:, :examples]
    by_example = chosen.swapaxes(0, 1)
    return grid(by_example.reshape(-1, *by_example.shape[2:]), columns=len(chosen), pad=pad)


def film(
    trajectory: np.ndarray, examples: int = EXAMPLES, moments: int = 32, pad: int | None = None
) -> list[np.ndarray]:
    """The frames of a denoising animation, small grids (height, width, c) uint8, ready for `save_gif`.

    Args:
        trajectory: (steps, n, h, w, c) uint8, in the order in which the sampler went: noise first.
        examples: at most so many pictures in a frame, the first ones; fewer, a square number, where they are large.
        moments: at most so many frames, evenly spread, the first and the last moment always among them.
        pad: as in `grid`.

    Raises:
        ValueError: the trajectory has another shape or dtype.
    """
    chosen = _moments(trajectory, moments)
    root = max(1, math.isqrt(FILM_PIXELS // math.prod(chosen.shape[2:4])))
    return [grid(frame[: min(examples, root**2)], pad=pad, long_side=FILM_SIDE) for frame in chosen]


def evenly(count: int, at_most: int) -> list[int]:
    """Indices into `count` things, ascending and distinct: evenly spread, the first and the last among them."""
    if count <= at_most:
        return list(range(count))
    return [round(i) for i in np.linspace(0, count - 1, max(at_most, 2))]


def save_png(path: Path, picture: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Writes (height, width, c) uint8 without loss; `text` goes into the file as PNG metadata.

    Raises:
        ValueError: not a picture.
        OSError: it could not be written; what was at `path` before is still there.
    """
    about = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        about.add_text(key, value)
    encoded = io.BytesIO()
    _image(picture).save(encoded, "PNG", pnginfo=about, optimize=True)
    write_atomically(path, encoded.getvalue())


def save_gif(
    path: Path, frames: Sequence[np.ndarray], seconds: float = 4.0, hold: float = 2.0, colours: int = 32
) -> None:
    """Writes an endless animation of `frames`, (height, width, c) uint8 each; the last one is held longer.

    Noise does not compress: small size is bought with few colours, and without dithering.

    Args:
        seconds: duration without the hold; frames too many for it are left out evenly.
        hold: seconds for which the last frame stays.
        colours: 2..256, in each frame but the last, which has 256.

    Raises:
        ValueError: no frames, frames of different shapes, or colours out of range.
        OSError: it could not be written; what was at `path` before is still there.
    """
    if not frames or len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"frames must be one or more of equal shape; got {[frame.shape for frame in frames]}")
    if not 2 <= colours <= 256:
        raise ValueError(f"colours must be in 2..256; got {colours}")
    shown = [_image(frames[i]) for i in evenly(len(frames), int(1000 * seconds / SHORTEST_FRAME))]
    # GIF counts in hundredths of a second.
    each = max(SHORTEST_FRAME, round(100 * seconds / len(shown)) * 10)
    durations = [each] * (len(shown) - 1) + [round(100 * hold) * 10 + each]
    indexed = [_indexed(frame, colours) for frame in shown[:-1]] + [_indexed(shown[-1], 256)]
    encoded = io.BytesIO()
    indexed[0].save(
        encoded, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
    )
    write_atomically(path, encoded.getvalue())


def _columns(n: int, aspect: float) -> int:
    root = math.ceil(math.sqrt(n * aspect))
    full = [columns for columns in range(root, 2 * root + 1) if n % columns == 0 and n // columns > 1]
    return full[0] if full else root


def _moments(trajectory: np.ndarray, at_most: int) -> np.ndarray:
    trajectory = np.asarray(trajectory)
    if trajectory.ndim != 5 or 0 in trajectory.shape:
        raise ValueError(f"trajectory must be (steps, n, h, w, c) and not empty; got {trajectory.shape}")
    return trajectory[evenly(len(trajectory), at_most)]


def _image(picture: np.ndarray) -> Image.Image:
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] not in (1, 3):
        raise ValueError(f"a picture must be uint8 (height, width, 1 or 3); got {picture.dtype} {picture.shape}")
    return Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[-1] == 1 else picture))


def _indexed(image: Image.Image, colours: int) -> Image.Image:
    """The image in at most so many colours of its own choice; grey levels are spaced evenly, lest they flicker."""
    if image.mode == "RGB" and (colours == 256 or math.prod(image.size) <= PALETTE_PIXELS):
        return image.quantize(colours, dither=Image.Dither.NONE)
    if image.mode == "RGB":
        pixels = np.asarray(image).reshape(-1, 3)
        some = pixels[np.random.default_rng(0).integers(len(pixels), size=PALETTE_PIXELS)]
        palette = Image.fromarray(some[None]).quantize(colours, dither=Image.Dither.NONE)
        return image.quantize(palette=palette, dither=Image.Dither.NONE)
    step = 255 / (colours - 1)
    indexed = Image.fromarray(np.rint(np.asarray(image) / step).astype(np.uint8))
    indexed.putpalette(np.rint(step * np.arange(colours)).astype(np.uint8).repeat(3).tobytes())
    return indexed
