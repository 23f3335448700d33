"""The command line that every study has."""

# No postponed annotations here: typer evaluates them where the local names in the help texts are unknown.

import functools
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
import typer.core
import typer.exceptions

from kernels import backends
from lesson.data import DataError
from studies.evidence import provenance
from studies.evidence.outside import printable, storage_name, without_password
from studies.evidence.schema import CURVES, RUNS, SUMMARY, Contrast, Summary
from studies.lab.arguments import UsageError, checked_device, checked_path, checked_source, chosen_profile, with_values
from studies.lab.source import open_source, prepare, told_of_learnable
from studies.lab.spec import TUNING_SEEDS_FROM, Run, Study, counted

THREADS = 1  # a run's: many small runs side by side beat one on many threads


class Command(typer.core.TyperCommand):
    """A command whose usage errors show no password that stands in a wrong place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does."""
        try:
            return super().parse_args(ctx, args)
        except typer.exceptions.TyperException as error:
            error.message = printable(without_password(error.message))
            raise


def command(study: Study) -> Callable[[], None]:
    """The function that `python -m studies.NAME` calls."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    costs = "; ".join(study.costs())

    @app.command(
        cls=Command,
        help=f"{study.question} ({study.claims_named()})\n\n"
        f"Compares {', '.join(study.arms)}; the baseline is {study.baseline}. Every run is stored under what "
        "determines it: stop with Ctrl-C and start again at will, finished runs are kept and never repeated.\n\n"
        f"Leaves DIR/{study.name}/summary.json, runs.parquet and curves.parquet; `python -m reports` draws the pages. "
        "It never replaces a result that holds more: a higher profile, more seeds, more tuning, other arms.",
    )
    def run(
        profile: Annotated[str, typer.Option(help=f"How much to spend. {costs}.")] = next(iter(study.profiles)),
        seeds: Annotated[
            int | None,
            typer.Option(min=1, max=TUNING_SEEDS_FROM, help="Replicates an arm; fewer than 10 give no verdict."),
        ] = None,
        trials: Annotated[
            int | None,
            typer.Option(
                min=0,
                hidden=study.tuned is None,
                help=f"Values of {study.tuned and study.tuned[0]} tried for each arm; 0 keeps the default.",
            ),
        ] = None,
        values: Annotated[
            str | None,
            typer.Option(
                hidden=study.value is None, help="Other values than the study's, with commas, such as 0.05,0.2."
            ),
        ] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
        storage: Annotated[
            str | None,
            typer.Option(
                help="A database for Optuna, such as postgresql://…, that several machines share; "
                "default: a file in the results."
            ),
        ] = None,
        results: Annotated[
            str | None, typer.Option(metavar="DIR", help="Where to; default: results, or results/NAME for --ratings.")
        ] = None,
        ratings: Annotated[
            str | None,
            typer.Option(metavar="FILE", help="Your own ratings: .csv, .tsv, .parquet or a MovieLens folder."),
        ] = None,
        user: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of users in --ratings.")] = None,
        item: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of items.")] = None,
        rating: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of ratings.")] = None,
        sep: Annotated[str | None, typer.Option(help="What separates the fields of text, such as ; or ::.")] = None,
        encoding: Annotated[str | None, typer.Option(help="Of text, such as latin-1.  [default: UTF-8]")] = None,
        device: Annotated[str, typer.Option(help="cpu, or cuda for Triton kernels on a GPU.")] = "cpu",
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Set the earlier runs and results aside, start anew.")
        ] = False,
        keep: Annotated[
            bool, typer.Option("--keep", help="Where the results hold more already, keep them and run nothing.")
        ] = False,
        export: Annotated[
            bool, typer.Option("--export", help="Run nothing; rebuild the files from the runs in storage.")
        ] = False,
    ) -> None:
        # Imported here: a worker and --help need neither Optuna nor SciPy.
        from studies.lab.experiment import Experiment
        from studies.lab.replacing import Extent, GreaterResultError, ReplaceError, require_replaceable
        from studies.lab.results import write
        from studies.lab.storage import JOURNAL, SweepError, locked, open_storage
        from studies.lab.sweep import Sweep, shown_progress
        from studies.lab.workers import WorkerError

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few letters loses no results
        advice = "name another folder by --results" + ("" if storage else ", or set that aside by --fresh")
        failures: list[str] = []
        try:
            columns = {"user": user, "item": item, "rating": rating, "sep": sep, "encoding": encoding}
            source = checked_source(ratings, columns)
            parent = Path("results") / source.folder_name() if results is None else checked_path("--results", results)
            folder = parent / study.name
            if storage == "":
                raise UsageError("--storage: the URL is empty")
            chosen = chosen_profile(study, profile, seeds, trials)
            declared = study if values is None else with_values(study, values)
            if export and fresh:
                raise UsageError("--export rebuilds the files from the very runs that --fresh sets aside: choose one")
            if fresh and storage:
                raise UsageError("--fresh sets a file aside; a shared storage is emptied by `optuna delete-study`")
            if export and not (storage or (folder / JOURNAL).exists()):
                raise UsageError(f"--export: there are no runs to export in {folder}")
            device = checked_device(device)
            backend = backends.choose(None, torch.device(device), torch.float32)
            if study.backend not in (None, backend):
                raise UsageError(
                    f"--device {device} is for the {backend} backend; {study.name} runs on {study.backend} alone"
                )
            table, notes = open_source(source)
            notes.append(told_of_learnable(table, chosen.seeds))
            if not fresh:
                extent = Extent(profile, chosen.seeds, chosen.trials, frozenset(declared.arms))
                require_replaceable(folder, study, table.checksum, extent, advice)
            processes = workers or provenance.cores()
            ready = functools.partial(prepare, study.run, source, table.checksum, THREADS)

            with open_storage(folder, storage, fresh) as store:
                sweep = Sweep(declared, store)
                for note in (*table.notes, *notes):
                    print(f"note: {printable(note)}", file=sys.stderr)

                def do(runs: Sequence[Run], what: str) -> list[str]:
                    if export:
                        return []
                    with shown_progress(what) as progress:
                        failed = sweep.do(runs, processes, ready, progress)
                    failures.extend(failed)
                    return failed

                experiment = Experiment(declared, table, sweep, backend=backend, device=device, threads=THREADS, do=do)
                summary, runs, curves = experiment.answer(
                    profile=profile,
                    seeds=chosen.seeds,
                    trials=chosen.trials,
                    command=provenance.command(f"studies.{study.name}", sys.argv[1:]),
                    workers=processes,
                    notes=notes,
                )
                with locked(folder / ".replacing.lock"):
                    require_replaceable(folder, study, table.checksum, Extent.of(summary), advice)
                    write(folder, summary, runs, curves)
        except GreaterResultError as error:
            _tell(failures)
            if not keep:
                _fail(str(error))
            print(printable(f"kept what is there: {error}"))
            return
        except (UsageError, DataError, ReplaceError, SweepError, WorkerError) as error:
            _fail(str(error))
        except OSError as error:  # runs fail in their workers: this is about the results
            what = error.strerror or type(error).__name__
            where = error.filename or "a file of the results"
            _fail(f"{where}: {what}; is the folder of results right, writable, not full?")
        except KeyboardInterrupt:
            print("\nStopped. Finished runs are kept; the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception:  # a fault of ours: all is told but a password
            print(_masked(traceback.format_exc(), storage), file=sys.stderr)
            raise typer.Exit(1) from None
        print(answer(summary))
        print(printable(f"{folder}/{SUMMARY}, {RUNS}, {CURVES}; `python -m reports` draws the pages."))
        if failures:
            _tell(failures)
            raise typer.Exit(1)

    return app


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    raise typer.Exit(2)


def _tell(failures: Sequence[str]) -> None:
    if failures:
        count = counted(len(failures), "run")
        print(f"error: left out: {count} that failed; the first:\n{failures[0]}", file=sys.stderr)


def _masked(text: str, storage: str | None) -> str:
    """A traceback without passwords: neither the storage's URL nor what looks like one."""
    if storage:
        text = text.replace(storage, storage_name(storage))
    return "\n".join(map(without_password, text.splitlines()))


def answer(summary: Summary) -> str:
    """The study's table of contrasts, for a terminal."""
    lines = [f"{summary.question}  ({summary.data.name}, {summary.metric}, profile {summary.profile})"]
    width = max(map(len, summary.arms))
    contrasts = {contrast.arm: contrast for contrast in summary.contrasts}
    for arm, figures in summary.arms.items():
        mean = "diverged" if figures.mean is None else f"{figures.mean:.4f}"
        told = _contrast(contrasts[arm]) if arm in contrasts else "baseline"
        lines.append(f"  {arm:{width}} {mean:>9}  {told}  n = {figures.n}")
    return "\n".join(lines)


def _contrast(contrast: Contrast) -> str:
    if contrast.difference is None:
        return f"{contrast.verdict} (diverged: {contrast.diverged[0]}, baseline {contrast.diverged[1]})"
    low, high = contrast.interval or (float("-inf"), float("inf"))
    verdict = f"{contrast.verdict}, negligible" if contrast.negligible else contrast.verdict
    return f"{contrast.difference:+.4f} [{low:+.4f}, {high:+.4f}]  {verdict}"
