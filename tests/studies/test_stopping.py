from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from studies.lab import stopping

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _as_at_a_terminal() -> Iterator[None]:
    """No signal is ignored, as SIGINT is in a shell's background job; afterwards all is as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_stops_as_ctrl_c_does_and_one_that_comes_with_it_changes_nothing(number: signal.Signals) -> None:
    handlers = [signal.getsignal(one) for one in SIGNALS]
    cleaned = []

    def stopped() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            for other in SIGNALS:
                os.kill(os.getpid(), other)
                cleaned.append(other)

    with pytest.raises(KeyboardInterrupt), stopping.by_signals():
        stopped()
    assert cleaned == SIGNALS
    assert [signal.getsignal(one) for one in SIGNALS] == handlers


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_process_is_started_stops_the_command_afterwards(number: signal.Signals) -> None:
    started = []

    def start() -> None:
        with stopping.waiting():
            os.kill(os.getpid(), number)
            started.append(True)

    with stopping.by_signals():
        with pytest.raises(KeyboardInterrupt):
            start()
        assert started
        with stopping.waiting():
            pass  # nothing came


def test_a_second_signal_later_ends_a_process_that_hangs_while_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(stopping, "AGAIN", -1)

    def hang() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Ended, match="130"), stopping.by_signals():
        hang()


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping.by_signals():
        os.kill(os.getpid(), signal.SIGHUP)


def test_imports_of_a_shells_background_job_ignore_ctrl_c_too() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.at_once()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
