from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from studies.lab import storage as storage_module
from studies.lab import sweep as sweep_module
from studies.lab import workers
from studies.lab.spec import Outcome, Run
from studies.lab.storage import JOURNAL, SweepError, open_storage
from studies.lab.sweep import Sweep, key_of
from tests.studies import together, toy

Trained = Callable[[], list[str]]
RUNS = [toy.planned(seed, x) for seed in range(3) for x in (0.0, 1.0)]


def do(sweep: Sweep, runs: Sequence[Run] = RUNS) -> list[str]:
    return toy.do(sweep, runs)


def states(sweep: Sweep, *, of: Run) -> list[str]:
    return [trial.state.name for trial in sweep.trials() if key_of(trial) == of.key]


@pytest.fixture(params=["file", "database"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Sweep]]:
    """A sweep over one storage, opened anew by each call, as each command does."""
    url = f"sqlite:///{tmp_path}/trials.db" if request.param == "database" else None
    with ExitStack() as stack:

        def reopen() -> Sweep:
            stack.close()
            return Sweep(toy.STUDY, stack.enter_context(open_storage(tmp_path / "toy", url)))

        yield reopen


@pytest.mark.usefixtures("inline")
def test_a_sweep_does_every_run_once_and_a_second_one_none(reopen: Callable[[], Sweep], trained: Trained) -> None:
    assert do(reopen()) == []
    assert sorted(trained()) == sorted(run.key for run in RUNS)
    again = reopen()
    assert do(again) == []
    assert len(trained()) == len(RUNS)
    assert again.outcomes().keys() == {run.key for run in RUNS}


@pytest.mark.usefixtures("inline")
def test_more_seeds_and_more_arms_train_only_what_is_new(reopen: Callable[[], Sweep], trained: Trained) -> None:
    do(reopen())
    new = [toy.planned(3, 0.0), toy.planned(0, 2.0)]
    do(reopen(), [*RUNS, *new])
    assert trained()[len(RUNS) :] == [run.key for run in new]


@pytest.mark.usefixtures("inline")
def test_an_outcome_comes_back_from_storage_as_it_was(reopen: Callable[[], Sweep]) -> None:
    do(reopen())
    stored = dict(reopen().outcomes()[RUNS[0].key].user_attrs["outcome"])
    stored.pop("commit")
    assert Outcome.restored(stored) == toy.run(RUNS[0])


@pytest.mark.usefixtures("inline")
def test_a_failed_run_is_reported_with_its_settings_and_retried_by_the_next_command(
    reopen: Callable[[], Sweep], trained: Trained
) -> None:
    class Bad:
        def __call__(self, job: tuple[int, Run]) -> Outcome:
            raise ArithmeticError("this run is bad")

    (told,) = toy.do(reopen(), [toy.planned(7)], Bad)
    assert "seed 7" in told
    assert told.endswith("ArithmeticError: this run is bad\n")
    again = reopen()
    assert do(again, [toy.planned(7)]) == []
    assert states(again, of=toy.planned(7)) == ["FAIL", "COMPLETE"]


@pytest.mark.usefixtures("inline")
def test_a_run_that_two_machines_enqueued_is_done_once(reopen: Callable[[], Sweep], trained: Trained) -> None:
    sweep = reopen()
    sweep._add(RUNS[0])
    sweep._add(RUNS[0])
    do(sweep)
    assert Counter(trained()) == Counter(run.key for run in RUNS)


@pytest.mark.usefixtures("inline")
def test_of_two_that_finished_one_run_all_machines_take_the_first(reopen: Callable[[], Sweep]) -> None:
    sweep = reopen()
    for value in (1.0, 2.0):
        sweep._add(RUNS[0])
        trial = sweep.trials()[-1]
        sweep._claim(trial)
        sweep._complete(trial._trial_id, Outcome({"rmse": value}))
    assert reopen().outcomes()[RUNS[0].key].value == 1.0


def test_only_one_claims_a_waiting_run(reopen: Callable[[], Sweep]) -> None:
    sweep = reopen()
    sweep._add(RUNS[0])
    (waiting,) = sweep.trials()
    assert sweep._claim(waiting)
    assert not sweep._claim(waiting)
    sweep._fail(waiting._trial_id, "over")
    assert not sweep._claim(waiting)


