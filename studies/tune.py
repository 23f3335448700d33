"""`python -m studies.tune`: settings for the lesson's model on these ratings, and what they gain on ratings held out.

1. A tenth of the ratings is set aside: the test rows. The search never sees them.
2. Optuna's TPE sampler proposes settings. Each is trained on SPLITS splits of the other rows, and given up if it is
   worse than the best so far on both of the first two. What the sampler learns of settings given up is their error on
   those two, compared with the lesson's on the same. One-cycle's rate depends on the length of the training, so a
   training itself is never cut short.
3. The choice and the lesson's settings train with fresh seeds on new splits, which says how much of the gain was
   selection, and on all rows but the test rows. There the gain's interval comes from resampling the test's users.
   Splits by time are always the same, so there selection is not measured.

On ratings that cannot be learned, strong decay still beats the lesson's settings: it predicts the mean. So a gain
counts only if the choice also beats the training's mean rating.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from lesson import CollabLearner, DataError, DivergenceError, collab_learner
from lesson.data import CollabData, Ratings, split
from lesson.data.catalog import CATALOG, OWN
from studies.evidence import provenance
from studies.evidence.outside import printable
from studies.evidence.provenance import cores
from studies.evidence.schema import ResultsError, digest_of, write_text
from studies.evidence.tuning import FILE, MODEL, Errors, Gain, Setting, Sizes, Trial, Tuning, read_tuning
from studies.evidence.usage import Command
from studies.lab.arguments import UsageError, checked_path
from studies.lab.source import Source, open_source

if TYPE_CHECKING:
    import optuna

DATA = ("movielens", "filmtrust")
SPLITS = 4  # that each trial trains on
LOOK = 2  # splits after which settings may be given up
FRESH = 8  # new splits, and trainings on all rows but the test rows
SEARCHED, NEW = 1_000, 2_000  # seeds of the splits from here on; the seed of the test rows is --seed itself
RESAMPLES, LEVEL = 9_999, 0.95
ADVICE = "Name another folder with --results, or set it aside with --fresh."
FEWEST_USERS = 8  # of the test rows, for an interval


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one training."""

    lr: float
    wd: float
    n_factors: int
    bs: int
    epochs: int


LESSON = Settings(lr=5e-3, wd=0.1, n_factors=40, bs=64, epochs=5)
# The ends of the search: a decade or so on each side of the lesson's settings.
SPACE = {"lr": (1e-3, 3e-2), "wd": (0.01, 1.0)}
WHOLE_SPACE = {"n_factors": (5, 120), "bs": (64, 1024), "epochs": (3, 15)}
TITLES = {
    "lr": "learning rate",
    "wd": "weight decay",
    "n_factors": "factors",
    "bs": "batch size",
    "epochs": "epochs",
}


def trained(data: CollabData, settings: Settings, seed: int) -> CollabLearner:
    """A training; `seed` is that of initialization and batch order."""
    learn = collab_learner(
        data, settings.n_factors, data.y_range, settings.wd, bs=settings.bs, seed=seed, quiet=True
    )  # fmt: skip
    learn.fit_one_cycle(settings.epochs, settings.lr)
    return learn


def error(data: CollabData, settings: Settings, seed: int) -> float:
    """The validation RMSE of a training; infinite if it diverged."""
    try:
        return trained(data, settings, seed).history[-1].valid_loss ** 0.5
    except DivergenceError:
        return math.inf


