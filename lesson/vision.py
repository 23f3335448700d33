"""Transfer learning: `create_cnn` puts a new head on a net for images, trained or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import TensorDataset

from lesson import checks
from lesson.checks import DataError, shown
from lesson.data.bunch import DataBunch
from lesson.data.table import reason
from lesson.learner import NORMS, Learner, Loss, Metric, OptFunc, stream
from lesson.models import Dropout, resnet34
from lesson.optimizers import AdamW
from lesson.saving import load_weights
from lesson.schedules import Schedule

if TYPE_CHECKING:
    import numpy as np

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)


class AdaptiveConcatPool2d(nn.Module):
    """The largest and the mean number of each channel, side by side.

    >>> AdaptiveConcatPool2d()(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).flatten()
    tensor([6., 3.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.mp, self.ap = nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 2 · channels, 1, 1] of x [batch, channels, height, width]."""
        return torch.cat([self.mp(x), self.ap(x)], dim=1)


def create_body(net: nn.Module, cut: int | None = None) -> nn.Sequential:
    """The first children of a net.

    Args:
        net: has its layers as children, in their order.
        cut: how many children; None takes those before the last that is a pool.

    Raises:
        DataError: there are not as many children, or there is no pool.

    >>> net = resnet34()
    >>> [name for name, _ in net.named_children()][len(create_body(net)):]
    ['avgpool', 'fc']
    """
    children = list(net.children())
    if cut is None:
        pools = [place for place, child in enumerate(children) if isinstance(child, POOLS)]
        if not pools:
            raise DataError(f"arch: {type(net).__name__} has no pool among its children; pass cut, how many to keep")
        cut = pools[-1]
    if not 1 <= (cut := checks.whole("cut", cut)) <= len(children):
        raise DataError(f"cut={cut}: {type(net).__name__} has {len(children)} children; keep one of them at least")
    return nn.Sequential(*children[:cut])


def _channels(body: nn.Module, data: Any) -> int:
    """The channels of the body's result, for the first training row.

    Raises:
        DataError: the body cannot read it.
    """
    x, *_ = data.train[torch.arange(1)]
    try:
        with torch.no_grad():
            out = body.eval()(x)
    except RuntimeError as error:
        raise DataError(
            f"data: the body cannot read inputs of shape {list(x.shape)} ({reason(error)}); "
            "images [rows, 3, height, width] are needed"
        ) from error
    body.train()
    if out.ndim != 4:
        raise DataError(f"cut: the body gives {list(out.shape)}; [rows, channels, height, width] is needed")
    return len(out[0])


def create_head(channels: int, classes: int) -> nn.Sequential:
    """The layers that create_cnn adds, as in fastai v1 (claim 11, slip 5).

    Weights are normal with variance 2/n_in (He and others 2015), biases zero.

    Args:
        channels: of the body's result.
        classes: rows of the last matrix.

    >>> head = create_head(channels=512, classes=37)
    >>> [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    [(512, 1024), (37, 512)]
    """
    layers = [
        *(AdaptiveConcatPool2d(), nn.Flatten()),
        *(nn.BatchNorm1d(2 * channels), Dropout(0.25), nn.Linear(2 * channels, 512), nn.ReLU(inplace=True)),
        *(nn.BatchNorm1d(512), Dropout(0.5), nn.Linear(512, classes)),
    ]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class CnnLearner(Learner):
    """A learner for images; made by `create_cnn`. Its model is `nn.Sequential(body, head)`.

    Args:
        data: as for `Learner`; inputs are float32[rows, 3, height, width].
        model: as for `Learner`.
        how: as for `Learner`.
    """

    model: nn.Sequential
    valid_bs = 64

    def _training(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        if (rows := len(self.data.train)) % self.bs == 1 or self.bs == 1:
            raise DataError(
                f"bs={self.bs}: BatchNorm needs two rows or more, but the last of {rows} is alone; pass another bs"
            )
        return super()._training(optimizer, schedule)

    @property
    def filters(self) -> Tensor:
        """The weights of the first convolution, float[filters, 3, height, width].

        Raises:
            DataError: it does not read three colors.
        """
        first = next((layer for layer in self.model.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is None or first.in_channels != 3:
            raise DataError("the model has no convolution that reads three colors")
        return first.weight.detach()

    def show_filters(self, before: Tensor | None = None) -> np.ndarray:
        """Draw the first layer's filters as small images, for notebooks.

        Args:
            before: an earlier copy, `learn.filters.clone()`, which is drawn beside them on the same scale.

        Returns:
            The axes of matplotlib: one, or those of before and after.

        Raises:
            DataError: `before` has another shape, or the first convolution does not read three colors.
        """
        from lesson import plots  # seaborn and matplotlib take half a second to import

        now = self.filters
        if before is None:
            return plots.filters([now], ["filters"])
        if not isinstance(before, Tensor) or before.shape != now.shape:
            raise DataError(f"before={shown(before)}: a copy is needed, learn.filters.clone()")
        return plots.filters([before, now], ["before", "after"])

    def _identity(self) -> dict[str, str]:
        classes = getattr(self.data, "classes", ()) or range(self.data.c)
        return {"classes": ", ".join(map(repr, classes))}


def create_cnn(
    data: Any,
    arch: Callable[[], nn.Module] = resnet34,
    cut: int | None = None,
    pretrained: str | Path | None = None,
    sha256: str | None = None,
    *,
    loss_func: Loss = cross_entropy,
    opt_func: OptFunc = AdamW,
    metrics: Sequence[Metric] = (),
    wd: float = 0.01,
    bn_wd: bool = True,
    train_bn: bool = True,
    divisor: float = 3,
    bs: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> CnnLearner:
    """A learner whose model is the body of a net and a new head (claims 11, 14, 16 to 21).

    The layer groups are those of fastai v1: the body before `layer3`, the rest of the body, and the head. A body
    without `layer3` is one group. A pretrained body is frozen, but for BatchNorm: `learn.unfreeze()` trains all.

    Args:
        data: images, split, such as `load_images("pets").split()`; `c` is the number of classes.
        arch: makes the net, whose inputs are float32[rows, 3, height, width].
        cut: how many children of the net are the body; None takes those before its last pool.
        pretrained: a file of weights for the whole net, as `lesson.saving.load_weights` reads it; None leaves the body
            random, and trains it.
        sha256: the digest that the file must have.
        loss_func: see `Learner`, as for the following.
        opt_func: makes the optimizer.
        metrics: such as `lesson.metrics.accuracy`.
        wd: the optimizer's weight decay.
        bn_wd: whether biases and BatchNorm decay too.
        train_bn: whether BatchNorm trains in frozen layer groups too.
        divisor: slice(lr) divides the rate of all groups but the last by it.
        bs: rows per batch; None takes the data's.
        seed: of the initialization, the dropout and the order of rows.
        quiet: do not print a line per epoch.

    Raises:
        DataError: an argument is wrong, or the weights do not fit.

    >>> from lesson.data import Images, load_digits
    >>> learn = create_cnn(Images.from_digits(load_digits(), size=32).split(), quiet=True)
    >>> [f"{sum(p.numel() for p in group.parameters()):,}" for group in learn.layer_groups]
    ['1,347,904', '19,936,768', '533,002']
    >>> learn.fit_one_cycle(1, slice(1e-4, 1e-3))  # doctest: +SKIP
    """
    if not all(hasattr(data, part) for part in ("train", "valid", "c")):
        raise DataError(f"data={shown(data)}: pass images, split, such as load_images('folder').split()")
    if sha256 is not None and pretrained is None:
        raise DataError(f"sha256={shown(sha256)}: of no file; pass pretrained, the file of weights")
    if not callable(arch):
        raise DataError(f"arch={shown(arch)}: pass a function that makes a net, such as resnet34")
    if data.c < 2 and loss_func is cross_entropy:
        raise DataError("all images are of one class, so there is nothing to learn; the classes are the folders' names")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "initialization").initial_seed())
        net = arch()
        if pretrained is not None:
            load_weights(net, pretrained, sha256)
        body = create_body(net, cut)
        head = create_head(_channels(body, data), data.c)
    names = [name for name, _ in net.named_children()][: len(body)]
    early = names.index("layer3") if "layer3" in names else 0
    groups = [body[:early], body[early:], head] if early else [body, head]
    learn = CnnLearner(
        data, nn.Sequential(body, head), loss_func, opt_func=opt_func, metrics=metrics, layer_groups=groups, wd=wd,
        bn_wd=bn_wd, train_bn=train_bn, divisor=divisor, bs=bs, seed=seed, quiet=quiet,
    )  # fmt: skip
    if pretrained is not None:
        learn.freeze()
    return learn


def precompute(learn: CnnLearner, cut: int | None = None) -> CnnLearner:
    """A learner of the last layers, on what the frozen layers before them give: computed once, not at each epoch.

    BatchNorm in the frozen layers takes the statistics of the training rows and is frozen too. In `learn.freeze()` it
    trains, so that what the layers give changes at each step (fastai 0.7 had `precompute=True`).

    Args:
        learn: trains all rows alike, without augmentation; the new learner trains all its last layers, in place.
        cut: how many children of the body are frozen; None is all of them, which leaves the head.

    Raises:
        DataError: the body does not have as many children.

    >>> from lesson.data import Images
    >>> pixels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    >>> learn = create_cnn(Images("noise", pixels, torch.arange(20) % 2, ("cat", "dog")).split(), quiet=True)
    >>> head = precompute(learn)
    >>> [tuple(x.shape) for x in head.data.train[:1]], head.model[0] is learn.model[1][0]
    ([(1, 512, 1, 1), (1,)], True)
    """
    body, head = (list(part.children()) for part in learn.model)
    cut = checks.whole("cut", len(body) if cut is None else cut, most=len(body))
    frozen, rest = nn.Sequential(*body[:cut]), nn.Sequential(*body[cut:], *head)
    rest.requires_grad_(True)  # a pretrained body starts frozen
    measure_norms(learn, frozen)
    frozen.eval()
    train, valid = (_given(frozen, rows, learn) for rows in (learn.data.train, learn.data.valid))
    found = CnnLearner(
        DataBunch(train, valid, learn.bs), rest, learn.loss_func, opt_func=learn.opt_func,
        metrics=list(learn.metrics.values()), wd=learn.wd, bn_wd=learn.bn_wd, quiet=learn.quiet,
    )  # fmt: skip
    found._order = learn._order  # the order of rows is of the learner's seed
    return found


def measure_norms(learn: CnnLearner, layers: nn.Module) -> None:
    """Give BatchNorm in layers that read images the statistics of the learner's training rows.

    They are means over chunks of rows in random order: rows of a folder come class by class, and chunks of one class
    each would leave out how classes differ. If it is interrupted, the layers are as before.
    """
    rows, order = learn.data.train, torch.Generator().manual_seed(0)
    chunks = torch.randperm(len(rows), generator=order).tensor_split(-(-len(rows) // learn.valid_bs))
    norms = [layer for layer in layers.modules() if isinstance(layer, NORMS)]
    momenta, numbers = [norm.momentum for norm in norms], [buffer.clone() for buffer in layers.buffers()]
    modes = [module.training for module in layers.modules()]
    try:
        update_bn((rows[chunk][0].to(learn.device) for chunk in chunks), layers)
    except BaseException:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in zip(layers.modules(), modes, strict=True):
            module.training = training
        for buffer, number in zip(layers.buffers(), numbers, strict=True):
            buffer.copy_(number)
        raise


@torch.no_grad()
def _given(layers: nn.Module, data: Any, learn: CnnLearner) -> TensorDataset:
    """What layers give for rows of images, with the rows' classes; the images are numbers a chunk at a time."""
    xs, ys = [], []
    for rows in torch.arange(len(data)).split(learn.valid_bs):
        x, y = data[rows]
        xs.append(layers(x.to(learn.device)))
        ys.append(y)
    return TensorDataset(torch.cat(xs), torch.cat(ys))
