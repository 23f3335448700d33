"""A study whose runs take no time, and jobs that misbehave on demand: `python -m tests.studies.toy` runs the study.

Importable by spawned workers. TOY_LOG names a file that gets a line a training, TOY_SECONDS makes trainings last.
"""

import os
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

from studies.lab import workers
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, sweep

if TYPE_CHECKING:
    from studies.lab.sweep import Sweep


def run(job: Run, _data: Any = None) -> Outcome:
    """x² above what the seed alone decides; a rate of 1 or more diverges after an epoch."""
    if log := os.environ.get("TOY_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{job.key} {os.getpid()}\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    value = job["x"] ** 2 + job["lr"] + random.Random(f"{job.seed} {job.replicate}").random()
    if job["lr"] >= 1:
        from lesson import DivergenceError  # torch takes a worker a second or two to import
        from lesson.learner import Epoch

        raise DivergenceError("too fast", [Epoch(1, value + 1, value + 2, 0.125, {})])
    curves = {"train_loss": [value + 1, value], "valid_loss": [value + 2, value + 1]}
    return Outcome({"rmse": value}, curves, seconds=0.25, n_train=90, n_valid=10)


STUDY = Study(
    name="toy",
    title="Toy",
    question="Is 1 better than 0?",
    run=run,
    data=("movielens",),
    arms=sweep("x", (0.0, 1.0, 2.0), lr=0.1),
    baseline="x=0",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest=0.01)},
    parts=(beats("47", "x=1", "x=0"),),
    tuned={"lr": Range(0.01, 0.9)},
    tuning_seeds=2,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="nothing"),
        "regular": Profile(seeds=12, trials=4, cost="nothing"),
    },
)


def planned(seed: int, x: float = 1.0) -> Run:
    """A run of the toy study."""
    return Run(study="toy", recipe=1, data="none", checksum="none", settings={"x": x, "lr": 0.1}, seed=seed)


def prepare() -> Any:
    """Prepare a worker that trains."""
    return lambda job: run(job[1])


def do(
    sweep: "Sweep",
    runs: Sequence[Run],
    prepare: workers.Prepare = prepare,
    progress: Callable[[int, int], None] = lambda done, total: None,
    timeout: float | None = None,
) -> list[str]:
    """Do runs with one worker; returns the errors of those that failed."""
    with workers.Workers(1, print) as pool:
        return sweep.do(runs, pool, prepare, progress, timeout)


def prepare_obedient() -> Any:
    """Prepare a worker that does what its job says."""
    return _obey


def _obey(job: str) -> str:
    if job == "die":
        os.kill(os.getpid(), 9)
    if job == "raise":
        raise ValueError("as told")
    if job == "sleep":
        time.sleep(3600)
    if job == "hang":  # in compiled code that keeps Python's lock
        re.match(r"(a+)+$", "a" * 60 + "b")
    return job.upper()


def prepare_to_shout() -> Any:
    """Prepare a worker that does what its job says, loudly."""
    return lambda job: _obey(job) + "!"


def prepare_to_compile() -> Any:
    """Prepare a worker that compiles something in each job."""
    return lambda job: numba.njit(lambda x: x + 1)(job)


def prepare_not() -> Any:
    """Prepare nothing: the data are not there."""
    raise FileNotFoundError("no data here")


def prepare_to_die() -> Any:
    """Die while starting."""
    os._exit(3)


def prepare_to_sleep() -> Any:
    """Start forever."""
    time.sleep(3600)


def give_and_tell(job: str, copied: bool) -> None:
    """Give a worker a job that does not end, print the worker's process, and wait."""
    with workers.Workers(1, print) as pool:
        if copied:
            pool.fork()
        pool.begin(prepare_obedient, 1)
        while not pool.room():
            list(pool.wait(1))
        pool.give(job)
        sys.stdout.write(f"{pool.workers[0].process.pid}\n")
        sys.stdout.flush()
        sys.stdin.read()


def prepare_to_hang() -> Any:
    """Prepare a worker that never ends the run with seed 4."""
    return lambda job: _obey("hang") if job[1].seed == 4 else run(job[1])


def prepare_mortal() -> Any:
    """Prepare a worker that dies of runs with seed 3, of the one with seed 2 only the first time (see TOY_LOG)."""
    return _die_of_some


def _die_of_some(job: tuple[int, Run]) -> Outcome:
    trained = Path(os.environ["TOY_LOG"]).read_text().split() if Path(os.environ["TOY_LOG"]).exists() else []
    outcome = run(job[1])
    if job[1].seed == 3 or (job[1].seed == 2 and job[1].key not in trained):
        os.kill(os.getpid(), 9)
    return outcome


if __name__ == "__main__":
    from studies.lab.command import command

    command(STUDY)()
