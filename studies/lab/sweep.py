"""A sweep: runs as trials of an Optuna study, each done once, on any machine and after any interruption.

A run is a trial whose attribute `run` has its settings, and as `key` a digest of all that determines it. Machines share
only the storage: trials wait there, are claimed by a change of state that the storage grants once, and end with the
whole outcome in one attribute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import random
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any, Literal, NoReturn

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from studies.evidence import provenance
from studies.lab.spec import Outcome, OutcomeError, Run, Study
from studies.lab.storage import GRACE, HEARTBEAT, PATIENCE, Patience, SweepError
from studies.lab.workers import Finished, Prepare, WorkerError, Workers

OUTCOME = {field.name for field in fields(Outcome)}
LATE = "late"  # the attribute of a failed trial whose run exceeded its limit; it says how
ATTEMPTS = 3  # a run that kills its worker this often has failed
LIMIT, TIMES = 1800.0, 30  # a run may take half an hour, or thirty times the median of the runs before it
LOOK = 1.0  # seconds after which the storage is read again, for what other machines have done
QUICK = 1.0  # seconds; where runs take less, workers would wait for the storage, so the next are claimed before
STOCK = 16  # quick runs that are enqueued before they are needed: so the storage is read once for as many
SPREAD = 256  # of so many next runs a machine picks at random, so that two seldom pick the same


class Sweep:
    """The runs of one study in one storage.

    Args:
        study: the declaration.
        storage: from `open_storage`.
        patience: seconds to wait for a database that stops answering.

    Raises:
        SweepError: the storage holds another program's study of this name. All methods that read trials raise it too.
    """

    def __init__(self, study: Study, storage: BaseStorage, patience: float = PATIENCE) -> None:
        self.declaration, self.storage = study, storage
        self.patiently = Patience(storage, patience)
        try:
            self.study = optuna.load_study(study_name=study.name, storage=storage)
        except KeyError:  # creating one that exists would write to the storage, too
            self.study = optuna.create_study(
                study_name=study.name, storage=storage, direction=self._direction, load_if_exists=True
            )
        self._ours: set[int] = set()
        directions = [direction.name.lower() for direction in self.study.directions]
        if directions != [self._direction]:
            self._refuse(f"its direction is {' and '.join(directions)}, not {self._direction}")
        self.trials()
        commit, dirty = provenance.commit()
        self.commit = f"{commit}-dirty" if dirty else commit
        self.source = provenance.source_of(study.run)
        self.cpu = provenance.cpu()
        self._beaten = 0.0
        self._usable: dict[int, bool] = {}

    @property
    def _direction(self) -> Literal["minimize", "maximize"]:
        """The first metric's direction, for Optuna's own tools."""
        metric = next(iter(self.declaration.metrics.values()))
        return "maximize" if metric.better == "higher" else "minimize"

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states, as stored now."""
        try:
            found = self.patiently(lambda: self.study.get_trials(deepcopy=False, states=states or None))
        except KeyError:  # Optuna's own, without a useful message
            raise SweepError(f"the study {self.declaration.name} was deleted from the storage meanwhile") from None
        for trial in found:
            if trial.number not in self._ours:
                if not _is_ours(trial):
                    self._refuse(f"its trial {trial.number} is not a run of dotbias")
                if trial.state.is_finished():  # it changes no more
                    self._ours.add(trial.number)
        return found

    def _refuse(self, why: str) -> NoReturn:
        name = self.declaration.name
        raise SweepError(
            f"the storage holds another program's study called {name} ({why}); name another database with --storage, "
            "or another folder with --results"
        )

    def current(self) -> dict[str, FrozenTrial]:
        """The trial that counts, by key: the first that finished, else the first that runs or waits.

        Two machines may enqueue one run at the same moment; this makes all machines choose the same trial.
        """
        return self._current(self._that_may_count())

    def _that_may_count(self) -> list[FrozenTrial]:
        return self.trials(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)

    def _current(self, trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
        current: dict[str, FrozenTrial] = {}
        for trial in trials:
            if trial.state == TrialState.COMPLETE and not self._is_usable(trial):
                continue
            other = current.setdefault(key_of(trial), trial)
            if trial.state == TrialState.COMPLETE != other.state:
                current[key_of(trial)] = trial
        return current

    def _is_usable(self, trial: FrozenTrial) -> bool:
        """Whether a finished run has what the study needs now; if not, the run is done again.

        It lacks a metric that the study did not declare then, has a value that was not refused then, or is a time on
        another processor.
        """
        if trial.number not in self._usable:
            try:
                outcome = Outcome.restored(trial.user_attrs["outcome"])
                usable = outcome.diverged or outcome.metrics.keys() >= self.declaration.metrics.keys()
                same = trial.user_attrs["outcome"].get("cpu", self.cpu) == self.cpu
                usable = usable and (same or not self.declaration.alone)
            except OutcomeError:
                usable = False
            self._usable[trial.number] = usable
        return self._usable[trial.number]

    def outcomes(self) -> dict[str, FrozenTrial]:
        """The finished runs by key."""
        return {key: trial for key, trial in self.current().items() if trial.state == TrialState.COMPLETE}

    def do(
        self,
        runs: Sequence[Run],
        pool: Workers,
        prepare: Prepare,
        progress: Callable[[int, int], None],
        timeout: float | None = None,
    ) -> list[str]:
        """Do those of `runs` that are not done yet; returns the errors of runs that failed, one text each.

        Args:
            runs: all runs that must be done.
            pool: the processes on this machine.
            prepare: see `Workers.begin`.
            progress: called with (runs done, runs).
            timeout: seconds after which a run is ended, and has failed. None: half an hour, or thirty times the median
                of the runs that this call has done, if that is more.

        Raises:
            WorkerError: the workers cannot start.
        """
        plan = _Plan(runs, shared=isinstance(self.storage, RDBStorage))
        failures: dict[str, str] = {}
        losses: Counter[str] = Counter()
        took: list[float] = []  # the runs that were done here, in seconds
        self._reclaim()
        self._read(plan)
        progress(plan.total - len(plan.left), plan.total)
        if not plan.left:
            return []
        pool.begin(prepare, len(plan.left))
        try:
            while plan.left:
                usual = statistics.median(took or [math.inf])
                self._hand_out(plan, pool, quick=usual < QUICK and not self.declaration.alone)
                self._beat(pool)
                limit = timeout or max(LIMIT, TIMES * usual if took else 0)
                for finished in map(self._checked, pool.wait(LOOK, limit)):
                    trial_id, run = finished.job
                    if finished.how == "done":
                        took.append(finished.seconds)
                        if self._complete(trial_id, finished.result):
                            plan.left.pop(run.key, None)
                        continue
                    self._fail(trial_id, finished.result, late=finished.how == "late")
                    losses[run.key] += 1
                    if finished.how != "lost" or losses[run.key] == ATTEMPTS:
                        failures[run.key] = f"{run}: {finished.result}"
                        plan.left.pop(run.key, None)
                    plan.read = -math.inf
                if not pool.jobs:
                    self._reclaim()
                    plan.read = -math.inf
                if time.monotonic() - plan.read > LOOK:
                    self._read(plan)
                progress(plan.total - len(plan.left), plan.total)
        except (KeyboardInterrupt, WorkerError):
            self.patiently.seconds = 0
            with contextlib.suppress(Exception):  # else the next sweep, or another machine, sees that they are dead
                for trial_id, _ in pool.ahead:
                    self._drop(trial_id)
                for trial_id, _ in pool.jobs:
                    self._fail(trial_id, "interrupted")
            raise
        trials = self._that_may_count()
        self._drop_duplicates(trials, self._current(trials))  # of machines that died
        return list(failures.values())

    def _read(self, plan: _Plan) -> None:
        trials = self._that_may_count()
        current = self._current(trials)
        if plan.unread:
            self._drop_duplicates(trials, current)
        plan.saw(current)

    def _hand_out(self, plan: _Plan, pool: Workers, quick: bool) -> None:
        """Give runs to the workers that have room.

        If runs are quick, each worker has one ahead, and some wait in the storage until they are read to count.
        """
        ahead = int(quick)
        given = 0
        while pool.room(ahead):
            if plan.ours:
                trial = plan.ours.popleft()
            elif plan.unread:
                self._read(plan)
                continue
            elif plan.missing:
                self._enqueue(plan, pool.room(ahead))
                continue
            elif plan.others:
                trial = plan.others.pop()
            else:
                break
            run = plan.left.get(key_of(trial))
            if run is not None and self._claim(trial):
                pool.give((trial._trial_id, run))
                given += 1
        if quick:
            self._enqueue(plan, max(0, min(given + 1, STOCK - len(plan.ours) - plan.unread)))

    def _drop_duplicates(self, trials: Sequence[FrozenTrial], current: Mapping[str, FrozenTrial]) -> None:
        """Drop waiting trials of runs for which another trial counts, so that none waits forever."""
        for trial in trials:
            if trial.state == TrialState.WAITING and current[key_of(trial)] is not trial:
                self._drop(trial._trial_id)

    def _drop(self, trial_id: int) -> None:
        """End a trial that nobody has run."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set_state(trial_id, TrialState.PRUNED)

    def _set_state(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self.patiently(lambda: self.storage.set_trial_state_values(trial_id, state, values))

    def _set(self, trial_id: int, name: str, value: Any) -> None:
        self.patiently(lambda: self.storage.set_trial_user_attr(trial_id, name, value))

    def _enqueue(self, plan: _Plan, count: int) -> None:
        for run in plan.pick(count):
            self._add(run)

    def _add(self, run: Run) -> None:
        # One attribute, and no parameters in Optuna's sense: a database is asked two and three times for each.
        trial = create_trial(state=TrialState.WAITING, user_attrs={"run": {"key": run.key, **asdict(run)}})
        self.patiently(lambda: self.study.add_trial(trial))

    def _claim(self, trial: FrozenTrial) -> bool:
        """Claim a waiting trial; False if another process was first."""
        self._record_heartbeat(trial._trial_id)  # before it runs: a trial without a heartbeat is never reclaimed
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            return self._set_state(trial._trial_id, TrialState.RUNNING)
        return False

    def _checked(self, finished: Finished) -> Finished:
        """The same; a run without the metrics that the study declares, or without its split's sizes, has failed."""
        if finished.how != "done" or finished.result.diverged:
            return finished
        declared, found = self.declaration.metrics.keys(), finished.result.metrics.keys()
        resplit = self.declaration.resplits and any(metric.resplit for metric in self.declaration.metrics.values())
        if declared != found:
            wrong = f"a run returned the metrics {', '.join(found) or 'none'}; the study declares {', '.join(declared)}"
        elif resplit and not (finished.result.n_train and finished.result.n_valid):
            wrong = (
                "a run returned no n_train or n_valid, without which no interval allows for splits that overlap; "
                "declare resplits=False if seeds do not re-split the data"
            )
        else:
            return finished
        return dataclasses.replace(finished, how="failed", result=wrong)

    def _complete(self, trial_id: int, outcome: Outcome) -> bool:
        """Store an outcome; False if another machine has the run, because this one missed its heartbeats."""
        value = outcome.metrics.get(next(iter(self.declaration.metrics)))
        if value is None or value == math.inf:  # Optuna accepts neither NaN nor a missing value
            value = 1e9 if self._direction == "minimize" else -1e9
        made = {"commit": self.commit, "source": self.source, "cpu": self.cpu}
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set(trial_id, "outcome", outcome.stored() | made)
            return self._set_state(trial_id, TrialState.COMPLETE, [value])
        return False

    def _fail(self, trial_id: int, reason: str, late: bool = False) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set(trial_id, LATE if late else "reason", reason)
            self._set_state(trial_id, TrialState.FAIL)

    def _reclaim(self) -> None:
        """Fail the runs of dead processes, while we do none: on our own file all, else those without heartbeats."""
        if isinstance(self.storage, JournalStorage):
            for trial in self.trials(TrialState.RUNNING):
                self._fail(trial._trial_id, "its sweep was killed")
        elif time.monotonic() - self.patiently.regained > GRACE:  # after an outage, others need time to show themselves
            self.patiently(lambda: optuna.storages.fail_stale_trials(self.study))

    def _beat(self, pool: Workers) -> None:
        if time.monotonic() - self._beaten > HEARTBEAT:
            self._beaten = time.monotonic()
            for trial_id, _ in pool.jobs:
                self._record_heartbeat(trial_id)

    def _record_heartbeat(self, trial_id: int) -> None:
        storage = self.storage
        if isinstance(storage, RDBStorage):
            self.patiently(lambda: storage.record_heartbeat(trial_id))


class _Plan:
    """What is left of one call's runs, as the storage was when it was last read.

    Args:
        runs: all of them.
        shared: whether other machines may use the storage.

    Attributes:
        total: how many runs there are.
        left: the runs that are not done.
        missing: those of them without a trial that counts.
        ours: the trials of those that wait, and that this process has enqueued.
        others: the same of other processes, dead or alive.
        unread: how many were enqueued since.
        read: when that was, by `time.monotonic`.
    """

    def __init__(self, runs: Sequence[Run], shared: bool) -> None:
        self.left = {run.key: run for run in runs}
        self.total = len(self.left)
        self.missing: dict[str, Run] = {}
        self.ours: deque[FrozenTrial] = deque()
        self.others: list[FrozenTrial] = []
        self.unread = 0
        self.read = -math.inf
        self._shared, self._enqueued = shared, set[str]()
        self._spread = 0

    def saw(self, current: Mapping[str, FrozenTrial]) -> None:
        """Take note of the trials that count."""
        self.read, self.unread = time.monotonic(), 0
        open_ = {key: trial for key, trial in current.items() if trial.state != TrialState.COMPLETE}
        self.left = {key: run for key, run in self.left.items() if key not in current or key in open_}
        self.missing = {key: run for key, run in self.left.items() if key not in current}
        waiting = [key for key, trial in open_.items() if trial.state == TrialState.WAITING and key in self.left]
        self.ours = deque(open_[key] for key in waiting if self._is_ours(key))
        self.others = [open_[key] for key in waiting if not self._is_ours(key)]
        self._spread = 0 if all(map(self._is_ours, open_)) else SPREAD

    def pick(self, count: int) -> list[Run]:
        """Take runs to enqueue: the next ones, but if others are at work, some of many, so that they take others."""
        keys = list(itertools.islice(self.missing, max(count, self._spread)))
        if len(keys) > count:
            keys = random.SystemRandom().sample(keys, count)
        self._enqueued.update(keys)
        self.unread += len(keys)
        return [self.missing.pop(key) for key in keys]

    def _is_ours(self, key: str) -> bool:
        return not self._shared or key in self._enqueued


def key_of(trial: FrozenTrial) -> str:
    """The key of its run."""
    key: str = trial.user_attrs["run"]["key"]
    return key


def _is_ours(trial: FrozenTrial) -> bool:
    """Whether dotbias made the trial: it has a key, and an outcome if it is complete."""
    run = trial.user_attrs.get("run")
    if not isinstance(run, dict) or not isinstance(run.get("key"), str):
        return False
    outcome = trial.user_attrs.get("outcome", {})
    return trial.state != TrialState.COMPLETE or (isinstance(outcome, dict) and outcome.keys() >= OUTCOME)


@contextlib.contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with an estimate on a terminal; elsewhere a line after every tenth of the runs."""
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
    printed = -1
    marks: list[tuple[float, int]] = []  # (time, runs done) at each change

    def line(done: int, total: int) -> None:
        nonlocal printed
        if not marks or done > marks[-1][1]:
            marks.append((time.monotonic(), done))
        if done * 10 // total == printed:
            return
        printed = done * 10 // total
        left = ""
        if len(marks) > 2 and done < total:
            began, before = marks[1]  # not 0: the first run waited for its worker to start
            seconds = (marks[-1][0] - began) / (done - before) * (total - done)
            left = f", about {timedelta(seconds=round(seconds))} left"
        print(f"{what}: {done} of {total} runs{left}", file=sys.stderr, flush=True)

    return line
