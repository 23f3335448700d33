"""What a study's command prints when it has finished."""

from __future__ import annotations

from studies.evidence.outcomes import Need, need_of
from studies.evidence.outside import printable
from studies.evidence.schema import PartFound, Summary, in_words


def answer(summary: Summary) -> str:
    """The results, for a terminal: one line per part, then the arms."""
    name, metric = next(iter(summary.metrics.items()))
    lines = [f"{summary.question}  ({summary.data.name}, profile {summary.profile})"]
    lines += [f"  {_line(part, need_of(part, summary.overlap(part)))}" for part in summary.parts]
    lines.append(f"{metric.title}:")
    width = max(map(len, summary.arms))
    for arm, figures in summary.arms.items():
        found = figures.metrics[name]
        failed = [f"{count} {what}" for what in ("diverged", "missed") if (count := getattr(figures, what))]
        mean = "-" if found.mean is None else f"{found.mean:.5g}"
        lines.append(", ".join([f"  {arm:{width}}  {mean:>9}  n = {figures.n}", *failed]))
    return "\n".join(map(printable, lines))


def _line(part: PartFound, need: Need | None) -> str:
    low, high = ("−∞" if part.low is None else f"{part.low:+.4g}", "∞" if part.high is None else f"{part.high:+.4g}")
    interval = part.infinite or f"[{low}, {high}]"
    estimate = "" if part.estimate is None else f" {part.estimate + 0.0:+.4g}"  # + 0.0: no negative zero
    margin = "" if part.margin is None else f", margin {part.margin:.3g}"
    expected = part.expected_half_width
    ahead = "" if expected is None else f"; the regular profile's interval will reach about {expected:.2g} to each side"
    claim = f"claim {part.part}: " if part.part else ""
    outcome = f"{claim}{part.says}: {part.outcome}, {in_words(part.reason)}"
    return f"{outcome}:{estimate} {interval}{margin}, n = {part.n}{f'; {need}' if need else ''}{ahead}"
