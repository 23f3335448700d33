"""`python -m studies.exact`: runs every exact check, in seconds; prints a table, writes DIR/exact.json."""

from __future__ import annotations

import io
import json
import sys
import time
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from studies.evidence import provenance
from studies.evidence.outside import printable
from studies.evidence.schema import write_text
from studies.evidence.usage import Command
from studies.exact import Check, checks

SCHEMA_VERSION = 1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def decide(check: Check) -> dict[str, Any]:
    """The check's record in exact.json. Its random numbers do not depend on earlier checks."""
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = check.run()
    return {
        "part": check.part,
        "holds": bool(found.holds),
        "expected": check.expected,
        "by_construction": check.by_construction,
        "figure": found.figure,
        "says": check.says,
        "check": check.name,
        "source": check.source,
        "seconds": round(time.perf_counter() - began, 4),
    }


def decide_all(every: Iterable[Check]) -> tuple[list[dict[str, Any]], list[str]]:
    """The records, and the problems: checks that raised, and unexpected results."""
    records, problems = [], []
    for check in every:
        try:
            record = decide(check)
        except Exception as error:  # a check that raises must not stop the others
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}, line {at.lineno}"
            problems.append(f"{check.part} ({check.name}): {type(error).__name__}: {error} ({where})")
            continue
        records.append(record)
        if record["holds"] != check.expected:
            problem = "holds, but was expected not to" if record["holds"] else "does not hold, but was expected to"
            problems.append(f"{check.part} ({check.name}): {problem}: {record['figure']}")
    return records, problems


def write(records: list[dict[str, Any]], path: Path) -> None:
    """Write the records with their provenance."""
    commit, dirty = provenance.commit()
    origin = {
        "commit": commit,
        "dirty": dirty,
        "versions": provenance.versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    content = {"schema_version": SCHEMA_VERSION, "checks": records, "provenance": origin}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@app.command(cls=Command, help=__doc__)
def main(
    results: Annotated[Path, typer.Option(metavar="DIR", help="The folder for exact.json.")] = Path("results"),
) -> None:
    """Run the checks, print the results, write the file; exit status 1 if there is a problem."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    records, problems = decide_all(checks())
    for record in records:
        verdict = "true " if record["holds"] else "false"
        said = f"{record['part']:8} {verdict}  {record['says']}\n{'':16}{record['figure']}"
        typer.echo(said + (f"\n{'':16}by construction: {record['source']}" if record["by_construction"] else ""))
    path = results / "exact.json"
    try:
        write(records, path)
    except OSError as error:
        problems.append(f"{path}: cannot be written ({error.strerror})")
    else:
        typer.echo(f"\n{len(records)} checks → {printable(str(path))}")
    for problem in problems:
        typer.echo(f"problem: {printable(problem)}", err=True)
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m studies.exact")