def search(ratings: Ratings, seconds: float, trials: int | None, seed: int, say: Callable[[str], None]) -> optuna.Study:
    """Try settings until the time or the number of trials is used up; Ctrl-C ends it early.

    Args:
        ratings: without the test rows.
        seconds: the time.
        trials: the number of trials; None sets none.
        seed: of the sampler. Trials run side by side, so it does not fix what they are.
        say: takes a line of progress.
    """
    import optuna

    splits = [split(ratings, seed=SEARCHED + number) for number in range(SPLITS)]

    def objective(trial: optuna.Trial) -> float:
        numbers = {name: trial.suggest_float(name, *ends, log=True) for name, ends in SPACE.items()}
        whole = {name: trial.suggest_int(name, *ends, log=True) for name, ends in WHOLE_SPACE.items()}
        settings = Settings(**numbers, **whole)  # type: ignore[arg-type]
        errors: list[float] = []
        for number, data in enumerate(splits):
            errors.append(error(data, settings, SEARCHED + number))
            if not math.isfinite(errors[-1]):
                raise optuna.TrialPruned
            trial.report(errors[-1], number)
            if trial.number and len(errors) == LOOK and all(map(operator.gt, errors, errors_of(best_of(trial.study)))):
                break
        lessons = errors_of(on_all_splits(trial.study)[0]) if trial.number else errors
        # Splits differ more than good settings do: settings given up were tried on some of them only.
        return float(np.mean(lessons) + np.mean(np.subtract(errors, lessons[: len(errors)])))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = last = 0.0

    def progress(study: optuna.Study, _trial: Any) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            left = max(0, round(seconds - (last - began)))
            say(f"{len(study.trials)} trials, RMSE {best_of(study).value:.4f}, {left} s left")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows are divergence
        # One setting at a time: on planted ratings the multivariate sampler stayed far from 6 factors for 160 trials.
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=10)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial(dataclasses.asdict(LESSON))
        study.optimize(objective, n_trials=1)
        if study.trials[0].state != optuna.trial.TrialState.COMPLETE:
            raise DataError(f"{ratings.name}: the lesson's settings diverge on these ratings: nothing can be compared")
        began = last = time.monotonic()  # the first trial may have compiled
        try:
            if trials != 1:
                rest = None if trials is None else trials - 1
                study.optimize(objective, n_trials=rest, timeout=seconds, n_jobs=cores(), callbacks=[progress])
        except KeyboardInterrupt:
            say("stopped; now the best so far is tested")
    return study


def errors_of(trial: optuna.trial.FrozenTrial) -> list[float]:
    """The errors of a trial on the splits that it was trained on."""
    return list(trial.intermediate_values.values())


