"""Turns finished runs into a study's files: `runs.parquet`, `curves.parquet`, `summary.json`."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from lesson.data import Origin
from studies.evidence import outcomes, provenance, schema, statistics
from studies.lab.replacing import by_default_name
from studies.lab.source import Source
from studies.lab.spec import TUNING_SEEDS_FROM, Outcome, Run, Settings, Study, counted
from studies.lab.sweep import LATE, Sweep, key_of

Kind = Literal["run", "repeat", "tuning"]

IDENTITY = ["key", "arm", "kind", "seed"]


@dataclass(frozen=True)
class Planned:
    """A run and its place in the study."""

    arm: str
    kind: Kind
    run: Run


@dataclass(frozen=True)
class Asked:
    """The command's arguments: the command line, the profile, its seeds and trials, the data.

    `declared` has the digest of each part that the study declares, also of those that --values leaves out.
    """

    command: str
    profile: str
    seeds: int
    trials: int
    workers: int
    source: Source
    declared: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def tables(study: Study, plan: Sequence[Planned], done: Mapping[str, FrozenTrial]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs, one per row, and their curves, one point per row. See `studies.evidence.schema`."""
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for planned in plan:
        run, trial = planned.run, done.get(planned.run.key)
        if trial is None:
            continue
        outcome = Outcome.restored(trial.user_attrs["outcome"])
        identity = dict(zip(IDENTITY, (run.key, planned.arm, planned.kind, run.seed), strict=True))
        rows.append(
            identity
            | {"data": run.checksum}
            | {f"setting.{name}": value for name, value in run.settings.items()}
            | {f"metric.{name}": outcome.metrics.get(name) for name in study.metrics}
            | {name: getattr(outcome, name) for name in ("diverged", "seconds", "n_train", "n_valid")}
            | {"device": run.device, "threads": run.threads, "commit": trial.user_attrs["outcome"].get("commit")}
        )
        curves += [
            identity | {"x": float(x), "curve": name, "value": value}
            for name, values in outcome.curves.items()
            for x, value in zip(study.places or itertools.count(1), values, strict=False)
        ]
    runs = pd.DataFrame(rows)
    for name in study.metrics:
        runs[f"metric.{name}"] = runs[f"metric.{name}"].astype(float) if len(runs) else []
    columns = [*IDENTITY, "x", "curve", "value"]
    return runs, pd.DataFrame(curves, columns=columns).astype({"seed": "int64", "x": float, "value": float})


def by_seed(runs: pd.DataFrame, metric: str) -> dict[str, dict[int, float | None]]:
    """A metric by arm and seed: None if the run diverged or missed; left out if there was nothing to measure."""
    values: dict[str, dict[int, float | None]] = {str(arm): {} for arm in runs["arm"].unique()}
    for arm, seed, value, diverged in runs[["arm", "seed", f"metric.{metric}", "diverged"]].itertuples(index=False):
        if diverged or math.isinf(value):
            values[arm][int(seed)] = None
        elif not math.isnan(value):
            values[arm][int(seed)] = float(value)
    return values


def choose(study: Study, runs: pd.DataFrame) -> dict[str, Settings]:
    """The choice with the best mean over these runs, by arm; a run that diverged or missed counts as the worst."""
    return {
        str(arm): dict(zip(study.tuned, best(tried(study, of_arm)), strict=True))
        for arm, of_arm in runs.groupby("arm", sort=False)
    }


def best(scores: pd.Series[Any]) -> tuple[Any, ...]:
    """The choice with the lowest score, the first tried of equals."""
    return cast(tuple[Any, ...], scores.idxmin())


def tried(study: Study, runs: pd.DataFrame) -> pd.Series[Any]:
    """Means of the first metric by choice, signed so that low is good, in the order in which choices were tried."""
    name, metric = next(iter(study.metrics.items()))
    score = runs[f"metric.{name}"] * (-1 if metric.better == "higher" else 1)
    # A missed target is infinite, also where higher is better.
    score = score.mask(runs["diverged"] | ~np.isfinite(score), math.inf)
    choices = [tuple(row) for row in runs[[f"setting.{setting}" for setting in study.tuned]].itertuples(index=False)]
    return score.groupby(pd.Series(choices, index=runs.index, dtype=object), sort=False).mean()


