"""Charts as inline SVG that belong to their page: its font, its ink, its accents, light or dark.

seaborn draws, on axes made here. A chart is drawn twice, for a wide and for a narrow screen, and comes with its data as
a table. What may be told apart by color is told apart by marker, line style or label as well.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import numbers
from reports.text import shown

LARGEST = 1e100  # that is drawn: the square of what is larger may overflow, and no float32 is
WIDE, NARROW = 720, 350  # units of the SVG; the page shows them at about one pixel each

# What seaborn draws with → what the page's style sheet decides, for light pages and for dark ones.
INK, SOFT, FAINT, PAPER = "#1b1f24", "#5b6471", "#9aa2ad", "#ffffff"
SERIES: list[str] = sns.color_palette("colorblind", 6).as_hex()
NEUTRAL = "#333333"  # seaborn's own, for legend entries that stand for a line style
PAGE_COLORS = {
    INK: "currentColor",
    NEUTRAL: "currentColor",
    SOFT: "var(--soft)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
}
PAGE_COLORS |= {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}

HEADINGS = ("implementation", "batch")  # of legends

STYLE: Any = {
    **sns.plotting_context("notebook"),
    **sns.axes_style("ticks"),
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # wider than most: what fits in it fits in the reader's font
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 12,
    "xtick.major.size": 4,
    "xtick.major.width": 0.8,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 12,
    "ytick.major.size": 4,
    "ytick.major.width": 0.8,
}

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


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
        with mpl.rc_context({**STYLE, "svg.hashsalt": drawing}):  # the salt keeps ids apart on a page, and the same
            figure = Figure(figsize=((WIDE if wide else NARROW) / 72, height(wide) / 72), dpi=72, layout="constrained")
            drawings.append(_inline(_svg(figure, partial(draw, figure, wide)), drawing, title, description))
    return Chart(drawings[0], drawings[1], caption, data)


def _svg(figure: Figure, draw: Callable[[], None]) -> str:
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts have it
        draw()
        characters = int(72 * figure.get_figwidth() / 9.5)  # of a label's size that fit under a panel
        for axes in figure.axes:
            axes.set_xlabel(textwrap.fill(axes.get_xlabel(), characters))
        if engine := figure.get_layout_engine():  # once, for good: savefig would draw everything twice to do it itself
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()


def _inline(text: str, name: str, title: str, description: str) -> Markup:
    """Matplotlib's SVG, fit to stand in a page: named, without fixed size, in the page's colors."""
    svg = ElementTree.fromstring(shown(text))  # noqa: S314 our own drawing, made a moment ago
    for element in svg.iter():
        if element.tag == f"{{{SVG}}}g":
            element.attrib.pop("id", None)  # nothing refers to a group, and axes_1 is in every drawing
        if style := element.get("style"):
            element.set("style", re.sub("#[0-9a-f]{6}", lambda m: PAGE_COLORS.get(m[0], m[0]), style))
    for defs in svg.findall(f"{{{SVG}}}defs"):
        if defs.find(f"{{{SVG}}}style") is not None:
            svg.remove(defs)  # its rule would reach the whole page; the style sheet has it for charts alone
    for key in ("width", "height"):
        del svg.attrib[key]
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = shown(words)
        svg.insert(place, element)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # noqa: S704 escaped by ElementTree


# What several charts share


def palette(names: Iterable[str]) -> dict[str, str]:
    """A color for each name; after six they come again."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(dict.fromkeys(names))}


def wrapped(name: str) -> str:
    """A long name on two lines at most, so that it leaves room for what it names."""
    return "\n".join(textwrap.wrap(name, 20, max_lines=2, placeholder=" …"))


def legend_above(figure: Figure, axes: Axes, loc: Any, columns: int) -> None:
    """Move the legend of `axes` above all panels; seaborn's headings in it say nothing that its entries do not."""
    handles, names = axes.get_legend_handles_labels()
    axes.legend().remove()
    entries = {name: handle for handle, name in zip(handles, names, strict=True) if name not in HEADINGS}
    figure.legend(entries.values(), [wrapped(name) for name in entries], loc=loc, ncols=columns)


