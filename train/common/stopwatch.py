"""Speed of training itself: pictures, checkpoints and the compilation before the first step are not counted."""

import time

_START = time.perf_counter()


class Stopwatch:
    """Counts from the first `lap` on."""

    def __init__(self):
        self._mark = None
        self._seconds, self._steps = 0.0, 0

    def lap(self, step: int) -> None:
        """All steps up to this one are done, and the time since the last lap or pause went into them."""
        now = time.perf_counter()
        if self._mark is not None:
            seconds, last = self._mark
            self._seconds += now - seconds
            self._steps += step - last
        self._mark = now, step

    def pause(self) -> None:
        """The time since the last lap went into something else."""
        self._mark = time.perf_counter(), self._mark[1]

    @property
    def started(self) -> bool:
        return self._mark is not None

    @property
    def steps_per_second(self) -> float:
        """0 until there is something to measure."""
        return self._steps / self._seconds if self._seconds else 0.0


def seconds_since_start() -> float:
    """Wall-clock seconds since this module was imported, which a command does first."""
    return time.perf_counter() - _START
