"""Claim 15: does freezing make training faster, and does it need less memory?

ResNet-34 with a new head on digits, frozen in one of four ways, and unfrozen, train in turns, epoch by epoch: the ratio
of their times is free of what else the machine does. Memory is measured twice, and the less favorable ratio counts:
the bytes that a forward pass saves for the backward pass, and the growth of a fresh process's peak in two steps.

In fastai a frozen body still trains its BatchNorm. Then the gradient has to go back to the first layer, through
activations that are saved for it; only the gradients of the convolutions' weights, and the optimizer's numbers for
them, are spared. So the body with fixed BatchNorm, the first group frozen alone, and a body whose output is computed
once are measured beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log10
from statistics import median

import torch
from torch import Tensor, nn

from lesson import CnnLearner, create_cnn
from lesson.data import ImageBunch, ImageRows
from lesson.models import ResNet
from lesson.optimizers import FUSED
from lesson.pretraining import NewTask
from lesson.vision import precompute
from studies import transfer
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, exceeds, sweep
from studies.lab.timing import InTurns, peak_growth

ROWS, BS, EPOCHS, LR = 64, 16, 4, 1e-3  # the first epoch warms up
ALL, FROZEN, FIXED, EARLY, ONCE = "unfrozen", "frozen", "BatchNorm fixed", "first group", "computed once"


def run(job: Run, task: NewTask) -> Outcome:
    """Two trainings in turns, and the memory of each."""
    whole = task.images.split(job.seed)
    rows = transfer.few(whole, job.draw)
    data = replace(rows, train=ImageRows(rows.train.x[:ROWS], rows.train.y[:ROWS]), bs=BS)
    ours, theirs = (learner(data, transfer.net(task, transfer.ALL), how, job.draw) for how in (job["way"], ALL))
    saved = [saved_bytes(learn) for learn in (ours, theirs)]
    for _ in InTurns(ours.epochs(EPOCHS, LR), theirs.epochs(EPOCHS, LR)):
        pass
    seconds = [[epoch.seconds for epoch in learn.history[1:]] for learn in (ours, theirs)]
    layers, size = ",".join(map(str, task.recipe.layers)), str(task.images.x.shape[-1])
    peaks = [peak_growth("studies.freezing", "two_steps", how, layers, size) for how in (job["way"], ALL)]
    ratios = {"saved": log10(saved[0] / saved[1]), "peak": log10(peaks[0] / peaks[1])}
    time = log10(median(a / b for a, b in zip(*seconds, strict=True)))
    return Outcome({"time": time, "memory": max(ratios.values()), **ratios}, seconds=sum(seconds[0]))


def learner(data: ImageBunch, net: nn.Module, way: str, seed: int) -> CnnLearner:
    """A learner of the net with a new head, frozen in this way."""
    learn = create_cnn(data, lambda: net, train_bn=way != FIXED, opt_func=FUSED, seed=seed, quiet=True)
    if way in (FROZEN, FIXED):
        learn.freeze()
    elif way == EARLY:
        learn.freeze_to(1)
    return precompute(learn) if way == ONCE else learn


def saved_bytes(learn: CnnLearner) -> int:
    """The bytes that a forward pass of one batch keeps for the backward pass, without the model's own parameters."""
    own = {param.untyped_storage().data_ptr() for param in learn.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    learn.model.train()
    learn._train_mode()
    x, y = learn.data.train[torch.arange(learn.bs)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = learn.loss_func(learn.model(x), y)
    del loss
    return sum(kept.values())


def two_steps(way: str, layers: str, size: str) -> Callable[[], None]:
    """A function that trains two batches of noise: for a fresh process, whose arguments are text."""
    torch.set_num_threads(1)
    x = torch.randint(256, (2 * BS, 3, int(size), int(size)), dtype=torch.uint8)
    rows = ImageRows(x, torch.arange(2 * BS) % 5)
    data = ImageBunch(rows, ImageRows(x[:2], rows.y[:2]), BS)
    first, second, third, last = map(int, layers.split(","))
    net = ResNet((first, second, third, last), 5)
    return lambda: learner(data, net, way, seed=0).fit(1, LR)


STUDY = Study(
    name="freezing",
    title="Freezing",
    recipe=2,
    question="Does freezing all layers but the head, as fastai does, make a step of training faster?",
    run=run,
    data=("new-digits",),
    arms=sweep("way", (FROZEN, FIXED, EARLY, ONCE)),
    metrics={
        "time": Metric("log10 of a step’s time over unfrozen", better="lower", smallest=log10(1.05), resplit=False),
        "memory": Metric(
            "log10 of the larger ratio of bytes over unfrozen", better="lower", smallest=log10(1.05), resplit=False
        ),
        "saved": Metric("log10 of bytes saved for the backward pass over unfrozen", resplit=False),
        "peak": Metric("log10 of the growth of a fresh process’s peak over unfrozen", resplit=False),
    },
    parts=(
        exceeds("15a", FROZEN, 0, says="all but the head frozen, as in fastai, a step is faster"),
        exceeds("15b", FROZEN, 0, says="it needs less memory, by both measures", metric="memory"),
        exceeds("", FIXED, 0, says="with BatchNorm fixed, too, it is faster"),
        exceeds("", FIXED, 0, says="with BatchNorm fixed it needs less memory", metric="memory"),
        exceeds("", EARLY, 0, says="with the first layer group alone frozen it is faster"),
        exceeds("", EARLY, 0, says="with the first layer group alone frozen it needs less memory", metric="memory"),
    ),
    resplits=False,
    alone=True,
    cpu_only=True,
    stand_in={"new-digits": transfer.STAND_IN},
    exploratory=transfer.EXPLORATORY,
    profiles={
        "quick": Profile(seeds=1, trials=0, cost="two minutes"),
        "regular": Profile(seeds=8, trials=0, cost="twenty minutes"),
        "full": Profile(seeds=16, trials=0, cost="forty minutes"),
    },
    names={FROZEN: "all but the head frozen", FIXED: "all but the head frozen, BatchNorm too"},
    limits=(
        f"ResNet-34 at 32 pixels, batches of {BS}, one thread of this processor, AdamW.",
        f"“{ONCE}”: the frozen body, BatchNorm too, is applied to the rows once, before the steps that are timed; its "
        "peak is that of the computing.",
        "At larger images activations outgrow the weights, which changes the ratios of memory.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
