"""A study's results: `summary.json`, `runs.parquet` and `curves.parquet` in `results/STUDY/DATA/PROFILE/`.

`runs.parquet` has one row per run: `key` (str, the run's hash), `arm` (str), `kind` ("run"; "repeat" of the baseline
for the noise floor; "tuning"), `seed` (int), `data` (str, its checksum), the arm's settings as `setting.NAME`, its
metrics as `metric.NAME` (float; null if it missed, diverged or had nothing to measure), `diverged` (bool), `seconds`
(float), `n_train`, `n_valid` (int), `device` (str), `threads` (int) and `commit` (str).

`curves.parquet` has one row per point of a run's curve: `key`, `arm`, `kind`, `seed`, `x` (float, on the axis that
the summary names), `curve` (str) and `value` (float).

The summary is written last and has the tables' digests. So if a command is killed in between, its tables are not taken
for those of the earlier summary.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from studies.evidence.outside import printable, without_password
from studies.evidence.parts import Better, Form, claim_of

SCHEMA_VERSION: Final = 2
SUMMARY, RUNS, CURVES = "summary.json", "runs.parquet", "curves.parquet"
FOLDERS: Final = 4  # below the results folder: one of the user's own, then STUDY/DATA/PROFILE
CUSTOM: Final = "custom"  # the profile of runs with undeclared seeds, values or trials
FEW_SEEDS: Final = 20  # with fewer a verdict is preliminary

Protocol = Literal["as stated", "stand-in"]
Outcome = Literal["yes", "no", "inconclusive"]
IntervalKind = Literal["corrected t", "t", "bootstrap t", "median", "corrected median", "counted", "one run", "none"]
Reason = Literal[
    "by more than 0",
    "by less than m",
    "by more than m",
    "reversed",
    "worse by more than m",
    "less than m",
    "within m",
    "not worse by m",
    "differs",
    "differs by less than m",
    "differs by more than m",
    "no difference beyond m",
    "no rival better by m",
    "a rival better by m",
    "not after correction over the rivals",
    "the interval reaches the margin",
    "too few seeds",
    "divergence in a part of several arms",
    "no margin",
    "nothing measured",
]


def in_words(reason: Reason) -> str:
    """The reason without the sign m.

    >>> in_words("worse by more than m")
    'worse by more than the margin'
    """
    return re.sub(r"\bm\b", "the margin", reason)


class ResultsError(ValueError):
    """A results file cannot be used: one line says which, what is wrong (also in `wrong`) and what to do."""

    def __init__(self, wrong: str, advice: str = "") -> None:
        self.wrong = printable(wrong)
        super().__init__(f"{self.wrong} {printable(advice)}".strip())


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{list(interval)} is not an interval: its ends are in the wrong order")
    return interval


LARGEST: Final = 2**63 - 1  # the range of int64
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0)]
Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]


def require_inside(what: str, estimate: float | None, *intervals: tuple[float, float] | None) -> None:
    """Check that an estimate is inside its intervals, but for rounding.

    Raises:
        ValueError: it is outside one of `intervals`.
    """
    for low, high in filter(None, intervals):
        rounding = 1e-9 * max(abs(end) for end in (low, high, 0.0) if math.isfinite(end))
        if estimate is not None and not low - rounding <= estimate <= high + rounding:
            raise ValueError(f"the {what} {estimate:g} lies outside its interval [{low:g}, {high:g}]")


def _require_among(n: int, *diverged: int) -> None:
    if max(diverged) > n:
        raise ValueError(f"{max(diverged)} of {n} runs diverged")


class Record(BaseModel):
    """A part of a results file: no unknown fields, only finite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class MetricUsed(Record):
    """A metric as declared (`parts.Metric`)."""

    title: str
    better: Better | None
    smallest: float | str | None
    logarithmic: bool = False
    to_target: bool = False


class Measurement(Record):
    """A metric over the n runs of an arm that have it; null if no run has measured it."""

    mean: float | None
    sd: Size | None
    n: Count


class Arm(Record):
    """One arm over its seeds: n runs, with the counts that diverged or missed their target on the first metric.

    `n_train` and `n_valid` are rows of its largest split; null if there are none.
    """

    settings: dict[str, float | Whole | str | bool]
    n: Count
    diverged: Count = 0
    missed: Count = 0
    n_train: Positive | None = None
    n_valid: Positive | None = None
    metrics: dict[str, Measurement]

    @model_validator(mode="after")
    def _counted(self) -> Self:
        _require_among(self.n, self.diverged)
        for name, measurement in self.metrics.items():
            if measurement.n > self.n:
                raise ValueError(f"{measurement.n} of {self.n} runs have measured {name}")
        return self


