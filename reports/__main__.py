"""`python -m reports`: render whatever is in the results folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import jinja2
import pandas as pd
import typer
from markupsafe import Markup

from reports import benchmarks, ledger, numbers, peers, study
from reports.ledger import BENCHMARKS_PAGE, PEERS_PAGE, Inputs, Missing
from reports.study import Study
from studies.evidence.peers import read_peers
from studies.evidence.schema import ResultsError, read_summary, write_text
from studies.evidence.verdicts import read_ledger

RUN_COLUMNS = {"arm", "kind", "seed", "diverged"}
CURVE_COLUMNS = {"arm", "kind", "seed", "epoch", "train_loss", "valid_loss"}
TEMPLATES = Path(__file__).parent / "templates"

app = typer.Typer(add_completion=False)


def read_study(path: Path, page: str) -> Study:
    """Read a `summary.json` and the tables beside it; a table that cannot be used becomes a problem on the page.

    Raises:
        ResultsError: the summary itself cannot be used.
    """
    summary = read_summary(path)
    problems: list[str] = []

    def table(name: str, columns: set[str]) -> pd.DataFrame | None:
        beside = path.parent / name
        try:
            frame = pd.read_parquet(beside)
            if lacking := sorted(columns - set(frame)):
                raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        except (OSError, ValueError) as error:
            reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error)
            problems.append(
                f"{beside} cannot be used ({reason}): its charts are left out. "
                f"This makes it anew: {summary.provenance.command}"
            )
            return None
        return frame

    runs = table("runs.parquet", RUN_COLUMNS | {summary.metric, *summary.measures})
    return Study(page, path.parent, summary, runs, table("curves.parquet", CURVE_COLUMNS), problems)


def page_name(folder: Path, results: Path, taken: set[str]) -> str:
    """A page's file name: wd_sweep.html for wd_sweep/, wd_sweep-mydata.html for mydata/wd_sweep/."""
    parts = folder.relative_to(results).parts or (folder.resolve().name,)
    stem = "-".join([parts[-1], *parts[:-1]])
    stem = re.sub(r"[^\w.-]+", "-", stem)
    again = 2
    name = f"{stem}.html"
    while name in taken:
        name, again = f"{stem}-{again}.html", again + 1
    return name


def gather(results: Path) -> Inputs:
    """Read everything in `results`, and say what is broken or missing.

    Raises:
        ResultsError: there is no such folder.
    """
    studies: list[Study] = []
    problems: list[str] = []
    missing: list[Missing] = []
    taken = {"index.html", BENCHMARKS_PAGE, PEERS_PAGE}
    for path in sorted(results.rglob("summary.json")):
        name = page_name(path.parent, results, taken)
        try:
            studies.append(read_study(path, name))
        except ResultsError:
            continue  # the ledger says so
        taken.add(name)
    if not studies:
        missing.append(Missing("No study has results yet.", "tox run -e report"))

    measured, evidence = None, []
    path = results / "benchmarks.json"
    if path.exists():
        try:
            measured = benchmarks.read_benchmarks(path)
            evidence = [found for found in [benchmarks.lookup_evidence(measured)] if found]
        except ResultsError as error:
            problems.append(str(error))
    if measured is None:
        missing.append(Missing("There are no benchmarks that can be read.", "tox run -e bench"))
    others = None
    path = results / "peers.json"
    if path.exists():
        try:
            others = read_peers(path)
        except ResultsError as error:
            problems.append(str(error))
    return Inputs(results, read_ledger(results, evidence), studies, measured, problems, missing, others)


def environment() -> jinja2.Environment:
    """The templates, with the pages' number formats as filters; everything is escaped."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = ["number", "signed", "interval", "setting", "p_value", "percent", "seconds", "size", "counted"]
    names += ["figures", "figures_interval", "times", "times_interval"]
    env.filters |= {name: getattr(numbers, name) for name in names}
    env.filters |= {"slug": ledger.slug, "prose": ledger.prose, "cell": cell}
    return env


def cell(value: object) -> str:
    """A value in a figure's table."""
    return numbers.number(value, 4) if isinstance(value, float) else numbers.setting(value)


def render(inputs: Inputs) -> dict[str, str]:
    """Every page's HTML by file name."""
    env = environment()
    links = [{"page": "index.html", "name": "dotbias · ledger"}]
    links += [{"page": one.page, "name": one.page.removesuffix(".html")} for one in inputs.studies]
    if inputs.benchmarks is not None:
        links.append({"page": BENCHMARKS_PAGE, "name": "benchmarks"})
    if inputs.peers is not None:
        links.append({"page": PEERS_PAGE, "name": "peers"})
    inlined = {name: Markup((TEMPLATES / name).read_text("utf-8")) for name in ("style.css", "behavior.js")}  # noqa: S704

    def page(template: str, name: str, context: dict[str, object]) -> str:
        shared = {"style": inlined["style.css"], "behavior": inlined["behavior.js"], "links": links, "here": name}
        return env.get_template(template).render(shared | context)

    pages = {one.page: page("study.html.j2", one.page, study.context(one)) for one in inputs.studies}
    measured = ""
    if inputs.benchmarks is not None:
        context = benchmarks.context(inputs.benchmarks)
        measured = context["answer"]
        pages[BENCHMARKS_PAGE] = page("benchmarks.html.j2", BENCHMARKS_PAGE, context)
    beside_others = ""
    if inputs.peers is not None:
        context = peers.context(inputs.peers)
        beside_others = context["answer"]
        pages[PEERS_PAGE] = page("peers.html.j2", PEERS_PAGE, context)
    index = ledger.context(inputs) | {"benchmarks_answer": measured, "peers_answer": beside_others}
    return pages | {"index.html": page("ledger.html.j2", "index.html", index)}


@app.command()
def main(
    results: Annotated[Path, typer.Option(help="The folder that studies and benchmarks left behind.")] = Path(
        "results"
    ),
    out: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("reports/html"),
) -> None:
    """Render results as pages: the claims ledger, a page a study, the benchmarks."""
    try:
        inputs = gather(results)
        for name, text in render(inputs).items():
            write_text(out / name, text)
    except (ResultsError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for problem in [*inputs.ledger.problems, *inputs.problems, *(p for one in inputs.studies for p in one.problems)]:
        typer.echo(f"problem: {problem}", err=True)
    for part in inputs.missing:
        typer.echo(f"missing: {part.what} This makes it: {part.command}", err=True)
    typer.echo(f"pages: {(out / 'index.html').resolve()}")


if __name__ == "__main__":
    app()