def tuned_for(study: Study, runs: pd.DataFrame) -> pd.Series[int]:
    """The seed that each of these tuning runs chooses settings for."""
    return (runs["seed"] - TUNING_SEEDS_FROM) // study.tuning_seeds


def tuning_found(study: Study, runs: pd.DataFrame) -> list[schema.Tuning]:
    """How settings were chosen for each arm, over all tuning seeds."""
    settings = list(study.tuned)
    name, metric = next(iter(study.metrics.items()))
    sign = -1 if metric.better == "higher" else 1
    found = []
    for arm, of_arm in runs.groupby("arm", sort=False):
        scores = tried(study, of_arm)
        chosen = best(scores)
        values = {setting: sorted({choice[place] for choice in scores.index}) for place, setting in enumerate(settings)}
        finite = scores[np.isfinite(scores)]
        # The first is the default, which is none of the evenly spread choices; divergence counts as the worst seen.
        spread = scores.iloc[1:].replace(math.inf, finite.max() if len(finite) else math.nan).dropna()
        found.append(
            schema.Tuning(
                arm=str(arm),
                chosen=dict(zip(settings, map(float, chosen), strict=True)),
                on_edge=[
                    setting
                    for place, setting in enumerate(settings)
                    if len(values[setting]) > 1 and chosen[place] in (values[setting][0], values[setting][-1])
                ],
                trials=[
                    {
                        **dict(zip(settings, map(float, cast(tuple[float, ...], choice)), strict=True)),
                        name: None if math.isinf(score) else sign * float(score),
                    }
                    for choice, score in scores.items()
                ],
                best_of_k=statistics.expected_best_of_k(sign * spread, metric.better or "lower"),
                fewest=min(len(tried(study, own)) for _, own in of_arm.groupby(tuned_for(study, of_arm))),
            )
        )
    return found


