"""The command line that every study has."""

# No postponed annotations here: typer evaluates them where the local names in the help texts are unknown.

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer

from kernels import backends
from lesson.data import DataError, Ratings, open_movielens, open_ratings, split
from studies.evidence import provenance
from studies.evidence.schema import Contrast, ResultsError, Summary, read_summary
from studies.lab.spec import Outcome, Profile, Run, Settings, Study

THREADS = 1  # a run's: many small runs side by side beat one on many threads


class UsageError(ValueError):
    """A command that cannot be carried out as it stands: the message says why."""


def command(study: Study) -> Callable[[], None]:
    """The function that `python -m studies.NAME` calls."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    costs = "; ".join(study.costs())

    @app.command(
        help=f"{study.question} (claims {', '.join(map(str, study.claims))})\n\n"
        f"Compares {', '.join(study.arms)}; the baseline is {study.baseline}. Every run is stored under what "
        "determines it: stop with Ctrl-C and start again at will, finished runs are kept and never repeated.\n\n"
        f"Leaves DIR/{study.name}/summary.json, runs.parquet and curves.parquet; `python -m reports` draws the pages."
    )
    def run(
        profile: Annotated[str, typer.Option(help=f"How much to spend. {costs}.")] = next(iter(study.profiles)),
        seeds: Annotated[
            int | None, typer.Option(min=1, help="Replicates an arm; fewer than 10 give no verdict.")
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
            str | None, typer.Option(help="Other values than the study's, with commas, such as 0.05,0.2.")
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
            Path | None, typer.Option(metavar="DIR", help="Where to; default: results, or results/NAME for --ratings.")
        ] = None,
        ratings: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Your own ratings: .csv, .tsv, .parquet or a MovieLens folder."),
        ] = None,
        device: Annotated[str, typer.Option(help="cpu, or cuda for Triton kernels on a GPU.")] = "cpu",
        fresh: Annotated[bool, typer.Option("--fresh", help="Set the earlier runs' file aside, start anew.")] = False,
        export: Annotated[
            bool, typer.Option("--export", help="Run nothing; rebuild the files from the runs in storage.")
        ] = False,
    ) -> None:
        # Imported here: a worker and --help need neither Optuna nor SciPy.
        from studies.lab.experiment import Experiment
        from studies.lab.sweep import JOURNAL, Sweep, SweepError, open_storage, shown_progress
        from studies.lab.workers import WorkerError

        folder = (results or Path("results") / (ratings.resolve().stem if ratings else "")) / study.name
        try:
            chosen = _profile(study, profile, seeds, trials)
            declared = study if values is None else _with_values(study, values)
            if fresh and storage:
                raise UsageError("--fresh sets a file aside; a shared storage is emptied by `optuna delete-study`")
            if export and (fresh or not (storage or (folder / JOURNAL).exists())):
                raise UsageError(f"--export: there are no runs to export in {folder}")
            backend = _backend(device)
            table, notes = _open(ratings)
            _refuse_to_replace(folder, table)
            split(table)  # too few ratings are better known now than from every worker
            processes = workers or provenance.cores()
            prepare = functools.partial(_prepare, study.run, ratings, table.checksum)

            with open_storage(folder, storage, fresh) as store:
                sweep = Sweep(declared, store)

                def do(runs: Sequence[Run], what: str) -> list[str]:
                    if export:
                        return []
                    with shown_progress(what) as progress:
                        return sweep.do(runs, processes, prepare, progress)

                experiment = Experiment(declared, table, sweep, backend=backend, device=device, threads=THREADS, do=do)
                summary = experiment.answer(
                    folder,
                    profile=profile,
                    seeds=chosen.seeds,
                    trials=chosen.trials,
                    command=provenance.command(f"studies.{study.name}", sys.argv[1:]),
                    workers=processes,
                    notes=notes,
                )
        except (UsageError, DataError, SweepError, WorkerError) as error:
            _fail(str(error))
        except OSError as error:  # runs fail in their workers: this is about the results
            _fail(f"{error.filename or folder}: {error.strerror}; is the folder of results right, writable, not full?")
        except KeyboardInterrupt:
            print("\nStopped. Finished runs are kept; the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(130) from None
        print(answer(summary))
        print(f"{folder}/summary.json, runs.parquet, curves.parquet; `python -m reports` draws the pages.")
        if failures := experiment.failures:
            print(f"error: {len(failures)} runs failed and are left out; the first:\n{failures[0]}", file=sys.stderr)
            raise typer.Exit(1)

    return app


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _refuse_to_replace(folder: Path, table: Ratings) -> None:
    try:
        earlier = read_summary(folder / "summary.json").data
    except (OSError, ResultsError):
        return
    if earlier.checksum != table.checksum:
        raise UsageError(
            f"{folder} holds results for other ratings ({earlier.name}, {earlier.ratings:,} of them); "
            "name another folder by --results"
        )


def _profile(study: Study, name: str, seeds: int | None, trials: int | None) -> Profile:
    if name not in study.profiles:
        raise UsageError(f"--profile {name}: there are {', '.join(study.profiles)}")
    if trials and study.tuned is None:
        raise UsageError(f"--trials {trials}: {study.name} tunes nothing")
    profile = study.profiles[name]
    return dataclasses.replace(
        profile,
        seeds=profile.seeds if seeds is None else seeds,
        trials=profile.trials if trials is None else trials,
    )


def _with_values(study: Study, text: str) -> Study:
    """The study with other arms; it asks another question where its primary arm is not among them."""
    if study.value is None:
        raise UsageError(f"--values {text}: the arms of {study.name} are {', '.join(study.arms)}, no values")
    try:
        arms: dict[str, Settings] = dict(study.value(float(word)) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--values {text}: {error}; numbers with commas between are needed") from None
    arms = {study.baseline: study.arms[study.baseline], **arms}
    if len(arms) < 2:
        raise UsageError(f"--values {text}: nothing to compare with the baseline {study.baseline}")
    if study.primary in arms:
        return dataclasses.replace(study, arms=arms)
    others = [arm for arm in arms if arm != study.baseline]
    question = f"Is {' or '.join(others)} better than {study.baseline}?"
    return dataclasses.replace(study, arms=arms, primary=others[0], question=question)


def _backend(device: str) -> str:
    try:
        return backends.choose(None, torch.empty(0, device=device).device, torch.float32)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from None


def _open(path: Path | None) -> tuple[Ratings, list[str]]:
    """The ratings, and what to know of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = open_movielens() if path is None else open_ratings(path)
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return table, notes


def _prepare(
    run: Callable[[Run, Any], Outcome], path: Path | None, checksum: str
) -> Callable[[tuple[int, Run]], Outcome]:
    """In a worker: read the data once, then do runs."""
    torch.set_num_threads(THREADS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sweep has told
        table = open_movielens() if path is None else open_ratings(path)
    if table.checksum != checksum:
        raise DataError(f"{path or table.name}: changed since the sweep began; start it again")
    return lambda job: run(job[1], table)


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
