"""The command line that every study has."""

# No postponed annotations here: typer evaluates them where the local names in the help texts are unknown.

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import scipy.stats
import torch
import typer

from kernels import backends
from lesson.data import DataError, Ratings, open_movielens, open_ratings
from studies.evidence import provenance
from studies.evidence.schema import Contrast, Summary
from studies.lab import results as results_files
from studies.lab.results import Planned
from studies.lab.spec import Run, Study
from studies.lab.sweep import Sweep, SweepError, open_storage, shown_progress

TUNING_SEEDS_FROM = 1_000_000  # far from the seeds that confirm
THREADS = 1  # a run's: many small runs side by side beat one on many threads


def command(study: Study) -> Callable[[], None]:
    """The function that `python -m studies.NAME` calls."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    costs = "; ".join(
        f"{name}: {profile.seeds} seeds"
        + (f", {study.tuned[0]} retuned by {profile.trials} trials an arm" if profile.trials else "")
        + f", {profile.cost}"
        for name, profile in study.profiles.items()
    )

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
            int | None, typer.Option(min=0, help=f"Values of {study.tuned[0]} tried for each arm; 0 keeps the default.")
        ] = None,
        values: Annotated[
            str | None, typer.Option(help="Other values than the study's, with commas, such as 0.05,0.2.")
        ] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
        storage: Annotated[
            str | None,
            typer.Option(
                help="An Optuna storage URL, such as postgresql://…, that several machines share; "
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
        fresh: Annotated[bool, typer.Option("--fresh", help="Set earlier runs aside and start anew.")] = False,
        export: Annotated[
            bool, typer.Option("--export", help="Run nothing; rebuild the files from the runs in storage.")
        ] = False,
    ) -> None:
        try:
            chosen = _profile(study, profile, seeds, trials)
            declared = study if values is None else _with_values(study, values)
            table, note = _open(ratings)
            folder = (results or Path("results") / (ratings.stem if ratings else "")) / study.name
            if fresh:
                _set_aside(folder, storage)
            with open_storage(folder, storage) as store, shown_progress(study.name) as progress:
                sweep = Sweep(declared, store)
                work = _Work(
                    declared, sweep, table, ratings, device, workers or provenance.cores(), progress, not export
                )
                summary, failures = work.answer(profile, chosen.seeds, chosen.trials, note, folder)
        except (DataError, SweepError, backends.BackendError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            print("\nStopped. Finished runs are kept; the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(130) from None
        print(answer(summary))
        print(f"{folder}/summary.json, runs.parquet, curves.parquet; `python -m reports` draws the pages.")
        if failures:
            print(f"error: {len(failures)} runs failed and are left out; the first:\n{failures[0]}", file=sys.stderr)
            raise typer.Exit(1)

    return app


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _profile(study: Study, name: str, seeds: int | None, trials: int | None) -> Any:
    if name not in study.profiles:
        raise SweepError(f"--profile {name}: there are {', '.join(study.profiles)}")
    profile = study.profiles[name]
    return dataclasses.replace(
        profile,
        seeds=profile.seeds if seeds is None else seeds,
        trials=profile.trials if trials is None else trials,
    )


def _with_values(study: Study, text: str) -> Study:
    assert study.value is not None
    try:
        arms = dict(study.value(float(word)) for word in text.split(","))
    except ValueError as error:
        raise SweepError(f"--values {text}: {error}; numbers with commas between are needed") from None
    arms = {study.baseline: study.arms[study.baseline], **arms}
    if len(arms) < 2:
        raise SweepError(f"--values {text}: nothing to compare with the baseline {study.baseline}")
    primary = study.primary if study.primary in arms else next(arm for arm in arms if arm != study.baseline)
    return dataclasses.replace(study, arms=arms, primary=primary)


def _open(path: Path | None) -> tuple[Ratings, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = open_movielens() if path is None else open_ratings(path)
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return table, notes


def _set_aside(folder: Path, storage: str | None) -> None:
    if storage is not None:
        raise SweepError(
            "--fresh sets files aside and leaves a shared storage alone; to empty that, "
            f"`optuna delete-study --study-name {folder.name} --storage URL`"
        )
    if folder.exists():
        with open_storage(folder, None):  # refuses where another sweep is writing
            pass
        stamp = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
        aside = folder.with_name(f".{folder.name}-until-{stamp}")
        folder.rename(aside)
        print(f"earlier runs are set aside in {aside}", file=sys.stderr)


def _prepare(study: Study, path: Path | None) -> Callable[[tuple[int, Run]], Any]:
    """In a worker: read the data once, then do runs."""
    torch.set_num_threads(THREADS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sweep has told
        table = open_movielens() if path is None else open_ratings(path)
    return lambda job: study.run(job[1], table)


class _Work:
    """One command's work: what to run, in which order, and what to make of it."""

    def __init__(
        self,
        study: Study,
        sweep: Sweep,
        ratings: Ratings,
        path: Path | None,
        device: str,
        workers: int,
        progress: Callable[[int, int], None],
        running: bool,
    ) -> None:
        try:
            backend = backends.choose(None, torch.empty(0, device=device).device, torch.float32)
        except (RuntimeError, AssertionError) as error:
            raise SweepError(f"--device {device}: {str(error).splitlines()[0]}") from None
        self.study, self.sweep, self.ratings, self.workers = study, sweep, ratings, workers
        self.progress, self.running = progress, running
        self.prepare = functools.partial(_prepare, study, path)
        self.common = {
            "study": study.name,
            "data": ratings.checksum,
            "backend": backend,
            "device": device,
            "threads": THREADS,
            "recipe": study.recipe,
        }
        self.failures: list[str] = []

    def planned(self, arm: str, kind: Any, settings: Mapping[str, float], seed: int, replicate: int = 0) -> Planned:
        run = Run(settings=dict(settings), seed=seed, replicate=replicate, **self.common)  # type: ignore[arg-type]
        return Planned(arm, kind, run)

    def do(self, plan: list[Planned]) -> None:
        if self.running:
            self.failures += self.sweep.do([planned.run for planned in plan], self.workers, self.prepare, self.progress)

    def answer(
        self, profile: str, seeds: int, trials: int, notes: list[str], folder: Path
    ) -> tuple[Summary, list[str]]:
        study = self.study
        arms: dict[str, dict[str, float]] = {arm: dict(settings) for arm, settings in study.arms.items()}
        tuning_plan: list[Planned] = []
        tunings: list[Any] = []
        if trials:
            setting, searched = study.tuned
            tuning_plan = [
                self.planned(arm, "tuning", {**settings, setting: value}, TUNING_SEEDS_FROM + seed)
                for arm, settings in arms.items()
                for value in candidates(settings[setting], searched.low, searched.high, trials)
                for seed in range(study.tuning_seeds)
            ]
            self.do(tuning_plan)
            best, tunings = results_files.choose(study, tuning_plan, self.sweep.outcomes())
            untuned = arms[study.baseline]
            arms = {arm: {**settings, setting: best[arm]} for arm, settings in arms.items() if arm in best}
            arms[f"{study.baseline}, {setting} as by default"] = untuned
        plan = [self.planned(arm, "run", arms[arm], seed) for seed in range(seeds) for arm in arms]
        plan += [
            self.planned(study.baseline, "again", arms[study.baseline], seed, replicate=1) for seed in range(seeds)
        ]
        self.do(plan)
        if not any(planned.run.key in self.sweep.outcomes() for planned in plan):
            told = self.failures[0] if self.failures else "there are none of this study and data in storage"
            raise SweepError(f"no run finished: {told}")
        summary, runs, curves = results_files.summarize(
            study,
            arms,
            tuning_plan + plan,
            self.sweep,
            self.ratings,
            profile=profile,
            tuning=tunings,
            command=provenance.command(f"studies.{study.name}", sys.argv[1:]),
            workers=self.workers,
            limits=study.limits(self.ratings.name, bool(trials)) + notes,
        )
        folder.mkdir(parents=True, exist_ok=True)
        results_files.write(folder, summary, runs, curves)
        return summary, self.failures


