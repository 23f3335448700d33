"""The index page: the claims ledger, the notes' slips, and what was read to make the pages."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, get_args

from reports import numbers, words
from reports.pages import Page, slug
from reports.read import INDEX_PAGE, Inputs
from studies.evidence.claims import Topic, load_notes, load_slips
from studies.evidence.ledger import Doubt, Evidence, LedgerRow, Verdict

PLACE = 10


class Group(NamedTuple):
    """Claims that stand together under one heading."""

    key: str
    heading: str
    rows: list[LedgerRow]


HEADINGS = {
    "measured": "Measured",
    "calculated": "Calculated, or read in the code",
    "cited": "Cited, not tested here",
    "not-run": "Not run yet",
}


def plan(inputs: Inputs) -> list[Page]:
    """The index."""
    return [Page(INDEX_PAGE, "Ledger", "ledger.html.j2", inputs.results, partial(context_of, inputs))]


def group_of(row: LedgerRow) -> str:
    """The heading under which a claim stands."""
    if any(part.conditions or part.own for part in row.parts):
        return "measured"
    if row.verdict in ("not run", "cited"):
        return {"not run": "not-run", "cited": "cited"}[row.verdict]
    return "calculated" if any(part.exact for part in row.parts) else "cited"


def groups(rows: list[LedgerRow]) -> list[Group]:
    """The claims by heading, those that were measured first; no heading without a claim."""
    found = [Group(key, heading, [row for row in rows if group_of(row) == key]) for key, heading in HEADINGS.items()]
    return [group for group in found if group.rows]


def answer(inputs: Inputs) -> str:
    """How far the ledger is, in one sentence."""
    rows = inputs.ledger.rows
    tested = [row for row in rows if group_of(row) in ("measured", "calculated") and row.verdict != "not run"]
    if not tested:
        return f"None of the lesson’s {len(rows)} claims has been put to the test yet."
    counts = {word: count(tested, word) for word in words.VERDICTS}
    said = ", ".join(f"{n} {words.VERDICTS[word][n > 1]}" for word, n in counts.items() if n)
    return f"{len(tested)} of the lesson’s {numbers.counted(len(rows), 'claim')} put to the test: {said}."


def chance(inputs: Inputs) -> str | None:
    """How many of the judged parts come out wrong by chance alone."""
    ledger = inputs.ledger
    if not ledger.judged:
        return None
    expected = numbers.number(ledger.expected_false, 1 if ledger.expected_false >= 0.1 else 2)
    parts = numbers.counted(ledger.judged, "part")
    was = "was" if ledger.judged == 1 else "were"
    return f"{parts} of claims {was} decided by measurement; by chance alone at most {expected} of them come out wrong."


def count_verdicts(inputs: Inputs) -> dict[Verdict, int]:
    """How many claims have each verdict that any has, in the order of the page."""
    verdicts = [row.verdict for row in inputs.ledger.rows]
    return {word: verdicts.count(word) for word in words.VERDICTS if word in verdicts}


def count(rows: list[LedgerRow], verdict: str | None = None, topic: str | None = None) -> int:
    """How many claims have a verdict and a topic; None is any."""
    return sum(verdict in (None, row.verdict) and topic in (None, row.claim.topic) for row in rows)


class Found(NamedTuple):
    """A piece of evidence in words: of which data, what was found, what of the run matters, and its page."""

    title: str
    text: str
    outcome: str
    about: str
    page: str | None


def found_of(inputs: Inputs, evidence: Evidence) -> Found:
    """A piece of evidence in words."""
    summary = inputs.ledger.summaries.get(evidence.path) if evidence.path else None
    page = next((s.page for s in inputs.studies if evidence.path == s.folder / "summary.json"), None)
    if summary is None and evidence.source == "benchmarks":
        page = "benchmarks.html"
    if summary is None:
        said = [numbers.counted(evidence.found.n, "pair")] if evidence.found.interval != "counted" else []
    else:
        said = [numbers.counted(evidence.found.n, "seed"), evidence.profile]
        said += ["tuned"] if evidence.tuned and summary.tuning else []
    return Found(
        evidence.title,
        words.found_on(summary, evidence.found),
        evidence.found.outcome,
        ", ".join(said),
        page,
    )


def context_of(inputs: Inputs) -> dict[str, Any]:
    """All that the template of the index shows."""
    rows = inputs.ledger.rows
    topics = [topic for topic in get_args(Topic) if any(row.claim.topic == topic for row in rows)]
    counts = count_verdicts(inputs)
    doubted = {doubt for row in rows if row.certainty for doubt in row.certainty.doubts}
    return {
        "answer": answer(inputs),
        "chance": chance(inputs),
        "inputs": inputs,
        "groups": groups(rows),
        "slips": load_slips(),
        "checked_slips": inputs.ledger.slips,
        "notes": load_notes(),
        "counts": {word: words.VERDICTS[word][n > 1] for word, n in counts.items()},
        "topics": topics,
        "count": count,
        "rows": rows,
        "nothing": [
            (slug(verdict), slug(topic)) for verdict in counts for topic in topics if not count(rows, verdict, topic)
        ],
        "footnotes": {doubt: number for number, doubt in enumerate((d for d in get_args(Doubt) if d in doubted), 1)},
        "any_own": any(part.own for row in rows for part in row.parts),
        "found_of": partial(found_of, inputs),
        "words": words,
    }
