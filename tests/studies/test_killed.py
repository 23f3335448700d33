"""Sweeps as real processes that are stopped, killed and refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from studies.evidence.provenance import CHECKOUT
from studies.evidence.schema import read_summary
from studies.lab.storage import SweepError, open_storage


class Processes:
    def __init__(self, folder: Path, ratings: Path) -> None:
        self.folder, self.log = folder, folder / "toy.log"
        self.started: list[subprocess.Popen[str]] = []
        arguments = ["--ratings", str(ratings), "--results", str(folder), "--workers", "1"]
        self.command = [sys.executable, "-m", "tests.studies.toy", *arguments]
        self.environment = {**os.environ, "TOY_LOG": str(self.log)}

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """The command, whose trainings take so many seconds."""
        process = subprocess.Popen(
            self.command,
            cwd=CHECKOUT,
            env=self.environment | {"TOY_SECONDS": str(seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, as a terminal's job has
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
        )
        self.started.append(process)
        return process

    def trained(self) -> list[list[str]]:
        """Key and worker of each training so far."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def wait_for(self, trainings: int) -> list[list[str]]:
        give_up = time.monotonic() + 60
        while len(self.trained()) < trainings:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return self.trained()


@pytest.fixture
def processes(tmp_path: Path, ratings_csv: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path, ratings_csv)
    yield processes
    for process in processes.started:
        process.kill()


def test_after_a_kill_or_interrupt_the_same_command_continues_and_no_run_is_lost(processes: Processes) -> None:
    first = processes.start(0.1)
    worker = processes.wait_for(3)[0][1]
    line = [Path(f"/proc/{process}/cmdline").read_bytes() for process in (worker, first.pid)]
    assert line[0] == line[1]  # a copy of the command: it imports nothing anew
    with pytest.raises(SweepError, match="another sweep is writing to"):
        open_storage(processes.folder / "toy" / "small", None).__enter__()
    first.kill()
    first.communicate()

    second = processes.start(0.4)  # so that it has long to go still when it is interrupted, on a busy machine too
    processes.wait_for(len(processes.trained()) + 3)
    os.killpg(second.pid, signal.SIGINT)  # as Ctrl-C does
    told = second.communicate()[1]
    assert second.returncode == 130
    assert "the same command continues from here" in told
    assert "Traceback" not in told

    third = processes.start(0)
    told = third.communicate()[1]
    assert third.returncode == 0, told
    summary = read_summary(processes.folder / "toy" / "small" / "quick" / "summary.json")
    runs = pd.read_parquet(processes.folder / "toy" / "small" / "quick" / "runs.parquet")
    assert summary.provenance.trials["COMPLETE"] == len(runs) == runs["key"].nunique() == 40
    trainings = Counter(key for key, _ in processes.trained())
    assert set(trainings) == set(runs["key"])
    # One more for each that was cut off; and when a sweep stopped, its worker may have ended one and begun the next.
    assert sum(trainings.values()) <= 40 + 2 + 2


@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "studies.wd_sweep", "--results", str(tmp_path)],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130
    assert told.split() == ["Stopped."]
