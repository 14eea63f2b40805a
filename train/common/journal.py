"""What a run writes down as it goes: metrics.jsonl, sessions.jsonl and, if asked for, TensorBoard events."""

import json
import math
import platform
import shlex
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from train.common.errors import UserError
from train.common.files import write_atomically


class Metrics:
    """metrics.jsonl: a row of means for every ``every`` steps, the same bytes whatever interruptions there were.

    Steps since the last row are ``pending``: they belong in the checkpoint.
    """

    def __init__(self, folder: Path | None, every: int, step: int, pending: list[dict], tensorboard: bool):
        """Cut metrics.jsonl back to this step. Without a folder, check the numbers and write nothing."""
        self.path, self.every, self.pending = folder and folder / "metrics.jsonl", every, pending
        self._events = None
        if folder is not None:
            _cut_back(self.path, step)
            self._events = _tensorboard(folder / "tensorboard", step) if tensorboard else None

    def add(self, first_step: int, values: list[dict[str, float]]) -> None:
        """Take in the metrics of consecutive steps.

        Raises:
            UserError: at the first that is not finite.
        """
        for step, row in enumerate(values, first_step):
            bad = [name for name, value in row.items() if not math.isfinite(value)]
            if bad:
                raise UserError(
                    f"{bad[0]} is {row[bad[0]]} at step {step}. Nothing was saved after that. A smaller --learning-rate or "
                    "--clip-norm usually helps, in a new --run"
                )
            self.pending.append(row)
            if step % self.every == 0:
                self._write(step)

    def _write(self, step: int) -> None:
        names = self.pending[0].keys()
        row = {name: math.fsum(values[name] for values in self.pending) / len(self.pending) for name in names}
        self.pending.clear()
        if self.path is None:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
        except OSError as error:  # a failed write alone would not say which file
            raise type(error)(error.errno, error.strerror, str(self.path)) from error
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


class Session:
    """One row of sessions.jsonl, from start to end of one process. What is not the same in every repetition goes here."""

    def __init__(self, folder: Path | None, first_step: int, device: str):
        """Without a folder, write nothing."""
        self.path = folder and folder / "sessions.jsonl"
        self._before = self.path.read_bytes() if self.path and self.path.exists() else b""
        self._row = {
            "started": _now(),
            "first_step": first_step,
            "outcome": "running",
            "device": device,
            "command": shlex.join(["python", "-m", "train." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "flax", "optax", "orbax-checkpoint")},
        }
        self.note()

    @staticmethod
    def newest_saved(folder: Path) -> int:
        """The last checkpoint that any session of the run is known to have finished; 0 if none."""
        saved = [0]
        with suppress(OSError, ValueError):
            saved += [json.loads(line).get("saved", 0) for line in (folder / "sessions.jsonl").read_text().splitlines()]
        return max(saved)

    def note(self, **values) -> None:
        """Add these values to the row, on disk too."""
        self._row |= {"ended": _now(), **values}
        if self.path is not None:
            write_atomically(self.path, self._before + (json.dumps(self._row) + "\n").encode())


def _cut_back(path: Path, step: int) -> None:
    """Drop the rows after this step, and a last row that was cut off in the middle."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step or not line.endswith(b"\n"):
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_atomically(path, b"".join(kept))


def _tensorboard(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs one more package: pip install tensorboardX") from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
