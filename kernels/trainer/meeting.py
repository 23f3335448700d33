"""How two threads of compiled code wait for each other while they share an epoch.

They wait twice a step, for a fraction of a microsecond in a step of a few. This is far less than it takes to wake a
thread, so they spin. Spinning is bad when other work uses the processors, because a thread that does not run also holds
up the other one. So if a thread has waited for long several times, the two separate, and thread 0 continues alone.

Thread 0 does not wait for thread 1 at the start either: thread 1 asks to join, and thread 0 lets it in at the next
step.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import types

from ..instructions import LINE, load, replace, store, ticks
from ..native import compiled, inlined

# Each number has a cache line of its own: how often threads 0 and 1 have arrived, the door, the first step of thread 1,
# how often threads 0 and 1 have waited for long, and the last step together.
ARRIVED, DOOR, FIRST, WAITS, LAST, LENGTH = LINE, 3 * LINE, 4 * LINE, 5 * LINE, 7 * LINE, 8 * LINE
NOBODY, OPEN, ASKED, CLOSED = (np.int32(state) for state in range(4))  # the door
SPINS = 100_000  # some 30 µs; then a thread yields its processor at each further spin
SPINS_PER_CHECK = 1_000  # half a millisecond with yielding: so often the thread checks whether its wait is long
LONG_WAIT = 8  # times as long as the thread has worked since the last meeting; each check that finds this counts
MAX_LONG_WAITS = 10  # at the next one the threads separate

_yield_processor = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.intc())


def meeting() -> np.ndarray:
    """A new meeting of two threads, for one epoch: int32[LENGTH // 4]."""
    return np.zeros(LENGTH // 4, np.int32)


def separated(meeting: np.ndarray) -> bool:
    """Whether the threads separated before the epoch ended."""
    return bool(meeting[LAST // 4] != 0)


@compiled
def meet(meeting: Any, thread: Any, step: Any, since: Any) -> Any:
    """Wait until the other thread has arrived as often as this one. Whatever it wrote before is then visible here.

    `since` is the tick at which this thread began to work; returns the tick at which it continues.
    """
    at = meeting.ctypes.data
    own, other = at + ARRIVED + LINE * thread, at + ARRIVED + LINE * (1 - thread)
    turn = np.int32(load(own) + 1)
    store(own, turn)
    arrived = ticks()
    limit = LONG_WAIT * (arrived - since)
    spins = 0
    while load(other) < turn:
        spins += 1
        if spins <= SPINS:
            continue
        _yield_processor()
        if (spins - SPINS) % SPINS_PER_CHECK == 1 and ticks() - arrived > limit:
            waits = np.int32(load(at + WAITS + LINE * thread) + 1)
            store(at + WAITS + LINE * thread, waits)
            if waits > MAX_LONG_WAITS:
                replace(at + LAST, np.int32(0), np.int32(step + 1))
    return ticks()


@inlined
def separates_after(meeting: Any, step: Any) -> bool:
    """Whether this step is the last one together. After its second meeting both threads get the same answer."""
    last = load(meeting.ctypes.data + LAST)
    return 0 < last <= step


@inlined
def join(meeting: Any) -> Any:
    """This thread's number, 0 for the first that calls, and the step from which it takes part, 0 for none.

    The second thread waits here until the first lets it in.
    """
    door = meeting.ctypes.data + DOOR
    if replace(door, NOBODY, OPEN):
        return 0, 1
    if replace(door, OPEN, ASKED):
        spins = 0
        while load(meeting.ctypes.data + FIRST) == 0:
            spins += 1
            if spins > SPINS:
                _yield_processor()
        return 1, load(meeting.ctypes.data + FIRST)
    return 1, 0


@inlined
def wants_to_join(meeting: Any) -> bool:
    """Whether thread 1 is waiting to be let in."""
    return load(meeting.ctypes.data + DOOR) == ASKED


@inlined
def let_in(meeting: Any, step: Any) -> None:
    """Let thread 1 take part from this step on."""
    store(meeting.ctypes.data + FIRST, np.int32(step))
    store(meeting.ctypes.data + DOOR, CLOSED)


@inlined
def close_door(meeting: Any) -> bool:
    """Turn away thread 1 from now on; returns False if it is already waiting to be let in."""
    replace(meeting.ctypes.data + DOOR, OPEN, CLOSED)
    return not wants_to_join(meeting)