def test_of_machines_that_claim_a_run_in_sqlite_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    assert together.claims(tmp_path, f"sqlite:///{tmp_path}/trials.db", 20) == [1] * 20


@pytest.mark.usefixtures("inline")
def test_machines_that_begin_a_sweep_in_sqlite_at_the_same_moment_do_each_run_once_and_leave_no_trial_open(
    tmp_path: Path, trained: Trained
) -> None:
    assert together.left_by_sweeps(tmp_path, f"sqlite:///{tmp_path}/trials.db", RUNS) == {"COMPLETE": len(RUNS)}
    assert Counter(trained()) == Counter(run.key for run in RUNS)


@pytest.mark.usefixtures("inline")
def test_an_interrupt_fails_the_run_being_done_and_drops_the_one_ahead(
    reopen: Callable[[], Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, rounds = reopen(), iter(range(10))
    wait = workers.Workers.wait

    def interrupted(pool: Any, seconds: float, limit: float) -> Iterator[Any]:
        if next(rounds) == 2:
            raise KeyboardInterrupt
        return wait(pool, seconds, limit)

    monkeypatch.setattr(workers.Workers, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(sweep)
    states = Counter(trial.state.name for trial in sweep.trials())
    assert (states["COMPLETE"], states["FAIL"], states["PRUNED"], states["RUNNING"]) == (2, 1, 1, 0)
    again = reopen()
    assert do(again) == []
    assert again.outcomes().keys() == {run.key for run in RUNS}
    assert not again.trials(TrialState.WAITING)


def waiting_and_running(sweep: Sweep, runs: Sequence[Run]) -> tuple[list[int], list[int]]:
    """How many trials waited and ran after each round of a sweep, while each round ended a run."""
    counts: tuple[list[int], list[int]] = [], []

    def progress(done: int, total: int) -> None:
        for of_state, state in zip(counts, (TrialState.WAITING, TrialState.RUNNING), strict=True):
            of_state.append(len(sweep.trials(state)))

    assert toy.do(sweep, runs, progress=progress) == []
    assert len(sweep.trials()) == len(runs)
    return counts


@pytest.mark.usefixtures("inline")
def test_quick_runs_are_enqueued_and_claimed_before_they_are_needed(tmp_path: Path) -> None:
    runs = [toy.planned(seed) for seed in range(40)]
    with open_storage(tmp_path, None) as storage:
        waiting, running = waiting_and_running(Sweep(toy.STUDY, storage), runs)
    assert waiting[:2] == [0, 0]  # nobody knows yet that they are quick
    assert sweep_module.STOCK // 2 < max(waiting) <= sweep_module.STOCK
    assert max(running) == 1  # the one ahead: the other has ended
    assert (waiting[-1], running[-1]) == (0, 0)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("why", ["they take long", "they take times"])
def test_runs_that_take_long_or_measure_time_are_enqueued_and_claimed_when_a_worker_has_none(
    reopen: Callable[[], Sweep], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    sweep = reopen()
    if why == "they take long":
        monkeypatch.setattr(sweep_module, "QUICK", 0.0)
    else:
        sweep.declaration = dataclasses.replace(toy.STUDY, alone=True)
    waiting, running = waiting_and_running(sweep, RUNS)
    assert max(waiting) == max(running) == 0


@pytest.mark.usefixtures("inline")
def test_a_kill_at_any_write_costs_only_the_run_in_progress_and_leaves_no_trial_open(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    append, runs = storage_module._Journal.append_logs, RUNS[:3]
    for number in count():
        writes = count()

        def write(journal: Any, logs: Any, at: int = number, writes: Iterator[int] = writes) -> None:
            append(journal, logs)
            if next(writes) == at:
                raise Killed

        was_killed = False
        with monkeypatch.context() as patch, suppress(Killed), open_storage(tmp_path / str(number), None) as storage:
            patch.setattr(storage_module._Journal, "append_logs", write)
            was_killed = True
            do(Sweep(toy.STUDY, storage), runs)
            was_killed = False
        before = trained()
        with open_storage(tmp_path / str(number), None) as storage:
            sweep = Sweep(toy.STUDY, storage)
            stored = sweep.outcomes().keys()
            assert do(sweep, runs) == []
            assert sweep.outcomes().keys() == {run.key for run in runs}
            assert not sweep.trials(TrialState.WAITING, TrialState.RUNNING)
        assert not stored & set(trained()[len(before) :])
        if not was_killed:
            break
    assert number == 1 + 4 * len(runs)  # the study; each run is enqueued, claimed, and has its outcome and its end


def test_a_machine_takes_the_next_runs_if_it_is_alone_and_others_than_those_that_are_at_work() -> None:
    runs = [toy.planned(seed) for seed in range(1000)]
    at_work = {runs[0].key: optuna.create_trial(state=TrialState.RUNNING, user_attrs={"run": {"key": runs[0].key}})}
    alone, one, other, file = (sweep_module._Plan(runs, shared) for shared in (True, True, True, False))
    alone.saw({})
    for plan in (one, other, file):
        plan.saw(at_work)
    assert alone.pick(4) == runs[:4]
    assert file.pick(4) == runs[1:5]
    picked = one.pick(4), other.pick(4)
    assert picked[0] != picked[1]  # but once in ten million times
    for plan, runs_of in zip((one, other), picked, strict=True):
        assert len({run.key for run in runs_of}) == 4
        assert all(run in runs[1 : 1 + sweep_module.SPREAD] for run in runs_of)
        assert not any(run.key in plan.missing for run in runs_of)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("url", "order"), [(None, [3, 0, 1, 2, 4, 5]), ("sqlite:///{}/trials.db", [0, 1, 2, 4, 5, 3])])
def test_a_run_that_waits_is_taken_first_in_a_file_and_last_in_a_database_where_its_machine_may_take_it(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, url: str | None, order: list[int]
) -> None:
    monkeypatch.setattr(sweep_module, "SPREAD", 0)
    with open_storage(tmp_path, url and url.format(tmp_path)) as storage:
        Sweep(toy.STUDY, storage)._add(RUNS[3])
        do(Sweep(toy.STUDY, storage))
    assert trained() == [RUNS[number].key for number in order]


@pytest.mark.usefixtures("inline")
def test_a_run_that_another_machine_enqueued_at_the_same_moment_leaves_no_trial_that_waits(
    reopen: Callable[[], Sweep], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = reopen()
    enqueue = sweep._add

    def meanwhile(run: Run) -> None:
        enqueue(run)
        enqueue(run)

    monkeypatch.setattr(sweep, "_add", meanwhile)
    do(sweep)
    assert Counter(trained()) == Counter(run.key for run in RUNS)
    assert states(sweep, of=RUNS[0]) == ["COMPLETE", "PRUNED"]
    assert not sweep.trials(TrialState.WAITING)


class Outage:
    """A database whose operations fail so many times, after they were done or before."""

    def __init__(self, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures, self.after = 0, False
        for name in ("set_trial_state_values", "set_trial_user_attr", "record_heartbeat", "create_new_trial"):
            monkeypatch.setattr(storage, name, self.failing(getattr(storage, name)))
        cached = storage._backend if hasattr(storage, "_backend") else storage
        monkeypatch.setattr(cached, "_get_trials", self.failing(cached._get_trials))  # type: ignore[attr-defined]

    def failing(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*arguments: Any, **named: Any) -> Any:
            if not self.failures:
                return operation(*arguments, **named)
            self.failures -= 1
            if self.after:
                operation(*arguments, **named)
            raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection: hunter2"))

        return attempt


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("failures", [1, 4])
def test_an_outage_is_waited_for_in_one_line_and_no_run_is_lost_or_repeated(
    tmp_path: Path,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: bool,
    failures: int,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(storage_module.time, "sleep", pauses.append)
    with open_storage(tmp_path, f"sqlite:///{tmp_path}/trials.db") as storage:
        sweep = Sweep(toy.STUDY, storage)
        outage = Outage(storage, monkeypatch)
        rounds = iter(range(1000))

        def progress(done: int, total: int) -> None:
            if next(rounds) in (1, 3):
                outage.failures, outage.after = failures, after

        assert toy.do(sweep, RUNS, progress=progress) == []
    told = capsys.readouterr().err
    assert Counter(trained()) == Counter(run.key for run in RUNS)
    assert [pause for pause in pauses if pause] == 2 * [1, 2, 4][: failures - 1]  # the toy's runs sleep 0 seconds
    assert told.count("stopped answering; waiting for it up to 600 seconds") == (2 if failures > 1 else 0)
    assert told.count("answers again after") == (2 if failures > 1 else 0)
    assert "hunter2" not in told


@pytest.mark.usefixtures("inline")
def test_an_outage_that_lasts_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(storage: BaseStorage) -> None:
        sweep = Sweep(toy.STUDY, storage, patience=0.01)
        Outage(storage, monkeypatch).failures = 1_000_000
        do(sweep)

    with (
        pytest.raises(SweepError, match=r"stopped answering \(.*\); finished runs are kept") as caught,
        open_storage(tmp_path, f"sqlite:///{tmp_path}/trials.db") as storage,
    ):
        lose(storage)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('FATAL: password authentication failed for user "me" hunter2', "it refuses this user or password"),
        ("fe_sendauth: no password supplied", "it refuses this user or password"),
        ('FATAL:  role "me" does not exist', "it refuses this user or password"),
        ("(1045, \"Access denied for user 'me'@'localhost'\")", "it refuses this user or password"),
        ('FATAL:  database "x" does not exist', "it has no such database; create it first"),
        ("permission denied for schema public", "this user may not make tables there; GRANT it CREATE on the schema"),
        ('FATAL:  too many connections for database "x"', "it has no connection left; try again soon"),
        ("(1049, \"Unknown database 'x'\")", "it has no such database; create it first"),
        ("connection refused. Is the server running on that host?", "no server answers there"),
        ("failed to resolve host 'x': Name or service not known", "no server answers there"),
        ("FATAL: the database system is starting up", "it starts or stops; try again soon"),
        ("unable to open database file", "its file cannot be opened"),
        ("something else hunter2", "cannot be opened (OperationalError); check the URL"),
    ],
)
def test_reasons_why_a_database_does_not_open_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, why: str
) -> None:
    def connect(url: str, **_: object) -> None:
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception(said))

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(storage_module, "RDBStorage", connect)
    with pytest.raises(SweepError) as caught:
        open_storage(tmp_path, "postgresql://me:hunter2@localhost/x").__enter__()
    assert str(caught.value).startswith(f"storage postgresql://***: {why}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("failures", [1, 10])
@pytest.mark.parametrize("error", [sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError])
def test_a_machine_waits_while_others_create_the_tables(
    monkeypatch: pytest.MonkeyPatch, error: type[sqlalchemy.exc.DBAPIError], failures: int
) -> None:
    pauses: list[float] = []

    def race(url: str) -> str:
        if len(pauses) < failures:
            raise error("CREATE TABLE", {}, Exception("duplicate key value violates unique constraint"))
        return url

    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(storage_module, "_opened", race)
    assert storage_module._tables("opened") == "opened"
    assert pauses == [1] * failures


def test_what_will_not_pass_is_told_after_the_second_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> BaseStorage:
        raise sqlalchemy.exc.ProgrammingError("CREATE TABLE", {}, Exception("permission denied for schema public"))

    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(storage_module, "_opened", refuse)
    with pytest.raises(SweepError, match="may not make tables"):
        open_storage(tmp_path, "sqlite:///x.db").__enter__()
    assert pauses == [1]


def test_a_machine_that_lost_its_run_to_another_cannot_finish_or_fail_it(reopen: Callable[[], Sweep]) -> None:
    sweep = reopen()
    sweep._add(RUNS[0])
    (trial,) = sweep.trials()
    sweep._claim(trial)
    sweep._fail(trial._trial_id, "silent too long")
    sweep._complete(trial._trial_id, toy.run(RUNS[0]))
    sweep._fail(trial._trial_id, "once more")
    assert states(sweep, of=RUNS[0]) == ["FAIL"]


@pytest.mark.usefixtures("inline")
def test_a_run_that_a_dead_sweep_left_running_in_a_file_is_done_by_the_next(tmp_path: Path) -> None:
    with open_storage(tmp_path, None) as storage:
        killed = Sweep(toy.STUDY, storage)
        killed._add(RUNS[0])
        killed._claim(killed.trials()[0])
    with open_storage(tmp_path, None) as storage:
        sweep = Sweep(toy.STUDY, storage)
        assert do(sweep) == []
        assert states(sweep, of=RUNS[0]) == ["FAIL", "COMPLETE"]


@pytest.mark.usefixtures("inline")
def test_in_a_database_a_machine_that_beats_keeps_its_run_and_a_silent_one_loses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "GRACE", 2)
    with open_storage(tmp_path, f"sqlite:///{tmp_path}/trials.db") as storage:
        other, ours = Sweep(toy.STUDY, storage), Sweep(toy.STUDY, storage)
        for run in RUNS[:2]:
            other._add(run)
        silent, beating = other.trials()
        other._claim(beating)

        def killed(trial_id: int, state: TrialState, values: None) -> bool:
            type(storage).set_trial_state_values(storage, trial_id, state)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(storage, "set_trial_state_values", killed)
            with pytest.raises(KeyboardInterrupt):
                other._claim(silent)  # killed at the worst moment, right when the run has become its own
        began = time.monotonic()

        def progress(done: int, total: int) -> None:
            other._record_heartbeat(beating._trial_id)
            assert time.monotonic() < began + 20
            time.sleep(0.2)  # the stand-in for workers does not wait

        assert toy.do(ours, RUNS[:1], progress=progress) == []
        assert states(ours, of=RUNS[0]) == ["FAIL", "COMPLETE"]
        assert states(ours, of=RUNS[1]) == ["RUNNING"]
        assert time.monotonic() > began + 2


@pytest.mark.usefixtures("inline")
def test_runs_that_wait_for_another_command_are_left_to_it(reopen: Callable[[], Sweep]) -> None:
    sweep = reopen()
    sweep._add(toy.planned(9))
    assert do(sweep) == []
    assert states(sweep, of=toy.planned(9)) == ["WAITING"]


def test_a_run_whose_worker_is_killed_is_repeated_and_one_that_always_kills_it_given_up(
    tmp_path: Path, trained: Trained
) -> None:
    runs = [toy.planned(seed) for seed in range(1, 5)]
    with open_storage(tmp_path, None) as storage:
        sweep = Sweep(toy.STUDY, storage)
        (told,) = toy.do(sweep, runs, toy.prepare_mortal)
        assert "seed 3" in told
        assert "exit code -9" in told
        assert sweep.outcomes().keys() == {run.key for run in runs if run.seed != 3}
    attempts = Counter(trained())
    assert [attempts[run.key] for run in runs] == [1, 2, 3, 1]


def test_a_run_that_hangs_is_ended_and_counted_and_the_others_are_done(tmp_path: Path) -> None:
    runs = [toy.planned(seed) for seed in (1, 4, 2)]
    with open_storage(tmp_path, None) as storage:
        sweep = Sweep(toy.STUDY, storage)
        (told,) = toy.do(sweep, runs, toy.prepare_to_hang, timeout=5)
        assert re.fullmatch(r"toy, x 1\.0, lr 0\.1, seed 4: ended after \d+ seconds, its limit; --timeout .*", told)
        assert sweep.outcomes().keys() == {runs[0].key, runs[2].key}
        assert states(sweep, of=runs[1]) == ["FAIL"]


@pytest.mark.usefixtures("inline")
def test_the_limit_of_a_run_grows_with_the_runs_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    wait = workers.Workers.wait

    def waited(pool: Any, seconds: float, limit: float) -> Iterator[Any]:
        limits.append(limit)
        return wait(pool, seconds, limit)

    monkeypatch.setattr(workers.Workers, "wait", waited)
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
        do(Sweep(toy.STUDY, storage), [toy.planned(9)])
    assert limits[0] == sweep_module.LIMIT
    assert all(limit >= sweep_module.TIMES * 100 for limit in limits[1:-1])
    assert limits[-1] == sweep_module.LIMIT


def test_a_second_sweep_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with open_storage(tmp_path, None), pytest.raises(SweepError, match="another sweep is writing to"):
        open_storage(tmp_path, None).__enter__()
    with open_storage(tmp_path, None):
        pass  # the lock ends with the sweep


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("torn", [b'{"op_code":5,"wor', b"\0\0\0\0", b"\xff"])
def test_a_torn_last_line_is_set_aside_and_no_finished_run_is_lost(
    tmp_path: Path, torn: bytes, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(torn)
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage), [*RUNS, toy.planned(9)])
    assert len(trained()) == len(RUNS) + 1
    (aside,) = tmp_path.glob(f"{JOURNAL}.torn-*")
    assert aside.read_bytes() == torn
    assert "the last line was cut short" in capsys.readouterr().err


@pytest.mark.usefixtures("inline")
def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path, trained: Trained) -> None:
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes().removesuffix(b"\n"))
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
    assert len(trained()) == len(RUNS)
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.usefixtures("inline")
def test_a_damaged_line_amid_others_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(damaged := b"".join([*lines[:4], b"{nonsense\n", *lines[5:]]))
    with pytest.raises(SweepError, match="line 5: damaged"):
        open_storage(tmp_path, None).__enter__()
    assert journal.read_bytes() == damaged


