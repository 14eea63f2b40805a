"""The features that the FID is measured in, by the weights of the original Inception in a file that the user has.

    features, sha256 = inception.load(path, on)
    fid = quality.frechet_distance(features(x), features(y))

The file is the TensorFlow graph of 2015-12-05 as pytorch-fid has converted it, pt_inception-2015-12-05-6726825d.pth, as safetensors. Images
are rounded to 256 levels first, as files of pictures hold them, and resized by `jaxgen.models.inception.prepare`.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxgen.models import inception as network
from train.common import gallery, images, parallel, pictures, sources
from train.common.diffusers_folder import PICKLES
from train.common.errors import UserError, one_line

AT_ONCE = 32
"""Images on a device."""


class Loaded(NamedTuple):
    """The network with the weights of a file."""

    features: Callable[[Any], np.ndarray]
    """Images (n, h, w, 1 or 3) in [-1, 1] -> float32 (n, 2048)."""
    sha256: str
    """Of the file."""


def load(path: Path, on: Sequence[jax.Device]) -> Loaded:
    """The network on these devices, and the sha256 of the file, which is also printed on stderr.

    Raises:
        UserError: if the file is not there, is pickled, cannot be read or has other tensors.
    """
    params = _read(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"inception {path}, sha256 {sha256}", file=sys.stderr)
    return Loaded(_features(params, on), sha256)


def _read(path):
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is pickled: loading such a file can run any code its author put there, so it is not done; {_way_out(path)}"
        )
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not safetensors: {one_line(error)}; if it is pickled, {_way_out(path)}") from error
    try:
        return network.from_tensors(tensors, network.shapes())
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _features(params, on):
    def see(params, batch, _):
        with jax.default_matmul_precision("highest"):  # else GPUs and TPUs would round to fewer digits
            x = network.prepare(images.to_unit_range(batch["image"]))
            return network.Inception().apply({"params": params}, x)

    program, params, key = gallery.drawer(see, on), parallel.place(params, on), jax.random.key(0)
    size = AT_ONCE * len(on)

    def features(x):
        levels = pictures.to_uint8(x)
        batches = range(-(-len(x) // size))
        seen = []
        for i in sources.progress(batches, "Inception", len(batches)):
            rows = np.resize(np.arange(i * size, min((i + 1) * size, len(x))), size)  # one shape for all batches
            seen.append(program(params, {"image": levels[rows]}, key))
        return np.concatenate(seen)[: len(x)]

    return features


def _way_out(path):
    tensors = f"torch.load('{path}', weights_only=True)"
    return (
        "if you trust it, convert it once where torch is installed: python -c "
        f"\"import torch, safetensors.torch as s; s.save_file({tensors}, '{path.with_suffix('.safetensors')}')\""
    )
