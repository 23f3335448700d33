"""Charts as inline SVG that belong to their page: its font, its ink, its accents, light or dark.

A chart is drawn twice, for a wide and for a narrow screen, and comes with its data as a table. What may be told
apart by color is told apart by marker and line style as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports import numbers

WIDE, NARROW = 720, 350  # units of the SVG; the page shows them at about one pixel each

# What matplotlib draws with → what the page's style sheet decides. The values are those of the light theme.
INK, SOFT, FAINT, PAPER, ACCENT = "#1b1f24", "#5b6471", "#9aa2ad", "#ffffff", "#0061a0"
# Okabe and Ito's palette, darkened until it can be read on white; the style sheet has lighter ones for dark pages.
SERIES = ["#0061a1", "#b3430f", "#0b7a5a", "#8a4c87", "#7a6200", "#4d5560"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
LINES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2))]
PAGE_COLORS = {INK: "currentColor", SOFT: "var(--soft)", FAINT: "var(--faint)", PAPER: "var(--paper)"}
PAGE_COLORS |= {ACCENT: "var(--accent)"} | {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}

STYLE: Any = {
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # wider than most: what fits in it fits in the reader's font
    "font.size": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
}

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


@dataclass(frozen=True)
class Chart:
    """A figure of a page: two drawings of it, what it shows in words, and its numbers."""

    wide: Markup
    narrow: Markup
    caption: str
    data: pd.DataFrame


def chart(
    name: str,
    title: str,
    description: str,
    caption: str,
    data: pd.DataFrame,
    draw: Callable[[Figure, bool], None],
    height: Callable[[bool], float],
) -> Chart:
    """Draw with `draw(figure, wide)` at both widths; `height(wide)` is in units of the SVG."""
    drawings = []
    for wide in (True, False):
        drawing = f"{name}-{'wide' if wide else 'narrow'}"
        with mpl.rc_context({**STYLE, "svg.hashsalt": drawing}):
            figure = Figure(figsize=((WIDE if wide else NARROW) / 72, height(wide) / 72), layout="constrained")
            draw(figure, wide)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        drawings.append(_inline(text.getvalue(), drawing, title, description))
    return Chart(drawings[0], drawings[1], caption, data)


def _inline(text: str, name: str, title: str, description: str) -> Markup:
    """Matplotlib's SVG, fit to stand in a page: named, without fixed size, in the page's colors and font."""
    svg = ElementTree.fromstring(text)  # noqa: S314 our own drawing, made a moment ago
    # Clip paths and markers are referred to by id; any other id would only clash with the page's.
    used = set(re.findall(r"#([\w.-]+)", text))
    for element in svg.iter():
        if (identity := element.get("id")) is not None:
            if identity in used:
                element.set("id", f"{name}-{identity}")
            else:
                del element.attrib["id"]
        for key, value in element.attrib.items():
            if key == f"{{{XLINK}}}href":
                element.set(key, value.replace("#", f"#{name}-"))
            elif key == "clip-path":
                element.set(key, value.replace("url(#", f"url(#{name}-"))
            elif key == "style":
                value = re.sub(r"font-family: [^;]*;?\s*|(?<=font): [^;]*px [^;]*", "", value)
                element.set(key, re.sub("#[0-9a-f]{6}", lambda m: PAGE_COLORS.get(m[0], m[0]), value))
            elif key == "d":  # a hundredth of a pixel is enough
                element.set(key, re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", value).replace("\n", ""))
    for defs in svg.findall(f"{{{SVG}}}defs"):
        if defs.find(f"{{{SVG}}}style") is not None:
            svg.remove(defs)  # its rule would reach the whole page; the style sheet has it for charts alone
    for key in ("width", "height"):
        del svg.attrib[key]
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = words
        svg.insert(place, element)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # noqa: S704 escaped by ElementTree


# Axes


@dataclass(frozen=True)
class Positions:
    """Where the arms stand on the axis: numbers on a logarithmic axis with 0 set apart, else one after another."""

    by_arm: dict[str, float]
    labels: dict[str, str]
    break_at: float | None = None


def positions(values: dict[str, object]) -> Positions:
    """Places for the arms' `values`, by arm; the arms come in the order of the axis."""
    labels = {arm: numbers.setting(value) for arm, value in values.items()}
    amounts = {
        arm: float(value)
        for arm, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    }
    above = [amount for amount in amounts.values() if amount > 0]
    if len(amounts) < len(values) or not above:
        return Positions({arm: float(place) for place, arm in enumerate(values)}, labels)
    first = np.log10(min(above))
    apart = max(0.4, 0.14 * (np.log10(max(above)) - first))
    at = {arm: float(np.log10(amount)) if amount else float(first - apart) for arm, amount in amounts.items()}
    return Positions(at, labels, float(first - apart / 2) if 0.0 in amounts.values() else None)


def number_axis(axis: Any, digits: int | None = None, sign: bool = False) -> None:
    """Write an axis' numbers as the page writes numbers."""

    def text(value: float, _: object) -> str:
        ticks = axis.get_majorticklocs()
        step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
        decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9))) if digits is None else digits
        while digits is None and abs(round(step, decimals) - step) > step / 100:
            decimals += 1  # a step of 0.25 needs two
        return numbers.signed(value, decimals) if sign else numbers.number(value, decimals)

    axis.set_major_formatter(FuncFormatter(text))


