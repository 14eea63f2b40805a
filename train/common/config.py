"""The flags that every recipe has, and the record of a run's configuration."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train.common.errors import UserError
from train.common.files import write_atomically


@dataclass(frozen=True)
class Job:
    """What to train on, for how long, where. Every recipe's Config has one, as its first field ``job``."""

    run: str | None = None
    """Run folder. Training goes on from it if it exists. Default: runs/RECIPE-DATASET."""
    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, any other tensorflow-datasets name, or folder:PATH."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its data. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    image_size: int | None = None
    """Height and width in pixels. Default: the data set's own."""
    steps: int = 100_000
    """Number of optimiser steps in all; a larger number lengthens a finished run."""
    batch_size: int = 128
    """Images per optimiser step, over all devices and hosts."""
    seed: int = 0
    """Seed of everything random: initial parameters, order of the data, noise."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    sample_every: int = 5000
    """Steps between sample grids; the first comes after a tenth of that."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    num_samples: int = 64
    """Images in a sample grid."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute. A platform that is not there ends the program; it never falls back in silence."""
    devices: int | None = None
    """Devices to use on each host (default: all; on a CPU, where more than one are emulated: 1)."""
    max_hours: float | None = None
    """Save and leave after so many hours, for sessions of limited length; the same command then goes on."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """How the step is spread over devices; both give the same bits."""
    tensorboard: bool = False
    """Also write TensorBoard event files to RUN/tensorboard (needs: pip install tensorboardX)."""
    coordinator: str | None = None
    """More than one host: HOST:PORT of the first process, or "auto" on TPU pods and Slurm."""
    num_processes: int | None = None
    """More than one host: number of processes in all."""
    process_id: int | None = None
    """More than one host: index of this process."""


# A run may go on with other values of these: they do not change what a step computes, only how many there are, where they
# run and what is written on the way.
_FREE = {
    "run", "data_dir", "steps", "checkpoint_every", "sample_every", "num_samples", "accelerator", "devices", "max_hours",
    "parallel", "tensorboard", "coordinator", "num_processes", "process_id",
}  # fmt: skip


def describe(recipe: str, config: Any, data: dict) -> dict:
    """The content of config.json: the recipe's name, its whole configuration, and the data it saw."""
    return json.loads(json.dumps({"recipe": recipe, "config": dataclasses.asdict(config), "data": data}))


def read(folder: Path) -> dict:
    """config.json of a run folder.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or train into another folder with --run"
        ) from None


def claim(folder: Path, description: dict) -> None:
    """Make the folder this run's: write its config.json, or check that the one there says the same.

    Raises:
        UserError: if the folder holds another recipe's run, the same recipe with other settings, or other files.
    """
    if not (folder / "config.json").exists():
        if folder.exists() and (not folder.is_dir() or any(folder.glob("checkpoints/*"))):
            raise UserError(f"{folder} exists and is no run of ours; choose another folder with --run")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        before = read(folder)
        if before["recipe"] != description["recipe"]:
            raise UserError(
                f"{folder} holds a run of train.{before['recipe']}, not of train.{description['recipe']}; "
                "choose another folder with --run"
            )
        differences = [
            f"{name} was {_at(before, path)!r} and is now {_at(description, path)!r}"
            for path, name in sorted(_settings(before) | _settings(description))
            if _at(before, path) != _at(description, path)
        ]
        if differences:
            raise UserError(
                f"{folder} holds a run with other settings: {'; '.join(differences)}. "
                "Give the old values to go on, or another --run to start anew"
            )
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


def _settings(description: dict) -> set[tuple[tuple[str, ...], str]]:
    """Paths and flag names of the values that a resumed run must share."""
    job, rest = description["config"]["job"], description["config"].keys() - {"job"}
    return (
        {(("config", "job", name), "--" + name.replace("_", "-")) for name in job.keys() - _FREE}
        | {(("config", name), "--" + name.replace("_", "-")) for name in rest}
        | {(("data", name), f"the data's {name}") for name in description["data"]}
    )


def _at(tree: dict, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree
