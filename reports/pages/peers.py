"""The page of the peers: RMSE against seconds of training, dotbias beside other libraries.

It opens with how far each library goes, on several splits, and on u1 with everything that is known beside ids. Then it
shows how they get there, on one split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean, median, stdev
from typing import Any

from reports import numbers
from reports.figures import quality
from reports.pages import Page
from reports.read import Inputs
from studies.evidence.peers import (
    AVERAGED,
    EVERYTHING,
    EVERYTHING_BY_DAY,
    FILES,
    REFERENCE,
    REFERENCE_EPOCHS,
    TARGET,
    Lead,
    Peer,
    PeerResults,
    Ratio,
    epoch_time,
    lead,
    read_peers,
    seconds_at,
    time_to,
    time_to_target,
)
from studies.evidence.statistics import t_interval

PLACE = 40
SPLITS = {
    "one": "one split",
    "fresh": "fresh splits",
    "fifths": "u1 to u5",
    "everything": "u1, with everything that is known",
}
WITH_EVERYTHING = (EVERYTHING, EVERYTHING_BY_DAY)
OURS, LESSON, FASTAI, DISTINCT = "dotbias-quick", "dotbias", "fastai", "fastai-distinct"


def plan(inputs: Inputs) -> list[Page]:
    """One page, if there is a comparison."""
    one = inputs.ledger.peers  # the ledger has read them for claim 1
    several = [results for file in (FILES["fresh"], FILES["fifths"]) if (results := inputs.file(file, read_peers))]
    everything = inputs.file(FILES["everything"], read_peers)
    found = [*several, *([everything] if everything else []), *([one] if one else [])]
    if not found:
        return []
    first = found[0]
    about = {"data": first.data.name, "commit": first.commit, "dirty": first.dirty, "finished": first.finished}
    source = inputs.results / FILES["one" if one else first.splits]
    context = partial(context_of, one, several, everything)
    return [Page("peers.html", "Other libraries", "peers.html.j2", source, context, about=about)]


@dataclass(frozen=True)
class Line:
    """A row of the table: a peer at its best number of epochs."""

    peer: Peer
    epochs: int
    rmse: float | None
    sd: float | None
    seconds: float  # the median
    to_target: float  # the median over seeds, infinite if most never reach it
    missed: int
    ratio: Ratio | None

    @property
    def versions(self) -> str:
        """The library's own version: the first in the list."""
        return next(iter(f"{name} {version}" for name, version in self.peer.versions.items()), "")


def lines(results: PeerResults) -> list[Line]:
    """The peers that have rows, the best RMSE first."""
    reference = results.reference()
    found = []
    for peer in results.peers:
        if not (best := peer.best()):
            continue
        quality = [point.rmse for point in best if point.rmse is not None]
        times = [time_to(row, TARGET) for row in peer.rows]
        found.append(
            Line(
                peer,
                best[0].epochs,
                mean(quality) if len(quality) == len(best) else None,
                stdev(quality) if len(quality) > 1 else None,
                median(point.seconds for point in best),
                median(times),
                sum(map(math.isinf, times)),
                time_to_target(peer, reference) if reference else None,
            )
        )
    return sorted(found, key=lambda line: math.inf if line.rmse is None else line.rmse)


@dataclass(frozen=True)
class Front:
    """One table of a comparison on several splits, the best RMSE first; leads are of dotbias's averaged trainings.

    `partial` has the peers that lack a split. They are not ranked: splits differ by more than libraries do.
    """

    results: PeerResults
    chart: Any
    lines: list[tuple[Line, Lead | None]]
    partial: list[tuple[Line, Lead | None]]

    @property
    def title(self) -> str:
        """What was split, and how: 5 fresh 90/10 splits."""
        size = self.results.data.size
        train, valid = size.get("train", 0), size.get("valid", 0)
        share = f" ({100 * train / (train + valid):.0f}/{100 * valid / (train + valid):.0f})" if train + valid else ""
        n = max((len(peer.rows) for peer in self.results.peers), default=0)
        return f"{n} fresh splits{share}" if self.results.splits == "fresh" else f"{SPLITS['fifths']}{share}"

    @property
    def answer(self) -> str:
        """The averaged trainings against the library with the lowest RMSE."""
        ours = next((line for line, _ in self.lines if line.peer.name == AVERAGED), None)
        line, ahead = best_other(self.lines)
        if ours is None or line is None or ahead is None:
            return ""
        interval = f" {numbers.interval(ahead.interval, 4)}" if ahead.interval else ""
        return (
            f"On {self.title}, averaged trainings of dotbias come to an RMSE of {numbers.number(ours.rmse, 4)} in "
            f"{numbers.seconds(ours.seconds)}, {line.peer.title} to {numbers.number(line.rmse, 4)} in "
            f"{numbers.seconds(line.seconds)}; {line.peer.title} minus dotbias: "
            f"{numbers.signed(ahead.difference, 4)}{interval}."
        )


