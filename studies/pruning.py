"""Claim 45: do parameters close to zero count as if they did not exist?

A net with hidden layers of 100 and 50 on digits, with weight decay and without. Then a growing share of its weights is
set to zero, the smallest first, and in random order, until it classifies more than half a point more of the validation
rows wrongly than the whole net. (The loss would be no fair measure: that of a net too sure of itself falls when
weights are removed.) A share is relative to the net's own weights, which is fair to a net whose weights are all
smaller. Weights of pixels that are dark in every training image cannot count, so they are left alone. Each seed draws
its own split, initialization and batch order, the same for both nets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesson.data import DataBunch
from lesson.learner import stream
from lesson.models import Linear, Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, exceeds

STEPS, HIDDEN, LR = 6000, (100, 50), 5e-3
SHARES = np.arange(1, 100) / 100  # of the weights, set to zero
EQUAL = 0.005  # how much more of the validation rows may be wrong


def run(job: Run, table: Any) -> Outcome:
    """One training, then the net with ever more weights removed."""
    data = table.split(seed=job.seed)
    model = Net((data.inputs, *HIDDEN, data.c), generator=stream(job.draw, "initialization"))
    learn = net_learner(data, model, wd=job["wd"], seed=job.draw, quiet=True)
    learn.fit_one_cycle(epochs_for(STEPS, len(data.train)), job["lr"])
    whole = learn.history[-1].valid_loss
    learned = whole < chance(data)
    # A net that knows nothing has nothing to lose.
    share = removable(model, data, None) if learned else None
    at_random = removable(model, data, torch.Generator().manual_seed(job.draw)) if learned else None
    more = None if share is None or at_random is None else share - at_random
    norm = torch.cat([weight.detach()[may] for weight, may in weights(model, data)]).norm().item()
    return Outcome.of(learn, valid_loss=whole, share=share, at_random=at_random, more=more, norm=norm)


def chance(data: DataBunch) -> float:
    """The validation loss of the best constant: the shares of the classes in training."""
    counts = torch.bincount(data.train[:][1], minlength=data.c).double()
    return -(counts / counts.sum())[data.valid[:][1]].log().mean().item()


def weights(model: nn.Module, data: DataBunch) -> list[tuple[Tensor, Tensor]]:
    """The matrices, each with what may be removed, bool of its shape: not what reads pixels that are always dark."""
    layers = [layer for layer in model.modules() if isinstance(layer, (Linear, nn.Linear))]
    free = [torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers]
    free[0] &= (data.train[:][0] != 0).any(0)
    return [(layer.weight, may) for layer, may in zip(layers, free, strict=True)]


def removable(model: nn.Module, data: DataBunch, drawn: torch.Generator | None) -> float:
    """The largest share of the weights up to which the error stays equal; the model keeps its weights.

    Args:
        model: a net.
        data: what it was trained on.
        drawn: draws the order in which weights are removed; None removes the smallest first.
    """
    matrices = weights(model, data)
    kept = [weight.detach().clone() for weight, _ in matrices]
    free = torch.cat([may.flatten() for _, may in matrices]).nonzero()[:, 0]
    flat = torch.cat([weight.flatten() for weight in kept])
    order = free[torch.randperm(len(free), generator=drawn) if drawn else flat[free].abs().argsort()]
    x, y = data.valid[:]
    found = 0.0
    with torch.no_grad():
        allowed = wrong(model(x), y) + int(EQUAL * len(y) + 1e-9)
        for share in SHARES:
            left = flat.clone()
            left[order[: round(share * len(order))]] = 0
            for (weight, _), part in zip(matrices, left.split([weight.numel() for weight in kept]), strict=True):
                weight.copy_(part.view_as(weight))
            if wrong(model(x), y) > allowed:
                break
            found = float(share)
        for (weight, _), before in zip(matrices, kept, strict=True):
            weight.copy_(before)
    return found


def wrong(out: Tensor, y: Tensor) -> int:
    """How many rows are classified wrongly."""
    return int((out.argmax(1) != y).sum())


STUDY = Study(
    name="pruning",
    title="Weights close to zero",
    question="Can a net with weight decay do without more of its smallest weights than one without?",
    run=run,
    data=("digits",),
    arms={
        "decay": {"wd": 0.1, "lr": LR},
        "no decay": {"wd": 0.0, "lr": LR},
    },
    baseline="no decay",
    metrics={
        "valid_loss": Metric("cross-entropy on the validation rows", better="lower", smallest="1 %"),
        "share": Metric("share of the smallest weights set to zero at equal error", better="higher", smallest=0.05),
        "more": Metric("that share, minus the share in random order", better="higher", smallest=0.05),
        "at_random": Metric("share of weights in random order set to zero at equal error"),
        "norm": Metric("norm of the weights that may be removed"),
    },
    parts=(
        beats("45a", "decay", "no decay", "with decay, more of the smallest weights can go", "share"),
        exceeds("45b", "decay", 0, "the smallest weights count less than random ones", "more"),
        exceeds("", "no decay", 0, "so they do without decay", "more"),
    ),
    tuned={"lr": Range(3e-4, 0.1)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute"),
        "regular": Profile(seeds=20, trials=6, cost="ten minutes"),
        "full": Profile(seeds=40, trials=16, cost="an hour"),
    },
    names={"wd": "weight decay", "lr": "learning rate"},
    limits=(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]}, about {STEPS:,} steps, batches of 64; no more training then.",
        f"Equal is an error at most {EQUAL:.1%} of the rows above the whole net's; the rate is tuned for its loss.",
        "A net whose loss is no lower than the best constant's has nothing to measure.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
