"""Claim 22: is the divisor 3 of `slice(lr)` a quirk of batch normalization?

`slice(lr)` gives the head the rate lr, and all layers before it lr / 3. If the divisor belongs to BatchNorm, nets
without it should respond to the divisor in another way. So the question is the interaction: how the error grows with
the logarithm of the divisor, with BatchNorm and without. Which divisor is best for either is noise.

A net without BatchNorm needs another initialization. Here it begins as the same function: the pretrained body, and a
head trained on it while it was frozen; then each BatchNorm layer becomes the scale and shift that it is at that moment,
which train on like any weights, but normalize nothing. Each seed draws its own split, rows, head and order, the same
for every divisor, and the rate is tuned for each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lesson import CnnLearner
from lesson.learner import NORMS
from lesson.optimizers import FUSED
from lesson.pretraining import NewTask
from studies import transfer, unfrozen
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Range, Run, Study, best, factorial

EPOCHS, LR = 2, 1e-3
DIVISORS = (1, 3, 10, 30)


class ScaleShift(nn.Module):
    """What a BatchNorm layer does in evaluation, with a scale and a shift of each channel to be trained.

    Args:
        norm: the layer.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.weight = nn.Parameter(scale.detach().clone())
        self.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """X [batch, channels, …], each channel scaled and shifted."""
        by_channel = (-1, *(1 for _ in x.shape[2:]))
        return x * self.weight.view(by_channel) + self.bias.view(by_channel)


def without_bn(model: nn.Module) -> None:
    """Replace every BatchNorm layer by its scale and shift."""
    for part in list(model.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, NORMS):
                setattr(part, name, ScaleShift(layer))


def run(job: Run, task: NewTask) -> Outcome:
    """Train the head, then all layers with the divisor; the error on the validation rows."""
    whole = task.images.split(job.seed)
    learn = unfrozen.with_head(task, transfer.few(whole, job.draw), job)
    if not job["bn"]:
        without_bn(learn.model)
    body, head = learn.model
    learn = CnnLearner(
        learn.data, learn.model, learn.loss_func, opt_func=FUSED, layer_groups=[body, head],
        divisor=job["divisor"], seed=job.draw, quiet=True,
    )  # fmt: skip
    learn.fit_one_cycle(EPOCHS, slice(job["lr"]))
    return transfer.outcome(learn, whole, error=transfer.error(learn, whole))


def slope(sign: float, bn: str) -> dict[str, float]:
    """Weights that give the growth per factor of ten in the divisor, by least squares."""
    places = torch.tensor(DIVISORS, dtype=torch.float64).log10()
    places -= places.mean()
    weights = (sign * places / places.square().sum()).tolist()
    return {f"divisor {divisor}, {bn}": weight for divisor, weight in zip(DIVISORS, weights, strict=True)}


STUDY = Study(
    name="divisors",
    title="The divisor of early layers’ rates",
    question="Does BatchNorm change what the divisor of the early layers’ rates does?",
    run=run,
    data=("new-digits",),
    arms=factorial(
        divisor={f"divisor {divisor}": {"divisor": divisor} for divisor in DIVISORS},
        bn={"BatchNorm": {"bn": True, "lr": LR}, "none": {"bn": False, "lr": LR}},
    ),
    metrics={"error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.02)},
    parts=(
        Part(
            "22",
            "with BatchNorm the error grows differently with the divisor (per factor of ten)",
            slope(1, "BatchNorm") | slope(-1, "none"),
            "different",
        ),
        Part("", "with BatchNorm it matters little (per factor of ten)", slope(1, "BatchNorm"), "equivalent"),
        Part("", "without it it matters little (per factor of ten)", slope(1, "none"), "equivalent"),
        best(
            "",
            "divisor 3, BatchNorm",
            [f"divisor {divisor}, BatchNorm" for divisor in DIVISORS],
            says="with BatchNorm the divisor 3 is not worse than any other",
        ),
    ),
    recipe=2,
    tuned={"lr": Range(1e-4, 1e-2)},
    stand_in={"new-digits": transfer.STAND_IN},
    stand_in_limits=(transfer.ENLARGED,),
    exploratory=transfer.EXPLORATORY,
    profiles={
        "quick": Profile(seeds=1, trials=0, cost="one and a half minutes"),
        "regular": Profile(seeds=8, trials=3, cost="forty minutes"),
        "full": Profile(seeds=16, trials=6, cost="two and a half hours"),
    },
    names={"lr": "learning rate", "bn": "BatchNorm"},
    limits=(
        f"At most {transfer.ROWS} training rows, {EPOCHS} epochs in batches of {transfer.BS}, ResNet-34 (at 32 pixels "
        "unless --size or --weights ask for others), AdamW, whose steps depend on the "
        "rate alone, not on the size of the gradient.",
        "The body was pretrained with BatchNorm, and the head trained with it on what the frozen body gives, computed "
        "once; the nets without it lose it afterwards.",
        transfer.SETTLED,
        "Two layer groups, body and head, as in `slice(lr)`: every layer but the head’s gets the divided rate.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
