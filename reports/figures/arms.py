"""A metric of every run, one row per arm."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers
from reports.arms import by_seed, name_of, sweep_of, title_of
from reports.figures import drawing
from reports.figures.drawing import INK, NARROW, SERIES, SOFT, Chart
from reports.read import Study
from reports.words import capital

SECTION, PLACE = "arms", 15


def charts(study: Study) -> list[Chart]:
    """The first metric, unless a setting is swept."""
    return [] if sweep_of(study.summary) else of_metric(study, study.summary.metric)


def of_metric(study: Study, metric: str) -> list[Chart]:
    """A chart of a metric, if a run has it."""
    summary, table = study.summary, by_seed(study, metric)
    if table.empty or table.notna().to_numpy().sum() == 0:
        return []
    table = table.rename(columns=lambda arm: name_of(summary, arm))
    mean, title = table.mean(), title_of(summary, metric)
    write = numbers.writer(*mean)
    runs = table.melt(var_name="arm", value_name="value").dropna()
    runs["arm"] = pd.Categorical(runs["arm"], list(table))
    baseline = None if summary.baseline is None else name_of(summary, summary.baseline)
    line = f"; line: the mean of {baseline}" if baseline else ""
    return [
        drawing.chart(
            f"metric-{list(summary.metrics).index(metric)}-{metric}",
            f"{capital(title)} of each arm",
            "; ".join(f"{arm}: {write(value)}" for arm, value in mean.items()),
            f"Small dots: seeds; large ones: their mean{line}.",
            pd.concat([table, mean.to_frame("mean").T]).rename_axis("seed").reset_index().astype(object),
            lambda figure, _wide: draw(figure, runs, baseline, title, summary.metrics[metric].logarithmic),
            lambda _wide: 66 + 27 * len(mean),
        )
    ]


def draw(figure: Figure, runs: pd.DataFrame, baseline: str | None, label: str, decades: bool) -> None:
    """Dots for seeds, a large one for their mean, a line at the baseline's.

    Args:
        figure: the figure to draw on.
        runs: `arm` (categories, in order) and `value`, one row per run.
        baseline: its arm, if there is one.
        label: of the axis.
        decades: whether the axis is logarithmic if the values span a decade or more.
    """
    axes, wide = figure.subplots(), 72 * figure.get_figwidth() > NARROW
    means = runs.groupby("arm", observed=True)["value"].mean()
    if decades and runs["value"].max() >= 10 * runs["value"].min() > 0:
        drawing.logarithmic(figure, "x")
    if baseline is not None and baseline in means:
        axes.axvline(means[baseline], color=INK, linewidth=0.8)
    rows = runs["arm"].cat.codes
    sns.scatterplot(runs, x="value", y=rows + 0.27, s=9, color=SOFT, alpha=0.7, linewidth=0, ax=axes)
    arms = list(runs["arm"].cat.categories)
    sns.scatterplot(x=means.to_numpy(), y=[arms.index(arm) for arm in means.index], color=SERIES[0], s=55, ax=axes)
    axes.set_yticks(range(len(arms)), [drawing.wrapped(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="")
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=6 if wide else 4)
    else:
        drawing.decades(axes.xaxis, 9 if wide else 5)
    drawing.rows_without_axis(axes)
