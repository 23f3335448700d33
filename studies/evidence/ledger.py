"""Turns outcomes into verdicts on the claims.

A part of a claim is judged over its conditions, a claim over its core parts. A condition is a data set and a protocol:
as stated, or on a stand-in. Within a condition the strongest evidence decides; the rest is listed as superseded. Each
verdict has a certainty, which never changes the verdict.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from studies.evidence.benchmarks import Benchmarks, lookup_findings, read_benchmarks
from studies.evidence.claims import Claim, ClaimPart, Slip, load_claims, load_slips
from studies.evidence.outcomes import Need, need_of
from studies.evidence.peers import FILES, PeerResults, read_peers, rival_finding
from studies.evidence.schema import (
    CUSTOM,
    FEW_SEEDS,
    Outcome,
    PartFound,
    Protocol,
    ResultsError,
    Summary,
    find_summaries,
    read_json,
    read_summary,
)

EXACT, BENCHMARKS, PEERS = "exact.json", "benchmarks.json", FILES["one"]
# The commands that measure parts without a study.
BENCHES = {"1a": "python -m bench.peers"} | dict.fromkeys(("26a", "26b"), "pytest --benchmark-only")
ALPHA: Final = 0.05

Verdict = Literal[
    "true",
    "holds",
    "holds so far",
    "holds on a stand-in",
    "depends",
    "false",
    "fails",
    "not seen on a stand-in",
    "inconclusive",
    "cited",
    "not run",
]
YES: frozenset[Verdict] = frozenset({"true", "holds", "cited"})
NO: frozenset[Verdict] = frozenset({"false", "fails"})
OPEN: frozenset[Verdict] = frozenset({"inconclusive", "not run"})

Doubt = Literal[
    "stand-in",
    "one data set for a general sentence",
    "one machine for a general sentence",
    "the interval reaches the margin",
    "not retuned",
    "tuned to an edge of its range",
    "preliminary",
    "runs missing",
    "declared after looking",
    "made by an earlier recipe",
    "undeclared seeds or values",
]
Level = Literal["high", "moderate", "low", "very low"]
LEVELS: tuple[Level, ...] = ("high", "moderate", "low", "very low")

_PROFILES: Mapping[str, int] = {"quick": 1, "regular": 2, "full": 3}
_BENCH_PROFILES: Mapping[str, str] = {"smoke": "quick", "default": "regular", "full": "full"}
_WITHOUT_VERDICT = ("too few seeds", "no margin", "nothing measured")


class ExactFound(BaseModel):
    """The result of a check of `studies.exact`; `figure` is its text for readers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    part: str
    holds: bool
    expected: bool
    by_construction: bool = False
    figure: str
    says: str | None = None
    check: str
    source: str | None = None


class ExactFile(BaseModel):
    """The whole of `exact.json`."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Literal[1]
    checks: list[ExactFound]
    provenance: dict[str, Any] = {}


@dataclass(frozen=True)
class Evidence:
    """The result of one study or benchmark on one part under one condition, in numbers; pages word them.

    Attributes:
        found: the numbers and the outcome.
        source: the study's name, or "benchmarks".
        data: the data set's name in the catalog; for a benchmark, what was measured.
        title: its display name.
        protocol: as stated, or on a stand-in.
        own: whether it is the user's own data.
        checksum: of the user's own data, because two files may have one name; "" for other data.
        profile: of the study.
        tuned: whether the settings of every arm of the part were tuned; for a single arm, also if none can be.
        on_edge: whether the choice for an arm of the part is the smallest or largest value tried.
        preliminary: the quick profile, or few seeds.
        missing: at least so many seeds do not count, because a run of theirs is missing.
        timed: whether it measures times, which are one machine's.
        path: the file it was read from.
        need: what an inconclusive part needs; None if that is not known.
    """

    found: PartFound
    source: str
    data: str
    title: str
    protocol: Protocol = "as stated"
    own: bool = False
    checksum: str = ""
    profile: str = "regular"
    tuned: bool = True
    on_edge: bool = False
    preliminary: bool = False
    missing: int = 0
    timed: bool = False
    path: Path | None = None
    need: Need | None = None
    recipe: int = 0
    finished: str = ""

    @property
    def strength(self) -> tuple[bool, bool, bool, int, int, int, str]:
        """Sorts evidence, stronger is larger: has a verdict, declared profile, tuned, rank of profile, seeds, newer."""
        return (
            self.found.reason not in _WITHOUT_VERDICT,
            self.profile != CUSTOM,
            self.tuned,
            _PROFILES.get(self.profile, 0),
            self.found.n,
            self.recipe,
            self.finished,
        )


@dataclass(frozen=True)
class Condition:
    """One part under one condition: the evidence that decides, and what it supersedes, strongest first."""

    data: str
    protocol: Protocol
    used: Evidence
    superseded: tuple[Evidence, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The outcome of the deciding evidence."""
        return self.used.found.outcome

    @property
    def outdated(self) -> bool:
        """Whether the deciding study's runs are made in another way now, as a weaker result of it shows."""
        return any(one.source == self.used.source and one.recipe > self.used.recipe for one in self.superseded)


