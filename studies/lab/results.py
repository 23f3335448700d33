"""From finished runs to what a study leaves behind: `runs.parquet`, `curves.parquet`, `summary.json`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from lesson.data import Ratings
from studies.evidence import provenance, schema, statistics
from studies.lab.spec import Run, Settings, Study
from studies.lab.sweep import Sweep

Kind = Literal["run", "again", "tuning"]


@dataclass(frozen=True)
class Planned:
    """A run and its place in the study."""

    arm: str
    kind: Kind
    run: Run


def tables(study: Study, plan: Sequence[Planned], done: Mapping[str, FrozenTrial]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished runs, a row a run; and their curves, a row a run and epoch. See `studies.evidence.schema`."""
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for planned in plan:
        run, trial = planned.run, done.get(planned.run.key)
        if trial is None:
            continue
        outcome = trial.user_attrs["outcome"]
        identity = {"key": run.key, "arm": planned.arm, "kind": planned.kind, "seed": run.seed}
        rows.append(
            identity
            | run.settings
            | {
                study.metric: np.nan if outcome["value"] is None else outcome["value"],
                "diverged": outcome["value"] is None,
                "seconds": outcome["seconds"],
                "backend": run.backend,
                "threads": run.threads,
                "commit": outcome["commit"],
            }
            | {name: outcome.get("measures", {}).get(name) for name in study.measures}
        )
        for epoch, losses in enumerate(zip(outcome["train_loss"], outcome["valid_loss"], strict=True), start=1):
            curves.append(identity | {"epoch": epoch, "train_loss": losses[0], "valid_loss": losses[1]})
    columns = ["key", "arm", "kind", "seed", "epoch", "train_loss", "valid_loss"]
    return pd.DataFrame(rows), pd.DataFrame(curves, columns=columns)


def choose(study: Study, setting: str, plan: Sequence[Planned], done: Mapping[str, FrozenTrial]) -> list[schema.Tuning]:
    """The tuned setting of each arm: the best mean over the tuning seeds; a diverged run counts as the worst."""
    frame, _ = tables(study, plan, done)
    sign = 1 if study.direction == "minimize" else -1
    tunings = []
    for arm, runs in frame.groupby("arm", sort=False):
        means = runs.groupby(setting, sort=False)[study.metric].agg(lambda values: values.mean(skipna=False))
        ranked = (sign * means).fillna(np.inf)
        best = float(cast(float, ranked.idxmin()))
        tried = sorted(ranked.index)
        tunings.append(
            schema.Tuning(
                arm=str(arm),
                chosen={setting: best},
                on_edge=len(tried) > 1 and best in (tried[0], tried[-1]),
                trials=[
                    {setting: float(cast(float, value)), study.metric: None if np.isnan(mean) else float(mean)}
                    for value, mean in means.items()
                ],
                # The first is the untuned default, which nobody drew; divergence counts as the worst seen.
                best_of_k=statistics.expected_best_of_k(
                    means.iloc[1:].fillna(sign * (sign * means).max()).dropna(), study.direction
                ),
            )
        )
    return tunings


