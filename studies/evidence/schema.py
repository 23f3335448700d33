"""What a study leaves behind: `summary.json`, beside `runs.parquet` and `curves.parquet`.

`runs.parquet` has a row a run: `key` (str, the run's hash), `arm` (str), `kind` ("run", "again" for the
noise floor, "tuning"), `seed` (int), the arm's settings as columns (here `wd`, `lr`), `valid_rmse` (float,
null where the run diverged), `diverged` (bool), `seconds` (float), `backend`, `threads`, `commit`, and a column
for each further measurement.

`curves.parquet` has a row a run and epoch: `key`, `arm`, `kind`, `seed`, `epoch` (1-based),
`train_loss`, `valid_loss` (mean squared errors; `train_loss` is the mean over the epoch's batches).
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION: Final = 1

ContrastVerdict = Literal["better", "worse", "equivalent", "inconclusive", "preview"]
LedgerVerdict = Literal["true", "false", "holds", "fails", "depends", "inconclusive", "cited", "not run"]


class ResultsError(ValueError):
    """A results file that cannot be used: the message names the file, what is wrong and what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Arm(_Record):
    """One arm over its seeds. `mean` and `sd` are of the runs that did not diverge; null where none is left."""

    mean: float | None
    sd: float | None
    n: int
    diverged: int = 0
    settings: dict[str, float | int | str | bool]


class Contrast(_Record):
    """Arm − baseline, paired by seed.

    `p` is the sign-flip p-value of this contrast alone, `p_holm` the one that judges, corrected over arms.
    `interval` is the 95 % t interval for this data set re-split and re-seeded; `interval_corrected` the wider
    one for data like this (Nadeau & Bengio 2003). `difference` and the intervals are null where a run diverged:
    then `p` is rank-based. `diverged` counts the runs of the arm and of the baseline.
    """

    arm: str
    baseline: str
    metric: str
    difference: float | None
    interval: tuple[float, float] | None
    interval_corrected: tuple[float, float] | None
    interval_sign_flip: tuple[float, float] | None = None
    n: int
    diverged: tuple[int, int] = (0, 0)
    p: float
    p_holm: float
    probability_of_improvement: float
    skewness: float | None
    verdict: ContrastVerdict
    negligible: bool = False


class Measured(_Record):
    """A further measurement of one arm. `difference` to the baseline is paired by seed, with its 95 % t interval.

    `n` counts the pairs, for the baseline its runs; null is what no run has measured.
    """

    mean: float | None
    n: int
    difference: float | None = None
    interval: tuple[float, float] | None = None


class Measure(_Record):
    """A further measurement by arm: described, never judged. It is shown on a logarithmic axis if it spans decades."""

    title: str
    logarithmic: bool
    arms: dict[str, Measured]


class NoiseFloor(_Record):
    """A/A: the baseline twice on the same splits with another initialization and batch order."""

    arm: str
    n: int
    difference: float
    interval: tuple[float, float]
    sd: float


class Tuning(_Record):
    """How the rate was chosen for one arm: all its trials, and the expected best of the first k."""

    arm: str
    chosen: dict[str, float]
    on_edge: bool
    trials: list[dict[str, float | None]]
    best_of_k: list[float]


class Evidence(_Record):
    """What this study says of one claim."""

    claim: int
    verdict: LedgerVerdict
    text: str


class DataUsed(_Record):
    """The data set of a study: what it is, how it is split, under which terms."""

    name: str
    checksum: str
    ratings: int
    users: int
    items: int
    n_train: int
    n_valid: int
    terms: str | None = None
    citation: str | None = None


class Provenance(_Record):
    """Enough to run it again and to judge whether the result still stands."""

    command: str
    commit: str | None
    dirty: bool | None
    commits: list[str | None]
    spec_hash: str
    recipe: int
    backend: str
    threads: int
    workers: int
    seeds: list[int]
    trials: dict[str, int]
    seconds: float
    started: str
    finished: str
    python: str
    platform: str
    cpu: str
    cores: int
    gpu: str | None
    versions: dict[str, str]


class Summary(_Record):
    """The whole result of a study, as `summary.json` holds it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    study: str
    title: str
    question: str
    claims: list[int]
    metric: str
    direction: Literal["minimize", "maximize"]
    smallest_effect: float
    baseline: str
    primary: str = Field(description="the arm whose contrast with the baseline answers the question")
    profile: str
    arms: dict[str, Arm]
    contrasts: list[Contrast]
    measures: dict[str, Measure] = {}
    noise_floor: NoiseFloor | None
    tuning: list[Tuning] = []
    evidence: list[Evidence]
    limits: list[str] = Field(description="sentences that bound the answer, shown under it")
    data: DataUsed
    provenance: Provenance


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none of it: aside first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_summary(summary: Summary, path: Path) -> None:
    """Write `summary` as JSON."""
    write_text(path, summary.model_dump_json(indent=1) + "\n")


def read_summary(path: Path) -> Summary:
    """Read and check a `summary.json`.

    Raises:
        ResultsError: the file is no JSON, or lacks or misnames a field.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        return Summary.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: not JSON ({error}). Run the study again to write it anew.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultsError(
            f"{path}: field {where}: {first['msg']}. Written by another version? Run the study again."
        ) from error
