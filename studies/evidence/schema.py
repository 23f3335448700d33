"""What a study leaves behind: `summary.json`, beside `runs.parquet` and `curves.parquet`.

`runs.parquet` has a row a run: `key` (str, the run's hash), `arm` (str), `kind` ("run", "again" for the
noise floor, "tuning"), `seed` (int), the arm's settings as columns (here `wd`, `lr`), `valid_rmse` (float,
null where the run diverged), `diverged` (bool), `seconds` (float), `backend`, `threads`, `commit`, and a column
for each further measurement.

`curves.parquet` has a row a run and epoch: `key`, `arm`, `kind`, `seed`, `epoch` (1-based),
`train_loss`, `valid_loss` (mean squared errors; `train_loss` is the mean over the epoch's batches).
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from studies.evidence.outside import printable

SCHEMA_VERSION: Final = 1
SUMMARY, RUNS, CURVES = "summary.json", "runs.parquet", "curves.parquet"

ContrastVerdict = Literal["better", "worse", "equivalent", "inconclusive", "preview"]
LedgerVerdict = Literal["true", "false", "holds", "fails", "depends", "inconclusive", "cited", "not run"]


class ResultsError(ValueError):
    """A results file that cannot be used: one line says which, what is wrong (alone in `wrong`) and what to do."""

    def __init__(self, wrong: str, advice: str = "") -> None:
        self.wrong = printable(wrong)
        super().__init__(f"{self.wrong} {printable(advice)}".strip())


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{list(interval)} is no interval: its ends are the wrong way round")
    return interval


LARGEST: Final = 2**63 - 1  # what an int64 holds
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0)]
Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]


def require_inside(what: str, estimate: float | None, *intervals: tuple[float, float] | None) -> None:
    """Refuse an estimate outside its own interval, by more than rounding.

    Raises:
        ValueError: it is outside one of `intervals`.
    """
    for low, high in filter(None, intervals):
        rounding = 1e-9 * max(abs(low), abs(high))
        if estimate is not None and not low - rounding <= estimate <= high + rounding:
            raise ValueError(f"the {what} {estimate:g} lies outside its interval [{low:g}, {high:g}]")


def _require_among(n: int, *diverged: int) -> None:
    if max(diverged) > n:
        raise ValueError(f"{max(diverged)} of {n} runs diverged")


class Record(BaseModel):
    """A part of a results file: no field more than it names, no number that is none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Arm(Record):
    """One arm over its seeds. `mean` and `sd` are of the runs that did not diverge; null where none is left."""

    mean: float | None
    sd: Size | None
    n: Count
    diverged: Count = 0
    settings: dict[str, float | Whole | str | bool]

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _require_among(self.n, self.diverged)
        return self


class Contrast(Record):
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
    interval: Interval | None
    interval_corrected: Interval | None
    interval_sign_flip: Interval | None = None
    n: Count
    diverged: tuple[Count, Count] = (0, 0)
    p: Share
    p_holm: Share
    probability_of_improvement: Share
    skewness: float | None
    verdict: ContrastVerdict
    negligible: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_among(self.n, *self.diverged)
        intervals = self.interval, self.interval_corrected, self.interval_sign_flip
        require_inside("difference", self.difference, *intervals)
        return self


class Measured(Record):
    """A further measurement of one arm. `difference` to the baseline is paired by seed, with its 95 % t interval.

    `n` counts the pairs, for the baseline its runs; null is what no run has measured.
    """

    mean: float | None
    n: Count
    difference: float | None = None
    interval: Interval | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_inside("difference", self.difference, self.interval)
        return self


class Measure(Record):
    """A further measurement by arm: described, never judged. It is shown on a logarithmic axis if it spans decades."""

    title: str
    logarithmic: bool
    arms: dict[str, Measured]


class NoiseFloor(Record):
    """A/A: the baseline twice on the same splits with another initialization and batch order."""

    arm: str
    n: Count
    difference: float
    interval: Interval
    sd: Size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_inside("difference", self.difference, self.interval)
        return self


class Tuning(Record):
    """How the rate was chosen for one arm: all its trials, and the expected best of the first k."""

    arm: str
    chosen: dict[str, float]
    on_edge: bool
    trials: list[dict[str, float | None]]
    best_of_k: list[float]


class Evidence(Record):
    """What this study says of one claim."""

    claim: Whole
    verdict: LedgerVerdict
    text: str


