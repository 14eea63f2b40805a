"""What every data set looks like to the training loop, and how one picture becomes pixels."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

T = TypeVar("T")
Column = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of a data set: indices (b,), the labels there (b,) -> (b, ...)."""

# A set that takes more than this when decoded stays in its files, and is decoded batch by batch.
IN_MEMORY_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Source:
    """A finite sequence of labelled images, all of one shape, or of labelled points of the plane."""

    name: str
    """What was asked for: "digits", "cifar10", "folder:/home/me/cats"."""
    shape: tuple[int, ...]
    """(h, w, c) of every image; c is 1 (grey) or 3 (RGB). Of a point: (2,)."""
    num_examples: int
    class_names: tuple[str, ...]
    """The name of each label; empty where the set has no labels (then every label is 0)."""
    fingerprint: str
    """16 hexadecimal digits that change with the content: of every byte where the set lies in memory, of names and
    sizes where it is decoded batch by batch."""
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] = dataclasses.field(repr=False)
    """indices (b,) -> images uint8 (b, h, w, c) or points float32 (b, 2), labels int32 (b,)."""
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict, repr=False)
    """Further columns, by name."""
    row_bytes: int = 0
    """Bytes of a row of these together."""

    def __len__(self) -> int:
        return self.num_examples

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 where the set has none."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """Bytes of all images together when decoded, or of all points, and of further columns."""
        return self.num_examples * (int(np.prod(self.shape)) * (4 if self.is_points else 1) + self.row_bytes)

    @property
    def is_points(self) -> bool:
        """Whether the examples are points of the plane."""
        return len(self.shape) == 1

    def describe(self) -> dict[str, Any]:
        """What a run keeps of it in config.json."""
        return {
            "name": self.name,
            "num_examples": len(self),
            "shape": self.shape,
            "num_classes": self.num_classes,
            "fingerprint": self.fingerprint,
        }

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` (b,): {"image": uint8 (b, h, w, c), "label": int32 (b,)}, or with "point", float32 (b, 2);
        and further columns.

        `rows(np.arange(len(source)))` is the whole table. Where the set is decoded batch by batch, an unreadable
        picture raises UserError with the name of its file.
        """
        indices = np.asarray(indices)
        examples, labels = self.read(indices)
        further = {name: column(indices, labels) for name, column in self.columns.items()}
        return {"point" if self.is_points else "image": examples, "label": labels, **further}


def in_memory(name: str, examples: np.ndarray, labels: np.ndarray, class_names: Iterable[str]) -> Source:
    """A data set held in RAM: images uint8 (n, h, w, c) or points float32 (n, 2), labels int (n,)."""
    examples, labels = np.ascontiguousarray(examples), np.ascontiguousarray(labels, np.int32)
    return Source(
        name=name,
        shape=examples.shape[1:],
        num_examples=len(examples),
        class_names=tuple(class_names),
        fingerprint=digest(str(examples.shape).encode(), examples, labels),
        read=lambda indices: (examples[indices], labels[indices]),
    )


def with_column(source: Source, name: str, column: Column, fingerprint: str) -> Source:
    """The data set with one more column, whose content has this fingerprint."""
    return dataclasses.replace(
        source,
        columns={**source.columns, name: column},
        row_bytes=source.row_bytes + column(np.zeros(1, np.int32), np.zeros(1, np.int32)).nbytes,
        fingerprint=digest(f"{source.fingerprint} {name} {fingerprint}".encode()),
    )


def digest(*parts: bytes | np.ndarray) -> str:
    """Sixteen hexadecimal digits that identify the bytes of `parts`, in order (BLAKE2b)."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def pixels(picture: Image.Image, grey: bool, size: int | None) -> np.ndarray:
    """The picture as uint8 (h, w, 1) if `grey`, else (h, w, 3).

    With a `size` the largest centred square is cut out and resampled to (size, size) with a Lanczos filter, which Pillow
    widens when it shrinks, so that nothing aliases. Transparent parts become white; 16-bit grey keeps its high byte.
    """
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    mode = "L" if grey else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)
    array = np.asarray(picture)
    return array[..., None] if grey else array


def resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (n, h, w, c) as (n, size, size, c), by the rule of `pixels`; unchanged where `size` is None or theirs."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    grey = images.shape[-1] == 1
    out = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    for i, image in enumerate(progress(images, "resizing", len(images))):
        out[i] = pixels(Image.fromarray(image[..., 0] if grey else image), grey, size)
    return out


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """`items`, with a progress bar once they have taken more than a second."""
    bar = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    interval = 0.1 if sys.stderr.isatty() else 20
    return tqdm(items, what, total, leave=False, delay=1, mininterval=interval, bar_format=bar)
