"""Sweeps that are stopped in every way, again and again: `tox run -e faults` prints what that did as a table.

- lost: stored runs that the results lack
- repeated: trainings of runs that were stored, or that another process had
- torn: pages that mix two results
- strays: files that are left over
- orphans: workers that outlive their sweep
- tracebacks: errors that are not one line

All must be 0.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reports.read import gather
from studies.evidence.provenance import CHECKOUT
from studies.evidence.schema import CURVES, RUNS, SUMMARY

pytestmark = pytest.mark.faults
ROUNDS, LONGEST = 12, 8.0  # kills, and seconds before a kill
COUNTS = ("lost", "repeated", "torn", "strays", "orphans", "tracebacks")
LEFT = {"trials.log", ".lock", ".replacing.lock"}  # beside the profiles' folders


def is_worker(process: str) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


class Sweeps:
    """The toy study's commands in one folder, and what went wrong in them."""

    def __init__(self, folder: Path, ratings: Path) -> None:
        self.results, self.ratings, self.log = folder / "results", ratings, folder / "toy.log"
        self.folder = self.results / "toy" / "small"
        self.counts = Counter[str]()
        self.stored: set[str] = set()

    def start(self, *arguments: str, module: tuple[str, ...] = ("tests.studies.toy",)) -> subprocess.Popen[str]:
        named = ["--ratings", str(self.ratings), "--results", str(self.results), "--workers", "2"]
        return subprocess.Popen(
            [sys.executable, "-m", *module, *named, *arguments],
            cwd=CHECKOUT,
            env={**os.environ, "TOY_LOG": str(self.log), "TOY_SECONDS": "0.05"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def end(self, process: subprocess.Popen[str]) -> int:
        """Wait for a command, and count what it left."""
        said = process.communicate()[1]
        self.counts["tracebacks"] += "Traceback" in said
        trainings = self.trainings()
        give_up = time.monotonic() + 10
        while alive := [pid for pid in {pid for _, pid in trainings} if is_worker(pid)]:
            if time.monotonic() > give_up:
                break
            time.sleep(0.1)
        self.counts["orphans"] += len(alive)
        self.counts["torn"] += self.mixed()
        return process.returncode

    def trainings(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def mixed(self) -> int:
        """How many tables a page would show beside the summary of another result."""
        studies = gather(self.results).studies if self.results.exists() else []
        return sum(
            table is not None and set(table["seed"]) != set(study.summary.provenance.seeds)
            for study in studies
            for table in (study.runs, study.curves)
        )

    def in_journal(self) -> set[str]:
        """The keys of the runs that are stored as complete."""
        journal = self.folder / "trials.log"
        keys: list[str] = []
        complete = set()
        for line in journal.read_text(errors="replace").splitlines() if journal.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["op_code"] == 4:
                keys.append(record["user_attrs"]["key"])
            if record["op_code"] == 6 and record["state"] == 1:
                complete.add(keys[record["trial_id"]])
        return complete

    def strays(self) -> None:
        expected = LEFT | {f"custom/{name}" for name in (SUMMARY, RUNS, CURVES)} | {"custom"}
        left = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")} - expected
        self.counts["strays"] += len([name for name in left if not name.startswith("trials.log.torn-")])


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    rng = np.random.default_rng(0)
    rows = [f"{pair // 30},{pair % 30},{rng.integers(1, 6)}" for pair in rng.choice(600, 300, replace=False)]
    (tmp_path / "small.csv").write_text("\n".join(["user,item,rating", *rows, ""]))
    return Sweeps(tmp_path, tmp_path / "small.csv")


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Counter[str]]]:
    rows: dict[str, Counter[str]] = {}
    yield rows
    print(f"\n{'':44}" + "".join(f"{name:>12}" for name in COUNTS))
    for what, counts in rows.items():
        print(f"{what:44}" + "".join(f"{counts[name]:12}" for name in COUNTS))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_stops_at_random_moments(sweeps: Sweeps, table: dict[str, Counter[str]], how: str) -> None:
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    draw = random.Random(seed)
    for seeds in range(1, ROUNDS + 1):
        before = len(sweeps.trainings())
        process = sweeps.start("--seeds", str(seeds))
        time.sleep(draw.uniform(0, LONGEST))
        process.send_signal(getattr(signal, how))
        sweeps.end(process)
        sweeps.counts["repeated"] += sum(key in sweeps.stored for key, _ in sweeps.trainings()[before:])
        sweeps.stored |= sweeps.in_journal()
    assert sweeps.end(sweeps.start("--seeds", str(ROUNDS))) == 0
    (study,) = gather(sweeps.results).studies
    assert study.runs is not None
    sweeps.counts["lost"] += 4 * ROUNDS - len(study.runs) + len(sweeps.stored - sweeps.in_journal())
    sweeps.strays()
    table[f"{ROUNDS} times {how} at random moments"] = sweeps.counts
    assert not +sweeps.counts


def test_kills_at_every_rename(sweeps: Sweeps, table: dict[str, Counter[str]]) -> None:
    assert sweeps.end(sweeps.start("--seeds", "1")) == 0
    killed = 0
    while True:
        process = sweeps.start("--seeds", "2", module=("tests.faults.killed_at", str(killed + 1)))
        if sweeps.end(process) == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 4  # both tables, and the summary to its temporary name and to its own
    (study,) = gather(sweeps.results).studies
    sweeps.counts["lost"] += study.runs is None or len(study.runs) != 8
    sweeps.counts["repeated"] += len(sweeps.trainings()) - 8
    sweeps.strays()
    table[f"SIGKILL at each of {killed} renames"] = sweeps.counts
    assert not +sweeps.counts


def test_processes_that_share_sqlite(sweeps: Sweeps, table: dict[str, Counter[str]]) -> None:
    url = f"sqlite:///{sweeps.results.parent}/trials.db"
    together = [sweeps.start("--seeds", "10", "--storage", url) for _ in range(3)]
    for process in together:
        process.wait()
    assert [sweeps.end(process) for process in together] == [0, 0, 0]
    trainings = Counter(key for key, _ in sweeps.trainings())
    sweeps.counts["lost"] += 40 - len(trainings)
    sweeps.counts["repeated"] += trainings.total() - len(trainings)
    table["three processes on one SQLite database"] = sweeps.counts
    assert not +sweeps.counts
