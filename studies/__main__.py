"""`python -m studies`: every study, what it asks, what it costs, whether it has results; and all of them at once."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import studies
from studies.evidence.claims import N_CLAIMS, load_claims
from studies.evidence.schema import ResultsError, read_summary
from studies.lab.spec import Study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def find_studies() -> list[Study]:
    """Every study: the modules of this package that have a `STUDY`."""
    names = [module.name for module in pkgutil.iter_modules(studies.__path__) if not module.name.startswith("_")]
    found = (getattr(importlib.import_module(f"studies.{name}"), "STUDY", None) for name in names)
    return [study for study in found if isinstance(study, Study)]


def describe(study: Study, results: Path) -> str:
    """A study's entry in the list."""
    lines = [
        f"{study.name}  {study.question}",
        f"  claims {', '.join(map(str, study.claims))}; profiles",
        *(f"    {cost}" for cost in study.costs()),
    ]
    summaries = sorted(path for path in results.glob("**/summary.json") if path.parent.name == study.name)
    for path in summaries:
        try:
            summary = read_summary(path)
        except ResultsError as error:
            lines.append(f"  results that cannot be used: {error}")
            continue
        lines.append(
            f"  results in {path.parent}: {summary.data.name}, profile {summary.profile}, "
            f"{len(summary.provenance.seeds)} seeds, {summary.provenance.finished}"
        )
    if not summaries:
        lines.append(f"  no results in {results} yet: python -m studies.{study.name}")
    return "\n".join(lines)


@app.command(help=__doc__)
def main(
    claim: Annotated[int | None, typer.Option(min=1, max=N_CLAIMS, help="Only studies of this claim.")] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run them, one after the other.")] = False,
    profile: Annotated[str | None, typer.Option(help="With --all: how much to spend.  [default: quick]")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where results are.")] = Path("results"),
) -> None:
    """List the studies, or run them."""
    found = find_studies()
    if claim is not None:
        found = [study for study in found if claim in study.claims]
        about = load_claims()[claim - 1]
        typer.echo(f"Claim {claim} ({', '.join(about.kinds)}): {about.claim}\n")
        if not found:
            typer.echo("No study speaks of it yet.")
    if not run_all:
        if profile is not None:
            _fail("--profile says how to run the studies: add --all")
        typer.echo("\n\n".join(describe(study, results) for study in found))
        return
    profile = profile or "quick"
    for study in found:
        if profile not in study.profiles:
            _fail(f"--profile {profile}: {study.name} has {', '.join(study.profiles)}")
    failed = [study.name for study in found if _run(study, profile, results)]
    if failed:
        typer.echo(f"error: not finished: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _run(study: Study, profile: str, results: Path) -> int:
    """Run a study by its own command, which a failure of another cannot harm; returns its exit status."""
    command = [sys.executable, "-m", f"studies.{study.name}", "--profile", profile, "--results", str(results)]
    with subprocess.Popen(command) as process:  # noqa: S603 - this interpreter, one of our modules
        try:
            return process.wait()
        except KeyboardInterrupt:  # the study has got it too: let it say how to go on
            process.wait()
            raise typer.Exit(130) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m studies")
