"""A folder of pictures as a data set."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from train.common import sources
from train.common.errors import UserError, first_few
from train.common.files import expanded

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
T = TypeVar("T")


class _Broken(NamedTuple):
    file: str
    reason: str


def load(path: str, image_size: int | None) -> sources.Source:
    """All pictures under `path`, in the order of their names; of an animation, the first frame.

    - The order is that of the relative paths, folder by folder, compared code point by code point: the same on every
      machine. Hidden files and folders are skipped, links to folders are not followed.
    - A camera's orientation mark (EXIF) is obeyed. The images are grey (c = 1) if every file is, else RGB.
    - If every picture lies in a subfolder, the first subfolder's name is its label; otherwise there are no labels.

    Raises:
      UserError: no such folder, no pictures in it, a file that is no picture (named), or no `image_size` where the
        pictures differ in size.
    """
    root = expanded(path)
    if not root.is_dir():
        raise UserError(
            f"there is no folder {path!r}; write --dataset folder:PATH with the path of a folder of pictures"
        )
    files = pictures(root)
    if not files:
        raise UserError(f"no pictures in the folder {path!r} (looked for {' '.join(SUFFIXES)}, subfolders included)")
    grey = all(_for_each(root, files, _is_grey, "looking at pictures"))
    if image_size is None:
        sizes = set(_for_each(root, files, _size, "measuring pictures"))
        if len(sizes) > 1:
            (w0, h0), (w1, h1) = min(sizes), max(sizes)
            raise UserError(
                f"the pictures in {path!r} have {len(sizes)} different sizes ({w0}x{h0}, {w1}x{h1}, ...): give"
                " --image-size N to cut and resize them all to NxN"
            )
        ((w, h),) = sizes
    else:
        w = h = image_size
    labels, class_names = _labels(files)

    def decode(file: Path) -> np.ndarray:
        with Image.open(file) as picture:
            # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the target leaves the resampling its detail.
            if image_size is not None and min(picture.size) > 2 * image_size:
                scale = 2 * image_size / min(picture.size)
                picture.draft(None, tuple(int(scale * side) for side in picture.size))
            return sources.pixels(ImageOps.exif_transpose(picture), grey, image_size)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack(_for_each(root, [files[i] for i in indices], decode)), labels[indices]

    name, shape = f"folder:{path}", (h, w, 1 if grey else 3)
    if len(files) * int(np.prod(shape)) <= sources.IN_MEMORY_BYTES:
        images = np.empty((len(files), *shape), np.uint8)
        rows = dict(zip((root / file for file in files), images, strict=True))
        _for_each(root, files, lambda file: np.copyto(rows[file], decode(file)), "reading pictures")
        return sources.in_memory(name, images, labels, class_names)
    listing = "\n".join(f"{file} {(root / file).stat().st_size}" for file in files)
    fingerprint = sources.digest(f"{listing}\n{shape}".encode())
    return sources.Source(name, shape, len(files), class_names, fingerprint, read)


def beside(source: sources.Source, column: str, path: str, image_size: int | None) -> sources.Source:
    """The folder of pictures, with one more column: for each of them the picture of the same name, whatever its ending, in the folder
    `path`, of the same size and brought to as many channels, uint8 (b, h, w, c).

    Raises:
      UserError: the data set is no folder, there is no such folder, it lacks pictures (named), or they have another size.
    """
    own = source.name.removeprefix("folder:")
    if own == source.name:
        raise UserError(f"a second folder of pictures goes with one of --dataset folder:PATH; got --dataset {own}")
    others = load(path, image_size)
    found = {file.rpartition(".")[0]: i for i, file in enumerate(pictures(expanded(path)))}
    wanted = pictures(expanded(own))
    missing = [file for file in wanted if file.rpartition(".")[0] not in found]
    if missing:
        raise UserError(f"{path!r} has no pictures of the same names as {first_few(missing)} in {own!r}")
    (h, w, c), (other_h, other_w, _) = source.shape, others.shape
    if (h, w) != (other_h, other_w):
        raise UserError(
            f"the pictures in {path!r} have {other_w}x{other_h} pixels, and those in {own!r} {w}x{h}; they must be of one size, or give "
            "--image-size N to cut and resize them all to NxN"
        )
    rows = np.array([found[file.rpartition(".")[0]] for file in wanted])

    def read(indices: np.ndarray, _: np.ndarray) -> np.ndarray:
        images = others.read(rows[indices])[0]
        if images.shape[-1] > c:
            images = np.stack([sources.pixels(Image.fromarray(image), True, None) for image in images])
        return np.broadcast_to(images, (*images.shape[:-1], c))

    return sources.with_column(source, column, read, sources.digest(others.fingerprint.encode(), rows))


def pictures(root: Path) -> list[str]:
    """Paths relative to `root`, with "/", sorted."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [
            Path(folder, name).relative_to(root)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return [file.as_posix() for file in sorted(found, key=lambda file: file.parts)]


def _labels(files: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label of each file, int32 (n,), and the names of the labels."""
    folders = [file.rpartition("/")[0].partition("/")[0] for file in files]
    if not all(folders):
        return np.zeros(len(files), np.int32), ()
    names, labels = np.unique(folders, return_inverse=True)
    return labels.astype(np.int32), tuple(names.tolist())


def _is_grey(file: Path) -> bool:
    """Whether the picture has no colours; a look at its header."""
    with Image.open(file) as picture:
        return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")


def _size(file: Path) -> tuple[int, int]:
    """Width and height of the picture as seen; a PNG has to be decoded for it, as its EXIF may come last."""
    with Image.open(file) as picture:
        sideways = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return picture.size[::-1] if sideways else picture.size


def _for_each(root: Path, files: Sequence[str], function: Callable[[Path], T], what: str = "") -> list[T]:
    """`function` of every file, on several threads, with a progress bar where `what` says what is being done.

    Raises:
      UserError: if it fails for some files, with the names of the first of them.
    """

    def attempt(file: str) -> T | _Broken:
        try:
            return function(root / file)
        # Decoders raise nearly anything on a damaged file: OSError, SyntaxError, ValueError, struct.error, ...
        except Exception as error:
            return _Broken(file, "not a picture" if isinstance(error, UnidentifiedImageError) else str(error))

    with ThreadPoolExecutor() as pool:
        results = pool.map(attempt, files)
        results = list(sources.progress(results, what, len(files)) if what else results)
    broken = [result for result in results if isinstance(result, _Broken)]
    if broken:
        named = "; ".join(f"{file} ({reason})" for file, reason in broken[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise UserError(
            f"{len(broken)} of {len(files)} pictures in {str(root)!r} cannot be read: {named}{more}."
            " Delete them or move them out of the folder, then run the same command again"
        )
    return results
