"""Claim 7: once layers are stacked, can a net come close to any function? And without the non-linearity?

Nets of one input and one output learn three functions from a thousand points each: a smooth one, a kinked one, and one
that jumps. Each seed draws its own functions, points, initialization and batch order, the same for every net. The
theorem is about what a net can compute; this study is about what training finds.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import mse_loss

from lesson.data import Curves
from lesson.models import Linear
from lesson.nets import net_learner
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Settings, Study, beats, equals, exceeds

STEPS, LR, CLOSE = 2000, 1e-2, 0.05
WIDTHS, DEPTHS = (4, 16, 64, 128), (1, 2)


def run(job: Run, curves: Curves) -> Outcome:
    """A training for each function; its error on new points, in the function's own root mean square."""
    errors, seconds = {}, 0.0
    for function in ("smooth", "kinked", "jump"):
        data = curves.split(seed=job.seed, function=function)
        learn = net_learner(data, net(job), mse_loss, wd=0.0, seed=job.draw, quiet=True)
        learn.fit_one_cycle(epochs_for(STEPS, len(data.train)), job["lr"])
        errors[function] = math.log10(learn.history[-1].valid_loss) / 2
        seconds += sum(epoch.seconds for epoch in learn.history)
    continuous = max(errors["smooth"], errors["kinked"])
    return Outcome({"continuous": continuous, **errors}, {}, seconds)


def net(job: Run) -> nn.Sequential:
    """The arm's net, initialized as torch does: with zero biases every kink of the first layer would be at 0."""
    torch.manual_seed(job.draw)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([1, *[job["width"]] * job["depth"]]):
        layers += [Linear(n_in, n_out), *([nn.ReLU()] if job["relu"] else [])]
    return nn.Sequential(*layers, Linear(job["width"], 1))


def name(depth: int, width: int) -> str:
    """The name of an arm with ReLU."""
    return f"{depth} × {width}, ReLU"


SHAPES = [(depth, width) for depth in DEPTHS for width in WIDTHS]
ARMS: dict[str, Settings] = {
    name(depth, width): {"depth": depth, "width": width, "relu": True, "lr": LR} for depth, width in SHAPES
}
# Without ReLU every net is a straight line: the smallest and the largest show that.
ARMS |= {
    f"{depth} × {width}, none": {"depth": depth, "width": width, "relu": False, "lr": LR}
    for depth, width in (SHAPES[0], SHAPES[-1])
}
STUDY = Study(
    name="approximation",
    title="Universal approximation",
    question=f"Does a wide net come within {CLOSE:.0%} of continuous functions?",
    run=run,
    data=("made-1d",),
    arms=ARMS,
    baseline=name(1, 4),
    metrics={
        "continuous": Metric("log10 of the relative error, the larger of smooth and kinked", "lower", 0.1),
        "smooth": Metric("log10 of the relative error, smooth function"),
        "kinked": Metric("log10 of the relative error, kinked function"),
        "jump": Metric("log10 of the relative error, function with a jump", "lower", 0.1),
    },
    parts=(
        exceeds("7b", name(2, 128), math.log10(CLOSE), f"two hidden layers of 128 come within {CLOSE:.0%}"),
        equals("7c", "2 × 128, none", "1 × 4, none", says="without ReLU, two layers of 128 do as one layer of 4 does"),
        exceeds("", name(1, 128), math.log10(CLOSE), says=f"one hidden layer of 128 comes within {CLOSE:.0%}"),
        beats("", name(2, 128), name(2, 4), says="width lowers the error", by=True),
        exceeds("", name(2, 128), math.log10(CLOSE), f"two of 128 come within {CLOSE:.0%} of a jump, too", "jump"),
    ),
    resplits=False,
    tuned={"lr": Range(1e-3, 0.3)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=20, trials=8, cost="half an hour"),
        "full": Profile(seeds=40, trials=16, cost="two hours"),
    },
    names={"lr": "learning rate"},
    limits=(
        f"About {STEPS:,} steps of one-cycle AdamW without decay, batches of 64.",
        "Errors are averaged over functions as logarithms: on some functions the net may be further off.",
        "The rate is tuned for the smooth and the kinked function; the one that jumps uses the same.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
