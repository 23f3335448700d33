from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.evidence.provenance import CHECKOUT
from studies.lab.workers import COMPILING, Finished, Prepare, WorkerError, Workers
from tests.studies import toy

HANGS = 3600.0  # seconds that no start takes, however busy the machine is


def begun(count: int, prepare: Prepare, show: Callable[[str], None]) -> Workers:
    workers = Workers(count, show)
    workers.begin(prepare, count)
    return workers


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 120  # a busy machine takes long to start a worker
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def next_finished(workers: Workers) -> Finished:
    found: list[Finished] = []
    until(lambda: found.extend(workers.wait(1)) or found)
    return found[0]


def do(workers: Workers, job: Any) -> Finished:
    until(lambda: list(workers.wait(1)) == [] and workers.room())
    workers.give(job)
    return next_finished(workers)


def test_one_worker_after_another_does_its_job_fails_or_dies_and_the_next_job_is_done() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        assert do(workers, "work") == Finished("work", "done", "WORK")
        failed = do(workers, "raise")
        assert failed.how == "failed"
        assert failed.result.endswith("ValueError: as told\n")
        lost = do(workers, "die")
        assert (lost.job, lost.how) == ("die", "lost")
        assert "exit code -9" in lost.result
        assert do(workers, "again").result == "AGAIN"
        # One that dies while idle loses the job that it is given before anybody has noticed.
        until(lambda: workers.room())
        os.kill(workers.workers[0].process.pid, signal.SIGKILL)
        workers.workers[0].process.join()
        workers.give("into the void")
        assert next_finished(workers).how == "lost"
        assert do(workers, "alive").how == "done"


def test_a_job_ahead_begins_without_a_word_of_the_sweep_and_outlives_the_worker_that_had_it() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room(1) == 2)
        for job in ("work", "die", "again"):
            workers.give(job)
        assert workers.room(2) == 0
        assert workers.jobs == ["work", "die", "again"]
        assert workers.ahead == ["die", "again"]
        workers.workers[0].process.join()  # all this before the sweep has read anything
        assert [(end.job, end.how) for end in (next_finished(workers) for _ in range(3))] == [
            ("work", "done"),
            ("die", "lost"),
            ("again", "done"),
        ]
        assert workers.jobs == []


def test_jobs_go_to_the_worker_that_has_the_fewest() -> None:
    with begun(2, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room() == 2)
        for job in ("sleep", "work", "sleep ahead", "work ahead"):
            workers.give(job)
        assert [list(worker.jobs) for worker in workers.workers] == [["sleep", "sleep ahead"], ["work", "work ahead"]]


def test_a_job_ahead_has_its_own_limit_and_its_own_seconds() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room())
        workers.give("work")
        workers.give("sleep")
        workers.workers[0].began -= 3600  # as if the first had taken an hour
        assert next_finished(workers).seconds < 60
        assert list(workers.wait(0, 60)) == []
        (late,) = workers.wait(0, -1.0)
        assert (late.job, late.how) == ("sleep", "late")


def test_a_worker_that_cannot_prepare_is_one_error_and_no_restart_loop() -> None:
    with (
        begun(1, toy.prepare_not, print) as workers,
        pytest.raises(WorkerError, match="FileNotFoundError: no data here"),
    ):
        list(workers.wait(HANGS))  # the first news there is


def test_workers_that_die_while_starting_are_given_up_after_the_third() -> None:
    with begun(1, toy.prepare_to_die, print) as workers:
        for _ in range(2):
            starting = workers.workers[0].process
            assert list(workers.wait(HANGS)) == []  # the only news is a death
            assert starting.exitcode == 3
            assert workers.workers[0].process is not starting
        with pytest.raises(WorkerError, match=r"3 workers .*exit code 3"):
            list(workers.wait(HANGS))


def test_a_job_that_exceeds_its_limit_is_ended_with_its_worker_and_the_next_is_done() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room())
        hanging = workers.workers[0].process
        workers.give("hang")
        assert list(workers.wait(0.1, HANGS)) == []
        until(lambda: workers._now() - workers.workers[0].began > 0.2)
        (late,) = workers.wait(0.1, 0.2)
        assert (late.job, late.how) == ("hang", "late")
        assert late.result == "ended after 0 seconds, its limit; --timeout SECONDS allows more"
        assert hanging.exitcode == -signal.SIGKILL
        assert do(workers, "again").result == "AGAIN"


