"""The command line that every study has."""

import functools
import inspect
import io
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.exceptions

from lesson import DataError
from studies.evidence import provenance
from studies.evidence.outside import printable, storage_name, without_password
from studies.evidence.schema import CURVES, CUSTOM, RUNS, SUMMARY, PartFound, Summary, find_summaries, read_summary
from studies.lab.arguments import UsageError, checked_device, checked_path, checked_sources, chosen_profile, with_values
from studies.lab.source import Source, open_source, opener, own_options, prepare, reading_options
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
    baseline = f"; the baseline is {study.baseline}" if study.baseline else ""

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name in _own_names(study)}
        carry_out(study, own=own, **given)

    # Typer reads the options off a signature, and each study has those of its data.
    options = {option.name: option for option in _options(study)}
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: option.annotation for name, option in options.items()}
    app.command(
        cls=Command,
        help=f"{study.question} ({study.claims_named()})\n\n"
        f"Compares {', '.join(study.arms)}{baseline}. Every run is stored under what determines it: stop with Ctrl-C "
        "and start again at will, finished runs are kept and never repeated.\n\n"
        f"Leaves DIR/{study.name}/DATA/PROFILE/summary.json, runs.parquet and curves.parquet; `python -m reports` "
        "draws the pages. Other seeds, trials or values than a profile's go to a folder of their own, which replaces "
        "no profile's result.",
    )(run)
    return app


def _options(study: Study) -> list[inspect.Parameter]:
    """The options of a study's command."""
    profiles = "; ".join(study.costs())
    tuned = " and ".join(study.tuned)
    several = len(study.data) > 1
    options = [
        _option("profile", str, next(iter(study.profiles)), f"How much to spend. {profiles}."),
        _option("seeds", int, None, "Replicates an arm; fewer than 8 give no verdict.", min=1, max=TUNING_SEEDS_FROM),
        _option(
            "trials",
            int,
            None,
            f"Choices of {tuned} that each seed tries for each arm; 0 keeps the default.",
            min=0,
            hidden=not study.tuned,
        ),
        _option(
            "values",
            str,
            None,
            f"Other values of {study.swept}, with commas, such as 0.05,0.2.",
            hidden=study.swept is None,
        ),
        _option("data", str, None, f"Some of {', '.join(study.data)}.  [default: all]", hidden=not several),
    ]
    for option in own_options(study):
        opens = opener(option)
        options.append(_option(option, str, None, f"Your own {option}: {_described(opens, 'path')}", metavar="PATH"))
        options += [
            _option(name, str, None, f"Of --{option}: {_described(opens, name)}") for name in reading_options(option)
        ]
    return [
        *options,
        _option("workers", int, None, "Processes; default: one a core.", min=1, hidden=study.alone),
        _option(
            "storage",
            str,
            None,
            "A database for Optuna, such as postgresql://…, that machines share; default: a file in the results.",
        ),
        _option("results", str, "results", "Where to.", metavar="DIR"),
        _option("device", str, "cpu", "cpu, or cuda for runs on a GPU.", hidden=study.cpu_only),
        _option("fresh", bool, False, "Set the earlier runs and results aside, start anew.", flag=True),
        _option("export", bool, False, "Run nothing; rebuild the files from the runs in storage.", flag=True),
    ]


def _option(name: str, kind: Any, default: Any, text: str, flag: bool = False, **how: Any) -> inspect.Parameter:
    names = [f"--{name}"] if flag else []
    annotation: Any = Annotated[kind if default is not None else kind | None, typer.Option(*names, help=text, **how)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _described(function: Callable[..., Any], parameter: str) -> str:
    """What a function's docstring says of a parameter."""
    found = re.search(rf"^ +{parameter}: (.*(?:\n {{8,}}.*)*)", inspect.getdoc(function) or "", re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]) if found else ""


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
    results: str,
    device: str,
    fresh: bool,
    export: bool,
    own: Mapping[str, str | None],
) -> None:
    """Do what a command line asks for, on one data set after the other; whatever goes wrong is told in one line."""
    # Imported here: a worker and --help need neither Optuna nor SciPy.
    from studies.lab.replacing import ReplaceError
    from studies.lab.results import Asked
    from studies.lab.storage import SweepError
    from studies.lab.workers import WorkerError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few letters loses no results
    failures: list[str] = []
    try:
        sources = checked_sources(study, data, own)
        root = checked_path("--results", results)
        chosen = chosen_profile(study, profile, seeds, trials)
        declared = study if values is None else with_values(study, values)
        if storage == "":
            raise UsageError("--storage: the URL is empty")
        if export and fresh:
            raise UsageError("--export rebuilds the files from the very runs that --fresh sets aside: choose one")
        if fresh and storage:
            raise UsageError("--fresh sets a file aside; a shared storage is emptied by `optuna delete-study`")
        if study.alone and workers not in (None, 1):
            raise UsageError(f"--workers {workers}: {study.name} takes times, so its runs are made one at a time")
        device = checked_device(device)
        if study.cpu_only and device != "cpu":
            raise UsageError(f"--device {device}: the runs of {study.name} are made on a CPU alone")
        custom = values is not None or chosen != study.profiles[profile]
        for source in sources:
            asked = Asked(
                command=provenance.command(f"studies.{study.name}", sys.argv[1:]),
                profile=CUSTOM if custom else profile,
                seeds=chosen.seeds,
                trials=chosen.trials,
                workers=1 if study.alone else workers or provenance.cores(),
                source=source,
            )
            summary, folder = _on_data(declared, asked, root, storage, device, fresh, export, failures)
            print(answer(summary))
            print(printable(f"{folder}/{SUMMARY}, {RUNS}, {CURVES}; `python -m reports` draws the pages."))
    except (UsageError, DataError, ReplaceError, SweepError, WorkerError) as error:
        _tell(failures)
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
    if failures:
        _tell(failures)
        raise typer.Exit(1)


