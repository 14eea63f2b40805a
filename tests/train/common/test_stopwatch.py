import pytest

from train.common import stopwatch
from train.common.stopwatch import Stopwatch


@pytest.fixture
def now(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: time[0])
    return time


def test_the_first_step_with_its_compilation_and_pauses_are_not_counted(now):
    watch = Stopwatch()
    assert not watch.started
    now[0] = 30.0
    watch.lap(1)
    assert watch.steps_per_second == 0
    now[0] = 32.0
    watch.lap(9)
    now[0] = 100.0
    watch.pause()
    now[0] = 103.0
    watch.lap(21)
    assert watch.steps_per_second == 20 / 5


def test_an_interval_without_time_is_no_speed():
    assert Stopwatch().steps_per_second == 0