@dataclass(frozen=True)
class PartRow:
    """One part of a claim, with all evidence for or against it.

    Attributes:
        part: from claims.toml.
        verdict: over the conditions, or the exact check's.
        words: the verdict in words.
        conditions: with evidence, as stated first.
        own: evidence on the user's own data, in a separate column; it does not affect the verdict.
        exact: the check's result, for an exact part.
        missing: the data sets that the part's check needs and that have no results.
    """

    part: ClaimPart
    verdict: Verdict
    words: str
    conditions: tuple[Condition, ...] = ()
    own: tuple[Condition, ...] = ()
    exact: ExactFound | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certainty:
    """How sure a verdict is: each doubt lowers it by one level."""

    level: Level
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True)
class LedgerRow:
    """A claim and its verdict.

    Attributes:
        claim: from claims.toml.
        verdict: over the core parts.
        words: the verdict in words, with the true form of a sentence that does not hold.
        parts: in the claim's order.
        true_form: the weaker parts that hold if the claim as stated does not.
        certainty: of the verdict; None without a verdict, and for exact and cited claims.
        slips: the notes' errors that concern the claim.
    """

    claim: Claim
    verdict: Verdict
    words: str
    parts: tuple[PartRow, ...]
    true_form: tuple[PartRow, ...]
    certainty: Certainty | None
    slips: tuple[Slip, ...]

    @property
    def evidence(self) -> list[Evidence]:
        """All evidence: deciding, superseded, and on the user's own data."""
        conditions = [c for row in self.parts for c in (*row.conditions, *row.own)]
        return [e for condition in conditions for e in (condition.used, *condition.superseded)]

    @property
    def missing(self) -> list[str]:
        """The parts without evidence."""
        return [row.part.id for row in self.parts if row.verdict == "not run"]


@dataclass(frozen=True)
class Ledger:
    """Every claim, by id.

    Attributes:
        rows: one row per claim.
        problems: sentences about results that could not be used.
        summaries: the summaries that were used, by path.
        slips: the results of exact checks of the notes' errors, by id.
        benchmarks: the benchmarks file; None if it is missing or a problem.
        peers: the file of other libraries' runs; likewise.
        judged: measured parts with some evidence that says yes or no.
        tests: conditions with enough seeds for a verdict, of all measured parts.
    """

    rows: list[LedgerRow]
    problems: list[str]
    summaries: dict[Path, Summary] = field(default_factory=dict)
    slips: dict[int, ExactFound] = field(default_factory=dict)
    benchmarks: Benchmarks | None = None
    peers: PeerResults | None = None
    judged: int = 0
    tests: int = 0

    @property
    def expected_false(self) -> float:
        """How many of the tests are wrong by chance, on average, at most: any of a part's data sets may decide it."""
        return self.tests * ALPHA


