"""Two implementations, ours and theirs, timed side by side on a machine that may have other work.

Each side has a process of its own on the same two cores and sleeps while the other is timed; they take turns, so that a busy
machine slows both, and the ratio is taken within each pair of turns.

A benchmark's ``main`` starts itself twice more: with ``--side NAME`` it ends in `serve`, without in `Side` and `rows`.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


def parser(description: str, sides: Sequence[str], pairs: int) -> argparse.ArgumentParser:
    """The options that all benchmarks of two sides have."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--pairs", type=int, default=pairs, help="turns of each side for each row")
    result.add_argument("--compile", action="store_true", help="torch.compile instead of eager PyTorch")
    result.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    return result


def on_two_cores() -> None:
    """Keep this process, and those it starts, to two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def serve(work: Mapping[str, Callable[[], Any]], calls: Mapping[str, int], about: dict) -> None:
    """Say on standard output what this side is, then answer each row's name on standard input with the seconds of one call, averaged
    over the calls of one turn."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    for function in work.values():
        function()
    print(json.dumps(about), file=replies, flush=True)
    for line in sys.stdin:
        name = line.strip()
        start = time.perf_counter()
        for _ in range(calls[name]):
            work[name]()
        print((time.perf_counter() - start) / calls[name], file=replies, flush=True)


class Side:
    """A process that owns one of the two implementations: this module, started with these flags."""

    def __init__(self, module: str, *flags: str):
        command = [sys.executable, "-m", module, *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self._reply())

    def seconds(self, name: str) -> float:
        """Of one call of this row."""
        print(name, file=self.process.stdin, flush=True)
        return float(self._reply())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args)} ended early, with status {self.process.wait()}")
        return line


class Row(NamedTuple):
    """What the pairs of turns of one row come to: medians of the seconds of one call, and of their ratio with its quartiles."""

    name: str
    ours: float
    theirs: float
    low: float
    middle: float
    """Of ours / theirs in seconds."""
    high: float


def rows(ours: Side, theirs: Side, names: Iterable[str], pairs: int) -> Iterator[Row]:
    """Each row as soon as it is measured; who begins alternates."""
    for name in names:
        seconds = []
        for i in range(pairs):
            order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
            times = {side: side.seconds(name) for side in order}
            seconds.append((times[ours], times[theirs]))
        mine, other = (statistics.median(column) for column in zip(*seconds, strict=True))
        yield Row(name, mine, other, *quartiles([a / b for a, b in seconds]))


def quartiles(values: Sequence[float]) -> Sequence[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3


def setting(device: str, *packages: str) -> str:
    """What a table of measurements must say above it: hardware, versions, date."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{device}; Python {platform.python_version()}, {versions}; {datetime.date.today()}"


def cores() -> str:
    """The processor, and how many of its cores this process may use."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def _lines(path):
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []
