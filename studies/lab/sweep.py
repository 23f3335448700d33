"""A sweep: runs as trials of an Optuna study, each done once, whoever does it and however often it is stopped.

A run is a trial whose `key` says what determines it. Machines share nothing but the storage: trials wait there, are
claimed by a change of state that only one claimer can make, and end with their whole outcome in one attribute.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import filelock
import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from studies.evidence import provenance
from studies.lab.spec import Outcome, Run, Study
from studies.lab.workers import Prepare, Workers

JOURNAL = "trials.log"
ATTEMPTS = 3  # a run that takes its worker down with it this often is a failure of the run
HEARTBEAT, GRACE = 15, 60  # seconds; a machine silent for longer than GRACE has lost its runs


class SweepError(RuntimeError):
    """A sweep that cannot go on: the message says why and what to do."""


@contextlib.contextmanager
def open_storage(folder: Path, url: str | None) -> Iterator[BaseStorage]:
    """The trials' storage: any Optuna URL, or by default a file in `folder`, which then is ours alone.

    Raises:
        SweepError: the file is in use by another sweep, or the URL leads nowhere.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is not None:
        shown = provenance.without_password(url)
        try:
            yield RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            # The driver's own words may hold the password.
            raise SweepError(f"storage {shown}: cannot be used ({type(error).__name__})") from None
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SweepError(
            f"another sweep is writing to {folder}: wait for it, name another folder by --results, or give both "
            "a shared database by --storage"
        ) from None
    try:
        journal = folder / JOURNAL
        _mend(journal)
        yield JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal))))
    finally:
        lock.release()


def _mend(journal: Path) -> None:
    """Undo what a sweep that was killed may have left; the folder's lock says that no other is alive."""
    Path(f"{journal}.lock").unlink(missing_ok=True)  # Optuna's own lock, which would cost 30 seconds to outwait
    if not journal.exists():
        return
    raw = journal.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole == len(raw):
        return
    try:
        json.loads(raw[whole:])
    except ValueError:  # a line was cut short, as on a full disk; Optuna would read nothing behind it
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        torn = journal.with_name(f"{journal.name}.torn-{now}")
        torn.write_bytes(raw[whole:])
        os.truncate(journal, whole)
        print(f"{journal}: the last line was cut short; it is kept in {torn.name}", file=sys.stderr)
    else:
        with journal.open("ab") as file:
            file.write(b"\n")


class Sweep:
    """The runs of one study in one storage.

    Args:
        study: the declaration.
        storage: from `open_storage`.
    """

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        self.declaration, self.storage = study, storage
        self.study = optuna.create_study(
            study_name=study.name, storage=storage, direction=study.direction, load_if_exists=True
        )
        self.study_id = storage.get_study_id_from_name(study.name)
        self.commit = provenance.commit()[0]
        self._beaten = 0.0

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states, as stored now."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def outcomes(self) -> dict[str, FrozenTrial]:
        """The finished runs by key."""
        return {trial.user_attrs["key"]: trial for trial in reversed(self.trials(TrialState.COMPLETE))}

    def do(
        self, runs: Sequence[Run], workers: int, prepare: Prepare, progress: Callable[[int, int], None]
    ) -> list[str]:
        """Do those of `runs` that nobody has done; returns why runs failed, one text a failure.

        Args:
            runs: what must be done.
            workers: processes on this machine.
            prepare: see `Workers`.
            progress: called with (runs done, runs).
        """
        wanted = {run.key: run for run in runs}
        self._reclaim()
        self._enqueue(wanted)
        failures: list[str] = []
        attempts: dict[str, int] = dict.fromkeys(wanted, 0)
        settled = set(wanted) & set(self.outcomes())
        progress(len(settled), len(wanted))
        if len(settled) == len(wanted):
            return failures
        pool = Workers(min(workers, len(wanted) - len(settled)), prepare)
        with pool:
            try:
                while len(settled) < len(wanted):
                    while pool.idle and (trial := self._claim(wanted)):
                        pool.give((self._id(trial), wanted[trial.user_attrs["key"]]))
                    if not pool.busy_with:
                        self._reclaim()  # all that is left is with other machines
                        self._enqueue({key: run for key, run in wanted.items() if key not in settled})
                    for finished in pool.wait(1.0):
                        trial_id, run = finished.job
                        if finished.how == "lost" and attempts[run.key] + 1 < ATTEMPTS:
                            attempts[run.key] += 1
                            self._fail(trial_id, finished.result)
                            self._enqueue({run.key: run})
                        elif finished.how == "done":
                            self._complete(trial_id, finished.result)
                            settled.add(run.key)
                        else:
                            self._fail(trial_id, finished.result)
                            failures.append(finished.result)
                            settled.add(run.key)
                    settled |= set(wanted) & set(self.outcomes())
                    self._beat(pool)
                    progress(len(settled), len(wanted))
            except BaseException:
                for trial_id, _ in pool.busy_with:
                    self._fail(trial_id, "interrupted")
                raise
        return failures

    def _id(self, trial: FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)

    def _enqueue(self, wanted: dict[str, Run]) -> None:
        known = {
            trial.user_attrs["key"]
            for trial in self.trials(TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING)
        }
        for key, run in wanted.items():
            if key not in known:
                self.study.add_trial(
                    create_trial(
                        state=TrialState.WAITING,
                        params={**run.settings, "seed": run.seed},
                        distributions=_distributions(run),
                        user_attrs={"key": key, "run": asdict(run)},
                    )
                )

    def _claim(self, wanted: dict[str, Run]) -> FrozenTrial | None:
        """A waiting trial that is ours from now on.

        Two machines may enqueue one run at the same moment; of the trials of a key only the first counts.
        """
        seen: set[str] = set()
        for trial in self.trials(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING):
            key = trial.user_attrs["key"]
            if key in seen:
                continue
            seen.add(key)
            if trial.state != TrialState.WAITING or key not in wanted:
                continue
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                if self.storage.set_trial_state_values(self._id(trial), TrialState.RUNNING):
                    self._record_heartbeat(self._id(trial))
                    return trial
        return None

    def _complete(self, trial_id: int, outcome: Outcome) -> None:
        worst = 1e9 if self.declaration.direction == "minimize" else -1e9  # Optuna takes no NaN
        self.storage.set_trial_user_attr(trial_id, "outcome", asdict(outcome) | {"commit": self.commit})
        self.storage.set_trial_state_values(
            trial_id, TrialState.COMPLETE, [worst if outcome.value is None else outcome.value]
        )

    def _fail(self, trial_id: int, reason: str) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial_id, "reason", reason)
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _reclaim(self) -> None:
        """Free the runs of the dead: on a file, which is ours alone, all that run; on a database the silent ones."""
        if isinstance(self.storage, JournalStorage):
            for trial in self.trials(TrialState.RUNNING):
                self._fail(self._id(trial), "its sweep was killed")
        else:
            optuna.storages.fail_stale_trials(self.study)

    def _beat(self, pool: Workers) -> None:
        if time.monotonic() - self._beaten > HEARTBEAT:
            self._beaten = time.monotonic()
            for trial_id, _ in pool.busy_with:
                self._record_heartbeat(trial_id)

    def _record_heartbeat(self, trial_id: int) -> None:
        if isinstance(self.storage, RDBStorage):
            self.storage.record_heartbeat(trial_id)


def _distributions(run: Run) -> dict[str, BaseDistribution]:
    floats: dict[str, BaseDistribution] = {
        name: FloatDistribution(min(value, 0.0), max(value, 1.0)) for name, value in run.settings.items()
    }
    return floats | {"seed": IntDistribution(0, max(run.seed, 1_000_000))}


@contextlib.contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with an estimate on a terminal; elsewhere a line at every tenth."""
    console = Console(stderr=True)
    if not console.is_terminal:
        tenths = [-1]

        def line(done: int, total: int) -> None:
            if total and done * 10 // total > tenths[0]:
                tenths[0] = done * 10 // total
                print(f"{what}: {done} of {total} runs", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