def read_ledger(results: Path) -> Ledger:
    """Gather every claim's evidence: summaries of studies, exact checks, benchmarks, other libraries' runs.

    Args:
        results: the folder of results; `find_summaries` describes where its `summary.json` files may be.

    Raises:
        ResultsError: the folder does not exist. A broken file is a problem in the ledger instead.
    """
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder. Run a study first, or name the folder of its results.")
    evidence: list[Evidence] = []
    summaries: dict[Path, Summary] = {}
    paths, problems = find_summaries(results)
    for path in paths:
        try:
            summaries[path] = read_summary(path)
        except ResultsError as error:
            problems.append(str(error))
        else:
            evidence += evidence_of(summaries[path], path)
    benchmarks = _read(results / BENCHMARKS, read_benchmarks, problems)
    if benchmarks is not None:
        profile = _BENCH_PROFILES.get(benchmarks.profile or "", "quick")
        evidence += [
            Evidence(
                found,
                source="benchmarks",
                data=corner,
                title=corner,
                profile=profile,
                preliminary=profile == "quick",
                timed=True,
                path=results / BENCHMARKS,
            )
            for corner, found in lookup_findings(benchmarks)
        ]
    peers = _read(results / PEERS, read_peers, problems)
    found = rival_finding(peers) if peers is not None else None
    if found is not None:
        few = found.n < FEW_SEEDS
        evidence.append(
            Evidence(
                found,
                source="peers",
                data=peers.data.key,
                title=peers.data.name,
                profile="quick" if few else "regular",
                tuned=False,
                preliminary=few,
                path=results / PEERS,
            )
        )
    exact = _read(results / EXACT, read_exact, problems)
    checks = exact.checks if exact is not None else []
    return make_ledger(evidence, checks, problems, summaries, benchmarks, peers)


def read_exact(path: Path) -> ExactFile:
    """Read and check an `exact.json`.

    Raises:
        ResultsError: the file cannot be read, is not JSON, or a field is missing or wrong.
    """
    return read_json(path, ExactFile, "file of exact checks", "Run python -m studies.exact again.")


def make_ledger(
    evidence: Iterable[Evidence],
    checks: Iterable[ExactFound] = (),
    problems: Sequence[str] = (),
    summaries: Mapping[Path, Summary] | None = None,
    benchmarks: Benchmarks | None = None,
    peers: PeerResults | None = None,
) -> Ledger:
    """Combine evidence and exact checks into one row per claim."""
    claims, slips = load_claims(), load_slips()
    parts = {part.id: part for claim in claims for part in claim.parts}
    sentences = list(problems)
    by_part: dict[str, list[Evidence]] = {}
    for one in evidence:
        if one.found.part in parts:
            by_part.setdefault(one.found.part, []).append(one)
        elif one.found.part:
            sentences.append(
                f"{one.path or one.source}: no part of a claim has the id {one.found.part}; it is left out."
            )
    exact: dict[str, ExactFound] = {}
    of_slips: dict[int, ExactFound] = {}
    for check in checks:
        kind, _, number = check.part.partition(" ")
        if kind == "slip" and number in {str(slip.id) for slip in slips}:
            of_slips[int(number)] = check
        elif check.part not in parts or parts[check.part].kind not in ("exact", "by construction"):
            sentences.append(f"{EXACT}: {check.part} is not an exact part of a claim; {check.check} is left out.")
        else:
            exact[check.part] = check
        if check.holds != check.expected:
            sentences.append(
                f"{EXACT}: {check.part} comes out {str(check.holds).lower()}, unexpectedly: {check.figure}"
            )
    rows = [
        make_row(
            claim,
            [make_part_row(part, by_part.get(part.id, []), exact.get(part.id)) for part in claim.parts],
            [slip for slip in slips if claim.id in slip.claims],
        )
        for claim in claims
    ]
    judged = sum(
        part.part.kind == "measured" and any(c.outcome != "inconclusive" for c in part.conditions)
        for row in rows
        for part in row.parts
    )
    tests = sum(
        condition.used.found.reason not in _WITHOUT_VERDICT
        for row in rows
        for part in row.parts
        if part.part.kind == "measured"
        for condition in part.conditions
    )
    return Ledger(rows, sentences, dict(summaries or {}), of_slips, benchmarks, peers, judged, tests)


