"""Claims 12 and 13: what a pretrained body is worth to a new task, as a whole and stage by stage.

A net trained on MNIST's digits 0 to 4 loses its head and learns UCI's digits 5 to 9, new classes in other hands, from a
few of them. All nets take the same number of steps; each seed draws its own split, rows, new layers and order, the same
for every net. A ResNet has four stages; the stem counts with the first. The stages that are not pretrained are random,
so that every net has the same depth.

Claim 13 says that the later a layer, the less its pretraining is worth to another task. Three designs that suggest
themselves do not show that:

- Nets cut short: a head on the first stages alone. A deeper cut makes a larger net, so accuracy may rise with depth
  whatever the layers have learned.
- Pretrained against random frozen layers. Random layers that stay random lose more of the image the deeper they go, so
  the difference may rise with depth however specific the pretrained layers are. It is measured here, and belongs to no
  claim.
- Adding one pretrained stage after another. The first one added has the largest error to reduce.

Claim 13 is decided by the main effects of a factorial: first two stages pretrained or random × last two pretrained or
random, all layers trained. Each half is added before the other as often as after it, and the difference of the main
effects is the error with the last two minus the error with the first two. One doubt stays, and it favors the claim:
late layers that were trained together with early ones now read those of a random net. A yes may be due to that; a no is
not. That later layers need more training is a part of its own: what freezing costs after the fourth stage, against
after the first.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lesson import CnnLearner, create_cnn
from lesson.data import ImageBunch, ImageRows
from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import ResNet
from lesson.optimizers import FUSED
from lesson.pretraining import NewTask
from lesson.vision import measure_norms, precompute
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Range, Run, Settings, Study, beats, not_worse

ROWS, BS, EPOCHS, LR = 160, 16, 2, 3e-3
CUTS = (1, 2, 4)  # stages
STAGES = (("conv1", "bn1", "layer1"), ("layer2",), ("layer3",), ("layer4",))
ALL = "1234"
ENDS = (0, 5, 6, 7, 8)  # the body's children before each stage, and all
# What the stages before a cut are; all others are random, and train.
PRETRAINED, FROZEN, RANDOM = "pretrained", "pretrained, frozen", "random, frozen"
LAST = "last pretrained"  # instead, as many last stages are pretrained


def run(job: Run, task: NewTask) -> Outcome:
    """One training: split, few rows, net, one-cycle, error on the validation rows."""
    whole, cut, stages = task.images.split(job.seed), job["cut"], job["stages"]
    pretrained = {RANDOM: "", LAST: ALL[-cut:]}.get(stages, ALL[:cut])
    learn = create_cnn(few(whole, job.draw), lambda: net(task, pretrained), opt_func=FUSED, seed=job.draw, quiet=True)
    learn.model.to(job.device)
    training = precompute(learn, ENDS[cut]) if stages in (FROZEN, RANDOM) else learn
    training.fit_one_cycle(EPOCHS, job["lr"])
    return outcome(training, whole, error=error(learn, whole))


def few(data: ImageBunch, draw: int) -> ImageBunch:
    """`ROWS` of the training rows at most, drawn at random, in batches of two or more; two validation rows."""
    count = min(ROWS, len(data.train))
    count -= count % BS == 1  # BatchNorm needs two rows
    chosen = torch.randperm(len(data.train), generator=stream(draw, "order"))[:count]
    train = ImageRows(data.train.x[chosen], data.train.y[chosen])
    valid = ImageRows(data.valid.x[:2], data.valid.y[:2])  # only the end of the training is judged, on all of them
    return replace(data, train=train, valid=valid, bs=BS)


def error(learn: CnnLearner, whole: ImageBunch) -> float:
    """The share of all validation rows that a trained net classifies wrongly.

    BatchNorm's statistics are first measured on the training rows: its running means, a tenth of the way nearer at each
    step, would still be those of earlier weights.
    """
    measure_norms(learn, learn.model)
    learn.data = replace(learn.data, valid=whole.valid)
    return 1 - accuracy(*learn.get_preds()).item()


def outcome(learn: CnnLearner, whole: ImageBunch, **metrics: float | None) -> Outcome:
    """The outcome of a training on few rows: splits overlap as much, however few of their rows are used."""
    losses, seconds = ([getattr(epoch, name) for epoch in learn.history] for name in ("train_loss", "seconds"))
    return Outcome(metrics, {"train_loss": losses}, sum(seconds), len(whole.train), len(whole.valid))


def net(task: NewTask, pretrained: str) -> ResNet:
    """A random net with some stages of the task's pretrained one: "12" has the first two."""
    mixed = task.net()
    with torch.no_grad():
        for number, names in enumerate(STAGES, start=1):
            if str(number) in pretrained:
                for name in names:
                    layers = getattr(mixed, name)
                    layers.load_state_dict({key: task.state[f"{name}.{key}"] for key in layers.state_dict()})
    return mixed


