"""A sweep: runs as trials of an Optuna study, each done once, on any machine and after any interruption.

A run is a trial whose `key` is a digest of all that determines it. Machines share only the storage: trials wait there,
are claimed by a change of state that the storage grants once, and end with the whole outcome in one attribute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any, Literal, NoReturn

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
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
        self.study_id = storage.get_study_id_from_name(study.name)
        directions = [direction.name.lower() for direction in self.study.directions]
        if directions != [self._direction]:
            self._refuse(f"its direction is {' and '.join(directions)}, not {self._direction}")
        self.trials()
        commit, dirty = provenance.commit()
        self.commit = f"{commit}-dirty" if dirty else commit
        self.source = provenance.source_of(study.run)
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
            other = current.setdefault(trial.user_attrs["key"], trial)
            if trial.state == TrialState.COMPLETE != other.state:
                current[trial.user_attrs["key"]] = trial
        return current

    def _is_usable(self, trial: FrozenTrial) -> bool:
        """Whether a finished run has what the study needs now; if not, the run is done again.

        It lacks a metric that the study did not declare then, or has a value that was not refused then.
        """
        if trial.number not in self._usable:
            try:
                outcome = Outcome.restored(trial.user_attrs["outcome"])
                usable = outcome.diverged or outcome.metrics.keys() >= self.declaration.metrics.keys()
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
        workers: int,
        prepare: Prepare,
        progress: Callable[[int, int], None],
        timeout: float | None = None,
    ) -> list[str]:
        """Do those of `runs` that are not done yet; returns the errors of runs that failed, one text each.

        Args:
            runs: all runs that must be done.
            workers: processes on this machine.
            prepare: see `Workers`.
            progress: called with (runs done, runs).
            timeout: seconds after which a run is ended, and has failed. None: half an hour, or thirty times the median
                of the runs that this call has done, if that is more.

        Raises:
            WorkerError: the workers cannot start.
        """
        wanted = {run.key: run for run in runs}
        failures: dict[str, str] = {}
        losses: Counter[str] = Counter()
        given: dict[int, float] = {}  # when, by trial
        took: list[float] = []  # the runs that were done here, in seconds
        self._reclaim()
        current, left = self._remaining(wanted, failures)
        progress(len(wanted) - len(left), len(wanted))
        if not left:
            return []
        with Workers(min(workers, len(left)), prepare, _print) as pool:
            try:
                while left:
                    self._hand_out(left, current, pool)
                    self._beat(pool)
                    given |= {trial_id: time.monotonic() for trial_id, _ in pool.busy_with if trial_id not in given}
                    limit = timeout or max(LIMIT, TIMES * statistics.median(took or [0]))
                    for finished in map(self._checked, pool.wait(1.0, limit)):
                        trial_id, run = finished.job
                        if finished.how == "done":
                            took.append(time.monotonic() - given[trial_id])
                            self._complete(trial_id, finished.result)
                            continue
                        self._fail(trial_id, finished.result, late=finished.how == "late")
                        losses[run.key] += 1
                        if finished.how != "lost" or losses[run.key] == ATTEMPTS:
                            failures[run.key] = f"{run}: {finished.result}"
                    if not pool.busy_with:
                        self._reclaim()
                    current, left = self._remaining(wanted, failures)
                    progress(len(wanted) - len(left), len(wanted))
            except (KeyboardInterrupt, WorkerError):
                self.patiently.seconds = 0
                with contextlib.suppress(Exception):  # else the next sweep, or another machine, sees that they are dead
                    for trial_id, _ in pool.busy_with:
                        self._fail(trial_id, "interrupted")
                raise
        self._drop_duplicates(self._that_may_count())  # of machines that died
        return list(failures.values())

    def _remaining(
        self, wanted: Mapping[str, Run], failures: Container[str]
    ) -> tuple[dict[str, FrozenTrial], dict[str, Run]]:
        """The trials that count, read once per round because databases are slow; and the runs still to be done."""
        current = self.current()
        done = {key for key, trial in current.items() if trial.state == TrialState.COMPLETE}
        return current, {key: run for key, run in wanted.items() if key not in done and key not in failures}

    def _id(self, trial: FrozenTrial) -> int:
        return self.patiently(lambda: self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number))

    def _hand_out(self, left: Mapping[str, Run], current: Mapping[str, FrozenTrial], pool: Workers) -> None:
        """Give waiting runs to idle workers, and enqueue as many more as there are workers without one.

        No more, because a database is asked for each waiting trial in every round.
        """
        self._claim_for(pool, left, current)
        if not pool.idle:
            return
        missing = [run for key, run in left.items() if key not in current][: pool.idle]
        for run in missing:
            self._enqueue(run)
        if missing:
            trials = self._that_may_count()
            self._claim_for(pool, left, self._current(trials))
            self._drop_duplicates(trials)

    def _claim_for(self, pool: Workers, left: Mapping[str, Run], current: Mapping[str, FrozenTrial]) -> None:
        for key, trial in current.items():
            if not pool.idle:
                return
            if key in left and trial.state == TrialState.WAITING and self._claim(trial):
                pool.give((self._id(trial), left[key]))

    def _drop_duplicates(self, trials: Sequence[FrozenTrial]) -> None:
        """Drop waiting trials of runs for which another trial counts, so that none waits for ever."""
        current = self._current(trials)
        for trial in trials:
            if trial.state == TrialState.WAITING and current[trial.user_attrs["key"]] is not trial:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._set_state(self._id(trial), TrialState.PRUNED)

    def _set_state(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self.patiently(lambda: self.storage.set_trial_state_values(trial_id, state, values))

    def _set(self, trial_id: int, name: str, value: Any) -> None:
        self.patiently(lambda: self.storage.set_trial_user_attr(trial_id, name, value))

    def _enqueue(self, run: Run) -> None:
        trial = create_trial(
            state=TrialState.WAITING,
            params={**_numbers(run), "seed": run.seed},
            distributions=_distributions(run),
            user_attrs={"key": run.key, "run": asdict(run)},
        )
        self.patiently(lambda: self.study.add_trial(trial))

    def _claim(self, trial: FrozenTrial) -> bool:
        """Claim a waiting trial; False if another process was first."""
        self._record_heartbeat(self._id(trial))  # before it runs: a trial without a heartbeat is never reclaimed
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            return self._set_state(self._id(trial), TrialState.RUNNING)
        return False

    def _checked(self, finished: Finished) -> Finished:
        """The same; a run without the metrics that the study declares has failed."""
        if finished.how != "done" or finished.result.diverged:
            return finished
        declared, found = self.declaration.metrics.keys(), finished.result.metrics.keys()
        if declared == found:
            return finished
        wrong = f"a run returned the metrics {', '.join(found) or 'none'}; the study declares {', '.join(declared)}"
        return dataclasses.replace(finished, how="failed", result=wrong)

    def _complete(self, trial_id: int, outcome: Outcome) -> None:
        value = outcome.metrics.get(next(iter(self.declaration.metrics)))
        if value is None or value == math.inf:  # Optuna accepts neither NaN nor a missing value
            value = 1e9 if self._direction == "minimize" else -1e9
        # A machine that missed its heartbeats has lost the run to another.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set(trial_id, "outcome", outcome.stored() | {"commit": self.commit, "source": self.source})
            self._set_state(trial_id, TrialState.COMPLETE, [value])

    def _fail(self, trial_id: int, reason: str, late: bool = False) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._set(trial_id, LATE if late else "reason", reason)
            self._set_state(trial_id, TrialState.FAIL)

    def _reclaim(self) -> None:
        """Fail the runs of dead processes, while we do none: on our own file all, else those without heartbeats."""
        if isinstance(self.storage, JournalStorage):
            for trial in self.trials(TrialState.RUNNING):
                self._fail(self._id(trial), "its sweep was killed")
        elif time.monotonic() - self.patiently.regained > GRACE:  # after an outage, others need time to show themselves
            self.patiently(lambda: optuna.storages.fail_stale_trials(self.study))

    def _beat(self, pool: Workers) -> None:
        if time.monotonic() - self._beaten > HEARTBEAT:
            self._beaten = time.monotonic()
            for trial_id, _ in pool.busy_with:
                self._record_heartbeat(trial_id)

    def _record_heartbeat(self, trial_id: int) -> None:
        storage = self.storage
        if isinstance(storage, RDBStorage):
            self.patiently(lambda: storage.record_heartbeat(trial_id))


def _is_ours(trial: FrozenTrial) -> bool:
    """Whether dotbias made the trial: it has a key, and an outcome if it is complete."""
    if not isinstance(trial.user_attrs.get("key"), str):
        return False
    outcome = trial.user_attrs.get("outcome", {})
    return trial.state != TrialState.COMPLETE or (isinstance(outcome, dict) and outcome.keys() >= OUTCOME)


def _distributions(run: Run) -> dict[str, BaseDistribution]:
    floats: dict[str, BaseDistribution] = {
        name: FloatDistribution(min(value, 0.0), max(value, 1.0)) for name, value in _numbers(run).items()
    }
    return floats | {"seed": IntDistribution(0, max(run.seed, 1_000_000))}


def _numbers(run: Run) -> dict[str, float]:
    """The settings stored with Optuna: no text, because it fixes a text's choices, and arms may be added."""
    return {name: float(value) for name, value in run.settings.items() if not isinstance(value, str)}


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