def on_all_splits(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were trained on all splits."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in done if len(trial.intermediate_values) == SPLITS]


def best_of(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The best of them."""
    return min(on_all_splits(study), key=lambda trial: trial.values[0])


def gain_of(theirs: np.ndarray, ours: np.ndarray, users: np.ndarray, seed: int) -> Gain:
    """RMSE of `theirs` minus that of `ours`, and its interval over the users of the test rows.

    Args:
        theirs: squared errors of the test rows, float[rows].
        ours: likewise.
        users: the user of each row, int[rows].
        seed: of the resampling.
    """
    from scipy.stats import bootstrap

    sums = [np.bincount(users, weights) for weights in (theirs, ours, np.ones(len(users)))]
    present = sums[-1] > 0
    theirs, ours, count = (total[present] for total in sums)

    def difference(theirs: np.ndarray, ours: np.ndarray, count: np.ndarray, axis: int = -1) -> Any:
        n = count.sum(axis)
        return np.sqrt(theirs.sum(axis) / n) - np.sqrt(ours.sum(axis) / n)

    estimate = float(difference(theirs, ours, count))
    if len(count) < FEWEST_USERS:
        return Gain(estimate=estimate, low=None, high=None, users=len(count))
    if not (theirs != ours).any():
        return Gain(estimate=0.0, low=0.0, high=0.0, users=len(count))
    found = bootstrap(
        (theirs, ours, count), difference, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=500,
        confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Gain(estimate=estimate, low=float(found.low), high=float(found.high), users=len(count))


def squared_errors(data: CollabData, settings: Settings) -> np.ndarray:
    """Those of the validation rows, float64[rows]: the means of FRESH trainings; infinite if one diverged."""
    total, valid = np.zeros(len(data.valid)), data.valid
    for number in range(FRESH):
        try:
            learn = trained(data, settings, NEW + number)
        except DivergenceError:
            return np.full(len(valid), math.inf)
        with torch.no_grad():
            off = learn.model(valid.users, valid.items) - valid.ratings
        total += off.double().square().numpy() / FRESH
    return total


def tune(
    ratings: Ratings, seconds: float, trials: int | None = None, seed: int = 0, say: Callable[[str], None] = print
) -> tuple[Tuning, CollabLearner]:
    """Search, confirm, and train a learner with the choice on all rows but the test rows.

    Args:
        ratings: all of them.
        seconds: of the search; the rest takes a few more.
        trials: at most so many; None sets no limit.
        seed: of the test rows and the sampler.
        say: takes a line of progress.

    Returns:
        What was found, and the learner.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    held_out = split(ratings, seed=seed)
    rest = ratings.take(held_out.train_rows)
    began = time.monotonic()
    study = search(rest, seconds, trials, seed, say)
    searched = time.monotonic() - began
    done, chosen = on_all_splits(study), best_of(study)
    best = Settings(**chosen.params)
    say(f"{len(study.trials)} trials in {searched:.0f} s; now the best and the lesson's settings on fresh seeds")
    new = [(split(rest, seed=NEW + number), NEW + number) for number in range(FRESH)]
    fresh = [float(np.mean([error(data, kind, draw) for data, draw in new])) for kind in (LESSON, best)]
    ours, theirs = squared_errors(held_out, best), squared_errors(held_out, LESSON)
    if not all(math.isfinite(number) for number in (*fresh, ours.sum(), theirs.sum())):
        raise DataError(
            f"{ratings.name}: a training with the choice or the lesson's settings diverged; try another --seed"
        )
    valid, mean = held_out.valid, float(held_out.train.ratings.double().mean())
    constant = (valid.ratings.double().numpy() - mean) ** 2
    # The table's row of a user whom training has not seen is 0 for all such users: so the file's own numbers.
    users = ratings.user[held_out.valid_rows]
    importances: dict[str, float] = {}
    if len(done) > 3 and len({trial.value for trial in done}) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importances = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    head, dirty = provenance.commit()
    found = Tuning(
        data=ratings.origin.name, checksum=ratings.checksum, split=ratings.by,
        sizes=Sizes(training=len(held_out.train), test=len(valid)),
        lesson=dataclasses.asdict(LESSON), best=dataclasses.asdict(best),
        settings={
            name: Setting(title=TITLES[name], low=low, high=high, importance=importances.get(name))
            for name, (low, high) in (SPACE | WHOLE_SPACE).items()
        },
        trials=[
            Trial(
                settings=trial.params, rmse=trial.value if len(trial.intermediate_values) == SPLITS else None,
                splits=len(trial.intermediate_values),
                seconds=trial.duration.total_seconds() if trial.duration else 0.0,
            )
            for trial in study.trials
            if trial.params
        ],
        promised=done[0].values[0] - chosen.values[0], fresh=fresh[0] - fresh[1],
        rmse=Errors(**{
            name: float(np.sqrt(squared.mean()))
            for name, squared in (("choice", ours), ("lesson", theirs), ("mean", constant))
        }),
        gain=gain_of(theirs, ours, users, seed), over_mean=gain_of(constant, ours, users, seed),
        seconds=searched, seed=seed, commit=head, dirty=dirty, versions=provenance.versions(),
        command=provenance.command("studies.tune", sys.argv[1:]),
    )  # fmt: skip
    return found, trained(held_out, best, seed)


def snippet(found: Tuning, source: Source, folder: Path) -> str:
    """Python that opens the data, and the learner with the choice; it loads the model that the command has saved."""
    s = found.best
    given = "".join(f", {name}={value!r}" for name, value in source.options.items())
    opened = (
        CATALOG[source.key].python
        if source.path is None
        else f"load_ratings({str(source.path)!r}{given}, seed={found.seed})"
    )
    opened = opened.replace("load_movielens()", f"load_movielens(seed={found.seed})")
    opened = opened.replace("split(open_filmtrust())", f"split(open_filmtrust(), seed={found.seed})")
    return (
        f"data = {opened}\n"
        f"learn = collab_learner(data, n_factors={s['n_factors']}, y_range=data.y_range, wd={s['wd']:.3g}, "
        f"bs={s['bs']})\n"
        f"learn.fit_one_cycle({s['epochs']}, {s['lr']:.3g})\n"
        f"# or, as trained by this command: learn.load({str(folder / MODEL)!r})"
    )


def earlier(path: Path, checksum: str) -> Tuning | None:
    """The result of an earlier search on the data with this checksum; None if there is none.

    Raises:
        UsageError: another program wrote the file, or it is of other data.
    """
    if not path.exists():
        return None
    try:
        found = read_tuning(path)
    except ResultsError as problem:
        raise UsageError(f"{problem} {ADVICE}") from None
    if found.checksum != checksum:
        raise UsageError(f"{path} is of other data, or of these read in another way: it is kept. {ADVICE}")
    return found


def written(found: Tuning, learn: CollabLearner, folder: Path, fresh: bool) -> None:
    """Write the result and the model, unless the result there has more trials, or is of other data.

    Args:
        found: the result.
        learn: the model.
        folder: where they go.
        fresh: whether what is there is set aside before.

    Raises:
        UsageError: it has or is, or another program wrote the file.
    """
    from studies.lab.storage import REPLACING, locked, set_aside

    path = folder / FILE
    with locked(folder / REPLACING), tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
        if fresh:
            set_aside([path, folder / MODEL])
        old = earlier(path, found.checksum)
        if old is not None and len(old.trials) > len(found.trials):
            raise UsageError(
                f"{path} has {len(old.trials)} trials, this search {len(found.trials)}: it is kept. {ADVICE}"
            )
        aside = Path(name)
        learn.save(aside / MODEL)
        of_this = found.model_copy(update={"model": digest_of((aside / MODEL).read_bytes())})
        write_text(aside / FILE, of_this.model_dump_json(indent=1) + "\n")
        for file in (MODEL, FILE):
            (aside / file).replace(folder / file)


def main_of(**given: Any) -> None:
    """The command: see the module."""
    from studies.lab.storage import REPLACING, SweepError, locked

    own = {name: given.pop(name) for name in list(given) if name in ("ratings", *OWN["--ratings"].reading)}
    try:
        source = _source(given["data"], own)
        folder = checked_path("--results", given["results"]) / "tune" / source.name
        if not math.isfinite(given["seconds"]):
            raise UsageError(f"--seconds {given['seconds']}: it must be a number of seconds from 0 on")
        ratings, notes = open_source(source, 1)
        if not given["fresh"]:
            earlier(folder / FILE, ratings.checksum)  # the search takes a minute: what it cannot replace is said before
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / REPLACING):
            pass  # a folder whose files cannot be locked is found now, not after the search
        torch.set_num_threads(1)  # trainings run side by side
        for note in notes:
            typer.echo(printable(note), err=True)
        found, learn = tune(
            ratings, given["seconds"], given["trials"], given["seed"], lambda line: typer.echo(line, err=True)
        )
        typer.echo(found.answer())
        written(found, learn, folder, given["fresh"])
        typer.echo(
            f"\n{snippet(found, source, folder)}\n\n{folder / FILE}, {MODEL}; `python -m reports` draws the page."
        )
    except (UsageError, DataError, SweepError) as problem:
        _fail(str(problem))
    except OSError as problem:
        _fail(f"{problem.filename or given['results']}: {problem.strerror}; check that --results is right and writable")
    except KeyboardInterrupt:
        typer.echo("\nStopped: nothing is written.", err=True)
        raise typer.Exit(130) from None


def _source(data: str, own: dict[str, str | None]) -> Source:
    named = {name: value for name, value in own.items() if value is not None}
    path = named.pop("ratings", None)
    if path is not None:
        return Source("movielens", checked_path("--ratings", path), named)
    if named:
        raise UsageError(f"--{next(iter(named))}: describes your own file; name the file with --ratings")
    if data not in DATA:
        raise UsageError(f"--data {data}: there are {', '.join(DATA)}, and --ratings for your own")
    return Source(data)


def _fail(message: str) -> None:
    typer.echo(f"error: {printable(message)}", err=True)
    raise typer.Exit(2)


def _options() -> list[inspect.Parameter]:
    def option(name: str, kind: Any, default: Any, text: str, **how: Any) -> inspect.Parameter:
        note = typer.Option(*([f"--{name}"] if kind is bool else []), help=text, **how)
        annotation: Any = Annotated[kind if default is not None else kind | None, note]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    reading = [option(name, str, None, f"For --ratings: {text}.") for name, text in OWN["--ratings"].reading.items()]
    return [
        option("data", str, DATA[0], f"One of {', '.join(DATA)}."),
        option("ratings", str, None, f"Your own ratings instead: {OWN['--ratings'].path}.", metavar="PATH"),
        *reading,
        option("seconds", float, 60.0, "The time to search; then the test takes some ten seconds.", min=0.0),
        option("trials", int, None, "At most so many trials.", min=1),
        option("seed", int, 0, "Of the test rows and of the search.", min=0, max=2**32 - 1),
        option("results", str, "results", "The folder for results.", metavar="DIR"),
        option("fresh", bool, False, "Set an earlier result aside, even if it has more trials."),
    ]


HELP = f"""Find settings for the lesson's model on these ratings: learning rate, decay, factors, batch size, epochs.

A tenth of the ratings is set aside. On {SPLITS} splits of the others, Optuna's TPE sampler searches for the given time;
with --split time they are one split, trained on with {SPLITS} seeds. Ctrl-C ends the search early. Then the choice and
the lesson's settings are compared on the ratings set aside, with an interval over their users, and both with predicting
the mean rating, which nothing beats on ratings that cannot be learned.

Writes DIR/tune/DATA/{FILE} and {MODEL}, the trained model, and prints Python that uses the choice; `python -m reports`
draws the page. A result of more trials is never replaced by one of fewer."""


def _command() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    options = {option.name: option for option in _options()}
    main_of.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    main_of.__annotations__ = {name: option.annotation for name, option in options.items()}
    app.command(cls=Command, help=HELP)(main_of)
    return app


main = _command()

if __name__ == "__main__":
    main(prog_name="python -m studies.tune")
