"""The page of a study: its answer, its limits, every part, every arm, its figures, how to run it again."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from reports import figures, numbers, words
from reports.arms import differing, name_of, title_of
from reports.numbers import Write
from reports.pages import Page
from reports.read import Inputs, Study
from studies.evidence.outcomes import Need, need_of
from studies.evidence.schema import SUMMARY, Arm, Contrast, Found, Measured, PartFound, Summary

PLACE = 20
SECTIONS = ("parts", "arms", "metrics", "curves", "tuning")  # the sections in the template


def plan(inputs: Inputs) -> list[Page]:
    """A page for each study's results on each data set and profile."""
    return [
        Page(
            study.page,
            study.summary.title,
            "study.html.j2",
            study.folder / SUMMARY,
            partial(context_of, study, inputs.studies),
            everywhere=False,
            about={
                "data": study.summary.data.name + (", your own" if study.summary.own else ""),
                "profile": study.summary.profile,
                "commit": study.summary.provenance.commit,
                "dirty": study.summary.provenance.dirty,
                "finished": study.summary.provenance.finished,
            },
        )
        for study in inputs.studies
    ]


class PartRow(NamedTuple):
    """A row of the table of parts: a part, or its comparison with one rival."""

    part: PartFound
    found: Found
    says: str
    outcome: str
    write: Write
    rival: bool
    need: Need | None = None

    @property
    def sign(self) -> str:
        """The estimate with its sign."""
        return numbers.plus(self.write(self.found.estimate), self.found.estimate)

    @property
    def interval(self) -> str:
        """The deciding interval."""
        return words.interval(self.found, self.write)

    @property
    def expected(self) -> str:
        """How far the regular profile's interval will reach, predicted by a quick run."""
        width = None if self.rival else self.part.expected_half_width
        return "" if width is None else f"± {numbers.writer(width, self.part.margin)(width)}"

    @property
    def lost(self) -> str:
        """How many runs failed: 2 diverged, 1 missed."""
        counts = {"diverged": self.found.diverged, "missed": self.found.missed, "dropped": self.found.dropped}
        return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def part_rows(summary: Summary) -> list[PartRow]:
    """The parts in the order of their declaration, each followed by its rivals."""
    rows = []
    for part in summary.parts:
        need = need_of(part, summary.overlap(part))
        rows.append(PartRow(part, part, part.says, words.outcome(summary, part), words.writer_of(part), False, need))
        for rival in part.rivals if len(part.rivals) > 1 else []:
            said = words.outcome(summary, part.model_copy(update={"form": "noninferior"}), rival)
            says = f"against {name_of(summary, rival.arm)}"
            rows.append(PartRow(part, rival, says, said, words.writer_of(part, rival), True))
    return rows


class ArmRow(NamedTuple):
    """A row of the table of arms."""

    name: str
    label: str
    arm: Arm
    contrast: Contrast | None


def arm_rows(summary: Summary) -> list[ArmRow]:
    """The arms in the order of their declaration; the baseline has no contrast."""
    by_arm = {contrast.arm: contrast for contrast in summary.contrasts if contrast.baseline == summary.baseline}
    return [ArmRow(name, name_of(summary, name), arm, by_arm.get(name)) for name, arm in summary.arms.items()]


def writers(summary: Summary) -> dict[str, Write]:
    """The function that writes each metric's numbers in the table of arms, so that different means look different."""
    found = {}
    for metric in summary.metrics:
        means = [arm.metrics[metric].mean for arm in summary.arms.values() if metric in arm.metrics]
        widths = [c.interval for c in summary.contrasts if c.interval] if metric == summary.metric else []
        found[metric] = numbers.writer(*means, bounds=min(widths, key=lambda ends: ends[1] - ends[0], default=None))
    return found


