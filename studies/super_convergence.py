"""Claim 77: with one-cycle, does a net train ten times faster than with plain SGD?

The lesson's 784-50-10 net. For each optimizer and rate, trainings of growing length, each with its own schedule, until
one reaches the target, a loss on the validation digits. Its length is what counts, in steps; a run in which no training
reaches the target misses it. The rate is tuned for each arm and seed. How far ahead one-cycle is depends on the target,
so there is a second, lower one, at the rate that was tuned for the first. One-cycle means SGD with momentum, as in
Smith's paper; the learner's default, Adam, is shown beside it.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy

from lesson import DivergenceError, optimizers
from lesson.data import Digits
from lesson.learner import OptFunc
from lesson.models import Mnist_NN
from lesson.nets import NetLearner, net_learner
from lesson.schedules import Policy, constant, one_cycle
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, factorial

TARGET, LOWER = 0.3, 0.25  # cross-entropy
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # epochs
OPTIMIZERS: dict[str, OptFunc] = {"SGD": optimizers.SGD, "momentum": optimizers.Momentum, "Adam": optimizers.AdamW}
POLICIES: dict[str, Policy] = {"constant": constant, "one-cycle": one_cycle}


def run(job: Run, digits: Digits) -> Outcome:
    """Trainings of growing length, until one reaches both targets."""
    data, losses, seconds = digits.split(seed=job.seed), [], 0.0
    # At a constant rate, a longer training begins with a shorter one: one is enough.
    trainings = [LENGTHS] if job["policy"] == "constant" else [(length,) for length in LENGTHS]
    for lengths in trainings:
        torch.manual_seed(job.draw)
        opt_func = OPTIMIZERS[job["optimizer"]]
        learn = net_learner(data, Mnist_NN(), cross_entropy, opt_func=opt_func, wd=0.0, seed=job.draw, quiet=True)
        losses += trained(learn, lengths, job)
        seconds += sum(epoch.seconds for epoch in learn.history)
        if losses[-1] <= LOWER:
            break
    steps_an_epoch = -(-len(data.train) // data.bs)
    reached = {
        name: next((length for length, loss in zip(LENGTHS, losses, strict=False) if loss <= target), math.inf)
        for name, target in (("steps", TARGET), ("steps_lower", LOWER))
    }
    found = {name: math.log10(length * steps_an_epoch) for name, length in reached.items()}
    return Outcome(found, {"valid_loss": losses}, seconds, len(data.train), len(data.valid))


def trained(learn: NetLearner, lengths: tuple[int, ...], job: Run) -> list[float]:
    """The loss on the validation digits after so many epochs each, until one reaches both targets.

    It is far from any target if the training diverged.
    """
    found = []
    try:
        for epoch in learn.epochs(lengths[-1], job["lr"], POLICIES[job["policy"]]):
            if epoch.epoch in lengths:
                found.append(epoch.valid_loss)
                if found[-1] <= LOWER:
                    return found
    except DivergenceError:
        found += [math.log(10) * 10] * (len(lengths) - len(found))
    return found


PLAIN, ONE_CYCLE = "SGD, constant", "momentum, one-cycle"
STUDY = Study(
    name="super_convergence",
    title="Super-convergence",
    question="Does one-cycle reach the same loss in a tenth of the steps of plain SGD?",
    run=run,
    data=("digits",),
    arms=factorial(
        optimizer={
            "SGD": {"optimizer": "SGD", "lr": 0.4},
            "momentum": {"optimizer": "momentum", "lr": 0.1},
            "Adam": {"optimizer": "Adam", "lr": 0.01},
        },
        policy={"constant": {"policy": "constant"}, "one-cycle": {"policy": "one-cycle"}},
    ),
    baseline=PLAIN,
    metrics={
        "steps": Metric(
            f"log10 of the steps to a validation loss of {TARGET}", better="lower", smallest=0.1, to_target=True
        ),
        "steps_lower": Metric(
            f"log10 of the steps to a validation loss of {LOWER}", better="lower", smallest=0.1, to_target=True
        ),
    },
    parts=(
        beats("77a", ONE_CYCLE, PLAIN, says="one-cycle takes less than a tenth of plain SGD's steps", against=-1),
        beats("77b", ONE_CYCLE, PLAIN, says="one-cycle takes fewer steps than plain SGD"),
        beats("", ONE_CYCLE, PLAIN, "less than a tenth to the lower target, too", "steps_lower", against=-1),
        beats("", ONE_CYCLE, "momentum, constant", says="one-cycle takes fewer than a constant rate with momentum"),
        beats("", "Adam, one-cycle", "Adam, constant", says="one-cycle Adam takes fewer than Adam at a constant rate"),
        beats("", "Adam, one-cycle", PLAIN, says="one-cycle Adam takes less than a tenth of plain SGD's", against=-1),
    ),
    tuned={"lr": Range(1e-3, 3.0)},
    x="length",
    places=LENGTHS,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=20, trials=6, cost="forty minutes"),
        "full": Profile(seeds=40, trials=16, cost="two and a half hours"),
    },
    names={"lr": "learning rate"},
    limits=(
        "The net is 784-50-10 with ReLU, batches of 64, no weight decay.",
        f"Lengths: {', '.join(map(str, LENGTHS))} epochs.",
        "No training is shorter than an epoch: ten times faster needs ten epochs of plain SGD, or more. With fewer, "
        "a part about a tenth cannot come out “yes”, and a “no” counts only where one-cycle takes more than one epoch.",
        "Lengths are rounded up to this list, so a ratio is known within a factor of 2.",
        "The rate is tuned for the first target; the lower one uses the same.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