def value_axis(axes: Axes, places: Positions, label: str, keep: Sequence[str], room: float) -> None:
    """Ticks at the arms; where labels would touch, those in `keep` win, then from the left."""
    per_unit = room / max(1e-9, max(places.by_arm.values()) - min(places.by_arm.values()))  # pixels
    arms = sorted(places.by_arm, key=lambda arm: (arm not in keep, places.by_arm[arm]))
    shown: list[str] = []
    for arm in arms:
        apart = [
            abs(places.by_arm[arm] - places.by_arm[other]) * per_unit
            - 3.9 * (len(places.labels[arm]) + len(places.labels[other]))
            for other in shown
        ]
        if min(apart, default=np.inf) > 4:
            shown.append(arm)
    axes.xaxis.set_major_locator(FixedLocator([places.by_arm[arm] for arm in places.by_arm]))
    axes.set_xticklabels([places.labels[arm] if arm in shown else "" for arm in places.by_arm])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    if places.break_at is not None:  # the axis is cut between 0 and the first value
        across: Any = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center", "rotation": -20}
        axes.text(places.break_at, 0, "//", color=SOFT, fontsize=11, clip_on=False, **across)


# The charts of a study


def swept(
    axes: Axes,
    by_seed: pd.DataFrame,
    places: Positions,
    label: str,
    keep: Sequence[str],
    marks: dict[str, tuple[str, bool]],
    wide: bool,
) -> None:
    """The metric against the swept value.

    Args:
        axes: the axes to draw on.
        by_seed: a row a seed, a column an arm.
        places: where the arms stand.
        label: of the axis.
        keep: arms whose tick is always labelled.
        marks: arms with a word above (or below) them.
        wide: whether there is room for all labels.
    """
    at = [places.by_arm[str(arm)] for arm in by_seed]
    axes.plot(at, by_seed.T.to_numpy(), color=FAINT, linewidth=0.8)
    mean = by_seed.mean()
    axes.plot(at, mean, color=ACCENT, linewidth=2.4, marker="o", markersize=6)
    low, high = np.nanmin(by_seed), np.nanmax(by_seed)
    axes.set_ylim(low - 0.16 * (high - low), high + 0.16 * (high - low))
    for arm, (words, above) in marks.items():
        seeds = by_seed[arm].dropna()
        if len(seeds):
            axes.annotate(
                words,
                (places.by_arm[arm], seeds.max() if above else seeds.min()),
                xytext=(0, 22 if above else -22),
                textcoords="offset points",
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkB": 5},
            )
    value_axis(axes, places, label, keep, 600 if wide else 270)
    number_axis(axes.yaxis)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.35)


def paired(
    axes: Axes,
    rows: Sequence[tuple[str, np.ndarray, float | None, tuple[float, float] | None, tuple[float, float] | None, bool]],
    smallest: float,
    floor: float | None,
    label: str,
    wide: bool,
) -> None:
    """Paired differences, a row an arm: (label, seeds' differences, mean, interval, wider interval, is it ours)."""
    axes.axvspan(-smallest, smallest, color=FAINT, alpha=0.28, linewidth=0)
    if floor is not None:
        for side in (-floor, floor):
            axes.axvline(side, color=SERIES[1], linewidth=1, linestyle=":")
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, (_, seeds, mean, near, wider, main) in enumerate(rows):
        color = ACCENT if main else SERIES[1]
        axes.scatter(seeds, np.full(len(seeds), row + 0.27), s=9, color=SOFT, alpha=0.7, linewidths=0)
        if wider is not None:
            axes.plot(wider, (row, row), color=color, linewidth=1.2, solid_capstyle="butt")
        if near is not None:
            axes.plot(near, (row, row), color=color, linewidth=4.5, solid_capstyle="butt")
        if mean is not None:
            axes.plot(mean, row, color=color, marker="o" if main else "D", markersize=7)
        else:
            axes.text(0, row, "  diverged: see the table", va="center", color=SOFT)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=6 if wide else 4)
    number_axis(axes.xaxis, sign=True)


def learning(figure: Figure, panels: dict[str, tuple[pd.DataFrame, pd.DataFrame]], columns: int, label: str) -> None:
    """Small multiples over epochs: (training, validation) loss, each with a row an epoch and a column a seed."""
    grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, sharey=True, squeeze=False)
    finite = np.concatenate([frame.to_numpy().ravel() for pair in panels.values() for frame in pair])
    finite = finite[np.isfinite(finite)]
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for place, (axes, (title, (train, valid))) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        axes.plot(train.index, train.to_numpy(), color=SERIES[1], linewidth=0.6, alpha=0.45, linestyle="--")
        axes.plot(valid.index, valid.to_numpy(), color=ACCENT, linewidth=0.6, alpha=0.45)
        last = train.mean(axis=1), valid.mean(axis=1)
        axes.plot(train.index, last[0], color=SERIES[1], linewidth=2, linestyle="--", label="training")
        axes.plot(valid.index, last[1], color=ACCENT, linewidth=2.2, label="validation")
        axes.set_title(title)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
        number_axis(axes.xaxis, digits=0)
        number_axis(axes.yaxis)
        axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.35)
        axes.tick_params(labelbottom=place + columns >= len(panels))
    # A few runs that go astray should not flatten all others.
    high = min(finite.max(), 1.6 * np.quantile(finite, 0.97))
    grid[0, 0].set_ylim(finite.min() - 0.04 * (high - finite.min()), high + 0.03 * (high - finite.min()))
    figure.supxlabel("epoch", fontsize=12)
    figure.supylabel(label, fontsize=12)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2)


