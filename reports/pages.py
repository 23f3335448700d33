"""From inputs to HTML: every page by its template, and in the place of one that cannot be drawn a word why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from reports import benchmarks, ledger, numbers, peers, study
from reports.inputs import BENCHMARKS_PAGE, INDEX_PAGE, PEERS_PAGE, Inputs
from reports.text import shown

TEMPLATES = Path(__file__).parent / "templates"
INLINED = {"style": "style.css", "behavior": "behavior.js"}


class Pages(NamedTuple):
    """Every page's HTML by file name, and sentences about all that could not be used or drawn."""

    html: dict[str, str]
    problems: list[str]


class Page(NamedTuple):
    """A page to draw: its file's name, what a link to it says, its template, the results it shows, its context."""

    file: str
    name: str
    template: str
    source: Path
    context: Callable[[], Mapping[str, Any]]  # an "answer" among it


def render(inputs: Inputs) -> Pages:
    """Draw every page; one that cannot be drawn becomes a problem, and a page that says so."""
    problems, answers = list(inputs.problems), dict[str, str]()
    index = Page(
        INDEX_PAGE,
        "dotbias · ledger",
        "ledger.html.j2",
        inputs.results,
        lambda: ledger.context(inputs, answers, problems),
    )
    planned = [index, *plan(inputs)]
    env = environment()
    html = {}
    for page in reversed(planned):  # the index last: it shows what became of the others
        around = {"links": planned, "here": page.file}
        try:
            context = page.context()
            html[page.file] = env.get_template(page.template).render(context, **around)
            answers[page.file] = context["answer"]
        # The one place that catches whatever comes. A file can be wrong in ways that no check at the door foresees,
        # and one such file must not cost all other pages.
        except Exception as error:
            problems.append(
                f"{page.source}: its page could not be drawn ({type(error).__name__}: {error}). All other pages are "
                "whole. Make the results anew; if that does not help, it is an error in reports/."
            )
            said = problems if page is index else problems[-1:]
            html[page.file] = env.get_template("undrawn.html.j2").render(problems=said, **around)
            answers[page.file] = "Not drawn."
    return Pages(html, problems)


def plan(inputs: Inputs) -> list[Page]:
    """The pages beside the index, in the order of their links."""
    pages = [
        Page(
            one.page,
            one.page.removesuffix(".html"),
            "study.html.j2",
            one.folder / "summary.json",
            partial(study.context, one),
        )
        for one in inputs.studies
    ]
    if inputs.benchmarks is not None:
        context = partial(benchmarks.context, inputs.benchmarks)
        source = inputs.results / "benchmarks.json"
        pages.append(Page(BENCHMARKS_PAGE, "benchmarks", "benchmarks.html.j2", source, context))
    if inputs.peers is not None:
        context = partial(peers.context, inputs.peers)
        pages.append(Page(PEERS_PAGE, "peers", "peers.html.j2", inputs.results / "peers.json", context))
    return pages


@cache
def environment() -> jinja2.Environment:
    """The templates, with the pages' number formats as filters; everything from outside is escaped, and seen."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    names = ["number", "signed", "interval", "setting", "p_value", "percent", "seconds", "size", "counted"]
    names += ["figures", "figures_interval", "times", "times_interval"]
    env.filters |= {name: getattr(numbers, name) for name in names}
    env.filters |= {"slug": ledger.slug, "prose": ledger.prose, "cell": cell}
    env.globals |= {name: Markup((TEMPLATES / file).read_text("utf-8")) for name, file in INLINED.items()}  # noqa: S704
    return env


def finalize(value: Any) -> Any:
    """What a template writes, without characters that act instead of being seen; Markup stays Markup."""
    if not isinstance(value, str):
        return value
    return type(value)(shown(value))


def cell(value: object) -> str:
    """A value in a figure's table."""
    return numbers.number(value, 4) if isinstance(value, float) else numbers.setting(value)