def evidence_of(summary: Summary, path: Path | None = None) -> list[Evidence]:
    """The results of a study on one data set for the parts of claims."""
    tuned = {tuning.arm for tuning in summary.tuning if tuning.compared}
    on_edge = {tuning.arm for tuning in summary.tuning if tuning.on_edge}
    return [
        Evidence(
            found=found,
            source=summary.study,
            data=summary.data.key,
            title=summary.data.name,
            protocol=summary.protocol,
            own=summary.own,
            checksum=summary.data.checksum if summary.own else "",
            profile=summary.profile,
            tuned=found.weights.keys() <= tuned or (len(found.weights) < 2 and not summary.tunable),
            on_edge=not on_edge.isdisjoint(found.weights),
            preliminary=summary.preliminary or found.n < FEW_SEEDS,
            missing=summary.missing(found),
            timed=summary.timed,
            path=path,
            need=need_of(found, summary.overlap(found)),
            recipe=summary.provenance.recipe,
            finished=summary.provenance.finished,
        )
        for found in summary.parts
        if found.part
    ]


def make_part_row(part: ClaimPart, evidence: Iterable[Evidence], exact: ExactFound | None = None) -> PartRow:
    """A part over its conditions."""
    evidence = list(evidence)
    conditions = _conditions(one for one in evidence if not one.own)
    own = _conditions(one for one in evidence if one.own)
    stated = [c for c in conditions if c.protocol == "as stated"]
    missing = tuple(name for name in part.conditions if name not in {c.data for c in stated})
    verdict, words = _part_verdict(part, conditions, missing, exact)
    return PartRow(part, verdict, words, conditions, own, exact, missing)


def over_conditions(conditions: Sequence[Condition], missing: Sequence[str] = ()) -> tuple[Verdict, str]:
    """The verdict on a measured part, and its words.

    Args:
        conditions: those with evidence.
        missing: data sets that the part's check needs, without evidence as stated.
    """
    stated = [c for c in conditions if c.protocol == "as stated"]
    yes, no = ([c for c in stated if c.outcome == outcome] for outcome in ("yes", "no"))
    asked = len(stated) + len(missing)
    if yes and no:
        return "depends", f"depends on the data: yes on {_named(yes)}, no on {_named(no)}"
    if yes:
        so_far = len(yes) < asked
        return ("holds so far", f"holds so far ({len(yes)} of {asked})") if so_far else ("holds", "holds")
    if no:
        return "fails", "fails" if len(no) == asked else f"fails so far ({len(no)} of {asked})"
    if stated:
        return "inconclusive", "inconclusive"
    outcomes = {c.outcome for c in conditions}
    if "no" in outcomes:
        return "not seen on a stand-in", "not seen on a stand-in"
    if "yes" in outcomes:
        return "holds on a stand-in", "holds on a stand-in"
    return ("inconclusive", "inconclusive") if conditions else ("not run", "not run")


def make_row(claim: Claim, parts: Sequence[PartRow], slips: Sequence[Slip] = ()) -> LedgerRow:
    """A claim over its core parts, with the true form of a claim that does not hold."""
    core = [row for row in parts if row.part.role == "core"]
    verdict, words = over_parts(core)
    true_form = tuple(row for row in parts if row.part.role == "weaker" and row.verdict in YES)
    if verdict in {"holds so far", "holds on a stand-in", *YES}:
        true_form = ()
    if true_form:
        said = " ".join(_clause(row.part.says) for row in true_form)
        stated = {"false": "false as stated", "fails": "false as stated"}.get(verdict)
        stated = stated or ("open as stated" if verdict in OPEN else f"{words} as stated")
        words = f"{stated}; true that {said}"
    return LedgerRow(
        claim=claim,
        verdict=verdict,
        words=words,
        parts=tuple(parts),
        true_form=true_form,
        certainty=None if verdict in OPEN else certainty([*core, *true_form]),
        slips=tuple(slips),
    )


def over_parts(core: Sequence[PartRow]) -> tuple[Verdict, str]:
    """The verdict on a claim of several sentences, and its words: one wrong sentence makes the claim wrong.

    A part that is refuted beside one that is open refutes the claim.
    """
    verdicts = [row.verdict for row in core]
    found = set(verdicts)
    open_parts = [row for row in core if row.verdict in OPEN]
    if found & NO:
        word: Verdict = "false" if "false" in found else "fails"
        so_far = word == "fails" and all("so far" in row.words for row in core if row.verdict in NO)
        return word, core[0].words if len(core) == 1 else f"{word} so far" if so_far else word
    if "depends" in found:
        return "depends", next(row.words for row in core if row.verdict == "depends")
    if "not seen on a stand-in" in found:
        return "not seen on a stand-in", "not seen on a stand-in"
    if "not run" in found and found <= {"not run", "cited"}:
        return "not run", "not run"
    if open_parts:
        many = f", {len(open_parts)} of {len(core)} parts open" if len(core) > 1 else ""
        return "inconclusive", f"inconclusive{many}"
    if "holds on a stand-in" in found:
        return "holds on a stand-in", "holds on a stand-in"
    if "holds so far" in found:
        return "holds so far", _so_far(core)
    if len(found) == 1:
        return verdicts[0], core[0].words
    return "holds", "holds"