def rows_without_axis(axes: Axes) -> None:
    """Labels of rows alone on the left: no line, no ticks; the grid helps to read along x."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def value_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value; below the smallest it is linear, which sets 0 apart."""
    if least := min((value for value in values if value > 0), default=None):
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
    axes.set_xticks(values, numbers.settings(values))
    axes.xaxis.set_minor_locator(NullLocator())
    if least and 0 in values:
        across: Any = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center", "rotation": -20}
        axes.text(least / 2, 0, "//", color=SOFT, **across)


def thin_labels(figure: Figure, axes: Axes, keep: Sequence[str]) -> None:
    """Hide labels of the x axis that would touch others; those in `keep` win, then from the left."""
    figure.draw_without_rendering()
    shown: list[Any] = []
    for label in sorted(axes.get_xticklabels(), key=lambda label: label.get_text() not in keep):
        box = label.get_window_extent().padded(3)
        if any(box.overlaps(other) for other in shown):
            label.set_visible(False)
        else:
            shown.append(box)


def logarithmic(figure: Figure, *axes: str) -> None:
    """Logarithmic axes ("x", "y") of all panels, without small ticks: seaborn would ask for the label of each."""
    for panel in figure.axes:
        panel.set(**{f"{axis}scale": "log" for axis in axes})
    for panel in figure.axes:  # after all of them: the scale of a panel brings ticks to those that share its axis
        for axis in axes:
            getattr(panel, f"{axis}axis").set_minor_locator(NullLocator())


def room_around(axes: Axes, values: pd.Series) -> None:
    """Room on both sides of a lone value on a logarithmic x axis: rounding alone would tell its ends apart."""
    if values.min() == values.max():
        axes.set_xlim(values.min() / 10, values.max() * 10.0)


