import signal

import pytest

from train.common.interrupt import Interrupt


@pytest.fixture
def in_the_foreground():
    """A shell starts its background jobs with SIGINT ignored, and the tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_the_run_to_stop_and_becomes_the_exit_status(number, status):
    with Interrupt(None) as interrupt:
        assert not interrupt.asked()
        signal.raise_signal(number)
        assert interrupt.asked()
        assert interrupt.exit_status == status


def test_a_second_signal_is_not_held_back(in_the_foreground):
    with Interrupt(None) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_from_before_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt(None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_when_the_hours_are_over_the_run_stops_with_success():
    now = [0.0]
    with Interrupt(2.0, clock=lambda: now[0]) as interrupt:
        now[0] = 7199.0
        assert not interrupt.asked()
        now[0] = 7200.0
        assert interrupt.asked()
        assert (interrupt.exit_status, interrupt.outcome) == (0, "time limit")
