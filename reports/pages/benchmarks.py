"""The pages of the benchmarks, and of those on a GPU: ratios to a baseline with intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from reports import numbers
from reports.figures import crossover, ratios, scale
from reports.figures.drawing import Chart
from reports.pages import Page
from reports.read import Inputs, Missing
from reports.timings import TITLES, baselines, corner, implementation, one_hot, plain, span, title, varying
from studies.evidence.benchmarks import Benchmarks, Timing, read_benchmarks

PLACE = 30
FILE, GPU_FILE = "benchmarks.json", "gpu.json"


def plan(inputs: Inputs) -> list[Page]:
    """A page for the benchmarks, and one for those on a GPU, if there are any."""
    pages = []
    benchmarks = inputs.ledger.benchmarks  # the ledger has read them for claim 26
    if benchmarks is None:
        inputs.missing.append(Missing("There are no benchmarks that can be read.", "tox run -e bench"))
    else:
        pages.append(_page("Benchmarks", inputs.results / FILE, benchmarks, partial(context_of, benchmarks)))
    measured = inputs.file(GPU_FILE, read_benchmarks)
    if measured is not None:
        pages.append(_page("GPU", inputs.results / GPU_FILE, measured, partial(gpu_context, measured)))
    return pages


def _page(name: str, path: Path, benchmarks: Benchmarks, context: Callable[[], dict[str, Any]]) -> Page:
    about = {
        "profile": benchmarks.profile,
        "commit": benchmarks.commit,
        "dirty": benchmarks.dirty,
        "finished": benchmarks.machine.get("measured", ""),
    }
    return Page(f"{path.stem}.html", name, "benchmarks.html.j2", path, context, about=about)


def answer(benchmarks: Benchmarks) -> str:
    """The answer in a sentence: the largest ratio, and the corners of the grid in which the best product wins."""
    timings = one_hot(benchmarks)
    if not timings:
        return "The one-hot product was not measured against the lookup in these benchmarks."
    slowest = max(timings, key=lambda t: t.ratio)
    corners: dict[tuple[object, ...], list[Timing]] = {}
    for t in timings:
        corners.setdefault((t.stage, t.classes, t.batch, t.width), []).append(t)
    quickest = [min(products, key=lambda t: t.ratio) for products in corners.values()]
    wins = [t for t in quickest if t.ratio_high < 1]
    said = f"A one-hot product takes up to {numbers.times(slowest.ratio)} the lookup’s time ({corner(slowest)})"
    if not wins:
        return f"{said}, and is faster in none of {numbers.counted(len(corners), 'corner')}."
    best = min(wins, key=lambda t: t.ratio)
    return (
        f"{said}; the best one is faster in {len(wins)} of {numbers.counted(len(corners), 'corner')}, "
        f"at best with {numbers.times(best.ratio)} ({corner(best)})."
    )


def training_words(timings: list[Timing]) -> str:
    """Time and memory of whole trainings."""
    said = []
    for t in timings:
        if not (t.training_s and t.epochs and t.ratings and t.memory_bytes and t.params and t.batch):
            continue
        text = (
            f"Batch {t.batch:,}, {plain(t.implementation)}: {t.epochs} epochs of {t.ratings:,} ratings over "
            f"{t.params:,} parameters took {numbers.seconds(t.training_s)}, once, in a separate process. Above "
            f"ratings and libraries, its memory peaked at {numbers.size(t.memory_bytes)}, "
            f"{t.memory_bytes / t.params:.0f} bytes per parameter, with "
            f"{numbers.size(8 * t.ratings)} for an epoch’s order"
        )
        if t.baseline_memory_bytes:
            text += f"; that of {plain(t.baseline)}, after its first steps, at {numbers.size(t.baseline_memory_bytes)}"
        said.append(f"{text}.")
    return " ".join(said)


def group_chart(group: str, timings: list[Timing], benchmarks: Benchmarks) -> Chart | None:
    """The chart of a group."""
    if group == "lookup":
        return crossover.chart(benchmarks)
    return scale.chart(timings) if group == "scale" else ratios.chart(group, timings)


def context_of(benchmarks: Benchmarks) -> dict[str, Any]:
    """The variables of the benchmarks page's template."""
    by_group = {group: [t for t in benchmarks.timings if t.group == group] for group in TITLES}
    for t in benchmarks.timings:
        if t.group not in TITLES:
            by_group.setdefault(t.group, []).append(t)
    pairs = sorted(t.ratio_pairs for t in benchmarks.timings)
    return {
        "title": "Benchmarks",
        "question": "How fast are the lookup, the fused ops and the optimizers?",
        "run": "tox run -e bench",
        "answer": answer(benchmarks),
        "benchmarks": benchmarks,
        "groups": [
            {
                "title": title(group),
                "chart": group_chart(group, timings, benchmarks),
                "trainings": training_words(timings),
                "conditions": varying(timings),
                "baselines": baselines(timings),
                "timings": timings,
            }
            for group, timings in by_group.items()
            if timings
        ],
        "pairs": span(pairs),
        "plain": plain,
        "implementation": implementation,
    }


def gpu_context(benchmarks: Benchmarks) -> dict[str, Any]:
    """The variables of the template for benchmarks on a GPU."""
    ours = [t for t in benchmarks.timings if t.implementation.startswith("triton") and t.implementation != t.baseline]
    faster = [t for t in ours if t.ratio_high < 1]
    device = benchmarks.machine.get("GPU", "a GPU")
    passed, failed = (benchmarks.tests.get(outcome, 0) for outcome in ("passed", "failed"))
    ran = f"{passed:,} tests passed and {failed:,} failed" if passed + failed else "No tests ran"
    compared = numbers.counted(len(ours), "measurement")
    return context_of(benchmarks) | {
        "title": "Benchmarks on a GPU",
        "question": "Are Triton’s kernels right and fast on a GPU?",
        "run": "tox run -e gpu",
        "answer": (
            f"{ran} on {device}. Triton’s kernels are faster than their baselines in {len(faster):,} of {compared}."
        ),
    }