def front(results: PeerResults) -> Front:
    """The table of a comparison on several splits."""
    found = compared(results, AVERAGED)
    every = {row.seed for line, _ in found for row in line.peer.rows}
    whole = [pair for pair in found if {row.seed for row in pair[0].peer.rows} == every]
    partial = [pair for pair in found if pair not in whole]
    return Front(results, quality.chart(results, drawn_words([line for line, _ in whole + partial])), whole, partial)


def compared(results: PeerResults, name: str) -> list[tuple[Line, Lead | None]]:
    """The lines, the best RMSE first, each with how far the peer of this name is ahead."""
    ours = results.peer(name)
    return [
        (line, lead(ours, line.peer, results.data) if ours and line.peer is not ours else None)
        for line in lines(results)
    ]


def best_other(lines: list[tuple[Line, Lead | None]]) -> tuple[Line, Lead | None] | tuple[None, None]:
    """The first line that is not dotbias'."""
    return next((pair for pair in lines if not pair[0].peer.name.startswith("dotbias")), (None, None))


@dataclass(frozen=True)
class Fold:
    """The table of u1 with everything that is known, the best RMSE first.

    The leads are of dotbias with the day. Their intervals, which are for several splits, are not shown.
    """

    results: PeerResults
    chart: Any
    lines: list[tuple[Line, Lead | None]]

    @property
    def answer(self) -> str:
        """What dotbias comes to, to the second and to the day against the best of myFM."""
        exact, by_day = (
            next((line for line, _ in self.lines if line.peer.name == name), None) for name in WITH_EVERYTHING
        )
        rival, ahead = best_other(self.lines)
        if exact is None or by_day is None or rival is None or ahead is None:
            return ""
        return (
            f"On u1 alone, with rating times and side information, dotbias comes to {numbers.number(exact.rmse, 4)} in "
            f"{numbers.seconds(exact.seconds)} if the second of a rating is known, to "
            f"{numbers.number(by_day.rmse, 4)} in {numbers.seconds(by_day.seconds)} if the day is. The best other "
            f"({rival.peer.title}) comes to {numbers.number(rival.rmse, 4)} in {numbers.seconds(rival.seconds)}; minus "
            f"dotbias to the day: {numbers.signed(ahead.difference, 4)}."
        )


def fold(results: PeerResults) -> Fold:
    """The table of the fold with everything that is known."""
    found = compared(results, EVERYTHING_BY_DAY)
    return Fold(results, quality.chart(results, drawn_words([line for line, _ in found])), found)


def drawn_words(found: list[Line]) -> str:
    """The figure in words: each library at its best."""
    return "; ".join(
        f"{line.peer.title}: {numbers.number(line.rmse, 4)} after {numbers.seconds(line.seconds)}" for line in found
    )


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval, if it has one: 1.4× [1.3×, 1.6×]."""
    interval = "" if ratio.low is None else f" {numbers.times_interval(ratio.low, ratio.high, ratio.ratio)}"
    return f"{numbers.times(ratio.ratio, ratio.low, ratio.high)}{interval}"


def reference_text(results: PeerResults) -> str:
    """The reference for times to the target: cornac's 20 epochs, 49 ms to an RMSE of 0.902."""
    peer = results.reference()
    if peer is None:
        return ""
    seconds = median(seconds_at(row, REFERENCE_EPOCHS) for row in peer.rows)
    ends = [point.rmse for row in peer.rows for point in row.points if point.epochs == REFERENCE_EPOCHS and point.rmse]
    level = f", ending at an RMSE of {numbers.number(mean(ends), 4)}" if ends else ""
    return f"{REFERENCE}’s {REFERENCE_EPOCHS} epochs ({numbers.seconds(seconds)}{level})"


def answer(results: PeerResults) -> str:
    """The answer in a sentence: time to the target as a multiple of the reference's, and epochs against fastai's."""
    ours, lesson, reference = results.peer(OURS), results.peer(LESSON), results.reference()
    stock = results.peer(FASTAI)
    ratio = time_to_target(ours, reference) if ours and reference else None
    epochs = epoch_time(stock, lesson) if stock and lesson else None
    sentences = []
    if ratio:
        missed = f"{ratio.misses} missed" if ratio.misses else "none missed"
        seeds = f"{numbers.counted(ratio.n, 'seed')}, {missed}"
        sentences.append(
            f"to an RMSE of {TARGET} dotbias takes {ratio_text(ratio)} the time of {reference_text(results)}; {seeds}"
        )
    if epochs:
        sentences.append(f"an epoch of fastai takes {ratio_text(epochs)} as long as one of dotbias")
    if not sentences:
        return "dotbias was not measured in turn with cornac or fastai."
    text = "; ".join(sentences)
    return f"{text[0].upper() if not text.startswith('dotbias') else text[0]}{text[1:]}."


