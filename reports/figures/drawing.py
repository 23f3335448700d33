"""Shared by all figures: inline SVG that takes font and colors from its page, light or dark.

seaborn draws on axes made here. A chart is drawn twice, for a wide and a narrow screen, and comes with its data as
a table. Colors never carry a distinction alone: marker, line style or label repeat it.
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

WIDE, NARROW = 720, 350  # units of the SVG; the page shows them at about one pixel each

# Colors that seaborn draws with → the page's colors, for light and dark pages.
INK, SOFT, FAINT, PAPER = "#1b1f24", "#5b6471", "#9aa2ad", "#ffffff"
SERIES: list[str] = sns.color_palette("colorblind", 6).as_hex()
NEUTRAL = "#333333"  # seaborn's own color of legend entries for a line style
PAGE_COLORS = {
    INK: "currentColor",
    NEUTRAL: "currentColor",
    SOFT: "var(--soft)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
}
PAGE_COLORS |= {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}

MARKERS = ("o", "s", "^", "D", "v", "P")
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
    "font.family": "DejaVu Sans",  # wider than most, so text also fits in the reader's font
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
    """A figure of a page: its title, two drawings of it, its caption, and its data."""

    title: str
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
    """Draw with `draw(figure, wide)` at both widths; `height(wide)` is in SVG units, `name` unique on the page."""
    name = re.sub("[^a-z0-9]+", "-", name.lower())  # it becomes part of ids
    drawings = []
    for wide in (True, False):
        drawing = f"{name}-{'wide' if wide else 'narrow'}"
        with mpl.rc_context({**STYLE, "svg.hashsalt": drawing}):  # the salt makes ids unique on a page and reproducible
            figure = Figure(figsize=((WIDE if wide else NARROW) / 72, height(wide) / 72), dpi=72, layout="constrained")
            drawings.append(_inline(svg_of(figure, partial(draw, figure, wide)), drawing, title, description))
    return Chart(title, drawings[0], drawings[1], caption, data)


def svg_of(figure: Figure, draw: Callable[[], None]) -> str:
    """The figure drawn by `draw`, as Matplotlib's SVG."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts have it
        draw()
        characters = int(72 * figure.get_figwidth() / 9.5)  # of a label's size that fit under a panel
        for axes in figure.axes:
            axes.set_xlabel(textwrap.fill(axes.get_xlabel(), characters))
        if engine := figure.get_layout_engine():  # only once: savefig would draw everything twice for it
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()


def _inline(text: str, name: str, title: str, description: str) -> Markup:
    """Matplotlib's SVG made ready for a page: named, without a fixed size, in the page's colors."""
    svg = ElementTree.fromstring(shown(text))  # noqa: S314 our own drawing, made a moment ago
    for element in svg.iter():
        if element.tag == f"{{{SVG}}}g":
            element.attrib.pop("id", None)  # nothing refers to groups, and every drawing has an axes_1
        if style := element.get("style"):
            element.set("style", re.sub("#[0-9a-f]{6}", lambda m: PAGE_COLORS.get(m[0], m[0]), style))
        if path := element.get("d"):
            element.set("d", re.sub(r"(\.\d\d)\d+", r"\1", path))  # a hundredth of a pixel is enough
    for defs in svg.findall(f"{{{SVG}}}defs"):
        if defs.find(f"{{{SVG}}}style") is not None:
            svg.remove(defs)  # its rule would apply to the whole page; the style sheet limits it to charts
    for key in ("width", "height"):
        del svg.attrib[key]
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = shown(words)
        svg.insert(place, element)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # noqa: S704 escaped by ElementTree


# Shared by several charts


def palette(names: Iterable[str]) -> dict[str, str]:
    """A color for each name; they repeat after six."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(dict.fromkeys(names))}


def wrapped(name: str, width: int = 20) -> str:
    """A long name on at most two lines, so that it leaves room for the chart."""
    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder=" …"))


def legend_above(figure: Figure, axes: Axes, loc: Any, columns: int) -> None:
    """Move the legend of `axes` above all panels, without seaborn's headings, which add nothing."""
    handles, names = axes.get_legend_handles_labels()
    axes.legend().remove()
    entries = {name: handle for handle, name in zip(handles, names, strict=True) if name not in HEADINGS}
    figure.legend(entries.values(), [wrapped(name) for name in entries], loc=loc, ncols=columns)


def rows_without_axis(axes: Axes) -> None:
    """Only row labels on the left: no line, no ticks; the grid runs along x."""
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
    """Hide x labels that would touch others; labels in `keep` have priority, then those on the left."""
    figure.draw_without_rendering()
    shown: list[Any] = []
    for label in sorted(axes.get_xticklabels(), key=lambda label: label.get_text() not in keep):
        box = label.get_window_extent().padded(3)
        if any(box.overlaps(other) for other in shown):
            label.set_visible(False)
        else:
            shown.append(box)


def logarithmic(figure: Figure, *axes: str) -> None:
    """Logarithmic axes ("x", "y") of all panels, without minor ticks: seaborn would format a label for each."""
    for panel in figure.axes:
        panel.set(**{f"{axis}scale": "log" for axis in axes})
    for panel in figure.axes:  # in a second loop: a panel's scale adds ticks to panels that share its axis
        for axis in axes:
            getattr(panel, f"{axis}axis").set_minor_locator(NullLocator())


def room_around(axes: Axes, values: pd.Series) -> None:
    """Room around a single value on a logarithmic x axis, whose ends would otherwise differ only by rounding."""
    if values.min() == values.max():
        axes.set_xlim(values.min() / 10, values.max() * 10.0)


def decades(axis: Any, most: int) -> None:
    """A logarithmic axis with a tick at powers of ten; between them too where it spans less than two."""
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=most))
        axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.setting(float(value))))
    else:
        axis.set_major_locator(LogLocator(numticks=most))
        axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.power_of_ten(round(np.log10(value)))))


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
