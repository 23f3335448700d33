"""Commands of the toy study, as real processes in which something goes wrong, and counts of what that did."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from reports.read import gather
from studies.evidence.provenance import CHECKOUT
from studies.evidence.schema import CURVES, RUNS, SUMMARY
from studies.lab.sweep import key_of

COUNTS = ("lost", "repeated", "torn", "strays", "orphans", "tracebacks")
ARMS = 4  # runs per seed: three arms and the repeated baseline
SEEDS = 4  # more in each round, so that there is something to stop
LONGEST = 8.0  # seconds before a fault
LEFT = {"trials.log", ".lock", ".replacing.lock"}  # beside the profiles' folders


def is_worker(process: str) -> bool:
    """Whether a process of this number is a copy of a command, or a new process that took a worker's place."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"tests.faults.toy" in line or b"spawn_main" in line


class Sweeps:
    """The toy study's commands, with one storage.

    Args:
        folder: for everything.
        ratings: the data.
        storage: of a database; None for the file in the results.

    Attributes:
        counts: what went wrong, by its name in `COUNTS`.
        stored: the keys of the runs that were stored as complete at the last `count`.
    """

    def __init__(self, folder: Path, ratings: Path, storage: str | None = None) -> None:
        self.folder, self.ratings, self.storage = folder, ratings, storage
        self.log = folder / "toy.log"
        self.counts = Counter[str]()
        self.stored: set[str] = set()
        self.known = 0  # trainings that `count` has counted
        self.said = ""

    def results(self, machine: str = "results") -> Path:
        """The folder of the study's results on one machine."""
        return self.folder / machine / "toy" / "small"

    def start(
        self,
        *arguments: str,
        machine: str = "results",
        workers: int = 2,
        faults: Mapping[str, object] | None = None,
        limit: Callable[[], None] = lambda: None,
    ) -> subprocess.Popen[str]:
        """Start the command.

        Args:
            arguments: further ones.
            machine: the name of its results folder.
            workers: how many.
            faults: for `tests.faults.toy`.
            limit: called in the process before the command.
        """

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores Ctrl-C
            limit()

        named = {"ratings": self.ratings, "results": self.folder / machine, "workers": workers}
        if self.storage:
            named["storage"] = self.storage
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.faults.toy",
                *(f"--{name}={value}" for name, value in named.items()),
                *arguments,
            ],
            cwd=CHECKOUT,
            env={"TOY_SECONDS": "0.05", **os.environ, "TOY_LOG": str(self.log)}
            | {name: str(value) for name, value in (faults or {}).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def end(self, process: subprocess.Popen[str], machine: str = "results") -> int:
        """Wait for a command, and count what it left; returns its exit status."""
        self.said = process.communicate()[0]
        self.counts["tracebacks"] += (
            f'File "{CHECKOUT}' in self.said
        )  # Python itself has one if it is stopped as it starts
        assert "hunter2" not in self.said
        started = {worker for _, worker in self.trainings()}
        give_up = time.monotonic() + 10
        while (alive := [worker for worker in started if is_worker(worker)]) and time.monotonic() < give_up:
            time.sleep(0.1)
        self.counts["orphans"] += len(alive)
        self.counts["torn"] += self._mixed(machine)
        return process.returncode

    def count(self) -> None:
        """Count the trainings since the last time of runs that were stored by then, and see what is stored now."""
        trainings = self.trainings()
        self.counts["repeated"] += sum(key in self.stored for key, _ in trainings[self.known :])
        self.known = len(trainings)
        stored = self.complete()
        self.counts["lost"] += len(self.stored - stored)
        self.stored = stored

    def killed_at_every_rename(self) -> int:
        """Kill a sweep at its first rename, the next at its second, until one ends; returns how many were killed."""
        self.finish(1)
        killed = 0
        while self.end(process := self.start("--seeds=2", workers=4, faults={"KILLED_AT": killed + 1})) != 0:
            assert process.returncode == -signal.SIGKILL
            self.count()
            killed += 1
        assert killed >= 4  # both tables, and the summary to its temporary name and to its own
        self.finish(2)
        return killed

    def finish(self, seeds: int, machine: str = "results", workers: int = 2, **faults: object) -> None:
        """Let the command do what is left, and check it."""
        assert self.end(self.start("--seeds", str(seeds), machine=machine, workers=workers, faults=faults)) == 0, (
            self.said
        )
        self.count()
        self.check(seeds, machine)

    def check(self, seeds: int, machine: str = "results") -> None:
        """Count what the results of a command that has succeeded lack, and what is left over."""
        study = max(gather(self.folder / machine).studies, key=lambda study: len(study.summary.provenance.seeds))
        assert study.runs is not None
        self.counts["lost"] += ARMS * seeds - len(study.runs)
        self.strays(machine)

    def trainings(self) -> list[list[str]]:
        """Key and worker of each training so far."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def wait_for(self, trainings: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many trainings have begun, or the command has ended."""
        while len(self.trainings()) < trainings and process.poll() is None:
            time.sleep(0.02)

    def wait_for_both(self, machines: Mapping[str, subprocess.Popen[str]], known: int) -> None:
        """Wait until two machines, with two workers each, have begun trainings beyond those known, or one has ended."""
        while all(process.poll() is None for process in machines.values()):
            if len({worker for _, worker in self.trainings()[known:]}) > 2:
                return
            time.sleep(0.02)

    def wait_for_any_moment(self, process: subprocess.Popen[str], draw: random.Random) -> None:
        """Wait some seconds, as a rule while the command starts, or for some trainings and a part of a second."""
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, LONGEST))
        else:
            self.wait_for(len(self.trainings()) + draw.randrange(1, ARMS * SEEDS), process)
            time.sleep(draw.uniform(0, 0.2))

    def _mixed(self, machine: str) -> int:
        """How many tables a page would show beside the summary of another result."""
        folder = self.folder / machine
        studies = gather(folder).studies if folder.exists() else []
        return sum(
            table is not None and set(table["seed"]) != set(study.summary.provenance.seeds)
            for study in studies
            for table in (study.runs, study.curves)
        )

    def complete(self) -> set[str]:
        """The keys of the runs that are stored as complete."""
        if self.storage:
            return self._in_database(self.storage)
        journal = self.results() / "trials.log"
        keys: list[str] = []
        complete = set()
        for line in journal.read_text(errors="replace").splitlines() if journal.exists() else []:
            try:
                record: Any = json.loads(line)
            except ValueError:
                continue
            if record["op_code"] == 4:
                keys.append(record["user_attrs"]["run"]["key"])
            if record["op_code"] == 6 and record["state"] == 1:
                complete.add(keys[record["trial_id"]])
        return complete

    def _in_database(self, storage: str) -> set[str]:
        try:
            study = optuna.load_study(study_name="toy", storage=storage)
        except KeyError:
            return set()
        return {
            key_of(trial)
            for trial in study.get_trials(deepcopy=False)
            if trial.state == optuna.trial.TrialState.COMPLETE
        }

    def strays(self, machine: str = "results") -> None:
        """Count files that do not belong there."""
        folder = self.results(machine)
        profiles = ("custom", "quick")
        expected = (
            LEFT | {f"{profile}/{name}" for profile in profiles for name in (SUMMARY, RUNS, CURVES)} | {*profiles}
        )
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - expected
        self.counts["strays"] += len([name for name in left if not name.startswith("trials.log.torn-")])
