"""A sweep: runs as trials of an Optuna study, each done once, whoever does it and however often it is stopped.

A run is a trial whose `key` says what determines it. Machines share nothing but the storage: trials wait there, are
claimed by a change of state that only one claimer can make, and end with their whole outcome in one attribute.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
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
from studies.lab.workers import Prepare, WorkerError, Workers

JOURNAL = "trials.log"
ATTEMPTS = 3  # a run that takes its worker down with it this often is a failure of the run
HEARTBEAT, GRACE = 15, 60  # seconds; a machine silent for longer than GRACE has lost its runs
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


class SweepError(RuntimeError):
    """A sweep that cannot go on: the message says why and what to do."""


def open_storage(folder: Path, url: str | None, fresh: bool = False) -> contextlib.AbstractContextManager[BaseStorage]:
    """The trials' storage: any SQLAlchemy URL, or by default a file in `folder`, which then is ours alone.

    Args:
        folder: of the results; where the file is.
        url: of a database that machines share.
        fresh: set the file aside first.

    Raises:
        SweepError: the file is in use by another sweep or damaged, or the URL leads nowhere.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return _file(folder, fresh) if url is None else _database(url)


@contextlib.contextmanager
def _database(url: str) -> Iterator[BaseStorage]:
    shown = provenance.without_password(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are, since 2021
        # Only the names of errors are told: a database driver's own words may hold the password.
        try:
            storage = _tables(url)
        except ImportError as error:
            raise SweepError(f"storage {shown}: install its driver ({error.__cause__ or error})") from None
        except (*DATABASE_ERRORS, ValueError, RuntimeError) as error:
            raise SweepError(
                f"storage {shown}: cannot be opened ({type(error).__name__}); is it a URL such as "
                "postgresql://user:password@host/database, the server up, the database there, the password right?"
            ) from None
        try:
            yield storage
        except DATABASE_ERRORS as error:
            raise SweepError(
                f"storage {shown}: stopped answering ({type(error.__cause__ or error).__name__}); finished runs are "
                "kept, the same command goes on"
            ) from None


def _tables(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except DATABASE_ERRORS:
        time.sleep(1)  # machines that come first at the same moment all make the tables: one does, the others fail
        return RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)


@contextlib.contextmanager
def _file(folder: Path, fresh: bool) -> Iterator[BaseStorage]:
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
        if fresh and journal.exists():
            aside = journal.rename(_aside(journal, "until"))
            print(f"earlier runs are set aside in {aside}", file=sys.stderr)
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
    *lines, last = raw.split(b"\n")
    if last and _readable(last):
        with journal.open("ab") as file:
            file.write(b"\n")
    elif last:  # cut short, as on a full disk; Optuna would read nothing behind it
        torn = _aside(journal, "torn")
        torn.write_bytes(last)
        with journal.open("r+b") as file:
            file.truncate(len(raw) - len(last))
        print(f"{journal}: the last line was cut short; it is kept in {torn.name}", file=sys.stderr)
    for number, line in enumerate(lines, start=1):
        if not _readable(line):  # lines count trials, so none but the last can be spared
            raise SweepError(f"{journal}, line {number}: damaged; --fresh sets the file aside and starts anew")


def _readable(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _aside(path: Path, why: str) -> Path:
    return path.with_name(f"{path.name}.{why}-{datetime.now().astimezone():%Y%m%dT%H%M%S}")


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
        commit, dirty = provenance.commit()
        self.commit = f"{commit}-dirty" if dirty else commit
        self._beaten = 0.0

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states, as stored now."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def standing(self) -> dict[str, FrozenTrial]:
        """By key the trial that counts: the first that finished, else the first that runs or waits.

        Two machines may enqueue one run at the same moment; all machines agree which of the trials they do.
        """
        standing: dict[str, FrozenTrial] = {}
        for trial in self.trials(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING):
            other = standing.setdefault(trial.user_attrs["key"], trial)
            if trial.state == TrialState.COMPLETE != other.state:
                standing[trial.user_attrs["key"]] = trial
        return standing

    def outcomes(self) -> dict[str, FrozenTrial]:
        """The finished runs by key."""
        return {key: trial for key, trial in self.standing().items() if trial.state == TrialState.COMPLETE}

    def do(
        self, runs: Sequence[Run], workers: int, prepare: Prepare, progress: Callable[[int, int], None]
    ) -> list[str]:
        """Do those of `runs` that nobody has done; returns why runs failed, one text a failure.

        Args:
            runs: what must be done.
            workers: processes on this machine.
            prepare: see `Workers`.
            progress: called with (runs done, runs).

        Raises:
            WorkerError: no worker comes up.
        """
        wanted = {run.key: run for run in runs}
        failures: dict[str, str] = {}
        losses: Counter[str] = Counter()
        self._reclaim()
        standing, left = self._stock(wanted, failures)
        progress(len(wanted) - len(left), len(wanted))
        if not left:
            return []
        with Workers(min(workers, len(left)), prepare) as pool:
            try:
                while left:
                    self._hand_out(left, standing, pool)
                    self._beat(pool)
                    for finished in pool.wait(1.0):
                        trial_id, run = finished.job
                        if finished.how == "done":
                            self._complete(trial_id, finished.result)
                            continue
                        self._fail(trial_id, finished.result)
                        losses[run.key] += 1
                        if finished.how == "failed" or losses[run.key] == ATTEMPTS:
                            failures[run.key] = f"{run.settings}, seed {run.seed}: {finished.result}"
                    if not pool.busy_with:
                        self._reclaim()
                    standing, left = self._stock(wanted, failures)
                    progress(len(wanted) - len(left), len(wanted))
            except (KeyboardInterrupt, WorkerError):
                for trial_id, _ in pool.busy_with:
                    self._fail(trial_id, "interrupted")
                raise
        return list(failures.values())

    def _stock(
        self, wanted: Mapping[str, Run], failures: Container[str]
    ) -> tuple[dict[str, FrozenTrial], dict[str, Run]]:
        """The trials that count, read once a round as a database takes its time; and the runs still to be done."""
        standing = self.standing()
        done = {key for key, trial in standing.items() if trial.state == TrialState.COMPLETE}
        return standing, {key: run for key, run in wanted.items() if key not in done and key not in failures}

    def _id(self, trial: FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)

    def _hand_out(self, left: Mapping[str, Run], standing: Mapping[str, FrozenTrial], pool: Workers) -> None:
        """Enqueue the runs that nobody has, and give idle workers waiting ones."""
        missing = [run for key, run in left.items() if key not in standing]
        for run in missing:
            self._enqueue(run)
        for key, trial in (self.standing() if missing else standing).items():
            if not pool.idle:
                return
            if key in left and trial.state == TrialState.WAITING and self._claim(trial):
                pool.give((self._id(trial), left[key]))

    def _enqueue(self, run: Run) -> None:
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params={**_numbers(run), "seed": run.seed},
                distributions=_distributions(run),
                user_attrs={"key": run.key, "run": asdict(run)},
            )
        )

    def _claim(self, trial: FrozenTrial) -> bool:
        """Whether the waiting trial is ours from now on: only one claimer can change its state."""
        self._record_heartbeat(self._id(trial))  # before it runs: what never had a heartbeat is never reclaimed
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(self._id(trial), TrialState.RUNNING)
        return False

    def _complete(self, trial_id: int, outcome: Outcome) -> None:
        worst = 1e9 if self.declaration.direction == "minimize" else -1e9  # Optuna takes no NaN
        # A machine that slept through its heartbeats has lost the run to another.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial_id, "outcome", asdict(outcome) | {"commit": self.commit})
            self.storage.set_trial_state_values(
                trial_id, TrialState.COMPLETE, [worst if outcome.value is None else outcome.value]
            )

    def _fail(self, trial_id: int, reason: str) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial_id, "reason", reason)
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _reclaim(self) -> None:
        """Free the runs of the dead while we do none: on a file, which is ours alone, all; else the silent ones."""
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
        name: FloatDistribution(min(value, 0.0), max(value, 1.0)) for name, value in _numbers(run).items()
    }
    return floats | {"seed": IntDistribution(0, max(run.seed, 1_000_000))}


def _numbers(run: Run) -> dict[str, float]:
    """The settings that Optuna is told: it never lets the choices of a word change, and arms may be added."""
    return {name: value for name, value in run.settings.items() if not isinstance(value, str)}


@contextlib.contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with an estimate on a terminal; elsewhere a line at every tenth."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, speed_estimate_period=600
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    told = -1
    marks: list[tuple[float, int]] = []  # when more runs were done, and how many

    def line(done: int, total: int) -> None:
        nonlocal told
        if not marks or done > marks[-1][1]:
            marks.append((time.monotonic(), done))
        if done * 10 // total == told:
            return
        told = done * 10 // total
        left = ""
        if len(marks) > 2 and done < total:
            began, before = marks[1]  # not 0: the first run had to wait for its worker's start
            seconds = (marks[-1][0] - began) / (done - before) * (total - done)
            left = f", about {timedelta(seconds=round(seconds))} left"
        print(f"{what}: {done} of {total} runs{left}", file=sys.stderr, flush=True)

    return line
