"""Claim 55 on ratings: does it matter whether biases decay?

The lesson's model on MovieLens 100k or on your ratings, with the decay on all four tables or on the factors alone. Each
seed draws its own split, initialization and batch order, the same for both. Batches are of 512, because the learner's
loop, which alone can leave the biases out, takes too long at 64.
"""

from __future__ import annotations

from lesson import collab_learner
from lesson.data import Ratings, split
from lesson.optimizers import FUSED, AdamW
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, equals

EPOCHS, BATCH, WD, LR = 5, 512, 0.1, 5e-3


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, seed=job.seed)
    # The fused trainer decays all tables, so the other arm uses the learner's loop: torch's own steps are its fastest.
    learn = collab_learner(
        data, 40, data.y_range, WD, bs=BATCH, seed=job.draw, device=job.device, quiet=True,
        bn_wd=job["bias_wd"], opt_func=AdamW if job["bias_wd"] else FUSED,
    )  # fmt: skip
    learn.fit_one_cycle(EPOCHS, job["lr"])
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5)


STUDY = Study(
    name="bias_decay",
    title="Decay of biases",
    question="Does it matter little whether biases decay?",
    run=run,
    recipe=2,
    data=("movielens",),
    arms={"all decay": {"bias_wd": True, "lr": LR}, "factors decay": {"bias_wd": False, "lr": LR}},
    baseline="all decay",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest="0.2 %")},
    parts=(equals("55", "factors decay", "all decay", says="it matters little whether biases decay"),),
    tuned={"lr": Range(1e-3, 2e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=6, cost="five minutes"),
        "full": Profile(seeds=40, trials=12, cost="a quarter of an hour"),
    },
    names={"bias_wd": "biases decay", "lr": "learning rate"},
    limits=(
        f"The model is the lesson's: 40 factors, {EPOCHS} epochs. The weight decay is the lesson's {WD:g}, not tuned; "
        f"batches are of {BATCH} instead of its 64, so there are fewer steps in which to decay.",
        "The two arms take the same steps in different code, ours and PyTorch's, which agree within rounding.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