class Contrast(Record):
    """Arm − baseline on the first metric, paired by seed: description, which judges nothing.

    `p` is the sign-flip p-value of this contrast alone, `p_holm` corrected over arms. `interval` is the 95 % t interval
    for this data set re-split and re-seeded; `interval_corrected` the wider one for similar data (Nadeau & Bengio
    2003), null if splits do not overlap. `difference` and the intervals are null if a run diverged: then `p` is
    rank-based. `diverged` counts the runs of the arm and of the baseline.
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
    probability_of_improvement: Share | None
    skewness: float | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_among(self.n, *self.diverged)
        intervals = self.interval, self.interval_corrected, self.interval_sign_flip
        require_inside("difference", self.difference, *intervals)
        return self


class Measured(Record):
    """Another metric of one arm. `difference` from the baseline is paired by seed, with its 95 % t interval.

    `n` counts the pairs, or the baseline's runs; null means that no run has measured it.
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
    """Another metric by arm, as differences from the baseline. Its axis is logarithmic if it spans decades."""

    title: str
    logarithmic: bool
    arms: dict[str, Measured]


class Found(Record):
    """A number with its deciding interval and the outcome. + is good: see `parts.Part`.

    `estimate` is null if it is infinite or nothing was measured. An infinite end is null: an arm that failed in most
    seeds is infinitely worse, at both ends. `n` counts the seeds that decide; `diverged` and `missed` count those among
    them with a run that diverged or missed. `dropped` counts further seeds in which runs on both sides did.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: Count
    diverged: Count = 0
    missed: Count = 0
    dropped: Count = 0
    interval: IntervalKind
    outcome: Outcome
    reason: Reason

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ends = (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)
        require_inside("estimate", self.estimate, _ordered(ends))
        return self

    @property
    def infinite(self) -> str | None:
        """The interval in words if both its ends are the same infinity, because an arm failed in most seeds."""
        if self.outcome == "inconclusive" or not self.low is self.high is self.estimate is None:
            return None
        if self.reason.startswith("differs"):  # in either direction
            return "infinite"
        return "[∞, ∞]" if self.outcome == "yes" or self.reason == "by more than m" else "[−∞, −∞]"


class Rival(Found):
    """One rival of a part of the form "best"."""

    arm: str


class PartFound(Found):
    """The result of a study, a benchmark or a comparison on a part. "best" has the figures of its strongest rival.

    Attributes:
        part: its id; "" if it belongs to no claim.
        says: its sentence.
        form: the question about it.
        by: by more than the margin.
        metric: its name.
        better: which direction of the metric counts as +.
        weights: by arm.
        against: the value subtracted.
        margin: in the metric's unit; null if it is a share of a mean that is missing or 0.
        rivals: for the form "best", one per rival.
        expected_half_width: of the regular profile's interval, after a quick run; null otherwise.
        declared: digest of the declaration at the first run.
        changed: whether it, or how its runs are made, was declared or changed after results had been seen.
    """

    part: str
    says: str
    form: Form
    by: bool = False
    metric: str
    better: Better
    weights: dict[str, float]
    against: float = 0.0
    margin: Size | None
    rivals: list[Rival] = []
    expected_half_width: Size | None = None
    declared: str
    changed: bool = False

    @property
    def claim(self) -> int | None:
        """The claim's id: 47 of "47a"."""
        return claim_of(self.part)

    @property
    def reaches_margin(self) -> bool:
        """Whether it holds, but by the interval the effect may be smaller than the margin."""
        return self.reason in ("by more than 0", "differs")


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
    """How settings were chosen for one arm: all its trials, and the expected best of the first k.

    `on_edge` names the settings whose choice is the smallest or largest value tried. `fewest`: how many choices each
    seed has tried at least; null in results from before it was recorded.
    """

    arm: str
    chosen: dict[str, float]
    on_edge: list[str] = []
    trials: list[dict[str, float | None]]
    best_of_k: list[float]
    fewest: Count | None = None

    @property
    def compared(self) -> bool:
        """Whether every seed had a choice: one that tried the default alone has tuned nothing."""
        return (len(self.trials) if self.fewest is None else self.fewest) > 1


class DataUsed(Record):
    """The data set: its name, its size by unit ({"ratings": 100_000, "users": 943}), its terms.

    `key` is its name in the catalog, which claims refer to; `name` is its display name.
    """

    key: str
    name: str
    checksum: str
    size: dict[str, Count]
    terms: str | None = None
    citation: str | None = None


