"""The page of a search for settings: the choice, its gain on ratings held out, and every trial."""

from __future__ import annotations

from functools import partial
from typing import Any

from reports.figures import slices
from reports.pages import Page
from reports.read import Inputs, page_name
from studies.evidence.schema import digest_of
from studies.evidence.tuning import FILE, MODEL, SPLIT_WORDS, Tuning, read_tuning

PLACE = 36


def plan(inputs: Inputs) -> list[Page]:
    """A page for each data set that was searched on."""
    pages: list[Page] = []
    taken = {study.page.casefold() for study in inputs.studies}
    for path in sorted((inputs.results / "tune").glob(f"*/{FILE}")):
        found = inputs.file(str(path.relative_to(inputs.results)), read_tuning)
        if found is not None:
            model = path.with_name(MODEL)
            if found.model is not None and model.is_file() and digest_of(model.read_bytes()) != found.model:
                inputs.problems.append(f"{model}: not the model of {FILE} beside it. Run studies.tune again.")
            about = {"data": found.data, "commit": found.commit, "dirty": found.dirty}
            name, title = page_name(path.parent, inputs.results, taken), f"Settings for {found.data}"
            taken.add(name.casefold())
            pages.append(Page(name, title, "tune.html.j2", path, partial(context_of, found), about=about))
    return pages


def context_of(found: Tuning) -> dict[str, Any]:
    """The variables of the template."""
    rows = [
        {
            "title": setting.title,
            "lesson": found.lesson[name],
            "best": found.best[name],
            "importance": setting.importance,
            "at_end": found.best[name] in (setting.low, setting.high),
            "ends": (setting.low, setting.high),
        }
        for name, setting in found.settings.items()
    ]
    return {
        "answer": found.verdict(),
        "found": found,
        "rows": rows,
        "chart": slices.chart(found),
        "given_up": sum(trial.rmse is None for trial in found.trials),
        "held_out": SPLIT_WORDS.get(found.split, found.split),
    }