@pytest.mark.usefixtures("inline")
def test_starting_anew_sets_the_runs_aside_and_trains_all_again(tmp_path: Path, trained: Trained) -> None:
    for fresh in (False, True):
        with open_storage(tmp_path, None, fresh) as storage:
            do(Sweep(toy.STUDY, storage))
    assert len(trained()) == 2 * len(RUNS)
    assert len(list(tmp_path.glob(f"{JOURNAL}.until-*"))) == 1


@pytest.mark.usefixtures("inline")
def test_what_is_set_aside_replaces_nothing_that_was_set_aside_before(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / JOURNAL).write_text("")
        (tmp_path / "summary.json").write_text(f"of another program {number}")
        with open_storage(tmp_path, None, fresh=True):
            pass
    kept = sorted(path.read_text() for path in tmp_path.glob("summary.json.until-*"))
    assert kept == [f"of another program {number}" for number in range(3)]
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "null", "42", '"a"', '{"op_code":[],"worker_id":"a"}', '{"op_code":0}', "[" * 100_000, "9" * 10_000],
)
def test_a_json_line_that_is_not_a_record_is_named_and_nothing_is_lost(tmp_path: Path, line: str) -> None:
    with open_storage(tmp_path, None) as storage:
        Sweep(toy.STUDY, storage)
    journal = tmp_path / JOURNAL
    before = f"{journal.read_text()}{line}\n"
    journal.write_text(before)
    n_lines = before.count("\n")
    with pytest.raises(SweepError, match=f"line {n_lines}: damaged; --fresh sets the file aside"):
        open_storage(tmp_path, None).__enter__()
    assert journal.read_text() == before


