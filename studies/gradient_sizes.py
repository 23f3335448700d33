"""Claim 72: in training, does RMSprop take larger steps relative to the gradient where gradients are small?

The lesson's 784-50-10 net, one epoch of RMSprop or SGD. At every tenth step the weights and biases are put into ten
groups of equal size by their gradient, zeros left out, and each group's mean step is divided by its mean gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lesson import optimizers
from lesson.data import Digits
from lesson.models import Mnist_NN
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats, exceeds, sweep

BATCH, EVERY, GROUPS = 64, 10, 10
OPTIMIZERS = {"SGD": partial(optimizers.SGD, lr=0.1), "RMSprop": partial(optimizers.RMSprop, lr=1e-3)}


def run(job: Run, digits: Digits) -> Outcome:
    """One epoch, and the mean of what its steps show."""
    data = digits.split(seed=job.seed)
    torch.manual_seed(job.draw)
    model = Mnist_NN()
    opt, profiles, began = OPTIMIZERS[job["optimizer"]](model.parameters()), [], perf_counter()
    for step, rows in enumerate(torch.randperm(len(data.train)).split(BATCH)):
        x, y = data.train[rows]
        cross_entropy(model(x), y).backward()
        before = flat(model.parameters())
        gradient = flat([p.grad for p in model.parameters()])
        opt.step()
        opt.zero_grad()
        if step % EVERY == EVERY - 1:
            profiles.append(by_size(gradient, flat(model.parameters()) - before))
    ratio, step_size = torch.stack(profiles).mean(0)
    return Outcome(
        {"relative": (ratio[0] - ratio[-1]).item(), "absolute": (step_size[0] - step_size[-1]).item()},
        {"step over gradient, log10": ratio.tolist(), "step, log10": step_size.tolist()},
        perf_counter() - began,
        len(data.train),
        len(data.valid),
    )


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    """All numbers of some tensors, float64[n]."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors if tensor is not None])


def by_size(gradient: Tensor, step: Tensor) -> Tensor:
    """log10 of the mean step over the mean gradient, and of the mean step, float64[2, GROUPS], by rising gradient."""
    moved = gradient.nonzero().squeeze(1)
    order = moved[gradient[moved].abs().argsort()]
    sizes = torch.stack([step[part].abs().mean() for part in order.tensor_split(GROUPS)])
    gradients = torch.stack([gradient[part].abs().mean() for part in order.tensor_split(GROUPS)])
    return torch.stack([sizes / gradients, sizes]).log10()


STUDY = Study(
    name="gradient_sizes",
    title="Steps and gradients",
    question="Are RMSprop's steps larger, relative to the gradient, where gradients are small?",
    run=run,
    data=("digits",),
    arms=sweep("optimizer", list(OPTIMIZERS)),
    baseline="SGD",
    metrics={
        "relative": Metric(
            "log10 of step over gradient in the smallest tenth of the gradients, over that in the largest",
            "higher",
            0.1,
            resplit=False,
        ),
        "absolute": Metric(
            "log10 of the step in the smallest tenth of the gradients, over that in the largest",
            "higher",
            0.1,
            resplit=False,
        ),
    },
    parts=(
        exceeds("72c", "RMSprop", 0, says="relative to the gradient they are", by=True),
        exceeds("", "RMSprop", 0, says="in absolute terms they are, too", metric="absolute"),
        beats(
            "", "RMSprop", "SGD", says="in absolute terms they depend less on the gradient", metric="absolute", by=True
        ),
    ),
    x="tenth of the gradients",
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="ten seconds"),
        "regular": Profile(seeds=20, trials=0, cost="ten seconds"),
        "full": Profile(seeds=40, trials=0, cost="twenty seconds"),
    },
    limits=(
        "One epoch of 784-50-10, batches of 64, at fixed rates.",
        "The smallest tenth of the gradients is judged against the largest; the curves show the tenths between.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
