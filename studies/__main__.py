"""`python -m studies`: every study, what it asks, what it costs, whether it has results; and all of them at once."""

from __future__ import annotations

import importlib
import io
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import studies
from studies.evidence.claims import N_CLAIMS, load_claims
from studies.evidence.outside import printable, without_password
from studies.evidence.schema import ResultsError, find_summaries, read_summary
from studies.lab.arguments import UsageError, checked_path
from studies.lab.command import Command
from studies.lab.spec import Study, counted

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class StudyError(ValueError):
    """A file in this package that is no study as it should be: the message says which and why."""


def find_studies() -> list[Study]:
    """Every study: the modules of this package that have a `STUDY`.

    Raises:
        StudyError: a study's name is not that of its file, by which its command goes.
    """
    found = []
    for module in pkgutil.iter_modules(studies.__path__):
        if module.name.startswith("_"):
            continue
        study = getattr(importlib.import_module(f"studies.{module.name}"), "STUDY", None)
        if not isinstance(study, Study):
            continue
        if study.name != module.name:
            raise StudyError(
                f"studies/{module.name}.py: its STUDY is called {study.name!r}; call it {module.name!r}, as its file is"
            )
        found.append(study)
    return found


def describe(study: Study, results: Path, summaries: Sequence[Path]) -> str:
    """A study's entry in the list, with those results that are in a folder of its name."""
    lines = [
        f"{study.name}  {study.question}",
        f"  {study.claims_named()}; profiles",
        *(f"    {cost}" for cost in study.costs()),
    ]
    own = [path for path in summaries if path.parent.name == study.name]
    for path in own:
        try:
            summary = read_summary(path)
        except ResultsError as error:
            lines.append(f"  results that cannot be used: {error}")
            continue
        lines.append(
            f"  results in {path.parent}: {summary.data.name}, profile {summary.profile}, "
            f"{counted(len(summary.provenance.seeds), 'seed')}, {summary.provenance.finished}"
        )
    if not own:
        lines.append(f"  no results in {results} yet: python -m studies.{study.name}")
    return "\n".join(map(printable, lines))


@app.command(cls=Command, help=__doc__)
def main(
    claim: Annotated[int | None, typer.Option(min=1, max=N_CLAIMS, help="Only studies of this claim.")] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run them, one after the other.")] = False,
    profile: Annotated[str | None, typer.Option(help="With --all: how much to spend.  [default: quick]")] = None,
    results: Annotated[str, typer.Option(metavar="DIR", help="Where results are.")] = "results",
) -> None:
    """List the studies, or run them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        folder = checked_path("--results", results)
        found = find_studies()
    except (StudyError, UsageError) as error:
        _fail(str(error))
    if claim is not None:
        found = [study for study in found if claim in study.claims]
        about = load_claims()[claim - 1]
        typer.echo(f"Claim {claim} ({', '.join(about.kinds)}): {about.claim}\n")
        if not found:
            typer.echo("No study speaks of it yet.")
    if not run_all:
        if profile is not None:
            _fail("--profile says how to run the studies: add --all")
        if folder.exists() and not folder.is_dir():
            _fail(f"--results {folder}: not a folder")
        summaries, problems = find_summaries(folder) if folder.exists() else ([], [])
        typer.echo("\n\n".join(describe(study, folder, summaries) for study in found))
        for problem in problems:
            typer.echo(f"problem: {printable(problem)}", err=True)
        return
    profile = profile or "quick"
    for study in found:
        if profile not in study.profiles:
            _fail(f"--profile {without_password(profile)}: {study.name} has {', '.join(study.profiles)}")
    failed = [study.name for study in found if _run(study, profile, folder)]
    if failed:
        typer.echo(f"error: not finished: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _run(study: Study, profile: str, results: Path) -> int:
    """Run a study by its own command, which a failure of another cannot harm; returns its exit status."""
    options = ["--profile", profile, "--results", str(results), "--keep"]
    command = [sys.executable, "-m", f"studies.{study.name}", *options]
    with subprocess.Popen(command) as process:  # noqa: S603 - this interpreter, one of our modules
        try:
            return process.wait()
        except KeyboardInterrupt:  # the study has got it too: let it say how to go on
            process.wait()
            raise typer.Exit(130) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {printable(message)}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m studies")