class Provenance(Record):
    """What is needed to run it again and to judge whether the result is still valid.

    `seconds` is training time summed over runs, parallel ones too; `wall_seconds` is the time during which any run was
    under way, without pauses; null in results from before it was recorded.
    """

    command: str
    commit: str | None
    dirty: bool | None
    commits: list[str | None]
    spec_hash: str
    recipe: Whole
    backend: str | None = None
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
    """The whole result of a study on one data set, stored as `summary.json`.

    Attributes:
        own: whether it is the user's own data.
        protocol: whether the data and the model are those of the claims, or stand in for them.
        metrics: by name; the first is the one that contrasts describe.
        arms: by name, in the order of their declaration.
        names: display names of settings, metrics and arms.
        x: the axis of the curves.
        tunable: the settings that profiles with trials retune.
        looks: how many times results were seen with other seeds, trials or recipes, including this time.
        preliminary: the quick profile, or an arm with fewer than 20 seeds.
        declared: digests of the parts that the study declares, judged or not, by their ids, or without one by their
            sentences; empty in results from before it was recorded.
        timed: whether it measures times, which are one machine's.
        limits: sentences that limit the answer, shown under it.
        notes: further sentences for readers.
        tables: the SHA-256 of each table beside it, by file name; empty in results from before it was recorded.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    study: str
    title: str
    question: str
    profile: str
    own: bool = False
    protocol: Protocol = "as stated"
    metrics: Annotated[dict[str, MetricUsed], Field(min_length=1)]
    arms: dict[str, Arm]
    names: dict[str, str] = {}
    x: str = "epoch"
    baseline: str | None = None
    contrasts: list[Contrast] = []
    measures: dict[str, Measure] = {}
    parts: list[PartFound]
    noise_floor: NoiseFloor | None = None
    tuning: list[Tuning] = []
    tunable: list[str] = []
    looks: Positive = 1
    preliminary: bool
    declared: dict[str, str] = {}
    timed: bool = False
    limits: list[str] = []
    notes: list[str] = []
    tables: dict[str, str] = {}
    data: DataUsed
    provenance: Provenance

    @property
    def metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @property
    def claims(self) -> list[int]:
        """The claims of its parts."""
        return sorted({part.claim for part in self.parts if part.claim is not None})

    @property
    def seeds(self) -> int:
        """The number of seeds of the arm with the fewest."""
        return min((arm.n for arm in self.arms.values()), default=0)

    def overlap(self, part: PartFound) -> float | None:
        """The largest n_valid/n_train of a part's arms; None if its seeds do not re-split one data set."""
        arms = [self.arms[name] for name in part.weights]
        shares = [arm.n_valid / arm.n_train for arm in arms if arm.n_valid and arm.n_train]
        return max(shares, default=None) if part.interval == "corrected t" else None

    def missing(self, part: PartFound) -> int:
        """The most seeds that one of the part's arms lacks: its runs failed, took too long, or were not made."""
        seeds = len(self.provenance.seeds)
        return max((seeds - self.arms[name].n for name in part.weights if self.arms[name].n < seeds), default=0)

    @model_validator(mode="after")
    def _of_its_arms(self) -> Self:
        """Check that every field about arms names existing arms, each once."""
        said = {
            "baseline": [self.baseline] if self.baseline is not None else [],
            "contrast": [contrast.arm for contrast in self.contrasts],
            "contrast's baseline": sorted({contrast.baseline for contrast in self.contrasts}),
            "noise floor": [self.noise_floor.arm] if self.noise_floor else [],
            "tuning": [tuning.arm for tuning in self.tuning],
        }
        said |= {f"measure {name}": list(measure.arms) for name, measure in self.measures.items()}
        for number, part in enumerate(self.parts, start=1):
            said[f"part {part.part or number}"] = list(part.weights)
            said[f"part {part.part or number}, by its rivals,"] = [rival.arm for rival in part.rivals]
        for what, arms in said.items():
            if unknown := [arm for arm in arms if arm not in self.arms]:
                raise ValueError(f"the {what} names {unknown[0]!r}, which is not one of the arms")
            if twice := [arm for arm, times in Counter(arms).items() if times > 1]:
                raise ValueError(f"the {what} names {twice[0]!r} more than once")
            if what.startswith("measure") and (silent := self.arms.keys() - arms):
                raise ValueError(f"the {what} lacks {sorted(silent)[0]!r}")
        return self

    @model_validator(mode="after")
    def _of_its_metrics(self) -> Self:
        """Check that every field about metrics names existing metrics, and that no part occurs twice."""
        said = {f"arm {name}": list(arm.metrics) for name, arm in self.arms.items()}
        said |= {
            "contrast": [contrast.metric for contrast in self.contrasts],
            "measure": list(self.measures),
            "part": [part.metric for part in self.parts],
        }
        for what, metrics in said.items():
            if unknown := [metric for metric in metrics if metric not in self.metrics]:
                raise ValueError(f"the {what} names {unknown[0]!r}, which is not one of the metrics")
        ids = Counter(part.part for part in self.parts if part.part)
        if twice := [part for part, times in ids.items() if times > 1]:
            raise ValueError(f"the part {twice[0]} occurs more than once")
        return self


