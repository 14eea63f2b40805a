"""Reasons to stop early: a signal, or time running out. Noticed between steps, never inside one."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

_OUTCOMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupt:
    """While open, SIGINT and SIGTERM ask the run to save and leave; a second one ends it at once."""

    def __init__(self, max_hours: float | None, clock=time.monotonic):
        self._clock = clock
        self._deadline = None if max_hours is None else clock() + 3600 * max_hours
        self._signal, self._times_asked = 0, 0

    def __enter__(self) -> "Interrupt":
        self._previous = {number: signal.signal(number, self._receive) for number in _OUTCOMES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        with suppress(OSError):  # whoever read it, such as `tee`, may be gone by the same Ctrl-C
            os.write(2, b"\nstopping after this step and saving; once more stops at once\n")

    def asked(self) -> bool:
        """Whether to stop now. All hosts ask equally often and get the same answer; they confer every tenth time."""
        wish = self._signal or (self._deadline is not None and self._clock() >= self._deadline)
        if jax.process_count() == 1:
            return bool(wish)
        self._times_asked += 1
        if self._times_asked % 10:
            return False
        wishes = multihost_utils.process_allgather(np.array([self._signal, bool(wish)]))
        self._signal = int(wishes[:, 0].max()) or self._signal
        return bool(wishes.any())

    @property
    def outcome(self) -> str:
        """Why, in words for people."""
        return _OUTCOMES.get(self._signal, "time limit")

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells have it; 0 when time ran out as planned."""
        return 128 + self._signal if self._signal else 0