class DataUsed(Record):
    """The data set of a study: what it is, how it is split, under which terms."""

    name: str
    checksum: str
    ratings: Positive
    users: Positive
    items: Positive
    n_train: Positive
    n_valid: Positive
    terms: str | None = None
    citation: str | None = None


class Provenance(Record):
    """Enough to run it again and to judge whether the result still stands.

    `seconds` is what the runs trained, summed over runs side by side; `wall_seconds` how long any was under way, pauses
    left out: null in results from before it was recorded.
    """

    command: str
    commit: str | None
    dirty: bool | None
    commits: list[str | None]
    spec_hash: str
    recipe: Whole
    backend: str
    threads: Positive
    workers: Positive
    seeds: list[Whole]
    trials: dict[str, Count]
    seconds: Annotated[float, Field(gt=0)]
    wall_seconds: Size | None = None
    started: str
    finished: str
    python: str
    platform: str
    cpu: str
    cores: Positive
    gpu: str | None
    versions: dict[str, str]


class Summary(Record):
    """The whole result of a study, as `summary.json` holds it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    study: str
    title: str
    question: str
    claims: list[Whole]
    metric: str
    direction: Literal["minimize", "maximize"]
    smallest_effect: Size
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

    @model_validator(mode="after")
    def _of_its_arms(self) -> Self:
        """Whatever is said of an arm is said of one that is there, and once."""
        said = {
            "baseline": [self.baseline],
            "contrast": [contrast.arm for contrast in self.contrasts if contrast.baseline == self.baseline],
            "noise floor": [self.noise_floor.arm] if self.noise_floor else [],
        }
        said |= {f"measure {name}": list(measure.arms) for name, measure in self.measures.items()}
        for what, arms in said.items():
            if unknown := [arm for arm in arms if arm not in self.arms]:
                raise ValueError(f"the {what} speaks of {unknown[0]!r}, which is none of the arms")
            if twice := [arm for arm, times in Counter(arms).items() if times > 1]:
                raise ValueError(f"the {what} speaks of {twice[0]!r} more than once")
            if what.startswith("measure") and (silent := self.arms.keys() - arms):
                raise ValueError(f"the {what} says nothing of {sorted(silent)[0]!r}")
        return self


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


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read, or is no file: to read a pipe would be to wait for ever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.read_bytes()


Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path, model: type[Model], what: str, advice: str) -> Model:
    """Read a JSON file and check it, types included: "1" is no number, true none either.

    Args:
        path: the file.
        model: what it must hold.
        what: that in words, for the error.
        advice: what to do about a file that does not, for the error.

    Raises:
        ResultsError: the file cannot be read, is no JSON, or lacks, misnames or misstates a field.
    """
    try:
        return model.model_validate_json(read_bytes(path), strict=True)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}).", advice) from error
    except ValidationError as error:
        raise ResultsError(f"{path}: no {what}: {_first(error)}.", advice) from error


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, and how many more there are."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ").replace("Invalid JSON", "not JSON")
    where = f"field {'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
    plain = first["loc"] and (first["input"] is None or isinstance(first["input"], (str, int, float)))
    found = f", not {json.dumps(first['input'], ensure_ascii=False):.60}" if plain else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}{message[0].lower()}{message[1:]}{found}{more}"


def read_summary(path: Path) -> Summary:
    """Read and check a `summary.json`.

    Raises:
        ResultsError: the file cannot be read, is no JSON, or lacks, misnames or misstates a field.
    """
    return read_json(path, Summary, "summary of a study", "Written by another version or program? Run the study again.")


def find_summaries(results: Path) -> tuple[list[Path], list[str]]:
    """Every `summary.json` of `results`, and sentences about what cannot be looked into or lies too deep.

    They lie in the folder itself or in at most two levels of folders below (`wd_sweep/summary.json`,
    `mydata/wd_sweep/summary.json`). Links are followed; what can be reached in several ways is found once.
    """
    found: list[Path] = []
    problems: list[str] = []
    seen = {os.path.realpath(results)}

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be looked into ({error.strerror}), so nothing in it is shown.")

    for folder, folders, files in os.walk(results, followlinks=True, onerror=unreadable):
        path = Path(folder, SUMMARY)
        if path.name in files or path.name in folders:
            if len(path.relative_to(results).parts) <= 3:
                found.append(path)
            else:
                problems.append(
                    f"{path}: more than two folders below {results}, so it is left out. Move its folder up, or name "
                    "one further down by --results."
                )
        for name in sorted(folders):
            real = os.path.realpath(Path(folder, name))
            if real in seen:
                folders.remove(name)
            seen.add(real)
    return sorted(found), problems