def ratio_axis(axis: Any) -> None:
    """A logarithmic axis of ratios around 1 with few, round ticks."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    steps = (1,) if decades > 3 else (1, 3) if decades > 1 else (1, 1.5, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.set_major_formatter(
        FuncFormatter(
            lambda value, _: f"{numbers.number(value, 0)}×" if value >= 1 and value % 1 == 0 else f"{value:g}×"
        )
    )


# The charts of a study


def swept(figure: Figure, runs: pd.DataFrame, keep: Sequence[str], marks: dict[Any, tuple[str, bool]]) -> None:
    """The metric against the swept value: a thin line a seed, a thick one for their mean.

    Args:
        figure: the figure to draw on.
        runs: a row a run; its columns are the swept value, the metric and the seed, named as the axes are to be.
        keep: values, as labelled, whose label is always shown.
        marks: words above (or below) a value.
    """
    axes = figure.subplots()
    value, metric, seed = runs.columns
    sns.lineplot(runs, x=value, y=metric, units=seed, estimator=None, color=FAINT, linewidth=0.8, ax=axes)
    sns.lineplot(runs, x=value, y=metric, errorbar=None, color=SERIES[0], linewidth=2.4, marker="o", ax=axes)
    axes.margins(y=0.16)
    for place, (words, above) in marks.items():
        seeds = runs.loc[runs[value] == place, metric]
        axes.annotate(
            words,
            (place, seeds.max() if above else seeds.min()),
            xytext=(0, 22 if above else -22),
            textcoords="offset points",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkB": 5},
        )
    if pd.api.types.is_numeric_dtype(runs[value]):
        value_axis(axes, sorted(runs[value].unique()))
    thin_labels(figure, axes, keep)


def paired(
    figure: Figure, contrasts: pd.DataFrame, seeds: pd.DataFrame, smallest: float, floor: float | None, label: str
) -> None:
    """Paired differences, a row an arm.

    Args:
        figure: the figure to draw on.
        contrasts: `arm`, `difference`, its interval `low` to `high`, the wider one `lowest` to `highest`, and
            `noise`: whether the row is the noise floor. NaN where there is none.
        seeds: `arm` and `difference`, a row a pair of runs.
        smallest: the smallest effect that matters, drawn as a band around 0.
        floor: half the range of 95 % of A/A pairs.
        label: of the axis.
    """
    axes = figure.subplots()
    axes.axvspan(-smallest, smallest, color=FAINT, alpha=0.28, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    if floor is not None:
        for side in (-floor, floor):
            axes.axvline(side, color=SERIES[1], linewidth=1, linestyle=":")
    rows = {arm: row for row, arm in enumerate(contrasts["arm"])}
    below = seeds["arm"].map(rows).astype(float) + 0.27
    sns.scatterplot(seeds, x="difference", y=below, s=9, color=SOFT, alpha=0.7, linewidth=0, ax=axes)
    colors = [SERIES[int(noise)] for noise in contrasts["noise"]]
    axes.hlines(contrasts.index, contrasts["lowest"], contrasts["highest"], colors, linewidth=1.2)
    axes.hlines(contrasts.index, contrasts["low"], contrasts["high"], colors, linewidth=4.5)
    look: Any = {"palette": SERIES[:2], "markers": ["o", "D"], "hue_order": [False, True], "style_order": [False, True]}
    sns.scatterplot(
        contrasts, x="difference", y=contrasts.index, hue="noise", style="noise", **look, s=55, legend=False, ax=axes
    )
    for row in contrasts.index[contrasts["difference"].isna()]:
        axes.text(0, row, "  diverged: see the table", va="center", color=SOFT)
    axes.set_yticks(contrasts.index, [wrapped(arm) for arm in contrasts["arm"]])
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="")
    rows_without_axis(axes)


def measured(figure: Figure, runs: pd.DataFrame, baseline: str, label: str, decades: bool) -> None:
    """A measurement, a row an arm: dots for seeds, a large one for their mean, a line at the baseline's.

    Args:
        figure: the figure to draw on.
        runs: `arm` (categories, in order) and `value`, a row a run.
        baseline: its arm.
        label: of the axis.
        decades: whether the axis is logarithmic where the values span a decade or more.
    """
    axes, wide = figure.subplots(), 72 * figure.get_figwidth() > NARROW
    means = runs.groupby("arm", observed=True)["value"].mean()
    if decades and runs["value"].max() >= 10 * runs["value"].min() > 0:
        logarithmic(figure, "x")
        axes.xaxis.set_major_locator(LogLocator(numticks=9 if wide else 5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.power_of_ten(round(np.log10(value)))))
    if baseline in means:
        axes.axvline(means[baseline], color=INK, linewidth=0.8)
    rows = runs["arm"].cat.codes
    sns.scatterplot(runs, x="value", y=rows + 0.27, s=9, color=SOFT, alpha=0.7, linewidth=0, ax=axes)
    arms = list(runs["arm"].cat.categories)
    sns.scatterplot(x=means.to_numpy(), y=[arms.index(arm) for arm in means.index], color=SERIES[0], s=55, ax=axes)
    axes.set_yticks(range(len(arms)), [wrapped(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="")
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=6 if wide else 4)
    rows_without_axis(axes)


def learning(figure: Figure, curves: pd.DataFrame, columns: int) -> None:
    """Loss over epochs, a panel an arm: `arm` (categories), `seed`, `epoch`, `loss`, `value`."""
    arms = curves["arm"].cat.categories
    grid = figure.subplots(-(-len(arms) // columns), columns, sharex=True, sharey=True, squeeze=False)
    by_epoch = curves.pivot_table("value", "epoch", ["arm", "loss", "seed"], dropna=False, observed=False)
    looks = {"validation": (SERIES[0], "-"), "training": (SERIES[1], (0, (4, 1.5)))}
    for place, (axes, arm) in enumerate(zip(grid.flat, arms, strict=False)):
        for loss, (color, dashes) in looks.items():
            lines = by_epoch[arm, loss]
            look: Any = {"color": color, "linestyle": dashes}
            gap = lines.reindex([*lines.index, np.nan])  # after each seed: many lines drawn as one are drawn fast
            axes.plot(np.tile(gap.index, lines.shape[1]), gap.to_numpy().ravel("F"), **look, linewidth=0.6, alpha=0.45)
            axes.plot(lines.index, lines.mean(axis=1), **look, linewidth=2.2, label=loss)
        axes.set(title=wrapped(arm))
        axes.tick_params(labelbottom=place + columns >= len(arms))
    for axes in grid.flat[len(arms) :]:
        axes.set_visible(False)
    # A few runs that go astray should not flatten all others.
    least, high = curves["value"].min(), min(curves["value"].max(), 1.6 * curves["value"].quantile(0.97))
    if high > least:
        grid[0, 0].set_ylim(least - 0.04 * (high - least), high + 0.03 * (high - least))
    grid[0, 0].locator_params(axis="x", nbins=5, integer=True)
    figure.supxlabel("epoch", fontsize=12)
    figure.supylabel("mean squared error", fontsize=12)
    legend_above(figure, grid[0, 0], "outside upper right", 2)


def best_of_k(figure: Figure, curves: pd.DataFrame, label: str, columns: int) -> None:
    """Expected best of the first k tuning trials, a line an arm: `arm`, `k`, `best`."""
    axes, colors = figure.subplots(), palette(curves["arm"])
    look: Any = {"hue": "arm", "style": "arm", "palette": colors, "markers": True, "dashes": True}
    sns.lineplot(curves, x="k", y="best", **look, errorbar=None, linewidth=1.8, ax=axes)
    axes.set(xlabel="tuning trials, k", ylabel=label)
    axes.locator_params(axis="x", nbins=8, integer=True)
    legend_above(figure, axes, "outside upper left", columns)


# The charts of the benchmarks: `ratio` is a time over the baseline's, `low` to `high` its 95 % interval


def crossover(figure: Figure, timings: pd.DataFrame, wide: bool) -> None:
    """Ratio against `classes`, a panel for each `where`; color tells `implementation`, marker and dashes `batch`."""
    panels = dict(list(timings.groupby("where", sort=False)))
    shape = (1, len(panels)) if wide else (len(panels), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    colors = palette(timings["implementation"])
    look: Any = {"x": "classes", "y": "ratio", "hue": "implementation", "style": "batch", "palette": colors}
    look |= {"style_order": timings["batch"].unique(), "markers": True, "errorbar": None, "linewidth": 1.8}
    logarithmic(figure, "x", "y")
    room_around(grid[0, 0], timings["classes"])
    for axes, (where, panel) in zip(grid.flat, panels.items(), strict=True):
        axes.axhline(1, color=INK, linewidth=1)
        sns.lineplot(panel, **look, legend=axes is grid[0, 0] and "full", ax=axes)
        edges = panel["classes"], panel["low"], panel["high"]
        axes.vlines(*edges, [colors[name] for name in panel["implementation"]], linewidth=1.2)
        axes.set(title=where, xlabel="", ylabel="")
        classes = sorted(timings["classes"].unique())
        axes.set_xticks(classes, [f"{n:,}" for n in classes])
        right = axes.get_yaxis_transform()
        axes.text(1, 0.9, "one-hot faster ↓", transform=right, ha="right", va="top", color=SOFT, fontsize=11)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(min(low, 0.25), max(high, 4))
    for axes in grid.flat:
        ratio_axis(axes.yaxis)
    figure.supxlabel("classes (rows of the table)", fontsize=12)
    figure.supylabel("time ÷ the lookup’s time", fontsize=12)
    legend_above(figure, grid[0, 0], "outside upper left", 2 if wide else 1)


def scale(figure: Figure, times: pd.DataFrame, marks: dict[int, float], wide: bool) -> None:
    """`µs a step` against `rows`, a line an `implementation`, a panel a `batch`, with the crossovers in `marks`."""
    panels = {batch: times[times["batch"] == batch] for batch in sorted(times["batch"].unique().tolist())}
    shape = (1, len(panels)) if wide else (len(panels), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    colors = palette(sorted(times["implementation"].unique()))
    look: Any = {"x": "rows", "y": "µs a step", "hue": "implementation", "style": "implementation", "palette": colors}
    look |= {"hue_order": list(colors), "style_order": list(colors), "markers": True, "errorbar": None}
    logarithmic(figure, "x", "y")
    room_around(grid[0, 0], times["rows"])
    for axes, (batch, panel) in zip(grid.flat, panels.items(), strict=True):
        sns.lineplot(panel, **look, linewidth=1.8, markersize=7, legend=axes is grid[0, 0] and "full", ax=axes)
        edges = panel["rows"], panel["95 % from"], panel["to"]
        axes.vlines(*edges, [colors[name] for name in panel["implementation"]], linewidth=1.2)
        if batch in marks:
            axes.axvline(marks[batch], color=SOFT, linewidth=1, linestyle=":")
            place: Any = {"xytext": (4, -2), "textcoords": "offset points", "xycoords": axes.get_xaxis_transform()}
            axes.annotate("deferred faster →", (marks[batch], 1), **place, va="top", color=SOFT, fontsize=11)
        axes.set(title=f"batch {batch:,}", xlabel="", ylabel="")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.number(value, 0)))
    figure.supxlabel("rows of all tables together", fontsize=12)
    figure.supylabel("microseconds a step", fontsize=12)
    legend_above(figure, grid[0, 0], "outside upper left", 3 if wide else 1)


def ratios(figure: Figure, timings: pd.DataFrame, label: str) -> None:
    """Ratios with intervals on a logarithmic axis, a row an `implementation`, a panel for each of `where`."""
    panels = dict(list(timings.groupby("where", sort=False)))
    heights = [len(panel) + 1 for panel in panels.values()]  # and the title
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    colors = palette(timings["implementation"])
    logarithmic(figure, "x")
    for axes, (where, panel) in zip(grid, panels.items(), strict=True):
        axes.axvline(1, color=INK, linewidth=1)
        rows = {"x": "ratio", "y": "implementation", "hue": "implementation", "palette": colors}
        sns.stripplot(panel, **rows, jitter=False, size=7, legend=False, ax=axes)
        edges = panel["implementation"], panel["low"], panel["high"]
        axes.hlines(*edges, [colors[name] for name in panel["implementation"]], linewidth=3)
        names = panel["implementation"].unique()
        axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
        axes.set_ylim(len(panel) - 0.4, -0.6)
        axes.set_title(where, color=SOFT)
        axes.set(xlabel="", ylabel="")
        rows_without_axis(axes)
        if axes is not grid[-1]:
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="x", length=0)
    left, right = grid[0].get_xlim()
    grid[0].set_xlim(min(left, 0.6), max(right, 1.7))
    ratio_axis(grid[0].xaxis)
    grid[-1].set_xlabel(label)


# The chart of the peers


def quality_against_time(figure: Figure, seeds: pd.DataFrame, target: float, columns: int) -> None:
    """RMSE against seconds of training: `peer`, `seed`, `epochs`, `seconds`, `rmse`; a thin line a seed."""
    axes = figure.subplots()
    logarithmic(figure, "x")
    room_around(axes, seeds["seconds"])
    means = seeds.groupby(["peer", "epochs"], sort=False, observed=True)[["seconds", "rmse"]].mean().reset_index()
    look: Any = {"x": "seconds", "y": "rmse", "hue": "peer", "palette": palette(means["peer"]), "ax": axes}
    thin: Any = {"units": "seed", "estimator": None, "linewidth": 0.6, "alpha": 0.4, "legend": False}
    sns.lineplot(seeds, **look, **thin, sort=False)
    marks: Any = {"style": "peer", "markers": True, "dashes": True, "markersize": 8}
    sns.lineplot(means, **look, **marks, errorbar=None, linewidth=1.8, sort=False)
    axes.axhline(target, color=SOFT, linewidth=1, linestyle=":")
    axes.text(1, target, f"{target:.3f}", transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=SOFT)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.setting(float(value))))
    axes.set(xlabel="seconds of training (logarithmic)", ylabel="RMSE on validation rows")
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 0.97))  # the first epochs of some would flatten all others
    legend_above(figure, axes, "outside upper left", columns)