def arm(cut: int, stages: str) -> Settings:
    """A net's settings: how many stages are before the cut, what they are, the default rate."""
    return {"cut": cut, "stages": stages, "lr": LR}


ARMS = {
    "random net": arm(0, PRETRAINED),
    **{f"first {n} {PRETRAINED}": arm(n, PRETRAINED) for n in CUTS},
    "last 2 pretrained": arm(2, LAST),
    **{f"first {n} {stages}": arm(n, stages) for stages in (FROZEN, RANDOM) for n in CUTS},
}
NEW_HEAD, RANDOM_BODY = "first 4 pretrained, frozen", "first 4 random, frozen"
STAND_IN = "UCI's digits 5 to 9, for a net that was trained on MNIST's 0 to 4, instead of on ImageNet"
SETTLED = "After each training BatchNorm's statistics are measured on the training rows, for every net alike."
ENLARGED = "UCI's digits, enlarged from 8 × 8 pixels, look unlike MNIST's, more unlike than photographs and ImageNet's."
EXPLORATORY = "the net was pretrained once, and the seeds repeat what comes after"

STUDY = Study(
    name="transfer",
    title="Transfer learning",
    recipe=2,
    question="Does a new head on a pretrained body beat a net that starts at random?",
    run=run,
    data=("new-digits",),
    arms=ARMS,
    baseline="random net",
    metrics={"error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.02)},
    parts=(
        beats("12a", NEW_HEAD, "random net", says="a new head on the pretrained body beats a random net", by=True),
        beats("12b", NEW_HEAD, RANDOM_BODY, says="it beats a new head on a random frozen body", by=True),
        beats(
            "13",
            "first 2 pretrained",
            "last 2 pretrained",
            says="with all layers trained, two early pretrained stages are worth more than two late ones",
        ),
        Part(
            "",
            "freezing four pretrained stages costs more than freezing the first",
            {
                "first 4 pretrained, frozen": -1,
                "first 4 pretrained": 1,
                "first 1 pretrained, frozen": 1,
                "first 1 pretrained": -1,
            },
            "superior",
        ),
        not_worse(
            "",
            "first 1 pretrained, frozen",
            "first 1 pretrained",
            says="the first pretrained stage does as well frozen as trained",
        ),
        Part(
            "",
            "among frozen nets, four pretrained stages gain less over random ones than one does",
            {
                "first 1 random, frozen": -1,
                "first 1 pretrained, frozen": 1,
                "first 4 random, frozen": 1,
                "first 4 pretrained, frozen": -1,
            },
            "superior",
        ),
    ),
    tuned={"lr": Range(3e-4, 3e-2)},
    stand_in={"new-digits": STAND_IN},
    stand_in_limits=(ENLARGED,),
    exploratory=EXPLORATORY,
    profiles={
        "quick": Profile(seeds=1, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=8, trials=3, cost="forty minutes"),
        "full": Profile(seeds=16, trials=6, cost="two and a half hours"),
    },
    names={
        "lr": "learning rate",
        "cut": "cut after stage",
        NEW_HEAD: "all 4 pretrained, frozen: a new head",
        RANDOM_BODY: "all 4 random, frozen: a new head",
        "first 4 pretrained": "all 4 pretrained",
    },
    limits=(
        f"At most {ROWS} training rows, {EPOCHS} epochs in batches of {BS}, ResNet-34 (at 32 pixels unless --size or "
        "--weights ask for others), weight decay 0.01.",
        "BatchNorm in frozen stages has the statistics of the training rows and is frozen too, so what they give is "
        "computed once; fastai trains it.",
        SETTLED,
        "That late pretrained stages read random early ones favors claim 13: a yes may be due to that, a no is not.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
