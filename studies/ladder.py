"""The ladder of fastai's book, chapter 8, beside claim 31: dot product, then sigmoid, then biases, then weight decay.

The book's runs on MovieLens 100k: 50 factors, a fifth of the rows validate, five epochs of one-cycle at 5e-3, and a
decay of 0.01 until the last step raises it to 0.1. It prints validation losses of .8765, .8781, .8926 and .8231:
there, biases hurt until there is more decay. Each seed draws its own split, initialization and batch order, the same
for every step.
"""

from __future__ import annotations

from torch import nn

from lesson import collab_learner
from lesson.data import Ratings, split
from studies.lab.command import command
from studies.lab.source import shared
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats

FACTORS, EPOCHS, LR, VALID = 50, 5, 5e-3, 0.2


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, VALID, seed=job.seed)
    y_range = data.y_range if job["sigmoid"] else None
    learn = collab_learner(data, FACTORS, y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    if not job["biases"]:
        for table in (learn.model.u_bias, learn.model.i_bias):
            nn.init.zeros_(table.weight).requires_grad_(False)
    learn.fit_one_cycle(EPOCHS, LR)
    return Outcome.of(learn, valid_loss=learn.history[-1].valid_loss, train_loss=learn.history[-1].train_loss)


STUDY = Study(
    name="ladder",
    title="From a dot product to the lesson's model",
    question="With little decay, is the model better without biases?",
    run=run,
    data=("movielens",),
    arms={
        "dot product": {"sigmoid": False, "biases": False, "wd": 0.01},
        "sigmoid": {"sigmoid": True, "biases": False, "wd": 0.01},
        "biases": {"sigmoid": True, "biases": True, "wd": 0.01},
        "decay": {"sigmoid": True, "biases": True, "wd": 0.1},
    },
    baseline="dot product",
    metrics={
        "valid_loss": Metric("validation loss, mean squared error", better="lower", smallest="0.4 %"),
        "train_loss": Metric("training loss of the last epoch"),
    },
    parts=(
        beats("", "sigmoid", "biases", says="with little decay, biases hurt"),
        beats("", "sigmoid", "dot product", says="the sigmoid helps"),
        beats("", "decay", "biases", says="more decay helps", by=True),
        beats("", "decay", "sigmoid", says="with more decay the whole is better than without biases", by=True),
    ),
    own_split=True,
    check=shared,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="twenty seconds"),
        "regular": Profile(seeds=20, trials=0, cost="half a minute"),
        "full": Profile(seeds=40, trials=0, cost="a minute"),
    },
    names={"wd": "weight decay"},
    limits=(
        f"{FACTORS} factors, {EPOCHS} epochs, batches of 64; nothing is tuned.",
        "The margin of a squared error is twice that of its root in the other studies of ratings.",
        "Recent versions of fastai train on rows drawn with replacement; here every epoch takes each row once.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
