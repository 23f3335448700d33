"""The command line that every study has."""

import contextlib
import functools
import inspect
import io
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from lesson import DataError
from lesson.data import Ratings
from lesson.data.catalog import OWN
from studies.evidence import provenance
from studies.evidence.outside import printable, storage_name, without_password
from studies.evidence.parts import declared as digest_of_part
from studies.evidence.schema import (
    CURVES,
    CUSTOM,
    RUNS,
    SUMMARY,
    Summary,
    find_summaries,
    read_summary,
    since,
)
from studies.evidence.usage import Command
from studies.lab import stopping
from studies.lab.arguments import UsageError, checked_device, checked_path, checked_sources, chosen_profile, with_values
from studies.lab.source import Source, open_source, own_options, prepare, reading_options, unlearnable
from studies.lab.spec import TUNING_SEEDS_FROM, Run, Study, counted

THREADS = 1  # a run's: many small runs side by side beat one on many threads


def command(study: Study) -> Callable[[], None]:
    """The function that `python -m studies.NAME` calls."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    baseline = f"; the baseline is {study.baseline}" if study.baseline else ""

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name in _own_names(study)}
        with stopping.by_signals():
            carry_out(study, own=own, **given)

    # Typer reads the options from a signature; each study has the options of its data.
    options = {option.name: option for option in _options(study)}
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: option.annotation for name, option in options.items()}
    app.command(
        cls=Command,
        help=f"{study.question} ({study.claims_named()})\n\n"
        f"Compares {', '.join(study.arms)}{baseline}. Every run is stored: stop with Ctrl-C and start again at any "
        "time; finished runs are never repeated.\n\n"
        f"Writes DIR/{study.name}/DATA/PROFILE/summary.json, runs.parquet and curves.parquet; `python -m reports` "
        "draws the pages. If seeds, trials or values differ from the profile's, results go to the folder `custom` and "
        "replace no profile's result.",
    )(run)
    return app


def _options(study: Study) -> list[inspect.Parameter]:
    """The options of a study's command."""
    profiles = "; ".join(study.costs())
    tuned = " and ".join(study.tuned)
    several = len(study.data) > 1
    options = [
        _option("profile", str, next(iter(study.profiles)), f"How much to spend. {profiles}."),
        _option("seeds", int, None, "Seeds per arm; fewer than 8 give no verdict.", min=1, max=TUNING_SEEDS_FROM),
        _option(
            "trials",
            int,
            None,
            f"Values of {tuned} that each seed tries for each arm; 0 keeps the default.",
            min=0,
            hidden=not study.tuned,
        ),
        _option(
            "values",
            str,
            None,
            f"Other values of {study.swept}, separated by commas, such as {_some_values(study)}.",
            hidden=study.swept is None,
        ),
        _option(
            "data",
            str,
            None,
            f"Some of {', '.join(study.data)}, separated by commas.  [default: {study.data[0]} if quick, else all]",
            hidden=not several,
        ),
    ]
    for option in own_options(study):
        options.append(_option(option, str, None, f"Your own {option}: {OWN[f'--{option}'].path}.", metavar="PATH"))
        options += [
            _option(name, str, None, f"For --{option}: {text}.") for name, text in reading_options(option).items()
        ]
    return [
        *options,
        _option("workers", int, None, "Worker processes; default: one per core.", min=1, hidden=study.alone),
        _option(
            "storage",
            str,
            None,
            "An Optuna database that machines share, such as postgresql://…; default: a file in the results.",
        ),
        _option(
            "timeout",
            float,
            None,
            "Seconds after which a run is ended and left out; default: half an hour, or thirty times the median if "
            "that is more.",
            min=0,
        ),
        _option("patience", float, 600.0, "Seconds to wait for a database of --storage that stops answering.", min=0),
        _option("results", str, "results", "The folder for results.", metavar="DIR"),
        _option("device", str, "cpu", "cpu, or cuda for a GPU.", hidden=study.cpu_only),
        _option("fresh", bool, False, "Rename the earlier runs and results, and start anew.", flag=True),
        _option("export", bool, False, "Run nothing; rebuild the files from the stored runs.", flag=True),
    ]


