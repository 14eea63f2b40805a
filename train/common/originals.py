"""MNIST, Fashion-MNIST, KMNIST and CIFAR-10 from the files their authors published, without TensorFlow.

Addresses, sizes and SHA-256 sums are those registered in tensorflow-datasets, which also downloads.
"""

import contextlib
import gzip
import hashlib
import math
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from train.common import prepared, sources
from train.common.errors import UserError, one_line

NAMES = ("mnist", "fashion_mnist", "kmnist", "cifar10")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Images uint8 (n, h, w, c), labels uint8 (n,), class names str (number of classes,)."""


class Original(NamedTuple):
    """A published file, as tensorflow-datasets has registered it."""

    filename: str
    url: str
    size: int
    sha256: str


def load(name: str, builder: prepared.Builder, split: str, image_size: int | None) -> sources.Source:
    """One of `NAMES`, in the order of the original files ("train" or "test").

    The order, and so the run, differs from that of the same set prepared by tensorflow-datasets, which shuffles. The
    decoded arrays are kept in DATA_DIR/jaxgen, from where the next start takes them if they are sound.

    Raises:
      UserError: no such split, a file that is not the registered one, or no network to download it from.
    """
    if split not in ("train", "test"):
        raise UserError(f"{name} has the splits 'train' and 'test', read from its original files; got {split!r}")
    data_dir = Path(builder.data_dir_root)
    needed = _needed(name, builder, split)
    cache = data_dir / "jaxgen" / f"{name}-{split}.npz"
    arrays = _read_cache(cache, needed)
    if arrays is None:
        files = [_find(name, data_dir, original) for original in needed]
        if name == "cifar10":
            arrays = read_cifar10(files[0], split)
        else:
            images, labels = (read_idx(gzip.decompress(file.read_bytes())) for file in files)
            arrays = images[..., None], labels, np.array(builder.info.features["label"].names)
        # A cache that cannot be written costs a second or two per start, and nothing else.
        with contextlib.suppress(OSError):
            _write_cache(cache, arrays, needed)
    images, labels, class_names = arrays
    return sources.in_memory(name, sources.resized(images, image_size), labels, class_names.tolist())


def read_idx(content: bytes) -> np.ndarray:
    """The array in an IDX file: uint8, of the shape its header gives (LeCun, Cortes and Burges 1998).

    Raises:
      ValueError: if the header is not that of bytes, or the length is not what it says.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"an IDX file of bytes begins with 00 00 08; got {content[:3].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(shape) != content[3] or len(content) != start + math.prod(shape):
        raise ValueError(f"an IDX file of shape {shape} has {start + math.prod(shape)} bytes; got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar10(archive: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 (n, 32, 32, 3), labels uint8 (n,), class names (10,) of one split of the binary version.

    A record is one byte of label, then the red, green and blue planes, each 32 rows of 32 (Krizhevsky 2009).
    """
    with tarfile.open(archive, "r:gz") as tar:
        parts = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    records = np.frombuffer(b"".join(parts[batch] for batch in batches), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, records[:, 0], np.array(parts["batches.meta.txt"].decode().split())


def _needed(name: str, builder: prepared.Builder, split: str) -> list[Original]:
    """The files that hold one split of a set: the images', then the labels'."""
    if name == "cifar10":
        filenames = ["cifar-10-binary.tar.gz"]
    else:
        prefix = {"train": "train", "test": "t10k"}[split]
        filenames = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
    registered = {info.filename: (url, info) for url, info in builder.url_infos.items()}
    return [
        Original(filename, url, int(info.size), info.checksum)
        for filename, (url, info) in ((filename, registered[filename]) for filename in filenames)
    ]


def _find(name: str, data_dir: Path, original: Original) -> Path:
    """The file, from where a person may have put it, else as downloaded before, else downloaded now."""
    downloads = data_dir / "downloads"
    manual = downloads / "manual"
    candidates = [folder / original.filename for folder in (manual / name, manual, data_dir / name, data_dir)]
    wrong = []
    for file in candidates:
        if file.is_file():
            difference = _difference(file, original)
            if not difference:
                return file
            wrong.append(difference)
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: delete it or move it away ({name}'s own files go to {manual / name})")
    # tfds names what it has downloaded in a way of its own.
    for folder in (downloads / name, downloads):
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.is_file() and not _difference(file, original):
                return file
    if reason := prepared.unreachable(original.url):
        raise UserError(
            f"{name} is not in {data_dir} and cannot be downloaded: {reason}. Fetch that file where there is a network"
            f" ({original.size:,} bytes) and put it into {manual / name}, or give --data-dir a directory that holds {name}"
        )
    try:
        manager = tfds.download.DownloadManager(download_dir=downloads, dataset_name=name)
        file = Path(manager.download(original.url))
    # tfds raises classes of its own that are no part of its interface, besides OSError.
    except Exception as error:
        raise UserError(f"could not download {original.url} to {downloads}: {one_line(error)}") from error
    if difference := _difference(file, original):
        raise UserError(f"{difference}: delete it and run the same command again")
    return file


def _difference(file: Path, original: Original) -> str:
    """In what way the file is not the registered one; empty if it is."""
    size = file.stat().st_size
    if size != original.size:
        return f"{file} has {size:,} bytes where {original.size:,} are registered"
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return "" if sha256 == original.sha256 else f"{file} has SHA-256 {sha256} where {original.sha256} is registered"


def _write_cache(path: Path, arrays: Arrays, originals: list[Original]) -> None:
    """Under a name of its own first, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    try:
        images, labels, class_names = arrays
        np.savez(partial, images=images, labels=labels, class_names=class_names, originals=_checksums(originals))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_cache(path: Path, originals: list[Original]) -> Arrays | None:
    """The arrays decoded from these originals; None if they are not there or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as cached:
            if cached["originals"].tolist() != _checksums(originals):
                return None
            # Reading an entry to its end compares its CRC-32.
            return cached["images"], cached["labels"], cached["class_names"]
    # A damaged file makes zipfile and numpy raise nearly anything: BadZipFile, ValueError, NotImplementedError, ...
    except Exception:
        return None


def _checksums(originals: list[Original]) -> list[str]:
    return [original.sha256 for original in originals]
