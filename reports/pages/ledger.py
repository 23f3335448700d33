"""The index page: the claims ledger, the notes' errors, and the results behind the pages."""

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
    """The claims under one heading."""

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
    """The heading of a claim's group."""
    if any(part.conditions or part.own for part in row.parts):
        return "measured"
    if row.verdict in ("not run", "cited"):
        return {"not run": "not-run", "cited": "cited"}[row.verdict]
    return "calculated" if any(part.exact for part in row.parts) else "cited"


def groups(rows: list[LedgerRow]) -> list[Group]:
    """The claims by heading, measured ones first; headings without claims are left out."""
    found = [Group(key, heading, [row for row in rows if group_of(row) == key]) for key, heading in HEADINGS.items()]
    return [group for group in found if group.rows]


def answer(inputs: Inputs) -> str:
    """The state of the ledger in one sentence."""
    rows = inputs.ledger.rows
    tested = [row for row in rows if group_of(row) in ("measured", "calculated") and row.verdict != "not run"]
    if not tested:
        return f"None of the lesson’s {len(rows)} claims has been tested yet."
    counts = {word: count(tested, word) for word in words.VERDICTS}
    said = ", ".join(f"{n} {words.VERDICTS[word][n > 1]}" for word, n in counts.items() if n)
    return f"{len(tested)} of the lesson’s {numbers.counted(len(rows), 'claim')} tested: {said}."


def chance(inputs: Inputs) -> str | None:
    """How many of the judged parts are wrong by chance, in a sentence."""
    ledger = inputs.ledger
    if not ledger.judged:
        return None
    expected = numbers.number(ledger.expected_false, 1 if ledger.expected_false >= 0.1 else 2)
    parts = numbers.counted(ledger.judged, "part")
    was = "was" if ledger.judged == 1 else "were"
    tests = numbers.counted(ledger.tests, "test")
    return (
        f"{parts} of claims {was} decided by measurement. Of {tests} in all, at most {expected} are wrong by "
        "chance alone, on average."
    )


def count_verdicts(inputs: Inputs) -> dict[Verdict, int]:
    """The number of claims by verdict, in the order of the page, without zeros."""
    verdicts = [row.verdict for row in inputs.ledger.rows]
    return {word: verdicts.count(word) for word in words.VERDICTS if word in verdicts}


def count(rows: list[LedgerRow], verdict: str | None = None, topic: str | None = None) -> int:
    """How many claims have a verdict and a topic; None means any."""
    return sum(verdict in (None, row.verdict) and topic in (None, row.claim.topic) for row in rows)


class Found(NamedTuple):
    """A piece of evidence in words: its data, the result, facts about the run, and its page."""

    title: str
    text: str
    outcome: str
    about: str
    page: str | None


def found_of(inputs: Inputs, evidence: Evidence) -> Found:
    """A piece of evidence in words."""
    summary = inputs.ledger.summaries.get(evidence.path) if evidence.path else None
    page = next((s.page for s in inputs.studies if evidence.path == s.folder / "summary.json"), None)
    if summary is None:
        page = f"{evidence.source}.html"  # benchmarks, or peers
        unit = "seed" if evidence.source == "peers" else "pair"
        said = [numbers.counted(evidence.found.n, unit)] if evidence.found.interval != "counted" else []
    else:
        said = [numbers.counted(evidence.found.n, "seed"), evidence.profile]
        said += ["tuned"] if evidence.tuned and summary.tuning else []
    said += [str(evidence.need)] if evidence.need else []
    return Found(
        evidence.title,
        words.found_on(summary, evidence.found),
        evidence.found.outcome,
        ", ".join(said),
        page,
    )


def context_of(inputs: Inputs) -> dict[str, Any]:
    """The variables of the index's template."""
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