def candidates(default: float, low: float, high: float, count: int) -> list[float]:
    """The default and `count` − 1 quasi-random values, evenly spread in the logarithm; the same for every arm."""
    drawn = scipy.stats.qmc.Halton(1, rng=0).random(count - 1)[:, 0]
    return [default, *(float(f"{low * (high / low) ** u:.4g}") for u in drawn)]


def answer(summary: Summary) -> str:
    """The study's table of contrasts, for a terminal."""
    lines = [f"{summary.question}  ({summary.data.name}, {summary.metric}, profile {summary.profile})"]
    for arm, figures in summary.arms.items():
        contrast = next((c for c in summary.contrasts if c.arm == arm), None)
        mean = "diverged" if figures.mean is None else f"{figures.mean:.4f}"
        lines.append(f"  {arm:10} {mean:>9}  {_contrast(contrast) if contrast else 'baseline'}  n = {figures.n}")
    return "\n".join(lines)


def _contrast(contrast: Contrast) -> str:
    if contrast.difference is None or contrast.interval is None:
        return f"{contrast.verdict} (diverged: {contrast.diverged[0]}, baseline {contrast.diverged[1]})"
    low, high = contrast.interval
    return f"{contrast.difference:+.4f} [{low:+.4f}, {high:+.4f}]  {contrast.verdict}"