def _on_data(
    study: Study,
    asked: Any,
    root: Path,
    storage: str | None,
    device: str,
    fresh: bool,
    export: bool,
    failures: list[str],
) -> tuple[Summary, Path]:
    """The study on one data set: its summary, written to the folder that is returned too."""
    import dataclasses

    from studies.lab.experiment import Experiment
    from studies.lab.replacing import Extent, require_replaceable
    from studies.lab.results import write
    from studies.lab.storage import JOURNAL, locked, open_storage
    from studies.lab.sweep import Sweep, shown_progress

    source: Source = asked.source
    here = root / study.name / source.name
    folder = here / asked.profile
    advice = "name another folder by --results" + ("" if storage else ", or set that aside by --fresh")
    if export and not (storage or (here / JOURNAL).exists()):
        raise UsageError(f"--export: there are no runs to export in {here}")
    data, notes = open_source(source, asked.seeds)
    asked = dataclasses.replace(asked, notes=tuple(notes))
    checksum = data.origin.checksum
    if not fresh:
        extent = Extent(asked.profile, asked.seeds, asked.trials, frozenset(study.arms))
        require_replaceable(folder, study, checksum, extent, advice)
    ready = functools.partial(prepare, study.run, source, checksum, THREADS)
    with open_storage(here, storage, fresh, folder) as store:
        sweep = Sweep(study, store)
        for note in (*getattr(data, "notes", ()), *notes):
            print(f"note: {printable(note)}", file=sys.stderr)

        def do(runs: Sequence[Run], what: str) -> list[str]:
            if export:
                return []
            with shown_progress(f"{what}, {source.name}" if len(study.data) > 1 else what) as progress:
                failed = sweep.do(runs, asked.workers, ready, progress)
            failures.extend(failed)
            return failed

        experiment = Experiment(study, data, sweep, device=device, threads=THREADS, do=do)
        summary, runs, curves = experiment.answer(asked, _earlier(here))
        with locked(here / ".replacing.lock"):
            require_replaceable(folder, study, checksum, Extent.of(summary), advice)
            write(folder, summary, runs, curves)
    return summary, folder


def _earlier(folder: Path) -> list[Summary]:
    """Results of any profile that can be read."""
    from studies.evidence.schema import ResultsError

    found = []
    for path in find_summaries(folder)[0]:
        try:
            found.append(read_summary(path))
        except ResultsError:
            continue  # `require_replaceable` speaks of what stands in the way
    return found


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
    """What was found, for a terminal: a line a part, and the arms."""
    name, metric = next(iter(summary.metrics.items()))
    lines = [f"{summary.question}  ({summary.data.name}, profile {summary.profile})"]
    lines += [f"  {_told(part)}" for part in summary.parts]
    lines.append(f"{metric.title}:")
    width = max(map(len, summary.arms))
    for arm, figures in summary.arms.items():
        found = figures.metrics[name]
        failed = [f"{count} {what}" for what in ("diverged", "missed") if (count := getattr(figures, what))]
        mean = "-" if found.mean is None else f"{found.mean:.5g}"
        lines.append(", ".join([f"  {arm:{width}}  {mean:>9}  n = {figures.n}", *failed]))
    return "\n".join(map(printable, lines))


def _told(part: PartFound) -> str:
    low, high = ("−∞" if part.low is None else f"{part.low:+.4g}", "∞" if part.high is None else f"{part.high:+.4g}")
    estimate = "" if part.estimate is None else f" {part.estimate:+.4g}"
    margin = "" if part.margin is None else f", margin {part.margin:.3g}"
    expected = part.expected_half_width
    ahead = "" if expected is None else f"; the regular profile's interval will reach about {expected:.2g} to each side"
    claim = f"claim {part.part}: " if part.part else ""
    return f"{claim}{part.says}: {part.outcome}, {part.reason}{estimate} [{low}, {high}]{margin}, n = {part.n}{ahead}"
