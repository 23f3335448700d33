"""`peers*.json`, the output of `python -m bench.peers`, and how its times are compared.

Every peer trains on the same ratings and predicts the same validation rows. A fit is a list of points: epochs done,
seconds of training so far, and the RMSE then.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from scipy.stats import quantile_test

from studies.evidence.outcomes import judge_part
from studies.evidence.parts import Metric, best
from studies.evidence.schema import (
    Count,
    DataUsed,
    PartFound,
    Positive,
    Record,
    Size,
    Whole,
    read_json,
    write_text,
)
from studies.evidence.statistics import Interval, corrected_interval

# One split with many seeds; five fresh ones and GroupLens' own u1 to u5, in which the seed is the number of the split;
# u1 alone with everything that is known beside ids, and a few seeds.
Splits = Literal["one", "fresh", "fifths", "everything"]
FILES: dict[Splits, str] = {
    "one": "peers.json",
    "fresh": "peers-fresh.json",
    "fifths": "peers-fifths.json",
    "everything": "peers-everything.json",
}
TARGET = 0.896  # RMSE
OURS = "dotbias"
AVERAGED = "dotbias-averaged"
EVERYTHING, EVERYTHING_BY_DAY = "dotbias-everything", "dotbias-everything-day"
RIVALS = ("cornac", "libmf", "lenskit", "surprise", "myfm")  # other approaches than a net that PyTorch trains
REFERENCE, REFERENCE_EPOCHS = "cornac", 20  # times to TARGET are ratios to this peer's whole fit


class Point(Record):
    """A moment of a fit. `rmse` is null if a prediction is not a finite number."""

    epochs: Positive
    seconds: Annotated[float, Field(gt=0)]
    rmse: Size | None


class Row(Record):
    """A peer's work on a seed: one fit evaluated after each epoch, or one fit per number of epochs.

    Times are compared only within a `round`, in which peers took turns.
    """

    seed: Whole
    round: str
    commit: str | None
    points: Annotated[list[Point], Field(min_length=1)]


class Drawn(Record):
    """The rows of one epoch of a peer's training, and how many of them are distinct."""

    rows: Count
    distinct: Count

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.distinct > self.rows:
            raise ValueError(f"{self.distinct} of {self.rows} rows are distinct")
        return self


class Peer(Record):
    """A peer and its measurements. `failure` is the reason why rows are missing."""

    name: str
    title: str
    settings: dict[str, Any]
    epochs: list[Positive]
    note: str
    versions: dict[str, str] = Field(default_factory=dict)
    drawn: Drawn | None = None
    rows: list[Row] = Field(default_factory=list)
    failure: str | None = None

    def best(self) -> list[Point]:
        """Each seed's last point at the number of epochs whose mean RMSE is lowest."""
        by_epochs: dict[int, list[Point]] = {}
        for row in self.rows:
            for point in row.points:
                if point.epochs in self.epochs:  # not a point in the middle of a schedule
                    by_epochs.setdefault(point.epochs, []).append(point)
        return min(by_epochs.values(), key=_mean_rmse, default=[])

    def rmse_by_seed(self) -> dict[int, float | None]:
        """Each seed's RMSE at the number of epochs whose mean RMSE is lowest."""
        epochs = {point.epochs for point in self.best()}
        return {row.seed: point.rmse for row in self.rows for point in row.points if point.epochs in epochs}


def _mean_rmse(points: list[Point]) -> float:
    return sum(math.inf if point.rmse is None else point.rmse for point in points) / len(points)


class Machine(Record):
    """The machine on which times were taken."""

    python: str
    platform: str
    cpu: str
    cores: Positive
    versions: dict[str, str]


class PeerResults(Record):
    """The whole of a `peers*.json`."""

    schema_version: Literal[2] = 2
    command: str
    commit: str | None
    dirty: bool | None
    started: str
    finished: str
    threads: Positive
    machine: Machine
    data: DataUsed
    splits: Splits = "one"
    peers: list[Peer]

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        for what in ("name", "title"):
            times = Counter(getattr(peer, what) for peer in self.peers)
            if twice := [word for word, n in times.items() if n > 1]:
                raise ValueError(f"two peers have the {what} {twice[0]!r}")
        return self

    def peer(self, name: str) -> Peer | None:
        """The peer of that name, if it has rows."""
        return next((peer for peer in self.peers if peer.name == name and peer.rows), None)

    def reference(self) -> Peer | None:
        """The reference peer, if every row of it has the reference time."""
        peer = self.peer(REFERENCE)
        if peer is None or any(REFERENCE_EPOCHS not in [point.epochs for point in row.points] for row in peer.rows):
            return None
        return peer


