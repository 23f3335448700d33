"""Ctrl-C, SIGTERM and SIGHUP stop a command in the same way: in one line, with all finished runs kept."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

STATUS = 130  # of a command that was interrupted, as shells have it
AGAIN = 1.0  # seconds; signals that come together, as from a terminal that closes, are one


@dataclass
class _Waiting:
    """Whether signals wait now, and whether one has come meanwhile."""

    active: bool = False
    came: bool = False


_WAITING = _Waiting()


def at_once() -> None:
    """From now on Ctrl-C ends this process in one line: while imports take seconds, nothing has begun.

    An exception would not do, because libraries that are being imported catch it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, _end)


def _end(*_: object) -> NoReturn:
    os.write(2, b"\nStopped.\n")
    os._exit(STATUS)


@contextlib.contextmanager
def by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first signal that asks to stop; a later one ends the process at once.

    Signals that are ignored, as SIGHUP under nohup, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    first: float | None = None

    def stop(*_: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            if _WAITING.active:
                _WAITING.came = True
                return
            raise KeyboardInterrupt
        if now - first > AGAIN:
            _end()

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Let the signals that `by_signals` handles wait until the end: Python drops an exception in the middle of a fork.

    Processes that are started meanwhile do not see Ctrl-C, which reaches the whole group.
    """
    _WAITING.active = True
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if sys.platform != "win32" else None
    try:
        yield
    finally:
        _WAITING.active = False
        came, _WAITING.came = _WAITING.came, False
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if came:
        raise KeyboardInterrupt
