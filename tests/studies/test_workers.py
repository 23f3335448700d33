from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from studies.lab.workers import COMPILING, Finished, WorkerError, Workers
from tests.studies import toy

HANGS = 3600.0  # seconds that no start takes, however busy the machine is


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def next_finished(workers: Workers) -> Finished:
    found: list[Finished] = []
    until(lambda: found.extend(workers.wait(1)) or found)
    return found[0]


def do(workers: Workers, job: Any) -> Finished:
    until(lambda: list(workers.wait(1)) == [] and workers.idle)
    workers.give(job)
    return next_finished(workers)


def test_one_worker_after_another_does_its_job_fails_or_dies_and_the_next_job_is_done() -> None:
    with Workers(1, toy.prepare_obedient, print) as workers:
        assert do(workers, "work") == Finished("work", "done", "WORK")
        failed = do(workers, "raise")
        assert failed.how == "failed"
        assert failed.result.endswith("ValueError: as told\n")
        lost = do(workers, "die")
        assert (lost.job, lost.how) == ("die", "lost")
        assert "exit code -9" in lost.result
        assert do(workers, "again").result == "AGAIN"
        # One that dies while idle loses the job that it is given before anybody has noticed.
        until(lambda: workers.idle)
        os.kill(workers.workers[0].process.pid, signal.SIGKILL)
        workers.workers[0].process.join()
        workers.give("into the void")
        assert next_finished(workers).how == "lost"
        assert do(workers, "alive").how == "done"


def test_a_worker_that_cannot_prepare_is_one_error_and_no_restart_loop() -> None:
    with (
        Workers(1, toy.prepare_not, print) as workers,
        pytest.raises(WorkerError, match="FileNotFoundError: no data here"),
    ):
        list(workers.wait(HANGS))  # the first news there is


def test_workers_that_die_while_starting_are_given_up_after_the_third() -> None:
    with Workers(1, toy.prepare_to_die, print) as workers:
        for _ in range(2):
            starting = workers.workers[0].process
            assert list(workers.wait(HANGS)) == []  # the only news is a death
            assert starting.exitcode == 3
            assert workers.workers[0].process is not starting
        with pytest.raises(WorkerError, match=r"3 workers .*exit code 3"):
            list(workers.wait(HANGS))


def test_leaving_ends_busy_workers_too() -> None:
    with Workers(1, toy.prepare_obedient, print) as workers:
        process = workers.workers[0].process
    assert process.exitcode is not None


def test_workers_that_compile_say_so_once() -> None:
    told: list[str] = []
    with Workers(2, toy.prepare_to_compile, told.append) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.idle == 2)
        for job in (1, 2):
            workers.give(job)
        assert sorted(next_finished(workers).result for _ in range(2)) == [2, 3]
        assert do(workers, 3).result == 4
    assert told == [COMPILING]
