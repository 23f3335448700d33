"""Reads and checks `benchmarks.json`, the output of `pytest --benchmark-only --benchmark-json`.

pytest-benchmark writes more than is read here. A benchmark's own fields are in its row's `extra_info`
(bench/harness.py); `not_timed` lists the benchmarks without a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from studies.evidence.outcomes import judge_ratio
from studies.evidence.schema import Count, PartFound, Positive, read_json, require_inside

LOOKUPS = ("embedding", "index_select")
ONE_HOT = ("one_hot_matmul", "prebuilt_one_hot_matmul", "sparse_one_hot_matmul")
SMALLEST_RATIO = 1.05  # the smallest ratio worth knowing

Above0 = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class _Timed(_Part):
    """The `extra_info` of a benchmark that passed its accuracy check and was timed. `ratio`: over the baseline's time.

    If a call does several `steps`, seconds are per step. `training_s` is the time of a whole training of `epochs` over
    `ratings`. `state_bytes`: what an optimizer keeps between steps; `train_loss`: after a short training with it.
    `host_s`: what the host takes to queue a call on a GPU.
    """

    accurate: Literal[True]
    op: str
    implementation: str
    baseline: str
    stage: str = Field(alias="pass")  # forward, forward+backward, step, epoch
    ratio: Above0
    ratio_low: Above0
    ratio_high: Above0
    ratio_pairs: Positive
    classes: Positive | None = None
    rows: Positive | None = None
    batch: Positive | None = None
    width: Positive | None = None
    params: Positive | None = None
    bytes: Count | None = None
    gb_per_s: Annotated[float, Field(ge=0)] | None = None
    floor_fraction: Annotated[float, Field(ge=0)] | None = None
    steps: Positive | None = None
    host_s: Above0 | None = None
    baseline_s: Above0 | None = None
    memory_bytes: Count | None = None
    baseline_memory_bytes: Count | None = None
    training_s: Above0 | None = None
    state_bytes: Count | None = None
    train_loss: Annotated[float, Field(ge=0)] | None = None
    ratings: Positive | None = None
    epochs: Positive | None = None


class Timing(_Timed):
    """A benchmark with a time: its row's `extra_info`, and `seconds` of a call."""

    name: str
    group: str
    seconds: float


class _NotTimed(_Part):
    accurate: bool | None = None
    accuracy: str = ""


class _Stats(_Part):
    median: Above0


class _TimedRow(_Part):
    name: str
    group: str | None = None
    stats: _Stats
    extra_info: _Timed

    def timing(self) -> Timing:
        known = self.extra_info.model_dump(by_alias=True)
        return Timing(**known, name=self.name, group=self.group or "other", seconds=self.stats.median)


class _OtherRow(_Part):
    name: str | None = None
    fullname: str = ""
    extra_info: _NotTimed = _NotTimed()
    reason: str = "it has no ratio to a baseline"


def _kind(row: Any) -> str:
    info = row.get("extra_info") if isinstance(row, dict) else None
    return "timed" if isinstance(info, dict) and info.get("accurate") is True and "ratio" in info else "other"


_AnyRow = Annotated[Annotated[_TimedRow, Tag("timed")] | Annotated[_OtherRow, Tag("other")], Discriminator(_kind)]


class _Cpu(_Part):
    brand_raw: str | None = None
    count: Positive | None = None


class _Machine(_Part):
    cpu: _Cpu = _Cpu()
    cpu_name: str | None = None
    gpu: str | None = None
    threads: Positive | None = None
    system: str | None = None
    release: str | None = None
    python_version: str | None = None
    torch: str | None = None


class _Commit(_Part):
    id: str | None = None
    dirty: bool | None = None


class _File(_Part):
    benchmarks: list[_AnyRow]
    not_timed: list[_OtherRow] = []
    machine_info: _Machine = _Machine()
    commit_info: _Commit = _Commit()
    datetime: str | None = None
    version: str | None = None
    bench_profile: str | None = None
    tests: dict[str, Count] = {}


@dataclass(frozen=True)
class Benchmarks:
    """The contents of `benchmarks.json`. `inaccurate` and `not_timed` are names with reasons.

    A row whose ratio lies outside its own interval contradicts itself, and counts as not timed.

    `profile` is smoke, default or full; None in files written without it. `tests` has the outcomes of the tests that
    ran beside the benchmarks: passed, failed and skipped.
    """

    timings: list[Timing]
    inaccurate: list[tuple[str, str]]
    not_timed: list[tuple[str, str]]
    machine: dict[str, str]
    commit: str | None
    dirty: bool | None
    profile: str | None = None
    tests: Mapping[str, int] = field(default_factory=dict)


