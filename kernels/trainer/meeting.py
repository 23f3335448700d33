"""Where two threads of compiled code meet, which share out an epoch.

They wait for each other twice a step: a fraction of a microsecond in steps of a few, far less than waking a thread
takes, so they wait looking. That goes wrong where other work has the processors, for a thread that does not run keeps
the other one from going on. So if one has waited for long several times, they part, and thread 0 goes on alone.

Nor is thread 1 waited for to begin with: it asks to join, and is let in at the next step.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import types

from ..instructions import LINE, load, replace, store, ticks
from ..native import compiled, inlined

# Each in a cache line of its own: how often threads 0 and 1 have arrived, the door, the step to begin with, how often
# threads 0 and 1 have waited for long, and the step to part after.
ARRIVED, DOOR, FIRST, WAITS, LAST, LENGTH = LINE, 3 * LINE, 4 * LINE, 5 * LINE, 7 * LINE, 8 * LINE
NOBODY, OPEN, ASKED, CLOSED = (np.int32(state) for state in range(4))  # the door
# A thread looks so often, some 30 µs, before it lets others have its processor at each look. If it has worked for a
# fraction of that time, that is a long wait, and so is every half a millisecond, so many more looks, from then on.
LOOKS, MORE, TIMES = 100_000, 1_000, 8
BEARABLE = 10  # long waits; the next one parts

_give_way = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.intc())


def meeting() -> np.ndarray:
    """A place to meet at, for one epoch."""
    return np.zeros(LENGTH // 4, np.int32)


def parted(meeting: np.ndarray) -> bool:
    """Whether the threads have parted before the epoch ended."""
    return bool(meeting[LAST // 4] != 0)


@compiled
def meet(meeting: Any, thread: Any, step: Any, since: Any) -> Any:
    """Wait until the other of the threads 0 and 1 has arrived as often as this one; what it wrote before is seen.

    The thread has worked since the tick `since`; returns the tick at which it goes on.
    """
    at = meeting.ctypes.data
    own, other = at + ARRIVED + LINE * thread, at + ARRIVED + LINE * (1 - thread)
    turn = np.int32(load(own) + 1)
    store(own, turn)
    arrived = ticks()
    bearable = TIMES * (arrived - since)
    looks = 0
    while load(other) < turn:
        looks += 1
        if looks <= LOOKS:
            continue
        _give_way()
        if (looks - LOOKS) % MORE == 1 and ticks() - arrived > bearable:
            waits = np.int32(load(at + WAITS + LINE * thread) + 1)
            store(at + WAITS + LINE * thread, waits)
            if waits > BEARABLE:
                replace(at + LAST, np.int32(0), np.int32(step + 1))
    return ticks()


@inlined
def parting(meeting: Any, step: Any) -> bool:
    """Whether this step is the last one together: both threads are told the same after its second meeting."""
    last = load(meeting.ctypes.data + LAST)
    return 0 < last <= step


@inlined
def come(meeting: Any) -> Any:
    """The number of a thread that comes, 0 for the first one, and the step from which it takes part, 0 for none."""
    door = meeting.ctypes.data + DOOR
    if replace(door, NOBODY, OPEN):
        return 0, 1
    if replace(door, OPEN, ASKED):
        looks = 0
        while load(meeting.ctypes.data + FIRST) == 0:
            looks += 1
            if looks > LOOKS:
                _give_way()
        return 1, load(meeting.ctypes.data + FIRST)
    return 1, 0


@inlined
def asked(meeting: Any) -> bool:
    """Whether thread 1 waits to be let in."""
    return load(meeting.ctypes.data + DOOR) == ASKED


@inlined
def let_in(meeting: Any, step: Any) -> None:
    """Let thread 1 take part from this step on."""
    store(meeting.ctypes.data + FIRST, np.int32(step))
    store(meeting.ctypes.data + DOOR, CLOSED)


@inlined
def close(meeting: Any) -> bool:
    """From now on thread 1 comes too late; False where it waits to be let in."""
    replace(meeting.ctypes.data + DOOR, OPEN, CLOSED)
    return not asked(meeting)
