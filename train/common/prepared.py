"""Data sets that tensorflow-datasets has prepared, read without TensorFlow."""

import importlib.util
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image

from train.common import sources
from train.common.errors import NoSuchSplit, UserError, one_line
from train.common.files import expanded

Builder = tfds.core.DatasetBuilder


def root(data_dir: str | None) -> Path:
    """The data directory: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return expanded(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def names() -> list[str]:
    """The names of all data sets that tensorflow-datasets knows itself."""
    return tfds.list_builders(with_community_datasets=False)


def builder(name: str, data_dir: Path) -> Builder | None:
    """The tfds builder of `name` ("cifar10", "emnist/letters", "mnist:3.0.1"); None where there is no such set.

    Raises:
      UserError: if tfds knows the name but not its configuration or version.
    """
    # tfds itself would ask other hosts for an unknown name, and retry for half a minute without a network.
    base = name.replace(":", "/").partition("/")[0]
    if not base or (base not in names() and not (data_dir / base).is_dir()):
        return None
    try:
        return _builder(name, data_dir)
    except tfds.core.DatasetNotFoundError:
        return None


def is_prepared(builder: Builder) -> bool:
    """Whether the set lies in the data directory, in any format."""
    return builder.data_path.exists() and builder.is_prepared()  # tfds warns where there is no such folder


def is_readable(builder: Builder) -> bool:
    """Whether the set lies in the data directory in a format that can be read by index, without TensorFlow."""
    formats = {builder.info.file_format, *builder.info.alternative_file_formats}
    return is_prepared(builder) and not formats.isdisjoint(tfds.core.FileFormat.with_random_access())


def prepare(name: str, builder: Builder) -> Builder:
    """Downloads and prepares a set that is not there yet, which needs TensorFlow this once.

    Raises:
      UserError: if TensorFlow is missing, the network is, or the set lies there in another format already.
    """
    data_dir = Path(builder.data_dir_root)
    if is_prepared(builder):
        raise UserError(
            f"{builder.data_dir} holds {name} as {builder.info.file_format.value} files, which cannot be read by index:"
            " give --data-dir a directory of its own, where it will be prepared as array_record files"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name} is not prepared in {data_dir}, and preparing it (once) needs TensorFlow: pip install tensorflow-cpu,"
            " then run the same command again; or give --data-dir a directory where it is prepared as array_record files"
        )
    for url in list(builder.url_infos or {})[:1]:
        if reason := unreachable(url):
            raise UserError(f"{name} is not prepared in {data_dir} and cannot be downloaded: {reason}")
    builder = _builder(name, data_dir, file_format="array_record")
    try:
        builder.download_and_prepare()
    # What tfds and the set's own code raise here is not documented; all of it is about this set, this disk, this network.
    except Exception as error:
        raise UserError(f"tensorflow-datasets could not prepare {name} in {data_dir}: {one_line(error)}") from error
    return builder


def unreachable(url: str) -> str:
    """Why nothing can be downloaded from `url`; empty if it can. (tfds' own downloader retries for 200 seconds.)"""
    try:
        with requests.get(url, stream=True, timeout=10) as response:
            return "" if response.ok else f"{url} answers {response.status_code} {response.reason}"
    except requests.RequestException as error:
        return f"{url} cannot be reached ({type(error).__name__})"


def load(name: str, builder: Builder, split: str, image_size: int | None) -> sources.Source:
    """A prepared set: its feature "image", and its feature "label" where that is a class.

    Raises:
      UserError: no such split, no images, or images of differing sizes and no `image_size`.
    """
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    feature = features.get("image")
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
        raise UserError(
            f"{name} is no set of 8-bit images: it has no feature 'image' of that kind but {list(features)}"
        )
    labelled = isinstance(features.get("label"), tfds.features.ClassLabel)
    h, w, c = feature.shape
    if image_size is None and (h is None or w is None):
        raise UserError(
            f"the images of {name} have no common size: give --image-size N to cut and resize them all to NxN"
        )
    grey = c == 1
    shape = (image_size or h, image_size or w, 1 if grey else 3)
    # Pillow decodes faster than tfds does, and no other picture of a record need be decoded at all.
    encoded = {key: tfds.decode.SkipDecoding() for key, f in features.items() if isinstance(f, tfds.features.Image)}
    try:
        records = builder.as_data_source(split, decoders=encoded)
    except ValueError as error:
        raise NoSuchSplit(f"{name}: {one_line(error)}") from error
    if not len(records):
        raise NoSuchSplit(f"{name} has no images in its split {split!r}")

    def decode(record: dict) -> np.ndarray:
        with Image.open(io.BytesIO(record["image"])) as picture:
            return sources.pixels(picture, grey, image_size)

    # Tiny pictures are decoded so fast that threads would only wait for each other.
    tiny = h is not None and w is not None and h * w <= 64 * 64

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            chosen = records.__getitems__(indices.tolist())
            with ThreadPoolExecutor(1 if tiny else None) as pool:
                images = np.stack(list(pool.map(decode, chosen)))
            labels = [record["label"] if labelled else 0 for record in chosen]
        # Readers and decoders raise nearly anything on damaged files: RuntimeError, OSError, SyntaxError, ...
        except Exception as error:
            raise UserError(
                f"the files of {name} in {builder.data_dir} are damaged ({one_line(error)}): delete that folder to have it"
                " prepared anew, or give another --data-dir"
            ) from error
        return images, np.array(labels, np.int32)

    class_names = tuple(features["label"].names) if labelled else ()
    if len(records) * int(np.prod(shape)) > sources.IN_MEMORY_BYTES:
        identity = f"{builder.info.full_name} {split} {len(records)} {builder.info.dataset_size} {shape}"
        return sources.Source(name, shape, len(records), class_names, sources.digest(identity.encode()), read)
    images, labels = np.empty((len(records), *shape), np.uint8), np.empty(len(records), np.int32)
    chunks = np.array_split(np.arange(len(records)), -(-len(records) // 1000))
    for chunk in sources.progress(chunks, f"reading {name}", len(chunks)):
        images[chunk], labels[chunk] = read(chunk)
    return sources.in_memory(name, images, labels, class_names)


def _builder(name: str, data_dir: Path, file_format: str | None = None) -> Builder:
    try:
        return tfds.builder(name, data_dir=str(data_dir), file_format=file_format)
    except tfds.core.DatasetNotFoundError:
        raise
    except ImportError as error:
        raise UserError(f"tensorflow-datasets needs another package for {name}: {one_line(error)}") from error
    except (ValueError, AssertionError) as error:
        raise UserError(f"tensorflow-datasets has no {name!r}: {one_line(error)}") from error