def _option(name: str, kind: Any, default: Any, text: str, flag: bool = False, **how: Any) -> inspect.Parameter:
    names = [f"--{name}"] if flag else []
    annotation: Any = Annotated[kind if default is not None else kind | None, typer.Option(*names, help=text, **how)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _some_values(study: Study) -> str:
    """Two values that the study itself compares."""
    values = [f"{settings[study.swept]:g}" for settings in study.arms.values()] if study.swept else []
    return ",".join(values[-2:])


def _own_names(study: Study) -> list[str]:
    return [name for option in own_options(study) for name in (option, *reading_options(option))]


def carry_out(
    study: Study,
    *,
    profile: str,
    seeds: int | None,
    trials: int | None,
    values: str | None,
    data: str | None,
    workers: int | None,
    storage: str | None,
    timeout: float | None,
    patience: float,
    results: str,
    device: str,
    fresh: bool,
    export: bool,
    own: Mapping[str, str | None],
) -> None:
    """Run the study on each data set in turn. Every error the user can cause is one line."""
    # Imported here: a worker that is a new process, and --help, need neither Optuna nor SciPy.
    from studies.lab.replacing import ReplaceError
    from studies.lab.results import Asked
    from studies.lab.storage import SweepError
    from studies.lab.terminal import answer
    from studies.lab.workers import WorkerError, Workers

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal with few characters must not lose the results
    failures: list[str] = []
    try:
        sources = checked_sources(study, data, own, profile)
        root = checked_path("--results", results)
        chosen = chosen_profile(study, profile, seeds, trials)
        declared = study if values is None else with_values(study, values)
        if storage == "":
            raise UsageError("--storage: the URL is empty")
        if export and fresh:
            raise UsageError("--export needs the runs that --fresh sets aside: choose one")
        if fresh and storage:
            raise UsageError("--fresh works on a file; use `optuna delete-study` to empty a shared storage")
        if timeout is not None and not 0 < timeout < math.inf:
            raise UsageError(f"--timeout {timeout}: it must be a number of seconds above 0")
        if not 0 <= patience < math.inf:
            raise UsageError(f"--patience {patience}: it must be a number of seconds from 0 on")
        if study.alone and storage:
            raise UsageError(f"--storage: {study.name} measures time, which belongs to one machine: leave it out")
        if study.alone and workers not in (None, 1):
            raise UsageError(f"--workers {workers}: {study.name} measures time, so it makes one run at a time")
        device = checked_device(device)
        if study.cpu_only and device != "cpu":
            raise UsageError(f"--device {device}: {study.name} runs only on a CPU")
        if study.own_split and own.get("split"):
            raise UsageError(f"--split {own['split']}: {study.name} chooses its validation rows itself; leave it out")
        custom = values is not None or chosen != study.profiles[profile]
        digests = {part.id or part.says: digest_of_part(part, study.metrics) for part in study.parts}
        provenance.source_of(study.run)  # remembered before anything takes long: the file may be edited meanwhile
        count = 1 if study.alone else workers or provenance.cores()
        with Workers(count, lambda text: print(text, file=sys.stderr, flush=True)) as pool:
            if _is_program(study) and device == "cpu" and not export:
                pool.fork()
            opened = [
                _opened(
                    declared,
                    Asked(
                        command=provenance.command(f"studies.{study.name}", sys.argv[1:]),
                        profile=CUSTOM if custom else profile,
                        seeds=chosen.seeds,
                        trials=chosen.trials,
                        workers=pool.count,
                        source=source,
                        declared=digests,
                    ),
                    Place(root / study.name / source.name, storage, patience, fresh, export),
                )
                for source in sources
            ]
            for ready in opened:
                summary, folder = _run_on(declared, *ready, pool, device, timeout, failures)
                print(answer(summary))
                print(printable(f"{folder}/{SUMMARY}, {RUNS}, {CURVES}; `python -m reports` draws the pages."))
    except (UsageError, DataError, ReplaceError, SweepError, WorkerError) as error:
        _print_failures(failures)
        _fail(str(error))
    except BrokenPipeError:  # nobody reads the output any more: Click ends the command quietly
        raise
    except OSError as error:  # runs fail in their workers, so this concerns the results
        what = error.strerror or type(error).__name__
        where = error.filename or "a file of the results"
        _fail(f"{where}: {what}; check that --results is right, writable and not full")
    except KeyboardInterrupt:
        print("\nStopped. Finished runs are kept; the same command continues from here.", file=sys.stderr)
        raise typer.Exit(stopping.STATUS) from None
    except Exception:  # a bug: print everything but passwords
        print(_masked(traceback.format_exc(), storage), file=sys.stderr)
        raise typer.Exit(1) from None
    if failures:
        _print_failures(failures)
        raise typer.Exit(1)


def _is_program(study: Study) -> bool:
    """Whether this process was started for the study's command, on Linux: then it has done nothing yet but import."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return sys.platform == "linux" and spec is not None and str(spec.name).rpartition(".")[2] == study.name


class Place(NamedTuple):
    """Where the runs on one data set are kept, and what may happen to earlier ones."""

    folder: Path
    storage: str | None
    patience: float
    fresh: bool
    export: bool

    @property
    def advice(self) -> str:
        """What the user can do about files in the way."""
        return "name another folder with --results" + ("" if self.storage else ", or set that aside with --fresh")


def _opened(study: Study, asked: Any, place: Place) -> tuple[Any, Place, Any]:
    """Open the data, and check that its results can be written: all of that before the first run on any data set."""
    import dataclasses

    from studies.lab.replacing import Extent, require_replaceable
    from studies.lab.storage import JOURNAL

    if place.export and not (place.storage or (place.folder / JOURNAL).exists()):
        raise UsageError(f"--export: there are no runs to export in {place.folder}")
    data, notes = open_source(asked.source, asked.seeds, study.own_split)
    notes += study.check(data) if study.check else []
    if not place.fresh:
        extent = Extent(asked.profile, asked.seeds, asked.trials, frozenset(study.arms), asked.seeds)
        require_replaceable(place.folder / asked.profile, study, data.origin.checksum, extent, place.advice)
    if asked.source.path is not None and isinstance(data, Ratings) and not study.own_split:
        notes += unlearnable(data)
    return dataclasses.replace(asked, notes=tuple(notes)), place, data


def _run_on(
    study: Study,
    asked: Any,
    place: Place,
    data: Any,
    pool: Any,
    device: str,
    timeout: float | None,
    failures: list[str],
) -> tuple[Summary, Path]:
    """Run the study on one data set, write its summary, and return it with its folder."""
    from studies.lab.experiment import Experiment
    from studies.lab.replacing import Extent, require_replaceable
    from studies.lab.results import write
    from studies.lab.storage import REPLACING, locked, open_storage
    from studies.lab.sweep import Sweep, shown_progress

    source: Source = asked.source
    folder, checksum = place.folder / asked.profile, data.origin.checksum
    ready = functools.partial(prepare, study.run, provenance.source_of(study.run), source, checksum, THREADS)
    with open_storage(place.folder, place.storage, place.fresh, folder) as store:
        sweep = Sweep(study, store, place.patience)
        for note in dict.fromkeys((*getattr(data, "notes", ()), *asked.notes)):
            print(f"note: {printable(note)}", file=sys.stderr)

        def do(runs: Sequence[Run], what: str) -> list[str]:
            if place.export:
                return []
            with shown_progress(f"{what}, {source.name}" if len(study.data) > 1 else what) as progress:
                failed = sweep.do(runs, pool, ready, progress, timeout)
            failures.extend(failed)
            return failed

        experiment = Experiment(study, data, sweep, device=device, threads=THREADS, do=do)
        summary, runs, curves = experiment.answer(asked)
        with locked(place.folder / REPLACING):
            # Read only now: another command may have shown results while the runs were made.
            summary = since(summary, _earlier(place.folder, checksum))
            require_replaceable(folder, study, checksum, Extent.of(summary), place.advice)
            write(folder, summary, runs, curves)
    return summary, folder


def _earlier(folder: Path, checksum: str) -> list[Summary]:
    """The readable results on the data with this checksum, of any profile.

    Those that --fresh has set aside were seen, too.
    """
    from studies.evidence.schema import ResultsError

    found = []
    for path in (*find_summaries(folder)[0], *folder.glob(f"*/{SUMMARY}.until-*")):
        with contextlib.suppress(ResultsError):  # `require_replaceable` reports what is in the way
            found.append(read_summary(path))
    return [summary for summary in found if summary.data.checksum == checksum]


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    raise typer.Exit(2)


def _print_failures(failures: Sequence[str]) -> None:
    if failures:
        count = counted(len(failures), "run")
        first = "\n".join(map(printable, failures[0].splitlines()))
        print(f"error: left out {count} that failed; the first:\n{first}", file=sys.stderr)


def _masked(text: str, storage: str | None) -> str:
    """A traceback with the storage's URL, and anything that looks like one with a password, masked."""
    if storage:
        text = text.replace(storage, storage_name(storage))
    return "\n".join(map(without_password, text.splitlines()))
