"""One file per figure, with its data, its caption and its drawing.

A module with `SECTION`, `PLACE` and `charts(study)` belongs to the page of a study: its charts appear in that section,
in the order of the places. A section that is not in the page's template gets its name as a heading.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.figures.drawing import Chart
    from reports.read import Study


def of_study(study: Study) -> dict[str, list[Chart]]:
    """The charts of a study's page, by section; sections without a chart are left out."""
    found: dict[str, list[Chart]] = {}
    for module in _modules():
        if charts := module.charts(study):
            found.setdefault(module.SECTION, []).extend(charts)
    return found


@cache
def _modules() -> list[Any]:
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return sorted((module for module in modules if hasattr(module, "SECTION")), key=lambda module: module.PLACE)
