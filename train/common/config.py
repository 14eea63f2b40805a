"""The flags that every recipe has, and the record of a run's configuration."""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train.common.errors import UserError, one_line
from train.common.files import write_atomically


def free(default: Any) -> Any:
    """A field that may differ when a run goes on: it does not change what a step computes or logs, only how many steps there
    are, where they run and what is drawn on the way."""
    return dataclasses.field(default=default, metadata={"free": True})


@dataclass(frozen=True)
class Job:
    """What to train on, for how long, where. Every recipe's Config has one, as its first field ``job``."""

    run: str | None = free(None)
    """Run folder. Training goes on from it if it exists. Default: runs/RECIPE-DATASET."""
    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, stacked_mnist, any other tensorflow-datasets name, folder:PATH, or points: grid25,
    ring8."""
    data_dir: str | None = free(None)
    """Where tensorflow-datasets keeps its data. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    image_size: int | None = None
    """Height and width in pixels. Default: the data set's own."""
    steps: int = free(100_000)
    """Number of optimiser steps in all; a larger number lengthens a finished run."""
    batch_size: int = 128
    """Images per optimiser step, over all devices and hosts."""
    seed: int = 0
    """Seed of everything random: initial parameters, order of the data, noise."""
    checkpoint_every: int = free(1000)
    """Steps between checkpoints."""
    sample_every: int = free(5000)
    """Steps between sample grids; the first comes after a tenth of that."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    beside: str | None = free(None)
    """Another run folder, whose newest samples the report shows beside this one's."""
    num_samples: int = free(64)
    """Images in a sample grid."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = free("auto")
    """Where to compute. A platform that is not there ends the program; it never falls back in silence."""
    devices: int | None = free(None)
    """Devices to use on each host (default: all; on a CPU, where more than one are emulated: 1)."""
    max_hours: float | None = free(None)
    """Save and leave after so many hours, for sessions of limited length; the same command then goes on."""
    stride: int | None = None
    """Most steps taken in one dispatch, by a loop on the device (default: 64; on a CPU, for networks with convolutions: 1)."""
    parallel: Literal["pmap", "shard_map"] = free("pmap")
    """How the step is spread over devices; both give the same bits."""
    tensorboard: bool = free(False)
    """Also write TensorBoard event files to RUN/tensorboard (needs: pip install tensorboardX)."""
    coordinator: str | None = free(None)
    """More than one host: HOST:PORT of the first process, or "auto" on TPU pods and Slurm."""
    num_processes: int | None = free(None)
    """More than one host: number of processes in all."""
    process_id: int | None = free(None)
    """More than one host: index of this process."""


def describe(recipe: str, config: Any, data: dict, basis: dict | None = None) -> dict:
    """The content of config.json: the recipe's name, its whole configuration, the data it saw, and what it stands on if it does."""
    stands = {} if basis is None else {"basis": basis}
    content = {"recipe": recipe, "config": dataclasses.asdict(config), "data": data, **stands}
    return json.loads(json.dumps(content, default=os.fspath))


def read(folder: Path) -> dict:
    """config.json of a run folder.

    Raises:
        UserError: if there is none, or it is not a run's.
    """
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a run folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); restore it, or use another folder") from None
    if not isinstance(description, dict) or not {"recipe", "config", "data"} <= description.keys():
        raise UserError(f"{folder} is not a run folder: its config.json is somebody else's")
    return description


def check(folder: Path, description: dict, config: Any) -> None:
    """Nothing, where a run of this description may start or go on in the folder.

    Raises:
        UserError: if the folder holds another recipe's run, or checkpoints of the same recipe with other settings.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is a file; choose another folder with --run")
        return
    saved = any(path.name.isdigit() for path in folder.glob("checkpoints/*"))
    if not (folder / "config.json").exists():
        if saved:
            raise UserError(
                f"{folder} has checkpoints but no config.json, so it is no run of ours; choose another --run"
            )
        return
    before = read(folder)
    if before["recipe"] != description["recipe"]:
        raise UserError(
            f"{folder} holds a run of train.{before['recipe']}, not of train.{description['recipe']}; "
            "choose another folder with --run"
        )
    if saved and (differences := _differences(before, description, config)):
        raise UserError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. "
            "Give the old values to go on, or another --run to start anew"
        )


def write(folder: Path, description: dict) -> None:
    """Make it the folder's config.json."""
    write_atomically(folder / "config.json", (json.dumps(description, indent=2) + "\n").encode())


def dataclass_from(cls: type, values: dict) -> Any:
    """The configuration that ``dataclasses.asdict`` turned into values (JSON turned its tuples into lists)."""
    arguments = {}
    for field in dataclasses.fields(cls):
        if field.name in values:
            value = values[field.name]
            if dataclasses.is_dataclass(field.type):
                value = dataclass_from(field.type, value)
            arguments[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def _differences(before: dict, now: dict, config: Any) -> list[str]:
    """What a resumed run must share with the one before and does not, in words."""
    # A field that an earlier version did not have yet had the value that is its default now.
    before = describe(before["recipe"], dataclass_from(type(config), before["config"]), before["data"])
    locked = list(_locked(config, ("config",)))
    locked += [(("data", name), f"the data's {name}") for name in now["data"]]
    return [
        f"{name} was {_at(before, path)!r} and is now {_at(now, path)!r}"
        for path, name in locked
        if _at(before, path) != _at(now, path)
    ]


def _locked(config: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where each field is that must not change, and its flag."""
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            yield from _locked(value, where)
        elif not field.metadata:
            yield where, _flag(field)


def _flag(field: dataclasses.Field) -> str:
    return "--" + field.name.replace("_", "-")


def _at(tree: dict, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree
