"""`python -m tests.faults.killed_at N …`: the toy study's command, killed just before its Nth rename of a file."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from studies.lab.command import command
from tests.studies.toy import STUDY


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


if __name__ == "__main__":
    killed_at(int(sys.argv.pop(1)))
    command(STUDY)()
