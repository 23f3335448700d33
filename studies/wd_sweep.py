"""Claims 47 and 48: does weight decay 0.1 beat fastai's default of 0.01; what do too little and too much of it do?

The lesson's model and recipe on MovieLens 100k or on your ratings: 40 factors, batches of 64, five epochs of one-cycle
AdamW; each seed draws its own split, initialization and batch order, the same for every decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lesson import DivergenceError, collab_learner
from lesson.data import Ratings, split
from studies.evidence.schema import Contrast, Evidence, Measure
from studies.evidence.verdicts import ledger_verdict
from studies.lab.command import command
from studies.lab.spec import Outcome, Profile, Range, Run, Study

EPOCHS = 5
LR = 5e-3


def arm(wd: float) -> tuple[str, dict[str, float]]:
    """An arm's name and settings."""
    if not 0 <= wd < float("inf"):
        raise ValueError(f"{wd} is no weight decay")
    wd = abs(float(wd))  # -0.0 is 0
    return f"wd={wd:.12g}", {"wd": wd, "lr": LR}


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training: split, learner, one-cycle, validation error."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(
        data,
        n_factors=40,
        y_range=data.y_range,
        wd=float(job.settings["wd"]),
        seed=2 * job.seed + job.replicate,
        backend=job.backend,
        device=job.device,
        quiet=True,
    )
    try:
        learn.fit_one_cycle(EPOCHS, float(job.settings["lr"]))
        rmse = learn.history[-1].valid_loss ** 0.5
    except DivergenceError:
        rmse = None
    return Outcome(
        value=rmse,
        train_loss=[epoch.train_loss for epoch in learn.history],
        valid_loss=[epoch.valid_loss for epoch in learn.history],
        seconds=sum(epoch.seconds for epoch in learn.history),
        n_train=len(data.train),
        n_valid=len(data.valid),
    )


def evidence(contrasts: Sequence[Contrast], tuned: bool, _measures: Mapping[str, Measure]) -> list[Evidence]:
    """Claim 48 is the contrast of 0.01 with 0.1; of claim 47 both ends are measured here, and not the rest of it."""
    by_arm = {contrast.arm: contrast for contrast in contrasts}
    rate = "rate retuned for each" if tuned else f"one rate, {LR:g}, for both"
    found = []
    if "wd=0.01" in by_arm:
        default = by_arm["wd=0.01"]
        verdict = ledger_verdict("worse", [default.verdict])
        found.append(Evidence(claim=48, verdict=verdict, text=f"{told([default])}; {rate}"))
    if "wd=0" in by_arm and "wd=1" in by_arm:
        ends = [by_arm["wd=0"], by_arm["wd=1"]]
        verdict = ledger_verdict("worse", [end.verdict for end in ends])
        if verdict == "depends":  # two parts of one claim, not two conditions
            verdict = "fails"
        if verdict == "holds":
            verdict = "inconclusive"
        text = f"{told(ends)}; whether weights go to zero, and whether stopping early repairs no decay, is not measured"
        found.append(Evidence(claim=47, verdict=verdict, text=text))
    return found


def told(contrasts: Sequence[Contrast]) -> str:
    """The contrasts as a reader of the ledger wants them."""
    parts = []
    for contrast in contrasts:
        if contrast.difference is None:
            ours, theirs = contrast.diverged
            parts.append(f"{contrast.arm} diverged in {ours} runs, {contrast.baseline} in {theirs}")
            continue
        part = f"{contrast.arm} against {contrast.baseline}: RMSE {contrast.difference:+.4f}"
        if contrast.interval is not None:
            part += f" [{contrast.interval[0]:+.4f}, {contrast.interval[1]:+.4f}]"
        parts.append(part)
    return f"{'; '.join(parts)}; n = {contrasts[0].n}"


def limits(data: str, tuned: bool) -> list[str]:
    """What the answer does not say."""
    return [
        f"It speaks of {data}, re-split and re-seeded, and of this model: 40 factors, {EPOCHS} epochs, batches of 64."
    ] + ([] if tuned else [f"One learning rate ({LR:g}) for all values: the regular profile retunes it for each."])


STUDY = Study(
    name="wd_sweep",
    title="Weight decay",
    question="Does weight decay 0.1 beat fastai's default 0.01?",
    claims=(47, 48),
    metric="valid_rmse",
    direction="minimize",
    arms=dict(arm(wd) for wd in (0, 0.001, 0.01, 0.03, 0.1, 0.3, 1)),
    baseline="wd=0.1",
    primary="wd=0.01",
    smallest_effect=0.002,
    tuned=("lr", Range(5e-4, 5e-2)),
    tuning_seeds=3,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="one minute"),
        "full": Profile(seeds=40, trials=16, cost="two minutes"),
    },
    recipe=2,
    run=run,
    evidence=evidence,
    limits=limits,
    value=arm,
)

main = command(STUDY)

if __name__ == "__main__":
    main()