def read_benchmarks(path: Path) -> Benchmarks:
    """Read and check a pytest-benchmark JSON file whose `extra_info` holds ratios.

    Raises:
        ResultsError: the file cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    raw = read_json(path, _File, "file of this suite's benchmarks", "Run them again.")
    timings, inaccurate, not_timed = [], [], []
    for row in [*raw.benchmarks, *raw.not_timed]:
        if isinstance(row, _TimedRow):
            timing = row.timing()
            try:
                require_inside("ratio", timing.ratio, (timing.ratio_low, timing.ratio_high))
            except ValueError as error:
                not_timed.append((row.name, str(error)))
            else:
                timings.append(timing)
            continue
        name = row.name or row.fullname.partition("::")[2]
        if row.extra_info.accurate is False:
            inaccurate.append((name, row.extra_info.accuracy))
        else:
            not_timed.append((name, row.reason))
    machine = raw.machine_info
    facts = {
        "CPU": machine.cpu_name or machine.cpu.brand_raw,
        "cores": machine.cpu.count,
        "GPU": machine.gpu or "none",
        "threads": machine.threads,
        "system": " ".join(filter(None, [machine.system, machine.release])),
        "Python": machine.python_version,
        "torch": machine.torch,
        "pytest-benchmark": raw.version,
        "measured": raw.datetime,
    }
    said = {name: str(fact) for name, fact in facts.items() if fact not in (None, "")}
    commit = raw.commit_info
    return Benchmarks(timings, inaccurate, not_timed, said, commit.id, commit.dirty, raw.bench_profile, raw.tests)


def lookup_findings(benchmarks: Benchmarks) -> list[tuple[str, PartFound]]:
    """Claim 26, corner by corner of the grid: the best one-hot product over the better of the lookups.

    Time is part 26a, memory 26b. Both ratios share a baseline, so the interval of their ratio is the widest that their
    intervals allow.

    Returns:
        The corner, such as "forward, 10 classes, batch 64, width 40", and the result.
    """
    corners: dict[str, list[Timing]] = {}
    for timing in benchmarks.timings:
        if timing.group == "lookup":
            corners.setdefault(_corner(timing), []).append(timing)
    found = []
    for corner, timings in corners.items():
        lookups = [timing for timing in timings if timing.implementation in LOOKUPS]
        products = [timing for timing in timings if timing.implementation in ONE_HOT]
        if lookups and products:
            found.append((corner, _time(min(products, key=_ratio), min(lookups, key=_ratio))))
            memory = _memory(products, lookups)
            found += [(corner, memory)] if memory else []
    return found


def _corner(timing: Timing) -> str:
    sizes = [f"{timing.classes:,} classes" if timing.classes else "", f"batch {timing.batch:,}" if timing.batch else ""]
    return ", ".join(filter(None, [timing.stage, *sizes, f"width {timing.width}" if timing.width else ""]))


def _ratio(timing: Timing) -> float:
    return timing.ratio


def _time(product: Timing, lookup: Timing) -> PartFound:
    """A product's time over a lookup's."""
    low, high = (1.0, 1.0) if lookup.implementation == lookup.baseline else (lookup.ratio_low, lookup.ratio_high)
    below = 1.0 if lookup.implementation == lookup.baseline else lookup.ratio
    return judge_ratio(
        "26a",
        "The lookup is faster.",
        "log10 of time over the lookup's",
        (product.implementation, lookup.implementation),
        (product.ratio / below, product.ratio_low / high, product.ratio_high / low),
        min(product.ratio_pairs, lookup.ratio_pairs),
        margin=SMALLEST_RATIO,
    )


def _memory(products: list[Timing], lookups: list[Timing]) -> PartFound | None:
    """The least memory of a product over the least of a lookup; None if it was not counted."""
    counted = [[t for t in timings if t.memory_bytes] for timings in (products, lookups)]
    if not all(counted):
        return None
    product, lookup = (min(timings, key=lambda t: t.memory_bytes or 0) for timings in counted)
    ratio = (product.memory_bytes or 0) / (lookup.memory_bytes or 1)
    return judge_ratio(
        "26b",
        "The lookup takes less memory.",
        "log10 of bytes over the lookup's",
        (product.implementation, lookup.implementation),
        (ratio, ratio, ratio),
        1,
        margin=SMALLEST_RATIO,
    )
