"""`python -m reports`: draws everything in the results folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from reports.text import one_line
from studies.evidence.outside import holds_login, without_password
from studies.evidence.usage import Command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=Command)
def main(
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder with the results of studies and benchmarks.")
    ] = Path("results"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the pages.")] = Path("reports/html"),
) -> None:
    """Draw the results as pages: the claims ledger, a page for each study, the benchmarks, the other libraries.

    A file or value that cannot be used is named, and the exit status is then 1; everything else is drawn.
    """
    # Imported here: --help and a missing folder do not need the drawing libraries.
    from reports.pages import render, withdrawn
    from reports.read import gather
    from studies.evidence.schema import ResultsError, write_text

    for option, folder in (("--results", results), ("--out", out)):
        if holds_login(str(folder)) and not folder.exists():
            _fail(f"{option} {without_password(str(folder))}: not a folder's name; no option takes a database's URL.")
    try:
        inputs = gather(results)
    except ResultsError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or results}: cannot be read ({error.strerror}). Name another folder with --results.")
    _require_folder(out)
    pages = render(inputs)
    gone = withdrawn(out, pages.html)
    try:
        for name, text in (pages.html | gone).items():
            write_text(out / name, text)
    except OSError as error:
        _fail(f"{error.filename2 or error.filename or out}: cannot be written ({error.strerror}). Name another --out.")
    for problem in pages.problems:
        typer.echo(f"problem: {one_line(problem)}", err=True)
    for name in gone:
        typer.echo(f"withdrawn: {one_line(str(out / name))}: its results are gone or cannot be read", err=True)
    for part in inputs.missing:
        typer.echo(f"missing: {part.what} To make it: {part.command}", err=True)
    typer.echo(f"pages: {one_line(str((out / 'index.html').resolve()))}")
    if pages.problems:
        raise typer.Exit(1)


def _require_folder(out: Path) -> None:
    """Check that pages can be written, before the seconds that drawing takes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        taken = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file is in the way" if taken else error.strerror
        _fail(f"--out {out}: cannot write pages there ({reason}). Name another folder.")


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {one_line(message)}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m reports")
