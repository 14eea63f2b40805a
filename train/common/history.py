"""What a run folder tells about its run, as far as it can be read: gaps where files are missing or broken, no errors."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_NUMBERED = re.compile(r"_\d{3,}$", re.ASCII)
_PICTURES = {".png", ".gif", ".jpg", ".jpeg", ".webp"}


class Session(NamedTuple):
    """One process that trained the run, from its start to its end; None or empty where nothing is known."""

    started: datetime | None
    ended: datetime | None
    first_step: float | None
    last_step: float | None
    outcome: str
    """finished, interrupted, time limit, or failed: and why; running until it ends, and for ever if it was killed."""
    command: str
    """What was typed to start it."""
    steps_per_second: float | None
    images_per_second: float | None
    seconds_to_first_step: float | None
    peak_memory_bytes: float | None
    environment: dict[str, str]
    """Everything else that was noted: device, versions."""

    @property
    def seconds(self) -> float | None:
        """Duration."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, (self.ended - self.started).total_seconds())


class Evaluation(NamedTuple):
    """What was estimated at a step; None or empty where nothing is known."""

    step: float | None
    split: str
    num_images: float | None
    samples: float | None
    """Drawn per image."""
    seed: float | None
    estimates: dict[str, tuple[float, float | None]]
    """By name: mean over the images, and its standard error."""


class Run(NamedTuple):
    """What a run folder holds; empty where there is nothing."""

    folder: Path
    recipe: str
    config: dict
    data: dict
    metrics: dict[str, tuple[np.ndarray, np.ndarray]]
    """By name, `loss` first: steps (n,) ascending and finite values (n,), n >= 1."""
    statistics: dict[str, np.ndarray]
    """By name: finite values (n,), n >= 1."""
    statistics_step: float | None
    evaluations: list[Evaluation]
    """Ascending in their steps."""
    sessions: list[Session]
    checkpoints: list[int]
    """Their steps, ascending."""
    grids: dict[int, Path]
    """Sample grids by step, ascending."""
    pictures: dict[str, Path]
    """The other pictures under samples/ by file name, ascending, without numbered ones such as sample_00012.png."""

    @property
    def flags(self) -> dict:
        """The flags that every recipe has."""
        return _dict(self.config, "job")

    @property
    def beside(self) -> Path | None:
        """The run folder whose samples are to be seen beside this one's, as it was typed: relative to the current folder."""
        named = self.flags.get("beside")
        return Path(named) if isinstance(named, str) and named else None

    @property
    def is_points(self) -> bool:
        """Whether the data are points of the plane."""
        shape = self.data.get("shape")
        return isinstance(shape, list) and len(shape) == 1

    @property
    def last_step(self) -> int:
        """The last step that anything here tells of; 0 if nothing does. Of an earlier session's last steps a later one may know nothing:
        they are lost to a kill.
        """
        logged = [int(steps[-1]) for steps, _ in self.metrics.values()]
        ended = [int(session.last_step or 0) for session in self.sessions[-1:]]
        return max([0, *logged, *ended, *self.checkpoints])

    @property
    def total_steps(self) -> int | None:
        """The step at which the run is finished, if its configuration says so."""
        steps = _number(self.flags, "steps")
        return int(steps) if steps and steps > 0 else None


def read(folder: Path) -> Run:
    """Everything readable in `folder`: config.json, metrics.jsonl, statistics.json, evaluations.json, sessions.jsonl, and the
    names in samples/ and checkpoints/.
    """
    described = _object(_text(folder / "config.json"))
    measured = _object(_text(folder / "statistics.json"))
    pictures = sorted(path for path in folder.glob("samples/*") if path.suffix.lower() in _PICTURES)
    pictures = [path for path in pictures if not path.name.startswith(".")]
    steps = {path: path.stem.removeprefix("step_") for path in pictures if path.stem.startswith("step_")}
    grids = {int(step): path for path, step in steps.items() if _is_count(step)}
    checkpoints = (path.name for path in folder.glob("checkpoints/*") if path.is_dir())
    return Run(
        folder=folder,
        recipe=str(described.get("recipe", "")),
        config=_dict(described, "config"),
        data=_dict(described, "data"),
        metrics=_curves(_rows(folder / "metrics.jsonl")),
        statistics={name: np.array(v, float) for name, v in _dict(measured, "statistics").items() if _is_vector(v)},
        statistics_step=_number(measured, "step"),
        evaluations=_evaluations(_parsed(_text(folder / "evaluations.json"))),
        sessions=[_session(row) for row in _rows(folder / "sessions.jsonl")],
        checkpoints=sorted(int(name) for name in checkpoints if _is_count(name)),
        grids=dict(sorted(grids.items())),
        pictures={path.name: path for path in pictures if not _NUMBERED.search(path.stem)},
    )


def as_text(value: Any) -> str:
    """A value out of JSON as a person writes it."""
    if value is None:
        return "—"
    if isinstance(value, list):
        return ", ".join(as_text(item) for item in value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _session(row: dict) -> Session:
    known = set(Session._fields) - {"environment"}
    return Session(
        started=_moment(row, "started"),
        ended=_moment(row, "ended"),
        first_step=_number(row, "first_step"),
        last_step=_number(row, "last_step"),
        outcome=str(row.get("outcome", "")),
        command=str(row.get("command", "")),
        steps_per_second=_number(row, "steps_per_second"),
        images_per_second=_number(row, "images_per_second"),
        seconds_to_first_step=_number(row, "seconds_to_first_step"),
        peak_memory_bytes=_number(row, "peak_memory_bytes"),
        environment={name: as_text(value) for name, value in row.items() if name not in known and value is not None},
    )


def _evaluations(entries: Any) -> list[Evaluation]:
    told = [_evaluation(entry) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    told = [evaluation for evaluation in told if evaluation.estimates]
    return sorted(told, key=lambda evaluation: -1 if evaluation.step is None else evaluation.step)


def _evaluation(entry: dict) -> Evaluation:
    estimates = {name: _dict(_dict(entry, "estimates"), name) for name in _dict(entry, "estimates")}
    return Evaluation(
        step=_number(entry, "step"),
        split=str(entry.get("split", "")),
        num_images=_number(entry, "num_images"),
        samples=_number(entry, "samples"),
        seed=_number(entry, "seed"),
        estimates={
            name: (mean, _number(estimate, "standard_error"))
            for name, estimate in estimates.items()
            if (mean := _number(estimate, "mean")) is not None
        },
    )


def _curves(rows: Iterable[dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    curves: dict[str, dict[float, float]] = {"loss": {}}
    for row in rows:
        if (step := _number(row, "step")) is None:
            continue
        for name in row:
            if name != "step" and (value := _number(row, name)) is not None:
                curves.setdefault(name, {})[step] = value
    ascending = {name: sorted(curve.items()) for name, curve in curves.items() if curve}
    return {name: tuple(np.array(curve, float).T) for name, curve in ascending.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: the path cannot be one
        return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(text: str) -> dict:
    value = _parsed(text)
    return value if isinstance(value, dict) else {}


def _rows(path: Path) -> list[dict]:
    return [row for line in _text(path).splitlines() if (row := _object(line))]


def _dict(values: dict, name: str) -> dict:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _number(values: dict, name: str) -> float | None:
    value = values.get(name)
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Beyond 1e300 an integer may have no float, and a float no room for the margins of a chart.
    return abs(value) < 1e300


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _moment(values: dict, name: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(values[name])
    except (KeyError, TypeError, ValueError):
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16