def test_neither_a_job_that_is_done_nor_time_in_which_the_sweep_stood_still_exceeds_a_limit() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room())
        workers.give("work")
        until(workers.workers[0].connection.poll)
        assert [finished.how for finished in workers.wait(0, 0.0)] == ["done"]
        workers.give("sleep")
        workers.looked -= 3600  # as if it had been stopped for an hour
        assert list(workers.wait(0, 60)) == []


def test_a_limit_for_runs_does_not_hold_for_the_start_of_a_worker() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(0.1, 1e-3)) == [] and workers.room())


def test_workers_that_never_start_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.lab.workers.START", 0.0)
    with (
        begun(1, toy.prepare_to_sleep, print) as workers,
        pytest.raises(WorkerError, match=r"3 workers .* did not start: ended after \d+ seconds, its limit"),
    ):
        until(lambda: list(workers.wait(0.1, 0.2)))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(("job", "end"), [("hang", signal.SIGKILL), ("sleep", signal.SIGTERM)])
def test_no_worker_outlives_its_sweep(job: str, end: signal.Signals, copied: bool) -> None:
    code = f"from tests.studies.toy import give_and_tell; give_and_tell({job!r}, {copied})"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sweep:
        assert sweep.stdout is not None
        worker = int(sweep.stdout.readline())
        sweep.send_signal(end)
        sweep.wait()
        until(lambda: not is_running(worker))


def test_a_worker_goes_from_one_preparation_to_the_next_and_what_it_was_doing_is_given_up() -> None:
    with begun(2, toy.prepare_obedient, print) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room() == 2)
        resting, busy = (worker.process for worker in workers.workers)
        workers.give("work")
        assert next_finished(workers).result == "WORK"
        workers.workers[1].give(["sleep"])
        workers.begin(toy.prepare_to_shout, 2)
        assert busy.exitcode == -signal.SIGKILL
        assert workers.jobs == []
        until(lambda: list(workers.wait(1)) == [] and workers.room() == 2)
        assert workers.workers[0].process is resting
        workers.give("work")
        assert next_finished(workers).result == "WORK!"


def test_workers_that_are_not_needed_or_still_prepare_for_something_else_get_no_job() -> None:
    with begun(2, toy.prepare_obedient, print) as workers:
        workers.begin(toy.prepare_to_shout, 1)
        until(lambda: all(worker.connection.poll() for worker in workers.workers))  # both have obeyed the first time
        until(lambda: list(workers.wait(1)) == [] and workers.room())
        assert workers.room(1) == 2  # of one worker
        workers.give("work")
        assert next_finished(workers).result == "WORK!"


def test_copies_of_the_process_do_their_jobs_and_one_that_dies_is_replaced_by_a_new_process() -> None:
    code = """
from tests.studies import test_workers, toy
from studies.evidence.provenance import cores
from studies.lab.workers import Workers
with Workers(2, print) as workers:
    workers.fork()
    assert len(workers.workers) == min(2, cores())
    assert list(workers.wait(0, 0.0)) == []  # what has nothing to do exceeds no limit
    workers.begin(toy.prepare_obedient, 1)
    assert test_workers.do(workers, "work").result == "WORK"
    assert workers.room(1) == 2
    assert test_workers.do(workers, "die").how == "lost"
    assert test_workers.do(workers, "again").result == "AGAIN"
"""
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)


def test_leaving_ends_busy_workers_too() -> None:
    with begun(1, toy.prepare_obedient, print) as workers:
        process = workers.workers[0].process
    assert process.exitcode is not None


def test_workers_that_compile_say_so_once() -> None:
    told: list[str] = []
    with begun(2, toy.prepare_to_compile, told.append) as workers:
        until(lambda: list(workers.wait(1)) == [] and workers.room() == 2)
        for job in (1, 2):
            workers.give(job)
        assert sorted(next_finished(workers).result for _ in range(2)) == [2, 3]
        assert do(workers, 3).result == 4
    assert told == [COMPILING]
