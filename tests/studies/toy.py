"""A study whose runs take no time, and jobs that misbehave on demand: `python -m tests.studies.toy` runs the study.

Importable by spawned workers. TOY_LOG names a file that gets a line a training, TOY_SECONDS makes trainings last.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import numba

from studies.lab.spec import Outcome, Profile, Range, Run, Study

ARMS = {f"x={x:g}": {"x": x, "lr": 0.1} for x in (0.0, 1.0, 2.0)}


def run(job: Run, ratings: Any = None) -> Outcome:
    """x² above what the seed alone decides; a rate of 1 or more diverges."""
    if log := os.environ.get("TOY_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{job.key} {os.getpid()}\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    value = job.settings["x"] ** 2 + job.settings["lr"] + random.Random(f"{job.seed} {job.replicate}").random()
    return Outcome(
        value=value if job.settings["lr"] < 1 else None,
        train_loss=[value + 1, value],
        valid_loss=[value + 2, value + 1],
        seconds=0.25,
        n_train=90,
        n_valid=10,
    )


STUDY = Study(
    name="toy",
    title="Toy",
    question="Is 1 better than 0?",
    claims=(47,),
    metric="valid_rmse",
    direction="minimize",
    arms=ARMS,
    baseline="x=0",
    primary="x=1",
    smallest_effect=0.01,
    tuned=("lr", Range(0.01, 1)),
    tuning_seeds=2,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="nothing"),
        "regular": Profile(seeds=12, trials=4, cost="nothing"),
    },
    recipe=1,
    run=run,
    evidence=lambda contrasts, tuned, measures: [],
    limits=lambda data, tuned: [f"It speaks of {data}."],
    value=lambda x: (f"x={x:g}", {"x": x, "lr": 0.1}),
)


def planned(seed: int, x: float = 1.0) -> Run:
    """A run of the toy study."""
    return Run("toy", {"x": x, "lr": 0.1}, seed, 0, data="none", backend="native", device="cpu", threads=1, recipe=1)


def prepare() -> Any:
    """Prepare a worker that trains."""
    return lambda job: run(job[1])


def prepare_obedient() -> Any:
    """Prepare a worker that does what its job says."""
    return _obey


def _obey(job: str) -> str:
    if job == "die":
        os.kill(os.getpid(), 9)
    if job == "raise":
        raise ValueError("as told")
    return job.upper()


def prepare_to_compile() -> Any:
    """Prepare a worker that compiles something in each job."""
    return lambda job: numba.njit(lambda x: x + 1)(job)


def prepare_not() -> Any:
    """Prepare nothing: the data are not there."""
    raise FileNotFoundError("no data here")


def prepare_to_die() -> Any:
    """Die while starting."""
    os._exit(3)


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
