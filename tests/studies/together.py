"""Several machines at one database at the same moment, as threads: what each is granted, and what they leave."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from optuna.trial import TrialState

from studies.lab.spec import Run
from studies.lab.storage import open_storage
from studies.lab.sweep import Sweep
from tests.studies import toy

MACHINES = 3
T = TypeVar("T")


@contextmanager
def machines(folder: Path, url: str) -> Iterator[list[Sweep]]:
    """Sweeps of the toy study, each with its own connections to one database."""
    with ExitStack() as stack:
        yield [Sweep(toy.STUDY, stack.enter_context(open_storage(folder, url))) for _ in range(MACHINES)]


def _at_once(do: Callable[[Sweep], T], sweeps: Sequence[Sweep]) -> list[T]:
    with ThreadPoolExecutor(len(sweeps)) as pool:
        return list(pool.map(do, sweeps))


def claims(folder: Path, url: str, count: int) -> list[int]:
    """How many machines are granted each of so many runs, all claimed at the same moment."""
    barrier = threading.Barrier(MACHINES, timeout=60)
    with machines(folder, url) as sweeps:
        for seed in range(count):
            sweeps[0]._add(toy.planned(seed))
        waiting = sweeps[0].trials()

        def claim(sweep: Sweep) -> list[bool]:
            granted = []
            for trial in waiting:
                barrier.wait()
                granted.append(sweep._set_state(trial._trial_id, TrialState.RUNNING))
            return granted

        return [sum(of_trial) for of_trial in zip(*_at_once(claim, sweeps), strict=True)]


def left_by_sweeps(folder: Path, url: str, runs: Sequence[Run]) -> Counter[str]:
    """The states of the trials after sweeps of all machines at the same moment, without those that were dropped."""
    barrier = threading.Barrier(MACHINES, timeout=60)
    with machines(folder, url) as sweeps:

        def do(sweep: Sweep) -> list[str]:
            barrier.wait()
            return toy.do(sweep, runs)

        assert _at_once(do, sweeps) == [[]] * MACHINES
        return Counter(trial.state.name for trial in sweeps[0].trials() if trial.state != TrialState.PRUNED)
