"""Claims 17 and 24: what the learning rate does to pretrained layers once they are unfrozen.

As in the lesson, a new head is trained first, on a frozen body; then all layers, at one rate or at rates that fall
toward the first layers. The body is pretrained on MNIST's digits 0 to 4, or random; the task is UCI's digits 5 to 9.
Each seed draws its own split, rows, head and order, the same for every rate.

That layers moved less at a smaller rate proves nothing. What the body still knows is measured by a probe: a linear
classifier, fitted by least squares, of the first task's digits, on what the body makes of them.

At a tiny rate a random body learns nothing, and the pretrained one is far ahead whatever the rate does to it; at a huge
rate any net fails. So the rates begin where a random net learns in this many steps, and a part of its own asks whether
the pretrained net itself becomes worse.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.swa_utils import update_bn

from lesson import CnnLearner, create_cnn
from lesson.data import ImageBunch
from lesson.optimizers import FUSED
from lesson.pretraining import NewTask
from lesson.vision import precompute
from studies import transfer
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Run, Study, beats, factorial, not_worse

HEAD_EPOCHS, HEAD_LR, EPOCHS = 4, 3e-3, 2
RATES, RATIO, PROBED = (1e-3, 3e-3, 1e-2, 3e-2), 100, 250  # PROBED: rows that fit the probe, and as many that test it
RIDGE = 1e-2  # of the probe, as a share of the features' mean square


def run(job: Run, task: NewTask) -> Outcome:
    """Train the head, then all layers; the errors on both tasks, and how far each layer has moved."""
    whole = task.images.split(job.seed)
    learn = with_head(task, transfer.few(whole, job.draw), job, transfer.ALL if job["pretrained"] else "")
    before = weights(learn.model[0])
    lr = job["lr"]
    learn.fit_one_cycle(EPOCHS, slice(lr / RATIO, lr) if job["slice"] else lr)
    pairs = zip(weights(learn.model[0]), before, strict=True)
    moved = [((after - first).norm() / first.norm()).item() for after, first in pairs]
    error = transfer.error(learn, whole)
    probe = None if task.old is None else probe_error(learn, task.old)
    return replace(transfer.outcome(learn, whole, error=error, probe=probe), curves={"distance moved": moved})


def with_head(task: NewTask, data: ImageBunch, job: Run, stages: str = transfer.ALL) -> CnnLearner:
    """A learner whose new head was trained on a frozen body with these pretrained stages, and which is unfrozen."""
    learn = create_cnn(data, lambda: transfer.net(task, stages), opt_func=FUSED, seed=job.draw, quiet=True)
    learn.model.to(job.device)
    precompute(learn).fit_one_cycle(HEAD_EPOCHS, HEAD_LR)
    return learn


def weights(body: nn.Module) -> list[Tensor]:
    """The convolutions' weights, first to last."""
    return [layer.weight.detach().clone() for layer in body.modules() if isinstance(layer, nn.Conv2d)]


@torch.no_grad()
def probe_error(learn: CnnLearner, data: ImageBunch) -> float:
    """The error on the body's first task of a linear classifier of what the body gives.

    BatchNorm takes the statistics of that task's rows, so that they are no part of what was forgotten.
    """
    body = learn.model[0]
    (x, y), (new, truth) = data.train[:PROBED], data.valid[:PROBED]
    update_bn([x.to(learn.device)], body)
    body.eval()
    known, unknown = (body(images.to(learn.device)).mean((2, 3)).double().cpu() for images in (x, new))
    mean = known.mean(0)
    known, unknown = known - mean, unknown - mean
    squares = known.T @ known
    squares += max(RIDGE * squares.trace().item() / len(squares), 1e-12) * torch.eye(len(squares))
    targets = one_hot(y, data.c).double()
    share = targets.mean(0)
    scores = unknown @ torch.linalg.solve(squares, known.T @ (targets - share)) + share
    return (scores.argmax(1) != truth).double().mean().item()


PRETRAINED = factorial(
    body={"pretrained": {"pretrained": True}, "random": {"pretrained": False}},
    rate={f"rate {rate:g}": {"lr": rate, "slice": False} for rate in RATES},
)
SLICE, EQUAL = "pretrained, slice", f"pretrained, rate {RATES[1]:g}"
LOW, HIGH = f"rate {RATES[0]:g}", f"rate {RATES[-1]:g}"
STUDY = Study(
    name="unfrozen",
    title="Rates for pretrained layers",
    recipe=2,
    question="Does a big learning rate cost a pretrained body its advantage over a random one?",
    run=run,
    data=("new-digits",),
    arms=PRETRAINED | {SLICE: {"pretrained": True, "lr": RATES[1], "slice": True}},
    baseline=EQUAL,
    metrics={
        "error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.02),
        "probe": Metric("error of a probe for the first task", better="lower", smallest=0.01, resplit=False),
    },
    parts=(
        Part(
            "24",
            "the pretrained body’s advantage is smaller at the two larger rates than at the two smaller ones",
            {
                f"{body}, rate {rate:g}": (0.5 if rate in RATES[:2] else -0.5) * (1 if body == "pretrained" else -1)
                for body in ("pretrained", "random")
                for rate in RATES
            },
            "superior",
        ),
        beats("", f"pretrained, {LOW}", f"pretrained, {HIGH}", says="the largest rate makes the pretrained net worse"),
        beats("", f"random, {LOW}", f"random, {HIGH}", says="it makes the random net worse, too"),
        beats("17a", SLICE, EQUAL, says="with smaller rates for early layers the body keeps more", metric="probe"),
        not_worse("17b", SLICE, EQUAL, says="the new task does not suffer"),
        beats(
            "",
            f"pretrained, {LOW}",
            f"pretrained, {HIGH}",
            says="the largest rate makes the body forget",
            metric="probe",
        ),
    ),
    stand_in={"new-digits": transfer.STAND_IN},
    stand_in_limits=(transfer.ENLARGED,),
    exploratory=transfer.EXPLORATORY,
    x="layer",
    profiles={
        "quick": Profile(seeds=1, trials=0, cost="two minutes"),
        "regular": Profile(seeds=8, trials=0, cost="half an hour"),
        "full": Profile(seeds=16, trials=0, cost="an hour"),
    },
    names={"lr": "rate of the head", "pretrained": "pretrained body", "slice": f"first layers at 1/{RATIO}"},
    limits=(
        f"At most {transfer.ROWS} training rows, {EPOCHS} epochs in batches of {transfer.BS}, ResNet-34 (at 32 pixels "
        "unless --size or --weights ask for others), AdamW, whose steps depend on the "
        "rate alone, not on the size of the gradient.",
        "While the head is trained, BatchNorm in the frozen body has the statistics of the training rows and is frozen "
        "too, so what the body gives is computed once; afterwards it trains.",
        f"{PROBED} digits of the first task fit the probe, and {PROBED} that the pretraining did not see test it: the "
        "same for every seed.",
        transfer.SETTLED,
        "If the pretrained body has no advantage at the smaller rates, there is none to lose: claim 24 then "
        "holds if larger rates harm this body more.",
        "That layers moved less, as the curves show, does not mean that they kept more.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
