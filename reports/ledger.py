"""The index page: the claims ledger, the notes' slips, and what was read to make the pages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from markupsafe import Markup, escape

from reports import numbers
from reports.benchmarks import Benchmarks
from reports.study import Study
from reports.study import answer as study_answer
from studies.evidence.claims import Topic, load_notes, load_slips
from studies.evidence.peers import PeerResults
from studies.evidence.schema import LedgerVerdict
from studies.evidence.verdicts import Ledger, LedgerEvidence

BENCHMARKS_PAGE = "benchmarks.html"
PEERS_PAGE = "peers.html"

# How a count of claims reads, of one and of several, in the order of the page.
VERDICTS: dict[LedgerVerdict, tuple[str, str]] = {
    "holds": ("holds", "hold"),
    "true": ("true by calculation", "true by calculation"),
    "depends": ("depends", "depend"),
    "fails": ("fails", "fail"),
    "false": ("false", "false"),
    "inconclusive": ("inconclusive", "inconclusive"),
    "cited": ("cited", "cited"),
    "not run": ("not run yet", "not run yet"),
}


@dataclass(frozen=True)
class Missing:
    """A part that is not there: what, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Inputs:
    """Everything the pages are made from."""

    results: Path
    ledger: Ledger
    studies: list[Study]
    benchmarks: Benchmarks | None
    problems: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    peers: PeerResults | None = None


def slug(words: str) -> str:
    """Words as part of an id: Weight decay is weight-decay."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def page_of(evidence: LedgerEvidence, inputs: Inputs) -> str | None:
    """The page that shows where a piece of evidence comes from."""
    if evidence.source == "benchmarks" and inputs.benchmarks is not None:
        return BENCHMARKS_PAGE
    return next((s.page for s in inputs.studies if evidence.path == s.folder / "summary.json"), None)


def answer(inputs: Inputs) -> str:
    """How far the ledger is, in one sentence."""
    verdicts = [row.verdict for row in inputs.ledger.rows]
    counts = {word: n for word, n in count_verdicts(inputs).items() if word not in ("cited", "not run")}
    if not counts:
        return f"None of the lesson’s {len(verdicts)} claims has been put to the test yet."
    said = ", ".join(f"{n} {VERDICTS[word][n > 1]}" for word, n in counts.items())
    return f"{sum(counts.values())} of the lesson’s {numbers.counted(len(verdicts), 'claim')} put to the test: {said}."


def count_verdicts(inputs: Inputs) -> dict[LedgerVerdict, int]:
    """How many claims have each verdict that any has, in the order of the page."""
    verdicts = [row.verdict for row in inputs.ledger.rows]
    return {word: verdicts.count(word) for word in VERDICTS if word in verdicts}


def prose(text: str) -> Markup:
    """Text from outside, escaped: `code` in backticks becomes code, a hyphen before a number a minus."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "−", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 escaped before


def context(inputs: Inputs) -> dict[str, Any]:
    """All that the template of the index shows."""
    topics = [topic for topic in get_args(Topic) if any(row.claim.topic == topic for row in inputs.ledger.rows)]
    return {
        "answer": answer(inputs),
        "inputs": inputs,
        "rows": inputs.ledger.rows,
        "slips": load_slips(),
        "notes": load_notes(),
        "counts": {word: (n, VERDICTS[word][n > 1]) for word, n in count_verdicts(inputs).items()},
        "topics": {topic: sum(row.claim.topic == topic for row in inputs.ledger.rows) for topic in topics},
        "problems": [*inputs.ledger.problems, *inputs.problems],
        "page_of": lambda evidence: page_of(evidence, inputs),
        "study_answer": study_answer,
        "benchmarks_page": BENCHMARKS_PAGE,
        "peers_page": PEERS_PAGE,
    }