def since(summary: Summary, earlier: Iterable[Summary]) -> Summary:
    """The summary with its history: `looks`, and each part's `declared` and `changed`.

    Args:
        summary: without history, as if it were the first.
        earlier: summaries of the same study on the same data, of any profile.
    """
    before = sorted((other for other in earlier if other.study == summary.study), key=lambda other: other.looks)
    found = {_name(part): (part, other) for other in reversed(before) for part in other.parts}
    parts = []
    for part in summary.parts:
        was, then = found.get(_name(part), (None, summary))
        # Older files have no digests of parts that they do not judge: they say nothing of them.
        known = [_digest(part, other) for other in before if other.declared or _judged(part, other)]
        changed = bool(before) and (not known or any(digest != part.declared for digest in known))
        changed = changed or any(other.provenance.recipe != summary.provenance.recipe for other in before)
        changed = changed or (was is not None and (was.changed or _other_settings(part, summary, then)))
        parts.append(part.model_copy(update={"declared": was.declared if was else part.declared, "changed": changed}))
    again = [other.looks for other in before if _spent(other) == _spent(summary)]
    looks = again[0] if again else 1 + max((other.looks for other in before), default=0)
    return summary.model_copy(update={"parts": parts, "looks": looks})


def _digest(part: PartFound, earlier: Summary) -> str | None:
    """The digest that the part had at an earlier run; it was declared even if its arms had no runs."""
    judged = _judged(part, earlier)
    return judged.declared if judged else earlier.declared.get(_name(part))


def _judged(part: PartFound, earlier: Summary) -> PartFound | None:
    return next((other for other in earlier.parts if _name(other) == _name(part)), None)


def _other_settings(part: PartFound, now: Summary, then: Summary) -> bool:
    """Whether an arm of the part has other settings now. A setting that one of the two has tuned is not compared."""
    for name in {*part.weights, *(rival.arm for rival in part.rivals)} & now.arms.keys() & then.arms.keys():
        one, other = now.arms[name].settings, then.arms[name].settings
        if any(one[key] != other[key] for key in one.keys() & other.keys()):
            return True
    return False


def _name(part: PartFound) -> str:
    return part.part or part.says


def _spent(summary: Summary) -> tuple[int, list[int], int]:
    """What a look has cost: a recipe, seeds and trials."""
    made = summary.provenance
    return made.recipe, made.seeds, max((len(tuning.trials) for tuning in summary.tuning), default=0)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: first to a temporary name, then rename."""
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
        OSError: it cannot be read, or is not a file: reading a pipe would block forever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return path.read_bytes()


Model = TypeVar("Model", bound=BaseModel)


def digest_of(table: bytes) -> str:
    """The digest of a table's file, for `Summary.tables`."""
    return hashlib.sha256(table).hexdigest()


def read_json(path: Path, model: type[Model], what: str, advice: str) -> Model:
    """Read a JSON file and check it, including types: neither "1" nor true is a number.

    Args:
        path: the file.
        model: the schema.
        what: the file's content in words, for the error.
        advice: what to do about a wrong file, for the error.

    Raises:
        ResultsError: the file cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    try:
        return model.model_validate_json(read_bytes(path), strict=True)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}).", advice) from error
    except ValidationError as error:
        raise ResultsError(f"{path}: not a {what}: {without_password(_first(error))}.", advice) from error


def _first(error: ValidationError) -> str:
    """The first error, and how many more there are."""
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
        ResultsError: the file cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    return read_json(path, Summary, "summary of a study", "Written by another version or program? Run the study again.")


def find_summaries(results: Path) -> tuple[list[Path], list[str]]:
    """Every `summary.json` in `results`, and sentences about folders that cannot be read or are too deep.

    Files are found in the folder itself and up to four levels below (`wd_sweep/movielens/quick/summary.json`,
    `mine/wd_sweep/my-ratings/quick/summary.json`). Links are followed; a file that can be reached in several ways is
    found once.
    """
    found: list[Path] = []
    problems: list[str] = []
    seen = {os.path.realpath(results)}

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror}), so nothing in it is shown.")

    for folder, folders, files in os.walk(results, followlinks=True, onerror=unreadable):
        path = Path(folder, SUMMARY)
        if path.name in files or path.name in folders:
            if len(path.relative_to(results).parts) <= FOLDERS + 1:
                found.append(path)
            else:
                problems.append(
                    f"{path}: more than {FOLDERS} folders below {results}, so it is left out. Move its folder up, or "
                    "name a deeper folder with --results."
                )
        for name in sorted(folders):
            real = os.path.realpath(Path(folder, name))
            if real in seen:
                folders.remove(name)
            seen.add(real)
    return sorted(found), problems