def best_of_k(axes: Axes, curves: Mapping[str, Sequence[float]], label: str, columns: int) -> None:
    """Expected best of the first k tuning trials, a line an arm, named at its end."""
    for place, (name, values) in enumerate(curves.items()):
        color, line, marker = _look(place, place)
        look: Any = {"color": color, "linestyle": line, "marker": marker, "linewidth": 1.8, "markersize": 4.5}
        axes.plot(range(1, len(values) + 1), values, label=name, **look)
    axes.set_xlabel("tuning trials, k")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(8, integer=True))
    number_axis(axes.xaxis, digits=0)
    number_axis(axes.yaxis)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.35)
    axes.figure.legend(loc="outside upper left", ncols=columns)


# The charts of the benchmarks


def ratio_axis(axis: Any) -> None:
    """A logarithmic axis of ratios with few, round ticks."""
    low, high = axis.get_view_interval()
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5) if low <= t <= high]
    if len(ticks) > 6:
        ticks = [t for t in ticks if round(np.log10(t), 6) % 1 == 0]
    if len(ticks) < 3:
        ticks = [t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10) if low <= t <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}×" if value >= 1e3 else f"{numbers.setting(value)}×")
    )


class Ratio(NamedTuple):
    """A time over the baseline's time, with its 95 % interval, under the name of what was timed."""

    name: str
    ratio: float
    low: float
    high: float


class Line(NamedTuple):
    """The ratios of one implementation at one batch size, by number of classes."""

    name: str
    batch: int
    classes: list[int]
    ratios: list[Ratio]


def crossover(figure: Figure, panels: dict[str, list[Line]], wide: bool) -> None:
    """Ratio against classes, a panel a pass; color tells the implementation, marker and line style the batch."""
    shape = (1, len(panels)) if wide else (len(panels), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    every = [line for lines in panels.values() for line in lines]
    names, batches = list(dict.fromkeys(line.name for line in every)), sorted({line.batch for line in every})
    legend: dict[str, Any] = {}
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=True):
        axes.set(xscale="log", yscale="log", title=title)
        axes.axhline(1, color=INK, linewidth=1)
        for name, batch, classes, ratios in lines:
            look = dict(
                zip(("color", "linestyle", "marker"), _look(names.index(name), batches.index(batch)), strict=True)
            )
            (legend[f"{name}, batch {batch:,}"],) = axes.plot(
                classes, [r.ratio for r in ratios], linewidth=1.8, markersize=6, **look
            )
            axes.vlines(classes, [r.low for r in ratios], [r.high for r in ratios], color=look["color"], linewidth=1.2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({n for line in every for n in line.classes})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.35)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(min(low, 0.25), max(high, 4))
    for axes in grid.flat:
        ratio_axis(axes.yaxis)
        right = axes.get_yaxis_transform()
        axes.text(1, 0.9, "one-hot faster ↓", transform=right, ha="right", va="top", color=SOFT, fontsize=11)
    figure.supxlabel("classes (rows of the table)", fontsize=12)
    figure.supylabel("time ÷ the lookup’s time", fontsize=12)
    figure.legend(list(legend.values()), list(legend), loc="outside upper left", ncols=2 if wide else 1)


def ratios(axes: Axes, blocks: dict[str, list[Ratio]], label: str) -> None:
    """Ratios with intervals on a logarithmic axis, a row each, under the conditions that a block shares."""
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=1)
    names = list(dict.fromkeys(row.name for rows in blocks.values() for row in rows))
    place, ticks = 0.0, {}
    for condition, rows in blocks.items():
        edge = axes.get_yaxis_transform()
        ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        heading = axes.text(0, place, condition, transform=edge, va="center", color=SOFT, bbox=ground)
        heading.set_in_layout(False)
        for name, ratio, low, high in rows:
            place += 1
            color, _, marker = _look(names.index(name), names.index(name))
            axes.plot((low, high), (place, place), color=color, linewidth=3, solid_capstyle="butt")
            axes.plot(ratio, place, color=color, marker=marker, markersize=6.5)
            ticks[place] = name
        place += 1.25
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(place - 0.5, -0.6)
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, 0.6), max(right, 1.7))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    ratio_axis(axes.xaxis)
    axes.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.35)
    axes.set_xlabel(label)


def _look(color: int, style: int) -> tuple[str, Any, str]:
    """Color, line style and marker; after six they come again."""
    return SERIES[color % 6], LINES[style % 6], MARKERS[style % 6]
