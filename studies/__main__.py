"""`python -m studies`: lists every study with its question, cost and results; with --all runs them."""

from __future__ import annotations

import importlib
import io
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import studies
from studies.evidence.claims import N_CLAIMS
from studies.evidence.ledger import BENCHES, Condition, Evidence, LedgerRow, PartRow, make_ledger, read_ledger
from studies.evidence.outside import printable, without_password
from studies.evidence.schema import ResultsError, Summary, find_summaries, in_words, read_summary
from studies.evidence.usage import Command
from studies.lab import stopping
from studies.lab.arguments import UsageError, checked_path
from studies.lab.spec import Study, counted

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class StudyError(ValueError):
    """A file in this package is not a valid study: the message says which and why."""


def find_studies() -> list[Study]:
    """Every study: the modules of this package that have a `STUDY`.

    Raises:
        StudyError: a study's declaration is refused, or its name differs from its file's, which its command uses.
    """
    found = []
    for module in pkgutil.iter_modules(studies.__path__):
        if module.name.startswith("_") or module.ispkg:
            continue
        try:
            study = getattr(importlib.import_module(f"studies.{module.name}"), "STUDY", None)
        except ValueError as error:  # its declaration
            raise StudyError(f"studies/{module.name}.py: {error}") from error
        if not isinstance(study, Study):
            continue
        if study.name != module.name:
            raise StudyError(
                f"studies/{module.name}.py: its STUDY is called {study.name!r}; call it {module.name!r}, like its file"
            )
        found.append(study)
    return found


def read_all(paths: Sequence[Path]) -> dict[Path, Summary | ResultsError]:
    """The summaries, or why they cannot be used."""
    read: dict[Path, Summary | ResultsError] = {}
    for path in paths:
        try:
            read[path] = read_summary(path)
        except ResultsError as error:
            read[path] = error
    return read


def describe(study: Study, results: Path, summaries: Mapping[Path, Summary | ResultsError]) -> str:
    """A study's entry in the list, with its results."""
    lines = [
        f"{study.name}  {study.question}",
        f"  {study.claims_named()}; data: {', '.join(study.data)}; profiles",
        *(f"    {cost}" for cost in study.costs()),
    ]
    told = len(lines)
    for path, summary in summaries.items():
        if isinstance(summary, ResultsError):
            lines += [f"  results that cannot be used: {summary}"] if study.name in path.parts[-4:-1] else []
        elif summary.study == study.name:
            lines.append(
                f"  results in {path.parent}: {summary.data.name}, profile {summary.profile}, "
                f"{counted(len(summary.provenance.seeds), 'seed')}, {summary.provenance.finished}"
            )
    if len(lines) == told:
        lines.append(f"  no results in {results} yet: python -m studies.{study.name}")
    return "\n".join(map(printable, lines))


def describe_claim(row: LedgerRow, found: Sequence[Study]) -> str:
    """A claim: its parts, the evidence on each, what is missing, and the command that would add it."""
    doubts = ", ".join(row.certainty.doubts) if row.certainty else ""
    certain = f" (certainty {row.certainty.level}{f': {doubts}' if doubts else ''})" if row.certainty else ""
    lines = [f"Claim {row.claim.id}: {row.claim.claim}", f"  {row.words}{certain}", ""]
    for part in row.parts:
        lines += _part(part, [study for study in found if part.part.id in {one.id for one in study.parts}])
    lines += [f"Slip {slip.id}: {slip.slip} Correct: {slip.correction}" for slip in row.slips]
    return "\n".join(map(printable, lines))


def _part(row: PartRow, found: Sequence[Study]) -> list[str]:
    part = row.part
    role = "" if part.role == "core" else f", {part.role}"
    lines = [f"  {part.id} ({part.kind}{role}): {part.says}", f"     check: {part.check}", f"     {row.words}"]
    if row.exact is not None:
        lines.append(f"     found: {row.exact.figure} ({row.exact.check})")
    for condition in (*row.conditions, *row.own):
        lines.append(f"     {_found(condition)}")
        lines += [f"       superseded: {_evidence(one)}" for one in condition.superseded]
    if row.missing:
        lines.append(f"     missing: {', '.join(row.missing)}")
    if part.kind in ("exact", "by construction"):
        lines.append("     run: python -m studies.exact")
    elif part.kind == "measured":
        commands = [f"python -m studies.{study.name} --profile regular" for study in found]
        if "mnist" in row.missing:  # what is in the catalog stands in for it
            commands = ["python -m lesson.data mnist", *(f"{command} --digits mnist" for command in commands)]
        commands += [BENCHES[part.id]] if part.id in BENCHES else []
        lines.append(f"     run: {' ; '.join(commands) or 'no study has this part yet'}")
    return [*lines, ""]