def certainty(rows: Iterable[PartRow]) -> Certainty | None:
    """How sure the deciding evidence is; None if nothing was measured."""
    doubts: list[Doubt] = []
    measured = False
    for row in rows:
        speaking = [c for c in row.conditions if c.outcome != "inconclusive"]
        if any(one.protocol == "as stated" for one in speaking):
            speaking = [one for one in speaking if one.protocol == "as stated"]
        measured = measured or bool(speaking)
        if row.part.general and len(speaking) == 1:
            doubts.append("one data set for a general sentence")
        if any(one.used.timed for one in speaking):
            doubts.append("one machine for a general sentence")
        for one in speaking:
            doubts += _doubts(one)
    if not measured:
        return None
    named = tuple(dict.fromkeys(doubts))
    return Certainty(LEVELS[min(len(named), len(LEVELS) - 1)], named)


def _doubts(condition: Condition) -> list[Doubt]:
    """The doubts about the evidence that decides under a condition."""
    evidence = condition.used
    found: dict[Doubt, bool] = {
        "stand-in": evidence.protocol == "stand-in",
        "the interval reaches the margin": evidence.found.reaches_margin,
        "not retuned": not evidence.tuned,
        "tuned to an edge of its range": evidence.on_edge,
        "preliminary": evidence.preliminary,
        "runs missing": evidence.missing > 0,
        "declared after looking": evidence.found.changed,
        "made by an earlier recipe": condition.outdated,
        "undeclared seeds or values": evidence.profile == CUSTOM,
    }
    return [doubt for doubt, is_so in found.items() if is_so]


def _conditions(evidence: Iterable[Evidence]) -> tuple[Condition, ...]:
    """Evidence by data set and protocol, the strongest deciding; as stated comes first."""
    groups: dict[tuple[Protocol, str, str], list[Evidence]] = {}
    for one in evidence:
        groups.setdefault((one.protocol, one.data, one.checksum), []).append(one)
    found = []
    for (protocol, data, _), group in sorted(groups.items(), key=lambda item: item[0]):
        strongest, *rest = sorted(group, key=lambda one: one.strength, reverse=True)
        found.append(Condition(data, protocol, strongest, tuple(rest)))
    return tuple(found)


def _part_verdict(
    part: ClaimPart, conditions: Sequence[Condition], missing: Sequence[str], exact: ExactFound | None
) -> tuple[Verdict, str]:
    if part.kind == "cited":
        return "cited", "cited"
    if part.kind == "measured":
        return over_conditions(conditions, missing)
    if exact is None:
        return "not run", "not run"
    by_construction = " by construction" if part.kind == "by construction" else ""
    return ("true", f"true{by_construction}") if exact.holds else ("false", f"false{by_construction}")


def _so_far(core: Sequence[PartRow]) -> str:
    """The words of one part; of several, those of the part with most data sets missing."""
    behind = [row for row in core if row.verdict == "holds so far"]
    return max(behind, key=lambda row: len(row.missing)).words


def _named(conditions: Sequence[Condition]) -> str:
    return ", ".join(c.used.title for c in conditions)


def _clause(sentence: str) -> str:
    """A sentence as it continues after "true that"."""
    first, rest = sentence[0], sentence[1:]
    return (first.lower() if rest[:1].islower() or rest[:1] == " " else first) + rest


def _read(path: Path, reader: Any, problems: list[str]) -> Any:
    """The contents of a results file; None if it is missing or a problem."""
    if not os.path.lexists(path):  # a dangling link is a problem, not a missing file
        return None
    try:
        return reader(path)
    except ResultsError as error:
        problems.append(str(error))
        return None