@pytest.mark.parametrize(
    "record",
    [
        '{"op_code":99,"worker_id":"a"}',
        '{"op_code":4,"worker_id":"a"}',
        '{"op_code":0,"worker_id":"a","study_name":[],"directions":7}',
        '{"op_code":4,"worker_id":"a","study_id":0,"datetime_start":"yesterday","state":1,"distributions":{}}',
    ],
)
def test_records_that_optuna_cannot_follow_are_one_line_and_nothing_is_lost(tmp_path: Path, record: str) -> None:
    with open_storage(tmp_path, None) as storage:
        Sweep(toy.STUDY, storage)
    journal = tmp_path / JOURNAL
    journal.write_text(before := f"{journal.read_text()}{record}\n")
    with pytest.raises(SweepError, match="are inconsistent") as caught:
        open_storage(tmp_path, None).__enter__()
    assert "\n" not in str(caught.value)
    assert journal.read_text() == before
    with open_storage(tmp_path, None, fresh=True) as storage:  # the lock was given back, and this helps
        Sweep(toy.STUDY, storage)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_a_journal_that_is_not_a_file_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / JOURNAL)
    with pytest.raises(SweepError, match="not a file; --fresh sets it aside"):
        open_storage(tmp_path, None).__enter__()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_journal_that_is_a_link_to_another_folders_is_one_line(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    with open_storage(tmp_path / "a", None):
        (tmp_path / "b").mkdir()
        link(tmp_path / "b" / JOURNAL, tmp_path / "a" / JOURNAL)
        with pytest.raises(SweepError, match="a link, so another sweep may write to the same file"):
            open_storage(tmp_path / "b", None).__enter__()
    with open_storage(tmp_path / "b", None, fresh=True) as storage:
        Sweep(toy.STUDY, storage)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("", r"trials\.log: removed or replaced while the sweep ran: put it back before you continue"),
        (JOURNAL, r"trials\.log: removed or replaced while the sweep ran: put it back before you continue"),
        (".lock", r"\.lock: removed or replaced while the sweep ran: another sweep may have begun; finished runs are"),
    ],
)
@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_removed_while_a_sweep_runs_ends_it_in_one_line(
    tmp_path: Path, removed: str, said: str, replaced: bool
) -> None:
    folder = tmp_path / "toy"

    def progress(done: int, total: int) -> None:
        if done == 2:
            (folder / removed).rename(tmp_path / "away")
            if replaced:
                shutil.copytree(tmp_path / "away", folder) if not removed else (folder / removed).touch()

    def sweep() -> None:
        with open_storage(folder, None) as storage:
            toy.do(Sweep(toy.STUDY, storage), RUNS, progress=progress)

    with pytest.raises(SweepError, match=said) as caught:
        sweep()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("inline")
