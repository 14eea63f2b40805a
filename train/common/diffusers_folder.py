"""Checkpoints in the layout of the diffusers library: a folder with `model_index.json` and a folder for each part.

    model_index.json                                      which parts there are
    unet/config.json                                      the options of a part
    unet/diffusion_pytorch_model.safetensors              its tensors (of text_encoder: model.safetensors)
    unet/diffusion_pytorch_model.fp16.safetensors         the same in half precision
    unet/diffusion_pytorch_model.safetensors.index.json   or spread over several files, which the index names

Tensors are read and written by the library `safetensors`. Nothing is ever unpickled: a file from a stranger could run any code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  numpy learns from it what bfloat16 is
import numpy as np
import safetensors
import safetensors.numpy

from train.common.errors import UserError, one_line
from train.common.files import write_atomically

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_DANGER = "loading such a file can run any code its author put there, so it is not done"


class Tensor:
    """A tensor in a file: its shape, and its values when numpy asks for them."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name
        self.shape = tuple(file.get_slice(name).get_shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._file.get_tensor(self._name)
        return array if dtype is None else array.astype(dtype)


def read_index(folder: Path) -> dict[str, Any]:
    """What the checkpoint's model_index.json says: the parts by name, each with its library and class, and some options.

    Raises:
      UserError: if this is no folder in diffusers' layout.
    """
    if folder.is_file():
        raise UserError(
            f"{folder} is a single file; a checkpoint is needed as a folder in diffusers' layout, with model_index.json. "
            + _way_out("StableDiffusionPipeline.from_single_file")
        )
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} has no model_index.json, so it is no checkpoint in diffusers' layout")
    return read_json(folder / "model_index.json")


def read_config(folder: Path) -> dict[str, Any]:
    """The options of a part, such as those in `checkpoint/unet`: the content of its config.json.

    Raises:
      UserError: no such file, or not JSON.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json")
    return read_json(folder / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: no JSON, or no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must be a JSON object; got {type(content).__name__}")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a part by name, none of them read yet: each is when `numpy.asarray` is called on it.

    Full precision where there are both that and half; one file or several.

    Raises:
      UserError: no weights, weights that are pickled, a file that is missing or damaged, or one tensor in two files.
    """
    tensors = {}
    for file in _shards(_found(folder)):
        for name, tensor in read_file(file)[0].items():
            if name in tensors:
                raise UserError(f"the tensor {name} is in two files of {folder}")
            tensors[name] = tensor
    return tensors


def digest(folder: Path, parts: Collection[str]) -> str:
    """The sha256, in hexadecimal, of the files that the tensors of these parts of a checkpoint are read from.

    Raises:
      UserError: as `read_tensors`.
    """
    state = hashlib.sha256()
    for part in sorted(parts):
        for path in _shards(_found(folder / part)):
            with path.open("rb") as file:
                state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


def read_file(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, none of them read yet, and what else it says.

    Raises:
      UserError: no such file, or a damaged or a pickled one.
    """
    if file.suffix in PICKLES:
        raise UserError(f"{file} is pickled: {_DANGER}")
    try:
        handle = safetensors.safe_open(file, framework="np")
    except (OSError, safetensors.SafetensorError) as error:
        hint = _stand_in(file) if file.is_file() else ""
        raise UserError(f"{file} cannot be read: {one_line(error)}{hint}") from error
    names = handle.keys()  # it is no dictionary
    return {name: Tensor(handle, name) for name in names}, handle.metadata() or {}


def write_part(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Makes a part of a checkpoint, such as `checkpoint/unet`, for diffusers or transformers to load.

    Other weights in the folder, which would be loaded instead or confuse, are removed; before that the new ones are there whole.

    Raises:
      OSError: no space, no permission.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_stem(config)}.safetensors"
    write_file(file, tensors)
    write_atomically(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    for other in folder.iterdir():
        if other != file and _is_weights(other):
            other.unlink()


def write_file(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors, as safetensors, whole or not at all.

    Raises:
      OSError: no space, no permission.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        safetensors.numpy.save_file(contiguous, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, file)
    except safetensors.SafetensorError as error:
        raise OSError(f"{file} cannot be written: {one_line(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def copy_rest(source: Path, destination: Path, parts: Collection[str]) -> None:
    """Copies from a checkpoint what is not in ``parts``: model_index.json, scheduler, tokenizer and the parts that stay as they are.

    Of weights that are there more than once those are copied that `read_tensors` would read, under the names of full
    precision, so that diffusers finds all parts under one kind of name.

    Raises:
      UserError: if the two folders are one.
      OSError: no space, no permission.
    """
    if destination.resolve() == source.resolve():
        raise UserError(f"the checkpoint in {source} would be written over; choose another folder")
    wanted = read_index(source).keys() - set(parts)
    destination.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "model_index.json", destination)
    for folder in source.iterdir():
        if folder.name in wanted and folder.is_dir():
            _copy_part(folder, destination / folder.name)


def _copy_part(source, destination):
    destination.mkdir(exist_ok=True)
    weights = _find(source)
    kept = {weights, *_shards(weights)} if weights else set()
    for file in source.iterdir():
        if not file.is_file() or (kept and file not in kept and _is_weights(file)):
            continue
        target = destination / file.name.replace(".fp16", "")
        if file == weights and file.suffix == ".json":
            target.write_text(file.read_text(encoding="utf-8").replace(".fp16", ""), encoding="utf-8")
        else:
            shutil.copy(file, target)


def _is_weights(file):
    return file.suffix in (".safetensors", ".msgpack", ".h5", ".onnx", *PICKLES) or ".index." in file.name


def _find(folder):
    """The file with the weights, or the index that names them, or None."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            for name in (
                f"{stem}{variant}.safetensors",
                f"{stem}.safetensors.index{variant}.json",
                f"{stem}{variant}.safetensors.index.json",
            ):
                if (folder / name).is_file():
                    return folder / name
    return None


def _found(folder):
    file = _find(folder)
    if file is None:
        pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
        if pickled:
            raise UserError(
                f"the weights in {folder} are pickled ({pickled[0]}): {_DANGER}. "
                "Take the checkpoint's .safetensors files if it has them. "
                + _way_out("DiffusionPipeline.from_pretrained")
            )
        raise UserError(f"{folder} has no weights: neither diffusion_pytorch_model.safetensors nor model.safetensors")
    return file


def _shards(weights):
    """The files that hold the tensors: the one itself, or those the index names."""
    if weights.suffix != ".json":
        return [weights]
    names = sorted(set(read_json(weights).get("weight_map", {}).values()))
    if not names:
        raise UserError(f"{weights} names no files")
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{weights} names the file {name!r}, which is not beside it")
        if not (weights.parent / name).is_file():
            raise UserError(f"{weights.parent / name} is missing; {weights.name} names it")
    return [weights.parent / name for name in names]


def _stem(config):
    """transformers looks for other names of files than diffusers; its configurations have a ``model_type``."""
    return "model" if "model_type" in config else "diffusion_pytorch_model"


def _stand_in(file):
    """A hint, where Git LFS has left a stand-in for a file that was not downloaded."""
    with file.open("rb") as stream:
        stands_in = stream.read(40).startswith(b"version https://git-lfs")
    return "; it is Git LFS's stand-in for the real file: run `git lfs pull`" if stands_in else ""


def _way_out(function):
    return (
        "If you trust it, convert it once where diffusers and torch are installed: "
        f"python -c \"import diffusers; diffusers.{function}('FROM').save_pretrained('TO')\""
    )