def measured(summary: Summary, metric: str, arm: str) -> Measured | None:
    """An arm's difference from the baseline in another metric, if there is one."""
    measure = summary.measures.get(metric)
    return measure.arms.get(arm) if measure and arm != summary.baseline else None


def missing_runs(study: Study) -> list[str]:
    """The planned runs that are missing: 'wd = 0.1: 2 seeds (3, 7)'."""
    if study.runs is None:
        return []
    runs = study.runs[study.runs["kind"] == "run"]
    there = set(zip(runs["arm"], runs["seed"], strict=True))
    lines = []
    for arm in study.summary.arms:
        seeds = [seed for seed in study.summary.provenance.seeds if (arm, seed) not in there]
        if seeds:
            lines.append(f"{name_of(study.summary, arm)}: {numbers.counted(len(seeds), 'seed')} ({ranges(seeds)})")
    return lines


def lost_runs(summary: Summary, how: str) -> list[str]:
    """Which arms diverged, or missed their target, and how often."""
    arms = ((name_of(summary, name), getattr(arm, how), arm.n) for name, arm in summary.arms.items())
    return [f"{name}: {lost} of {n}" for name, lost, n in arms if lost]


def splits(summary: Summary) -> list[tuple[int, int | None]]:
    """The sizes of training and validation sets, each once."""
    return list(dict.fromkeys((arm.n_train, arm.n_valid) for arm in summary.arms.values() if arm.n_train))


def ranges(values: list[int]) -> str:
    """Whole numbers as ranges: 0–9, 12."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in parts)


def commit_note(summary: Summary) -> str | None:
    """A warning about the code behind the runs, if it was not one clean commit."""
    provenance = summary.provenance
    notes = []
    if len(set(provenance.commits)) > 1:
        notes.append(f"The runs come from {len(set(provenance.commits))} commits")
    elif provenance.commits and provenance.commit not in (None, *provenance.commits):
        notes.append(f"The runs come from commit {provenance.commits[0]}, this summary from {provenance.commit}")
    if provenance.dirty:
        notes.append("the working tree had uncommitted changes" if notes else "Run with uncommitted changes")
    if provenance.commit is None:
        notes.append("the commit is not known" if notes else "The commit is not known")
    return f"{'; '.join(notes)}: no commit reproduces exactly these numbers." if notes else None


def beside(study: Study, studies: list[Study]) -> list[tuple[str, str]]:
    """Links to the other results of the same study: page and name."""
    others = [other for other in studies if other.summary.study == study.summary.study and other is not study]
    return [(other.page, f"{other.summary.data.name}, {other.summary.profile}") for other in others]


def context_of(study: Study, studies: list[Study]) -> dict[str, Any]:
    """The variables of a study page's template."""
    summary = study.summary
    charts = figures.of_study(study)
    states = summary.provenance.trials
    return {
        "study": study,
        "summary": summary,
        "answer": words.answer(study),
        "limits": words.limits(summary),
        "beside": beside(study, studies),
        "commit_note": commit_note(summary),
        "charts": {section: charts.get(section, []) for section in SECTIONS},
        "more_charts": {section: found for section, found in charts.items() if section not in SECTIONS},
        "parts": part_rows(summary),
        "rows": arm_rows(summary),
        "writers": writers(summary),
        "further": list(summary.metrics)[1:],
        "differing": differing(summary),
        "noise_span": words.noise_span(study),
        "spread": words.spread(summary.noise_floor),
        "write_noise": words.writer_of_noise(study),
        "missing_runs": missing_runs(study),
        "diverged": lost_runs(summary, "diverged"),
        "missed": lost_runs(summary, "missed"),
        "failed": sum(n for state, n in states.items() if state.lower().startswith("fail")),
        "splits": splits(summary),
        "seeds": ranges(summary.provenance.seeds),
        "name": partial(name_of, summary),
        "title": partial(title_of, summary),
        "measured": partial(measured, summary),
        "interval_of": numbers.interval_of,
        "words": words,
    }