def rival_finding(results: PeerResults) -> PartFound | None:
    """Claim 1a: the lesson's model is not worse than any rival by 0.2 % of its RMSE, on the seeds that both have.

    Rivals have the settings of `bench.peers`, of which only the number of epochs is tuned. All seeds share one split,
    so the interval is for that split alone.

    Returns:
        None unless every one of RIVALS has rows: the best may be the one that is not there.
    """
    ours = results.peer(OURS) if results.splits == "one" else None
    rivals = [rival for name in RIVALS if (rival := results.peer(name))]
    if ours is None or len(rivals) < len(RIVALS):
        return None
    name, metric = "validation RMSE", Metric("validation RMSE", better="lower", smallest="0.2 %")
    part = best(
        "1a", ours.title, [rival.title for rival in rivals], says="The lesson's model is not worse than any rival."
    )
    return judge_part(part, {name: {peer.title: peer.rmse_by_seed() for peer in (ours, *rivals)}}, {name: metric})


class Lead(NamedTuple):
    """How much lower an RMSE is than a rival's on the same splits; the interval is for similar data."""

    difference: float
    interval: Interval | None
    n: int


def lead(ours: Peer, rival: Peer, data: DataUsed) -> Lead | None:
    """The rival's RMSE minus ours, over the splits that both have a number for."""
    mine, theirs = ours.rmse_by_seed(), rival.rmse_by_seed()
    both = [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]
    differences = [their - my for my, their in both if my is not None and their is not None]
    if not differences:
        return None
    train, valid = (data.size.get(part, 0) for part in ("train", "valid"))
    known = len(differences) > 1 and train > 0 and valid > 0
    interval = corrected_interval(differences, valid / train) if known else None
    return Lead(mean(differences), interval, len(differences))


class Ratio(NamedTuple):
    """The median of ratios with its 95 % interval; infinities are misses. No interval below six ratios."""

    ratio: float
    low: float | None
    high: float | None
    n: int
    misses: int


def time_to(row: Row, target: float) -> float:
    """Seconds of training until the RMSE is at most `target`; infinite if it never is."""
    reached = [point.seconds for point in row.points if point.rmse is not None and point.rmse <= target]
    return min(reached, default=math.inf)


def seconds_at(row: Row, epochs: int) -> float:
    """Seconds of training after `epochs` epochs.

    Raises:
        StopIteration: the row has no such point.
    """
    return next(point.seconds for point in row.points if point.epochs == epochs)


def _together(ours: Peer, theirs: Peer) -> list[tuple[Row, Row]]:
    """Rows of one seed that took turns."""
    others = {(row.seed, row.round): row for row in theirs.rows}
    return [(row, others[row.seed, row.round]) for row in ours.rows if (row.seed, row.round) in others]


def time_to_target(peer: Peer, reference: Peer) -> Ratio | None:
    """A peer's time to TARGET over the time of the reference's fit of REFERENCE_EPOCHS, seed by seed."""
    return _ratio(
        [time_to(row, TARGET) / seconds_at(other, REFERENCE_EPOCHS) for row, other in _together(peer, reference)]
    )


def epoch_time(slow: Peer, fast: Peer) -> Ratio | None:
    """Seconds of one peer's epochs over the other's, epoch by epoch in turns; the first epoch includes set-up.

    None if a fit was not evaluated after each epoch, or time does not increase from point to point.
    """
    if not (_by_epoch(slow) and _by_epoch(fast)):
        return None
    pairs = [
        both for one, other in _together(slow, fast) for both in zip(_each_epoch(one), _each_epoch(other), strict=False)
    ]
    if any(seconds <= 0 for both in pairs for seconds in both):
        return None
    return _ratio([slower / faster for slower, faster in pairs])


def _by_epoch(peer: Peer) -> bool:
    return all([point.epochs for point in row.points] == list(range(1, len(row.points) + 1)) for row in peer.rows)


def _each_epoch(row: Row) -> list[float]:
    seconds = [0.0, *(point.seconds for point in row.points)]
    return [after - before for before, after in pairwise(seconds)]


def _ratio(ratios: list[float]) -> Ratio | None:
    if not ratios:
        return None
    interval: Any = None
    if len(ratios) >= 6:  # with fewer there is no 95 % interval of a median
        interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, high = (float(interval.low), float(interval.high)) if interval else (None, None)
    return Ratio(median(ratios), low, high, len(ratios), sum(map(math.isinf, ratios)))


def write_peers(results: PeerResults, path: Path) -> None:
    """Write `peers.json`, whole or not at all."""
    write_text(path, results.model_dump_json(indent=1) + "\n")


def read_peers(path: Path) -> PeerResults:
    """Read and check a `peers.json`.

    Raises:
        ResultsError: the file cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    return read_json(path, PeerResults, "comparison with other libraries", "Rename it, then run again.")
