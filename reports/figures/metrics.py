"""Every metric of a study but the first, one row per arm."""

from __future__ import annotations

from reports.figures import arms
from reports.figures.drawing import Chart
from reports.read import Study

SECTION, PLACE = "metrics", 10


def charts(study: Study) -> list[Chart]:
    """A chart for each metric but the first."""
    _, *further = study.summary.metrics
    return [chart for metric in further for chart in arms.of_metric(study, metric)]