def summarize(
    study: Study,
    arms: Mapping[str, Settings],
    plan: Sequence[Planned],
    sweep: Sweep,
    ratings: Ratings,
    *,
    profile: str,
    tuning: list[schema.Tuning],
    command: str,
    workers: int,
    limits: list[str],
) -> tuple[schema.Summary, pd.DataFrame, pd.DataFrame]:
    """Judge the finished runs.

    Returns:
        The summary, and the tables of runs and curves.
    """
    done = sweep.outcomes()
    frame, curves = tables(study, plan, done)
    outcomes = [done[key].user_attrs["outcome"] for key in frame["key"]]
    confirmed = frame[frame["kind"] == "run"]
    n_train, n_valid = outcomes[-1]["n_train"], outcomes[-1]["n_valid"]
    values = {arm: _by_seed(study, runs) for arm in arms if len(runs := confirmed[confirmed["arm"] == arm])}
    again = _by_seed(study, frame[frame["kind"] == "again"])
    # Declared for ratings from 1 to 5.
    smallest_effect = study.smallest_effect * float(np.ptp(ratings.rating)) / 4
    contrasts = statistics.judge(
        values,
        baseline=study.baseline,
        metric=study.metric,
        direction=study.direction,
        smallest_effect=smallest_effect,
        n_train=n_train,
        n_valid=n_valid,
    )
    measures = {
        name: schema.Measure(
            title=measure.title, logarithmic=measure.logarithmic, arms=_measured(study, confirmed, name, list(values))
        )
        for name, measure in study.measures.items()
    }
    keys = {planned.run.key for planned in plan}
    standing = [trial for key, trial in sweep.standing().items() if key in keys]
    failed = [trial for trial in sweep.trials(TrialState.FAIL) if trial.user_attrs["key"] in keys]
    finished = (done[key] for key in frame["key"])
    under_way = [(t.datetime_start, t.datetime_complete) for t in finished if t.datetime_start and t.datetime_complete]
    commit, dirty = provenance.commit()
    labels = {outcome["commit"] for outcome in outcomes if outcome["commit"]}
    some = plan[0].run
    summary = schema.Summary(
        study=study.name,
        title=study.title,
        question=study.question,
        claims=list(study.claims),
        metric=study.metric,
        direction=study.direction,
        smallest_effect=smallest_effect,
        baseline=study.baseline,
        primary=study.primary,
        profile=profile,
        arms={arm: _arm(values[arm], arms[arm]) for arm in values},
        contrasts=contrasts,
        measures=measures,
        noise_floor=statistics.noise_floor(study.baseline, values.get(study.baseline, {}), again),
        tuning=tuning,
        evidence=study.evidence(contrasts, bool(tuning), measures),
        limits=limits,
        data=schema.DataUsed(
            name=ratings.name,
            checksum=ratings.checksum,
            ratings=len(ratings),
            users=len(ratings.user_ids),
            items=len(ratings.item_ids),
            n_train=n_train,
            n_valid=n_valid,
            terms=ratings.terms,
            citation=ratings.citation,
        ),
        provenance=schema.Provenance(
            command=command,
            commit=commit,
            dirty=True if any(label.endswith("-dirty") for label in labels) else dirty,
            commits=sorted({label.removesuffix("-dirty") for label in labels}),
            spec_hash=provenance.digest(study.declared()),
            recipe=study.recipe,
            backend=some.backend,
            threads=some.threads,
            workers=workers,
            seeds=sorted(confirmed["seed"].unique().tolist()),
            trials=dict(sorted(Counter(trial.state.name for trial in standing + failed).items())),
            seconds=float(frame.drop_duplicates("key")["seconds"].sum()),
            wall_seconds=covered(under_way),
            started=min(began for began, _ in under_way).isoformat("T", "seconds"),
            finished=max(ended for _, ended in under_way).isoformat("T", "seconds"),
            gpu=None if some.device == "cpu" else _gpu(some.device),
            **provenance.machine(),
        ),
    )
    return summary, frame, curves


def write(folder: Path, summary: schema.Summary, runs: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Leave the three files in `folder`, each whole or not at all, and none if one cannot be written."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
        aside = Path(name)
        for frame, file in ((runs, schema.RUNS), (curves, schema.CURVES)):
            with (aside / file).open("wb") as opened:  # Arrow opens no path that is not UTF-8
                frame.to_parquet(opened, index=False)
        schema.write_summary(summary, aside / schema.SUMMARY)
        for file in (schema.RUNS, schema.CURVES, schema.SUMMARY):
            (aside / file).replace(folder / file)


def _measured(study: Study, runs: pd.DataFrame, name: str, arms: list[str]) -> dict[str, schema.Measured]:
    """One measurement of each arm, and its paired differences from the baseline."""
    by_seed = {str(arm): rows.set_index("seed")[name].astype(float) for arm, rows in runs.groupby("arm")}
    measured = {}
    for arm in arms:
        found = by_seed[arm].dropna()
        mean = float(found.mean()) if len(found) else None
        if arm == study.baseline:
            measured[arm] = schema.Measured(mean=mean, n=len(found))
            continue
        differences = (found - by_seed[study.baseline]).dropna()
        low, high = statistics.t_interval(differences)
        measured[arm] = schema.Measured(
            mean=mean,
            n=len(differences),
            difference=float(differences.mean()) if len(differences) else None,
            interval=(low, high) if np.isfinite(high - low) else None,
        )
    return measured


def _arm(values: Mapping[int, float | None], settings: Settings) -> schema.Arm:
    finite = np.array([value for value in values.values() if value is not None])
    return schema.Arm(
        mean=float(finite.mean()) if len(finite) else None,
        sd=float(finite.std(ddof=1)) if len(finite) > 1 else None,
        n=len(values),
        diverged=len(values) - len(finite),
        settings=dict(settings),
    )


def _by_seed(study: Study, runs: pd.DataFrame) -> dict[int, float | None]:
    return {
        int(seed): None if diverged else float(value)
        for seed, value, diverged in runs[["seed", study.metric, "diverged"]].itertuples(index=False)
    }


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