def summarize(
    study: Study,
    arms: Mapping[str, Settings],
    plan: Sequence[Planned],
    unplanned: int,
    sweep: Sweep,
    data: Any,
    asked: Asked,
) -> tuple[schema.Summary, pd.DataFrame, pd.DataFrame]:
    """Judge the finished runs.

    Args:
        study: the declaration.
        arms: settings by arm, without those that tuning chose.
        plan: all runs.
        unplanned: the number of further runs, whose settings are not known because their tuning is unfinished.
        sweep: holds the runs.
        data: the data set; the summary has its origin.
        asked: the command's arguments.

    Returns:
        The summary, as if it were the first on this data, and the tables of runs and curves.
    """
    done = sweep.outcomes()
    frame, curves = tables(study, plan, done)
    confirmed = frame[frame["kind"] == "run"]
    values = {name: by_seed(confirmed, name) for name in study.metrics}
    name, metric = next(iter(study.metrics.items()))
    overlap = _overlap(confirmed) if _resplits(study, data.origin) else None
    diverged = {str(arm): set(runs.loc[runs["diverged"], "seed"]) for arm, runs in confirmed.groupby("arm")}
    regular = study.profiles["regular"].seeds if asked.profile == "quick" and "regular" in study.profiles else None
    there = {arm: settings for arm, settings in arms.items() if arm in values[name]}
    if study.baseline is not None and study.baseline not in there:
        there.pop(by_default_name(study.baseline, study.tuned), None)  # a copy of an arm that is lost
    parts = [
        outcomes.judge_part(part, values, study.metrics, overlap=overlap, diverged=diverged, regular=regular)
        for part in study.parts
        if part.weights.keys() <= there.keys()
    ]
    origin, missing = data.origin, unplanned + sum(planned.run.key not in done for planned in plan)
    tuning = tuning_found(study, frame[frame["kind"] == "tuning"]) if asked.trials else []
    baseline = study.baseline if study.baseline in there else None
    fewest = min(int((confirmed["arm"] == arm).sum()) for arm in there) if there else 0
    summary = schema.Summary(
        study=study.name,
        title=study.title,
        question=study.question,
        profile=asked.profile,
        own=asked.source.path is not None and origin.key is None,
        protocol="stand-in" if _stands_in(study, origin, asked) else "as stated",
        metrics={key: schema.MetricUsed(**_plain(one)) for key, one in study.metrics.items()},
        arms={arm: _arm(study, confirmed[confirmed["arm"] == arm], settings) for arm, settings in there.items()},
        names=dict(study.names),
        x=study.x,
        baseline=baseline,
        contrasts=statistics.describe(
            values[name],
            baseline=baseline,
            metric=name,
            better=metric.better,
            overlap=overlap if metric.resplit else None,
        )
        if baseline is not None
        else [],
        measures={
            key: schema.Measure(
                title=one.title, logarithmic=one.logarithmic, arms=_measured(study, confirmed, key, list(there))
            )
            for key, one in study.metrics.items()
            if key != name and baseline is not None
        },
        parts=parts,
        noise_floor=_noise_floor(study, baseline, values[name], frame) if baseline is not None else None,
        tuning=[found for found in tuning if found.arm in there],
        tunable=list(study.tuned),
        timed=study.alone,
        preliminary=asked.profile == "quick" or fewest < schema.FEW_SEEDS,
        declared=dict(asked.declared),
        limits=limits(study, origin, asked),
        notes=[
            *asked.notes,
            *([f"Missing: {missing} of {len(plan) + unplanned:,} runs."] if missing else []),
            *_late(plan, done, sweep),
            *_older(plan, done, sweep.source),
            *_elsewhere(plan, done, sweep.cpu),
        ],
        data=schema.DataUsed(
            key=origin.key or asked.source.name,
            name=origin.name,
            checksum=origin.checksum,
            size=dict(origin.size),
            terms=origin.terms,
            citation=origin.citation,
        ),
        provenance=_provenance(study, plan, sweep, frame, asked),
    )
    return summary, frame, curves


def _resplits(study: Study, origin: Origin) -> bool:
    """Whether each seed splits the data in its own way."""
    return study.resplits and origin.resplits


def limits(study: Study, origin: Origin, asked: Asked) -> list[str]:
    """Sentences that limit the answer."""
    splits = "re-split and re-seeded" if _resplits(study, origin) else "re-seeded"
    said = [f"The result is for {origin.name}, {splits}."]
    if study.resplits and not origin.resplits:
        said.append("Every seed validates on the same rows: the interval covers the luck of training, not of the data.")
        said += ["Settings were tuned on these rows, too."] if asked.trials and not study.tunes_apart else []
    said += [f"Exploratory: {study.exploratory}."] if study.exploratory else []
    said += study.limits
    if _stands_in(study, origin, asked):
        said += study.stand_in_limits
        said.append(f"The data is {study.stand_in[asked.source.key]}: a stand-in neither proves nor refutes a claim.")
    tuning_profiles = [name for name, profile in study.profiles.items() if profile.trials]
    if study.tuned and not asked.trials and tuning_profiles:
        settings = " and ".join(study.names.get(name, name) for name in study.tuned)
        said.append(f"Every arm uses the default {settings}; the {tuning_profiles[0]} profile retunes it for each arm.")
    return said


def _late(plan: Sequence[Planned], done: Mapping[str, FrozenTrial], sweep: Sweep) -> list[str]:
    """A note if runs are missing because they exceeded their limit."""
    late = {key_of(trial) for trial in sweep.trials(TrialState.FAIL) if LATE in trial.user_attrs}
    runs = {planned.run.key: planned.run for planned in plan if planned.run.key in late - done.keys()}
    if not runs:
        return []
    first = next(iter(runs.values()))
    return [f"Ended because they exceeded their time limit: {counted(len(runs), 'run')}, such as {first}."]


