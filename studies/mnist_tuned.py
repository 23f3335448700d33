"""Claims 65 and 66: with the rate tuned, what do a hidden layer and Adam add to the lesson's update()?

The runs are those of `studies.mnist`, the rate tuned for each arm. "Adam re-created" follows the notes: a new Adam for
every batch, without memory, so each step is nearly the gradient's sign.
"""

from __future__ import annotations

from studies.lab.command import command
from studies.lab.spec import Metric, Profile, Range, Settings, Study, effect, factorial, not_worse
from studies.mnist import run

# Whichever of the two optimizers trains it.
BOTH = factorial(
    model={"logistic": {"model": "logistic", "net": False}, "784-50-10": {"model": "784-50-10", "net": True}},
    step={"SGD": {"step": "update", "lr": 0.1}, "Adam": {"step": "Adam", "lr": 3e-3}},
)
RECREATED: dict[str, Settings] = {
    "784-50-10, Adam re-created": {"model": "784-50-10", "net": True, "step": "Adam re-created", "lr": 3e-4}
}
STUDY = Study(
    name="mnist_tuned",
    title="MNIST from scratch, tuned",
    question="Does a net with a hidden layer read more digits than logistic regression, both tuned?",
    run=run,
    data=("digits",),
    stand_in={"digits": "5,000 of MNIST's 70,000 digits"},
    arms=BOTH | RECREATED,
    baseline="logistic, SGD",
    metrics={"accuracy": Metric("share of validation digits read correctly", better="higher", smallest=0.005)},
    parts=(
        effect("65b", BOTH, "net", says="averaged over SGD and Adam, the net reads more"),
        not_worse(
            "66b", "784-50-10, Adam re-created", "784-50-10, Adam", says="Adam re-created is not worse than kept"
        ),
        not_worse("66c", "784-50-10, Adam", "784-50-10, SGD", says="with the net, Adam is not worse than SGD"),
    ),
    tuned={"lr": Range(1e-4, 1.0)},
    x="batch",
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="ten seconds"),
        "regular": Profile(seeds=20, trials=8, cost="three minutes"),
        "full": Profile(seeds=40, trials=16, cost="ten minutes"),
    },
    names={"lr": "learning rate"},
    limits=("The lesson's epoch is 782 steps in batches of 64. The 5,000 digits take as many steps in 12 epochs.",),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
