"""Time and memory within one run: trainings and calls in turns, a call's bytes, and a fresh process's peak."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from torch import profiler

from studies.evidence.provenance import CHECKOUT

_END = object()
# VmHWM, because ru_maxrss begins with the peak of the process that started this one.
_GROWTH = """
import importlib, pathlib, re, sys
module, prepare, *args = sys.argv[1:]
call = getattr(importlib.import_module(module), prepare)(*args)
proc = pathlib.Path("/proc/self")
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", (proc / "status").read_text())[1])
(proc / "clear_refs").write_text("5")
before = peak()
call()
print(1024 * (peak() - before))
"""


class InTurns:
    """Two trainings that take turns, epoch by epoch; either goes first in every other turn.

    Args:
        ours: an iterator that trains one epoch per step, as `Learner.epochs` does.
        theirs: another, with as many epochs.

    Attributes:
        seconds: per epoch, of ours and of theirs.

    >>> turns = InTurns(iter("abc"), iter("xyz"))
    >>> list(turns), len(turns.seconds[0])
    ([('a', 'x'), ('b', 'y'), ('c', 'z')], 3)
    """

    def __init__(self, ours: Iterable[Any], theirs: Iterable[Any]) -> None:
        self.both = iter(ours), iter(theirs)
        self.seconds: tuple[list[float], list[float]] = ([], [])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """What both yield, turn by turn; code between the turns is not timed.

        Raises:
            ValueError: one has more epochs than the other.
        """
        while True:
            gave: list[Any] = [None, None]
            took = [0.0, 0.0]
            for side in (0, 1) if len(self.seconds[0]) % 2 == 0 else (1, 0):
                began = time.perf_counter()
                gave[side] = next(self.both[side], _END)
                took[side] = time.perf_counter() - began
            if _END in gave:
                if gave != [_END, _END]:
                    raise ValueError("one of the two trainings has more epochs than the other")
                return
            for side in (0, 1):
                self.seconds[side].append(took[side])
            yield gave[0], gave[1]

    @property
    def ratio(self) -> float:
        """The median of our time over theirs, turn by turn."""
        return median(ours / theirs for ours, theirs in zip(*self.seconds, strict=True))


def seconds_of(calls: Mapping[str, Callable[[], object]], rounds: int = 7, at_least: float = 2e-3) -> dict[str, float]:
    """Seconds of each call: the best of several rounds, in each of which the calls take turns.

    A turn repeats the call for at least `at_least` seconds.
    """
    counts = {}
    for name, call in calls.items():
        call()  # warms up
        began = time.perf_counter()
        call()
        counts[name] = max(1, round(at_least / max(time.perf_counter() - began, 1e-7)))
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(counts[name]):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / counts[name])
    return best


def bytes_of(call: Callable[[], object]) -> int:
    """Bytes that a call allocates through torch on a CPU, including its results and what it frees.

    >>> import torch
    >>> bytes_of(lambda: torch.zeros(1000))
    4000
    """
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    # The profile's own tables have only an operation's allocations minus what it frees.
    events = profile.profiler.kineto_results.events()
    return sum(max(0, event.nbytes()) for event in events if event.name() == "[memory]")


def peak_growth(module: str, prepare: str, *args: str) -> int:
    """Bytes by which the peak of a fresh process's memory grows in a call, at least one page; on Linux.

    Args:
        module: the module of `prepare`.
        prepare: the name of a function; what it returns is called and measured.
        args: its arguments.

    Raises:
        CalledProcessError: the process failed; its error is on stderr.

    >>> peak_growth("studies.freezing", "two_steps", "frozen", "3,4,6,3", "32")  # doctest: +SKIP
    """
    command = [sys.executable, "-c", _GROWTH, module, prepare, *args]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return max(4096, int(done.stdout))