def _older(plan: Sequence[Planned], done: Mapping[str, FrozenTrial], current: str) -> list[str]:
    """A note if an earlier version of the study's file made some of the runs: their keys do not depend on its code."""
    finished = [done[key] for key in {planned.run.key for planned in plan} & done.keys()]
    sources = [trial.user_attrs["outcome"].get("source", current) for trial in finished]
    if not (older := sum(source != current for source in sources)):
        return []
    return [
        f"{older:,} of {len(sources):,} runs were made by an earlier version of the study's file. If runs come out "
        "differently now, raise its `recipe`, or start again with --fresh."
    ]


def _elsewhere(plan: Sequence[Planned], done: Mapping[str, FrozenTrial], cpu: str) -> list[str]:
    """A note if other processors made some of the runs."""
    finished = [done[key] for key in {planned.run.key for planned in plan} & done.keys()]
    made_on = Counter(trial.user_attrs["outcome"].get("cpu", cpu) for trial in finished)
    others = [f"{count:,} on {name}" for name, count in sorted(made_on.items()) if name != cpu]
    return [f"Of {len(finished):,} runs, other processors made {' and '.join(others)}."] if others else []


def _stands_in(study: Study, origin: Origin, asked: Asked) -> bool:
    """Whether the data stands in for another data set; the user's own data never does."""
    return asked.source.key in study.stand_in and asked.source.path is None and origin.key is None


def write(folder: Path, summary: schema.Summary, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Write the three files to `folder`, each whole or not at all, and none if one cannot be written.

    The caller holds the lock for writing there, so what another writer left unfinished is of a dead one, and removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stray in (*folder.glob(".writing-*"), *folder.glob(f".{schema.SUMMARY}.*")):
        shutil.rmtree(stray) if stray.is_dir() and not stray.is_symlink() else stray.unlink()
    runs = runs.replace(math.inf, math.nan)  # infinite: a missed target, which charts cannot draw
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
        aside = Path(name)
        digests = {}
        for frame, file in ((runs, schema.RUNS), (curves, schema.CURVES)):
            with (aside / file).open("wb") as opened:  # Arrow cannot open a path that is not UTF-8
                frame.to_parquet(opened, index=False)
            digests[file] = schema.digest_of((aside / file).read_bytes())
        schema.write_summary(summary.model_copy(update={"tables": digests}), aside / schema.SUMMARY)
        for file in (schema.RUNS, schema.CURVES, schema.SUMMARY):
            (aside / file).replace(folder / file)


def _plain(metric: Any) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in schema.MetricUsed.model_fields}


def _overlap(runs: pd.DataFrame) -> dict[str, float]:
    """The largest n_valid/n_train of an arm's runs, by arm; for an arm that always diverged, of all arms.

    It is 0 if no run knows it: then all numbers are infinite, whose interval does not depend on it.
    """
    rows = runs[(runs["n_train"] > 0) & (runs["n_valid"] > 0)]
    known = {str(arm): float((of["n_valid"] / of["n_train"]).max()) for arm, of in rows.groupby("arm")}
    lost = [str(arm) for arm, diverged in runs.groupby("arm")["diverged"].all().items() if diverged]
    return dict.fromkeys(lost, max(known.values(), default=0.0)) | known


def _arm(study: Study, runs: pd.DataFrame, settings: Settings) -> schema.Arm:
    rows = {name: int(runs[name].max()) or None for name in ("n_train", "n_valid")}
    first = runs[f"metric.{next(iter(study.metrics))}"]
    measured = {}
    for name in study.metrics:
        finite = runs.loc[~runs["diverged"], f"metric.{name}"].replace(math.inf, math.nan).dropna()
        measured[name] = schema.Measurement(
            mean=float(finite.mean()) if len(finite) else None,
            sd=float(finite.std(ddof=1)) if len(finite) > 1 else None,
            n=len(finite),
        )
    return schema.Arm(
        settings=dict(settings),
        n=len(runs),
        diverged=int(runs["diverged"].sum()),
        missed=int(np.isinf(first[~runs["diverged"]]).sum()),
        n_train=rows["n_train"],
        n_valid=rows["n_valid"],
        metrics=measured,
    )