def _found(condition: Condition) -> str:
    where = " (your own data)" if condition.used.own else " (a stand-in)" if condition.protocol == "stand-in" else ""
    return f"on {condition.used.title}{where}: {_evidence(condition.used)}"


def _evidence(one: Evidence) -> str:
    found = one.found
    low, high = ("−∞" if found.low is None else f"{found.low:.4g}", "∞" if found.high is None else f"{found.high:.4g}")
    interval = found.infinite or f"[{low}, {high}]"
    estimate = "" if found.estimate is None else f" {found.estimate:.4g}"
    outcome, source = f"{found.outcome}, {in_words(found.reason)}", f"({one.source}, {one.profile})"
    need = f"; {one.need}" if one.need else ""
    missing = f", at least {counted(one.missing, 'seed')} missing" if one.missing else ""
    return f"{outcome}:{estimate} {interval}, n = {found.n}{missing} {source}{need}"


@app.command(cls=Command, help=__doc__)
def main(
    claim: Annotated[
        int | None, typer.Option(min=1, max=N_CLAIMS, help="Show a claim: its parts, the evidence, what is missing.")
    ] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run the studies, one after the other.")] = False,
    profile: Annotated[str | None, typer.Option(help="The profile for --all.  [default: quick]")] = None,
    results: Annotated[str, typer.Option(metavar="DIR", help="The folder of results.")] = "results",
) -> None:
    """List the studies, or run them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        folder = checked_path("--results", results)
        found = find_studies()
    except (StudyError, UsageError) as error:
        _fail(str(error))
    if folder.exists() and not folder.is_dir():
        _fail(f"--results {folder}: not a folder")
    if claim is not None:
        try:
            ledger = read_ledger(folder)
        except ResultsError as error:
            ledger = make_ledger([], problems=[str(error)])
        typer.echo(describe_claim(ledger.rows[claim - 1], found))
        _tell(ledger.problems)
        found = [study for study in found if claim in study.claims]
        if run_all and not found:
            typer.echo(f"no study has a part of claim {claim}: nothing to run", err=True)
    if run_all:
        _run_all(found, profile or "quick", folder)
        return
    if profile is not None:
        _fail("--profile is for running the studies: add --all")
    if claim is None:
        summaries, problems = find_summaries(folder) if folder.exists() else ([], [])
        read = read_all(summaries)
        typer.echo("\n\n".join(describe(study, folder, read) for study in found))
        _tell(problems)


def _tell(problems: Sequence[str]) -> None:
    for problem in problems:
        typer.echo(f"problem: {printable(problem)}", err=True)


def _run_all(found: Sequence[Study], profile: str, folder: Path) -> None:
    for study in found:
        if profile not in study.profiles:
            _fail(f"--profile {without_password(profile)}: {study.name} has {', '.join(study.profiles)}")
    failed = []
    with stopping.by_signals():
        for number, study in enumerate(found, 1):
            typer.echo(f"study {number} of {len(found)}: {study.name}, {study.profiles[profile].cost} alone", err=True)
            if _run(study, profile, folder):
                failed.append(study.name)
    if failed:
        typer.echo(f"error: not finished: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _run(study: Study, profile: str, results: Path) -> int:
    """Run a study with its own command, so that its failure stops no other; returns its exit status."""
    command = [sys.executable, "-m", f"studies.{study.name}", "--profile", profile, "--results", str(results)]
    with subprocess.Popen(command) as process:  # noqa: S603 - this interpreter, one of our modules
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches the study too, other signals do not
            process.wait()  # for its line on how to continue
            raise typer.Exit(stopping.STATUS) from None


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {printable(message)}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m studies")
