"""From contrasts to the claims ledger: what the evidence says of each claim.

`ledger_verdict` turns the contrasts of a claim's arms into the verdict a study writes into its summary.json;
`read_ledger` joins what all studies and data sets say into one row a claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from studies.evidence.claims import Claim, Kind, Slip, load_claims, load_slips
from studies.evidence.schema import (
    ContrastVerdict,
    LedgerVerdict,
    ResultsError,
    Summary,
    find_summaries,
    read_summary,
)

Expected = Literal["better", "worse", "equivalent", "not better", "not worse", "different"]

_HOLDS: dict[Expected, set[ContrastVerdict]] = {
    "better": {"better"},
    "worse": {"worse"},
    "equivalent": {"equivalent"},
    "not better": {"worse", "equivalent"},
    "not worse": {"better", "equivalent"},
    "different": {"better", "worse"},
}

# Which verdict speaks when several meet. A claim is all its parts under all declared conditions, so one part
# that is false makes it false, and one that is open leaves it open. Holding here and failing there is "depends".
_STRONGEST_FIRST: tuple[LedgerVerdict, ...] = (
    "false",
    "depends",
    "inconclusive",
    "fails",
    "holds",
    "true",
    "cited",
    "not run",
)

_SAYS: dict[Kind, set[LedgerVerdict]] = {
    "exact": {"true", "false"},
    "measured": {"holds", "fails", "depends", "inconclusive"},
    "cited": {"cited"},
}


def ledger_verdict(expected: Expected, verdicts: Iterable[ContrastVerdict]) -> LedgerVerdict:
    """What contrasts say of a claim.

    Args:
        expected: what every contrast shows if the claim holds.
        verdicts: of every arm the claim speaks of, under every declared condition. Where equivalence is
            expected, a negligible difference counts as one: pass "equivalent" for it.

    Returns:
        "holds" or "fails" where all agree, "depends" where some hold and others fail, "inconclusive" where one is
        open or a preview, "not run" without any.
    """

    def outcome(verdict: ContrastVerdict) -> LedgerVerdict:
        if verdict in ("inconclusive", "preview"):
            return "inconclusive"
        return "holds" if verdict in _HOLDS[expected] else "fails"

    return join_verdicts(outcome(verdict) for verdict in verdicts)


def join_verdicts(verdicts: Iterable[LedgerVerdict]) -> LedgerVerdict:
    """One verdict for the parts of a claim, or for several data sets."""
    found = set(verdicts)
    if {"holds", "fails"} <= found:
        found.add("depends")
    return next((verdict for verdict in _STRONGEST_FIRST if verdict in found), "not run")


@dataclass(frozen=True)
class LedgerEvidence:
    """What one study, on one data set, says of one claim; exact checks and benchmarks come in this form too."""

    claim: int
    verdict: LedgerVerdict
    text: str
    source: str  # the study's name, or what else it comes from
    data: str | None = None
    profile: str | None = None
    preview: bool = False  # too few seeds for a verdict: shown, but it outweighs nothing
    path: Path | None = None  # the file it was read from


@dataclass(frozen=True)
class LedgerRow:
    """A claim, its verdict, and all that speaks for or against it.

    `missing` are the claim's kinds without evidence: an exact half may be decided, the measured one not run.
    """

    claim: Claim
    verdict: LedgerVerdict
    evidence: tuple[LedgerEvidence, ...]
    missing: tuple[Kind, ...]
    slips: tuple[Slip, ...]


@dataclass(frozen=True)
class Ledger:
    """Every claim, by id.

    `problems` are sentences about results that could not be used, to be shown beside it; `summaries` those that were.
    """

    rows: list[LedgerRow]
    problems: list[str]
    summaries: dict[Path, Summary] = field(default_factory=dict)


def read_ledger(results: Path, more: Iterable[LedgerEvidence] = ()) -> Ledger:
    """Gather every claim's evidence from the studies' summaries.

    Args:
        results: the folder of results; `find_summaries` says where in it a `summary.json` may lie.
        more: evidence from elsewhere: exact checks, benchmarks.

    Raises:
        ResultsError: there is no such folder. A broken summary is a problem in the ledger instead.
    """
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder. Run a study first, or name the folder of its results.")
    found: list[LedgerEvidence] = []
    summaries: dict[Path, Summary] = {}
    paths, problems = find_summaries(results)
    for path in paths:
        try:
            summaries[path] = read_summary(path)
        except ResultsError as error:
            problems.append(str(error))
        else:
            found += _evidence(path, summaries[path])
    found += more

    claims, slips = load_claims(), load_slips()
    known = {claim.id for claim in claims}
    problems += [
        f"{evidence.path or evidence.source}: no claim has the id {evidence.claim}; the evidence is left out."
        for evidence in found
        if evidence.claim not in known
    ]
    return Ledger([_row(claim, found, slips) for claim in claims], problems, summaries)


def _evidence(path: Path, summary: Summary) -> list[LedgerEvidence]:
    preview = bool(summary.contrasts) and all(c.verdict == "preview" for c in summary.contrasts)
    return [
        LedgerEvidence(
            claim=evidence.claim,
            verdict=evidence.verdict,
            text=evidence.text,
            source=summary.study,
            data=summary.data.name,
            profile=summary.profile,
            preview=preview,
            path=path,
        )
        for evidence in summary.evidence
    ]


def _row(claim: Claim, found: list[LedgerEvidence], slips: list[Slip]) -> LedgerRow:
    evidence = tuple(e for e in found if e.claim == claim.id)
    weighed: list[LedgerVerdict] = [e.verdict for e in evidence if not e.preview]
    weighed = weighed or [e.verdict for e in evidence]
    if "cited" in claim.kinds:
        weighed.append("cited")
    return LedgerRow(
        claim=claim,
        verdict=join_verdicts(weighed),
        evidence=evidence,
        missing=tuple(kind for kind in claim.kinds if not _SAYS[kind] & set(weighed)),
        slips=tuple(slip for slip in slips if claim.id in slip.claims),
    )