def _measured(study: Study, runs: pd.DataFrame, name: str, arms: list[str]) -> dict[str, schema.Measured]:
    """One of the other metrics for each arm, with paired differences from the baseline."""
    column = runs[f"metric.{name}"].replace(math.inf, math.nan)
    of = {str(arm): values for arm, values in column.groupby(runs["arm"])}
    by_arm = {arm: values.set_axis(runs.loc[values.index, "seed"]).dropna() for arm, values in of.items()}
    measured = {}
    for arm in arms:
        found = by_arm[arm]
        mean = float(found.mean()) if len(found) else None
        if arm == study.baseline:
            measured[arm] = schema.Measured(mean=mean, n=len(found))
            continue
        differences = (found - by_arm[str(study.baseline)]).dropna()
        low, high = statistics.t_interval(differences)
        measured[arm] = schema.Measured(
            mean=mean,
            n=len(differences),
            difference=float(differences.mean()) if len(differences) else None,
            interval=(low, high) if np.isfinite(high - low) else None,
        )
    return measured


def _noise_floor(
    study: Study, baseline: str, values: Mapping[str, Mapping[int, float | None]], frame: pd.DataFrame
) -> schema.NoiseFloor | None:
    repeats = frame[frame["kind"] == "repeat"]
    if repeats.empty:
        return None
    second = by_seed(repeats, next(iter(study.metrics)))
    return statistics.noise_floor(baseline, values.get(baseline, {}), second.get(baseline, {}))


def _provenance(
    study: Study, plan: Sequence[Planned], sweep: Sweep, frame: pd.DataFrame, asked: Asked
) -> schema.Provenance:
    keys = {planned.run.key for planned in plan}
    current = [trial for key, trial in sweep.current().items() if key in keys]
    failed = [trial for trial in sweep.trials(TrialState.FAIL) if key_of(trial) in keys]
    finished = [trial for trial in current if trial.state == TrialState.COMPLETE]
    under_way = [(t.datetime_start, t.datetime_complete) for t in finished if t.datetime_start and t.datetime_complete]
    commit, dirty = provenance.commit()
    labels = {label for label in frame["commit"].unique() if label}
    some = plan[0].run
    return schema.Provenance(
        command=asked.command,
        commit=commit,
        dirty=True if any(label.endswith("-dirty") for label in labels) else dirty,
        commits=sorted({label.removesuffix("-dirty") for label in labels}),
        spec_hash=provenance.digest(study.declared()),
        recipe=study.recipe,
        threads=some.threads,
        workers=asked.workers,
        seeds=sorted(int(seed) for seed in frame.loc[frame["kind"] == "run", "seed"].unique()),
        trials=dict(sorted(Counter(map(_how_it_ended, current + failed)).items())),
        seconds=float(frame.drop_duplicates("key")["seconds"].sum()),
        wall_seconds=covered(under_way),
        started=min(map(min, under_way)).isoformat("T", "seconds"),  # a clock that is set back swaps them
        finished=max(map(max, under_way)).isoformat("T", "seconds"),
        gpu=None if some.device == "cpu" else _gpu(some.device),
        **provenance.machine(),
    )


def _how_it_ended(trial: FrozenTrial) -> str:
    return "TIMED OUT" if LATE in trial.user_attrs else trial.state.name


def covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that at least one of the spans covers."""
    seconds, until = 0.0, None
    for began, ended in sorted(spans):
        if until is None or began > until:
            until = began
        seconds += max(0.0, (ended - until).total_seconds())
        until = max(until, ended)
    return seconds


def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)
