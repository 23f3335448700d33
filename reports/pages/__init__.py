"""Turns inputs into HTML: one file per type of page; a page that cannot be drawn is replaced by one that says why.

A module here has a `PLACE` in the order of pages and `plan(inputs)`, which returns the pages to draw. A module with a
single page gives it the module's name, which no study's page can take.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from reports import numbers
from reports.read import INDEX_PAGE, Inputs
from reports.text import shown

TEMPLATES = Path(__file__).parents[1] / "templates"
INLINED = {"style": "style.css", "behavior": "behavior.js"}


class Pages(NamedTuple):
    """Every page's HTML by file name, and a sentence about each file that could not be used or drawn."""

    html: dict[str, str]
    problems: list[str]


@dataclass(frozen=True)
class Page:
    """A page to draw.

    Attributes:
        file: its file's name.
        name: the text of links to it.
        template: the template's file name.
        source: the path of the results it shows.
        context: returns the template's variables, one of them "answer".
        everywhere: whether every page links to it; otherwise only the index does.
        about: what the index shows beside the answer: data, profile, commit, dirty, finished.
    """

    file: str
    name: str
    template: str
    source: Path
    context: Callable[[], Mapping[str, Any]]
    everywhere: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)


def render(inputs: Inputs) -> Pages:
    """Draw every page; a page that cannot be drawn becomes a problem and a page that says so."""
    # A file can be wrong in ways that no check foresees, and must not prevent the other pages: here alone every
    # exception is caught.
    planned: list[Page] = []
    broken = []
    for module in _modules():
        try:
            planned += module.plan(inputs)
        except Exception as error:
            kind = module.__name__.rpartition(".")[2]
            broken.append(
                f"{inputs.results}: no page of {kind} could be planned ({type(error).__name__}: {error}). All other "
                "pages are drawn. Make the results again; if that does not help, it is a bug in reports/."
            )
    problems, answers, html = [*inputs.problems, *broken], dict[str, str](), {}
    env = environment()
    for page in sorted(planned, key=lambda page: page.file == INDEX_PAGE):  # it needs the others' answers
        links = [one for one in planned if one.everywhere or one is page]
        around = {"links": links, "here": page.file, "planned": planned, "answers": answers, "problems": problems}
        try:
            context = page.context()
            html[page.file] = env.get_template(page.template).render(context, **around)
            answers[page.file] = context["answer"]
        except Exception as error:
            problems.append(
                f"{page.source}: its page could not be drawn ({type(error).__name__}: {error}). All other pages are "
                "drawn. Make the results again; if that does not help, it is a bug in reports/."
            )
            around["problems"] = problems if page.file == INDEX_PAGE else problems[-1:]
            html[page.file] = env.get_template("undrawn.html.j2").render(**around)
            answers[page.file] = "Not drawn."
    return Pages(html, problems)


def withdrawn(out: Path, drawn: Collection[str]) -> dict[str, str]:
    """What replaces the pages of an earlier run in `out` that are not among those drawn now, by file name.

    A page says its own file's name, so copies under other names, and pages of anyone else, stay as they are.
    """
    earlier = [path for path in sorted(out.glob("*.html")) if path.name not in drawn and _is_ours(path)]
    index = {"file": INDEX_PAGE, "name": "Ledger"}
    text = environment().get_template("withdrawn.html.j2").render(links=[index], here="")
    return {path.name: text for path in earlier}


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1000)
    except OSError:
        return False
    return f'<meta name="dotbias-page" content="{escape(path.name)}">'.encode() in head


@cache
def _modules() -> list[Any]:
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return sorted(modules, key=lambda module: module.PLACE)


@cache
def environment() -> jinja2.Environment:
    """The templates, with number formats as filters; text from outside is escaped and made visible."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    names = ["number", "signed", "setting", "p_value", "percent", "seconds", "size", "counted"]
    names += ["figures", "figures_interval", "interval", "times", "times_interval"]
    env.filters |= {name: getattr(numbers, name) for name in names}
    env.filters |= {"slug": slug, "prose": prose, "unbroken": unbroken, "cell": cell, "moment": moment}
    env.globals |= {name: Markup((TEMPLATES / file).read_text("utf-8")) for name, file in INLINED.items()}  # noqa: S704
    return env


def finalize(value: Any) -> Any:
    """A template's output with invisible and control characters replaced; Markup stays Markup."""
    if not isinstance(value, str):
        return value
    return type(value)(shown(value))


def slug(words: str) -> str:
    """Words as part of an id: Weight decay is weight-decay."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def prose(text: str) -> Markup:
    """Text from outside, escaped: `code` in backticks becomes code, a hyphen before a number a minus."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "−", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 escaped before


def unbroken(text: str) -> Markup:
    """Text from outside, escaped, whose intervals and percentages stay on one line."""
    whole = re.sub(r"[\[(][−+\d.,∞×]+, [−+\d.,∞×]+[\])]|\d %", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    return Markup(escape(whole))  # noqa: S704 escaped here


def moment(text: str) -> str:
    """A time to the minute: 2026-11-22 02:00."""
    return text[:16].replace("T", " ")


def cell(value: object) -> str:
    """A value in a figure's table."""
    return numbers.writer(value, least=4)(value) if isinstance(value, float) else numbers.setting(value)
