"""The index page: the claims ledger, the notes' slips, and what was read to make the pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

from markupsafe import Markup, escape

from reports import numbers
from reports.inputs import BENCHMARKS_PAGE, PEERS_PAGE, Inputs
from studies.evidence.claims import Topic, load_notes, load_slips
from studies.evidence.schema import LedgerVerdict
from studies.evidence.verdicts import LedgerEvidence

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


def count(inputs: Inputs, verdict: str | None = None, topic: str | None = None) -> int:
    """How many claims have a verdict and a topic; None is any."""
    return sum(verdict in (None, row.verdict) and topic in (None, row.claim.topic) for row in inputs.ledger.rows)


def prose(text: str) -> Markup:
    """Text from outside, escaped: `code` in backticks becomes code, a hyphen before a number a minus."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "−", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 escaped before


def context(inputs: Inputs, answers: Mapping[str, str], problems: Sequence[str]) -> dict[str, Any]:
    """All that the template of the index shows: `answers` by page, and the `problems` met on the way."""
    topics = [topic for topic in get_args(Topic) if any(row.claim.topic == topic for row in inputs.ledger.rows)]
    return {
        "answer": answer(inputs),
        "inputs": inputs,
        "rows": inputs.ledger.rows,
        "slips": load_slips(),
        "notes": load_notes(),
        "counts": {word: VERDICTS[word][n > 1] for word, n in count_verdicts(inputs).items()},
        "topics": topics,
        "count": partial(count, inputs),
        "problems": problems,
        "page_of": lambda evidence: page_of(evidence, inputs),
        "answers": answers,
        "benchmarks_page": BENCHMARKS_PAGE,
        "peers_page": PEERS_PAGE,
    }
