"""`python -m tests.faults.toy …`: the toy study's command, with the faults that the environment names.

KILLED_AT: the number of the rename of a file before which the command is killed. SET_BACK: which of Optuna's looks at
the clock finds it set back by an hour. GRACE: seconds after which a silent machine has lost its runs.
"""

import datetime
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna.storages.journal._storage as journal

from studies.lab import storage, sweep
from studies.lab.command import command
from tests.studies.toy import STUDY

HOUR = 3600


def killed_at(number: int) -> None:
    """Kill this process before its rename of this number."""
    renames = itertools.count(1)

    def counted(rename: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            if next(renames) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*arguments, **named)

        return counting

    os.rename, os.replace = counted(os.rename), counted(os.replace)


def set_back(number: int) -> None:
    """Set the clock of this process back by an hour when Optuna's journal reads it for this time."""
    reads: Iterator[int] = itertools.count(1)
    now = time.time

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            if next(reads) == number:
                time.time = lambda: now() - HOUR
            return datetime.datetime.fromtimestamp(time.time(), tz)

    journal.datetime = Clock  # type: ignore[misc]


def graceful(seconds: int) -> None:
    """Let a machine lose its runs sooner than a minute after its last sign of life."""
    for module in (storage, sweep):
        module.GRACE, module.HEARTBEAT = seconds, seconds // 4  # type: ignore[attr-defined]


if __name__ == "__main__":
    for fault, name in ((killed_at, "KILLED_AT"), (set_back, "SET_BACK"), (graceful, "GRACE")):
        if value := os.environ.get(name):
            fault(int(value))
    command(STUDY)()