def test_a_full_disk_leaves_no_part_of_a_record(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FileIO):
        def write(self, data: Any) -> int:
            if Full.left < len(data):
                if not Full.left:
                    raise OSError(errno.ENOSPC, "No space left on device")
                data = data[: Full.left]
            Full.left -= len(data)
            return super().write(data)

    def opened(path: Path, mode: str = "r", buffering: int = -1, **how: Any) -> Any:
        return Full(path, mode) if (path.name, mode) == (JOURNAL, "ab") else usual(path, mode, buffering, **how)

    usual = Path.open
    for left in (0, 500, 1000, 1500, 3000):
        Full.left = left
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", opened)
            with pytest.raises(OSError, match="No space left"), open_storage(tmp_path, None) as storage:
                do(Sweep(toy.STUDY, storage))
        assert all(json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines())
    with open_storage(tmp_path, None) as storage:
        do(Sweep(toy.STUDY, storage))
        assert Sweep(toy.STUDY, storage).outcomes().keys() == {run.key for run in RUNS}


def test_a_folder_in_which_files_cannot_be_locked_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(storage_module.filelock.FileLock, "acquire", refuse)
    with pytest.raises(SweepError, match="files cannot be locked there"):
        open_storage(tmp_path, None).__enter__()


def others_study(storage: BaseStorage, **settings: Any) -> optuna.Study:
    return optuna.create_study(study_name="toy", storage=storage, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"direction": "maximize"}, "its direction is maximize, not minimize"),
        ({"directions": ["minimize", "minimize"]}, "its direction is minimize and minimize, not minimize"),
        ({"direction": "minimize"}, "its trial 0 is not a run of dotbias"),
    ],
)
@pytest.mark.parametrize("url", [None, "sqlite:///{}/trials.db"])
def test_another_programs_study_of_our_name_is_one_line(
    tmp_path: Path, url: str | None, settings: dict[str, Any], said: str
) -> None:
    with open_storage(tmp_path, url and url.format(tmp_path)) as storage:
        theirs = others_study(storage, **settings)
        theirs.optimize(lambda trial: [trial.suggest_float("x", 0, 1)] * len(theirs.directions), 1)
        with pytest.raises(SweepError, match=said):
            Sweep(toy.STUDY, storage)
        assert len(theirs.trials) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"run": "a"},
        {"run": {}},
        {"run": {"key": 7}},
        *({"run": {"key": "a"}, **more} for more in ({}, {"outcome": []}, {"outcome": {}})),
    ],
)
def test_a_trial_that_lacks_what_ours_have_is_refused_whenever_it_comes(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    with open_storage(tmp_path, None) as storage:
        sweep = Sweep(toy.STUDY, storage)
        sweep.study.add_trial(optuna.create_trial(value=1.0, user_attrs=attributes))
        with pytest.raises(SweepError, match="its trial 0 is not a run of dotbias"):
            sweep.outcomes()


def test_a_study_that_somebody_deletes_meanwhile_is_one_line(reopen: Callable[[], Sweep]) -> None:
    sweep = reopen()
    optuna.delete_study(study_name="toy", storage=sweep.storage)
    with pytest.raises(SweepError, match="was deleted from the storage meanwhile"):
        do(sweep)


def test_a_command_that_finds_its_study_writes_nothing(reopen: Callable[[], Sweep], tmp_path: Path) -> None:
    reopen()
    (file,) = tmp_path.rglob("trials.*")
    before = file.read_bytes()
    reopen()
    assert file.read_bytes() == before


def test_a_torn_line_of_a_file_that_is_inconsistent_is_left_where_it_is(tmp_path: Path) -> None:
    with open_storage(tmp_path, None) as storage:
        Sweep(toy.STUDY, storage)._add(RUNS[0])
    journal = tmp_path / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x"}\n{"op_code":5,"wor')
    before = journal.read_bytes()
    with pytest.raises(SweepError, match="its records are inconsistent"):
        open_storage(tmp_path, None).__enter__()
    assert [path for path in tmp_path.iterdir() if path.name != ".lock"] == [journal]
    assert journal.read_bytes() == before


def test_a_driver_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SweepError, match=r'install its driver, python -m pip install "psycopg\[binary\]" \('):
        open_storage(tmp_path, "postgresql://me:hunter2@localhost/x").__enter__()


