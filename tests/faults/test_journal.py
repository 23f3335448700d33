"""Sweeps in which everything goes wrong, again and again: `tox run -e faults` prints what that did as a table.

- lost: stored runs that the results lack
- repeated: trainings of runs that were stored, or that another process had
- torn: pages that mix two results
- strays: files that are left over
- orphans: workers that outlive their sweep
- tracebacks: errors that are not one line

All must be 0. `-- --rounds 20` repeats each fault more often.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Table
from tests.faults.sweeps import LONGEST, SEEDS, Sweeps

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_stops_at_random_moments(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random, how: str) -> None:
    for seeds in range(SEEDS, SEEDS * rounds + 1, SEEDS):
        process = sweeps.start("--seeds", str(seeds), workers=4)
        sweeps.wait_for_any_moment(process, draw)
        process.send_signal(getattr(signal, how))
        sweeps.end(process)
        sweeps.count()
    sweeps.finish(SEEDS * rounds)
    table[f"{how} at random moments"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_kills_at_every_rename(sweeps: Sweeps, table: Table) -> None:
    table["SIGKILL at each rename"] = sweeps.killed_at_every_rename(), sweeps.counts
    assert not +sweeps.counts


@pytest.mark.parametrize("group", [False, True])
def test_pauses_at_random_moments(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random, group: bool) -> None:
    send = os.killpg if group else os.kill
    for seeds in range(1, rounds + 1):
        process = sweeps.start("--seeds", str(seeds))
        time.sleep(draw.uniform(0, LONGEST))
        send(process.pid, signal.SIGSTOP)
        time.sleep(draw.uniform(0, 2))
        send(process.pid, signal.SIGCONT)
        assert sweeps.end(process) == 0
        sweeps.count()
    sweeps.finish(rounds)
    table[f"SIGSTOP and SIGCONT, {'with' if group else 'without'} its workers"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_a_full_disk(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random) -> None:
    """A limit on the size of files is a full disk without a disk: a part of the last write is done."""
    journal = sweeps.results() / "trials.log"
    for seeds in range(2, rounds + 2):
        full = (journal.stat().st_size if journal.exists() else 0) + draw.randrange(100, 6000)
        limited = sweeps.start("--seeds", str(seeds), limit=_limit(full))
        assert sweeps.end(limited) in (0, 2)
        assert limited.returncode == 0 or "check that --results is right, writable and not full" in sweeps.said
        sweeps.count()
    sweeps.finish(rounds + 1)
    before = {path: path.read_bytes() for path in sweeps.results().rglob("*.*") if path.name != "trials.log"}
    for full in range(0, 8000, 2000):  # now the results themselves
        assert sweeps.end(sweeps.start("--seeds", str(rounds + 1), "--export", limit=_limit(full))) == 2
        sweeps.counts["torn"] += {path: path.read_bytes() for path in before} != before
    sweeps.finish(rounds + 1)
    table["a full disk"] = rounds + 4, sweeps.counts
    assert not +sweeps.counts


def _limit(size: int) -> object:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("what", ["", "toy/small/trials.log", "toy/small/.lock"])
def test_a_folder_or_file_that_is_removed(
    sweeps: Sweeps, table: Table, rounds: int, draw: random.Random, what: str
) -> None:
    for _ in range(rounds):
        path = sweeps.folder / "results" / what
        process = sweeps.start("--seeds=10")
        sweeps.wait_for(len(sweeps.trainings()) + draw.randrange(1, 10), process)
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()  # errors: files that come meanwhile
        assert sweeps.end(process) == 2
        assert "removed or replaced while" in sweeps.said or "check that --results is right" in sweeps.said
        if what != "toy/small/.lock":
            sweeps.stored = set()
        sweeps.count()
    sweeps.finish(10)
    table[f"{what or 'the results folder'} removed"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_two_sweeps_into_one_folder(sweeps: Sweeps, table: Table, rounds: int) -> None:
    for seeds in range(1, rounds + 1):
        before = len(sweeps.trainings())
        both = [sweeps.start("--seeds", str(5 * seeds)) for _ in range(2)]
        ends = []
        for process in both:
            ends.append(sweeps.end(process))
            refused = "another sweep is writing to" in sweeps.said
            sweeps.counts["tracebacks"] += refused != (process.returncode == 2)
        assert 0 in ends
        trainings = Counter(key for key, _ in sweeps.trainings()[before:])
        sweeps.counts["repeated"] += trainings.total() - len(trainings)
        sweeps.count()
    sweeps.finish(5 * rounds)
    table["two sweeps into one folder"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_a_clock_that_is_set_back(sweeps: Sweeps, table: Table, rounds: int, draw: random.Random) -> None:
    for seeds in range(1, rounds + 1):
        process = sweeps.start("--seeds", str(seeds), faults={"SET_BACK": draw.randrange(1, 8)})
        assert sweeps.end(process) == 0, sweeps.said
        sweeps.count()
    sweeps.finish(rounds)
    table["a clock that is set back by an hour"] = rounds, sweeps.counts
    assert not +sweeps.counts


def test_processes_that_share_sqlite(tmp_path: Path, ratings: Path, table: Table) -> None:
    sweeps = Sweeps(tmp_path, ratings, f"sqlite:///{tmp_path}/trials.db")
    together = [sweeps.start("--seeds=10") for _ in range(3)]
    assert [sweeps.end(process) for process in together] == [0, 0, 0]
    trainings = Counter(key for key, _ in sweeps.trainings())
    sweeps.counts["repeated"] += trainings.total() - len(trainings)
    sweeps.finish(10)
    table["three processes on one SQLite database"] = 1, sweeps.counts
    assert not +sweeps.counts