def sampling(results: PeerResults) -> dict[str, Any] | None:
    """How many distinct rows fastai's loader draws in an epoch, and the effect on the RMSE."""
    stock, distinct = results.peer(FASTAI), results.peer(DISTINCT)
    if not (stock and stock.drawn):
        return None
    shown = [peer for peer in (stock, distinct, results.peer(LESSON)) if peer and peer.drawn]
    final = {
        peer.name: {row.seed: row.points[-1].rmse for row in peer.rows if row.points[-1].rmse is not None}
        for peer in shown
    }
    pairs = [final[FASTAI][seed] - final[DISTINCT][seed] for seed in final[FASTAI] if seed in final.get(DISTINCT, {})]
    n, trained = stock.drawn.rows, results.data.size.get("train")
    return {
        "rows": [(peer, list(final[peer.name].values())) for peer in shown],
        "version": stock.versions.get("fastai"),
        "expected": 1 - (1 - 1 / trained) ** n if n and trained else None,
        "difference": mean(pairs) if pairs else None,
        "interval": t_interval(pairs) if len(pairs) > 1 else None,
        "n": len(pairs),
    }


def context_of(
    one: PeerResults | None, several: list[PeerResults], everything: PeerResults | None = None
) -> dict[str, Any]:
    """The variables of the peers page's template."""
    fronts, known = [front(results) for results in several], fold(everything) if everything else None
    answers = [*(front.answer for front in fronts), known.answer if known else "", answer(one) if one else ""]
    every = [*several, *([everything] if everything else []), *([one] if one else [])]
    return {
        "answer": " ".join(filter(None, answers)) or "No library was measured on the same splits as dotbias.",
        "fronts": fronts,
        "fold": known,
        "every": every,
        "results": one,
        "commit_ids": commit_ids,
        "run_with": run_with(every),
        "splits": SPLITS,
        **(context_of_one(one) if one else {}),
    }


def commit_ids(results: PeerResults) -> list[str]:
    """The commits at which the rows were measured, in order."""
    return sorted({row.commit or "unknown" for peer in results.peers for row in peer.rows})


def context_of_one(results: PeerResults) -> dict[str, Any]:
    """The variables for the comparison on one split."""
    stock, lesson, found = results.peer(FASTAI), results.peer(LESSON), lines(results)
    return {
        "chart": quality.chart(results, drawn_words(found)),
        "lines": found,
        "reference": reference_text(results),
        "target": TARGET,
        "ratio_text": ratio_text,
        "epoch_times": [
            (peer, ratio)
            for peer in results.peers
            if lesson and peer.settings.get("bs") == lesson.settings.get("bs") and peer.name != LESSON
            if (ratio := epoch_time(peer, lesson))
        ],
        "sampling": sampling(results) if stock else None,
        "mean": mean,
        "inf": math.inf,
    }


def run_with(every: list[PeerResults]) -> list[tuple[Peer, str]]:
    """Each peer once, with its settings, epochs and versions in words; by comparison where these differ."""
    peers: dict[str, Peer] = {}
    told: dict[str, dict[str, list[str]]] = {}
    for results in every:
        for peer in results.peers:
            versions = [f"{name} {version}" for name, version in peer.versions.items()]
            words = "; ".join([settings(peer.settings), f"epochs {', '.join(map(str, peer.epochs))}", *versions])
            peers.setdefault(peer.name, peer)
            told.setdefault(peer.name, {}).setdefault(words, []).append(SPLITS[results.splits])
    return [(peer, _by_comparison(told[name])) for name, peer in peers.items()]


def _by_comparison(told: Mapping[str, list[str]]) -> str:
    if len(told) == 1:
        return next(iter(told))
    return ". ".join(f"On {' and on '.join(where)}: {words}" for words, where in told.items())


def settings(known: Mapping[str, Any]) -> str:
    """Settings in words: bs 64, lr 0.005."""
    return ", ".join(f"{name} {_in_words(value)}" for name, value in known.items())


def _in_words(value: Any) -> str:
    """A setting's value in words, also if it is a list, or settings itself."""
    if isinstance(value, Mapping):
        return f"({settings(value)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_in_words, value))}]"
    text = numbers.setting(value)
    return text if isinstance(value, str) else text.replace(",", "")  # commas stand between values here