def test_an_abandoned_lock_of_optuna_costs_no_waiting(tmp_path: Path) -> None:
    (tmp_path / f"{JOURNAL}.lock").touch()
    began = time.monotonic()
    with open_storage(tmp_path, None) as storage:
        Sweep(toy.STUDY, storage)
    assert time.monotonic() < began + 10


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite:////no/such/folder/hunter2.db",
        "postgresql://me:hunter2@localhost:port/x",
        "postgresql+nodriver://me:hunter2@localhost/x",
        "mysql://me:hunter2@localhost/x?password=hunter2",
        "me:hunter2@localhost/db",
        "postgresql:/me:hunter2@localhost/db",
        "host=localhost user=me password=hunter2",
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_password(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(SweepError) as caught:
        open_storage(tmp_path, url).__enter__()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value).replace("folder/hunter2", "")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_a_database_in_memory_is_refused_as_it_forgets_what_it_promises_to_keep(tmp_path: Path, url: str) -> None:
    with pytest.raises(SweepError, match="loses all runs when the command ends"):
        open_storage(tmp_path, url).__enter__()


def test_what_a_driver_raises_of_its_own_is_one_line_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str, **_: object) -> None:
        raise AttributeError(f"no such thing in {url}")

    monkeypatch.setattr(storage_module, "RDBStorage", connect)
    with pytest.raises(SweepError, match=r"cannot be opened \(AttributeError\)") as caught:
        open_storage(tmp_path, "postgresql://me:hunter2@localhost/x").__enter__()
    assert "hunter2" not in str(caught.value)


def test_a_database_that_goes_away_is_one_line_without_password(tmp_path: Path) -> None:
    def lose(storage: BaseStorage) -> None:
        (tmp_path / "trials.db").write_bytes(b"no database any more")
        do(Sweep(toy.STUDY, storage))

    with (
        pytest.raises(SweepError, match=r"stopped answering .*; finished runs are kept"),
        open_storage(tmp_path, f"sqlite:///{tmp_path}/trials.db") as storage,
    ):
        lose(storage)


@pytest.mark.usefixtures("inline")
def test_progress_counts_what_was_done_before_and_estimates_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with sweep_module.shown_progress("toy") as progress:
        for done in (4, 5, 6, 8, 10):
            progress(done, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "toy: 4 of 10 runs",
        "toy: 5 of 10 runs",
        "toy: 6 of 10 runs, about 0:00:40 left",
        "toy: 8 of 10 runs, about 0:00:13 left",
        "toy: 10 of 10 runs",
    ]
