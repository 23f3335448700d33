"""ResNet-34 and its new head; frozen and unfrozen layers; layer groups: claims 10, 11, 14, 16, 21, slips 4 to 6."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from lesson import CnnLearner, DataBunch, create_cnn, resnet34
from lesson.models import Dropout, Mnist_Logistic
from lesson.optimizers import SGD
from studies.exact import Found, exact

HE = "K. He et al. (2016), Deep Residual Learning, table 1; torchvision's resnet34 has 21,797,672 parameters"
CREATE_CNN = "fastai 1.0.61, vision/learner.py, create_cnn_model, create_head and _resnet_split"
FREEZE = "fastai 1.0.61, basic_train.py, Learner.freeze_to: BatchNorm stays trainable (train_bn=True)"
CLASSES = 37  # as many as the lesson's pets have


def _made(pretrained: Path | None = None) -> CnnLearner:
    """ResNet-34 as create_cnn makes it for 37 classes, with four images of 32 pixels and plain SGD."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = TensorDataset(x, torch.tensor([0, 1, 2, CLASSES - 1]))
    return create_cnn(DataBunch(rows, rows, bs=4), pretrained=pretrained, opt_func=SGD, wd=0.0, quiet=True)


@cache
def as_made() -> CnnLearner:
    """One that the checks share and none trains or changes."""
    return _made()


@exact("10", source=HE)
def the_last_matrix_of_resnet_34_has_1000_classes_on_one_side() -> Found:
    """The last weight matrix of a ResNet-34 for ImageNet is (1000, 512), as PyTorch stores it: 1000 rows."""
    net = resnet34()
    last, size = tuple(net.fc.weight.shape), sum(p.numel() for p in net.parameters())
    fits = size == 21_797_672 and last == (1000, 512)
    return Found(fits, f"with a last matrix of {last} the net has {size:,} parameters")


def _matrices(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]


@exact("11", by_construction=True, source=CREATE_CNN)
def create_cnn_puts_a_head_as_wide_as_the_task_has_classes() -> Found:
    """`create_cnn` drops the last matrix and adds a head with two, the last of them as wide as `data.c`."""
    body, head = as_made().model
    dropped = not _matrices(body) and _matrices(head) == [(512, 1024), (CLASSES, 512)]
    shapes = ", ReLU, ".join(map(str, _matrices(head)))
    return Found(dropped, f"{CLASSES} classes: {shapes}; matrices left in the body: {len(_matrices(body))}")


@cache
def _moved(unfrozen: bool) -> dict[str, bool]:
    """Whether a step of SGD without decay changes each tensor of ResNet-34 with weights from a file.

    create_cnn freezes the body of such a net. The weights in the file are random: they need only be there.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(resnet34().state_dict(), weights)
        learn = _made(weights)
    if unfrozen:
        learn.unfreeze()
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    learn.fit(1, 1e-3)
    return {name: not torch.equal(before[name], tensor) for name, tensor in learn.model.state_dict().items()}


def _convolutions() -> list[str]:
    body = as_made().model[0]
    return [f"0.{name}.weight" for name, layer in body.named_modules() if isinstance(layer, nn.Conv2d)]


@exact("14a", expected=False, source=FREEZE)
def frozen_layers_do_not_change() -> Found:
    """With the body frozen, as create_cnn leaves it, nothing in the body changes."""
    body = {name: moved for name, moved in _moved(unfrozen=False).items() if name.startswith("0.")}
    norms = sum(moved and name not in _convolutions() for name, moved in body.items())
    return Found(not any(body.values()), f"{sum(body.values())} of {len(body)} tensors change, {norms} of BatchNorm")


@exact("14b", source=FREEZE)
def frozen_layers_other_than_batch_norm_do_not_change() -> Found:
    """With the body frozen, its convolutions do not change by a bit; only BatchNorm and the head are trained."""
    still = [name for name, moved in _moved(unfrozen=False).items() if not moved]
    text = f"{len(still)} of {len(_moved(unfrozen=False))} tensors stay; there are {len(_convolutions())} convolutions"
    return Found(still == _convolutions(), text)


@exact("16")
def after_unfreeze_all_layers_are_trained() -> Found:
    """After `unfreeze()`, every parameter moves within a step, without any weight decay."""
    names = [name for name, _ in as_made().model.named_parameters()]
    moved = sum(_moved(unfrozen=True)[name] for name in names)
    return Found(moved == len(names), f"{moved} of {len(names)} parameters change")


def _sizes() -> list[int]:
    """Parameters of the layer groups into which create_cnn splits."""
    return [sum(p.numel() for p in group.parameters()) for group in as_made().layer_groups]


def _listed_sizes() -> str:
    return f"parameters: {' / '.join(f'{size:,}' for size in _sizes())}"


@exact("21a", expected=False, source=CREATE_CNN)
def layer_groups_have_equal_size() -> Found:
    """The layer groups have equal size: the same number of parameters each."""
    return Found(len(set(_sizes())) == 1, _listed_sizes())


@exact("21b", source=CREATE_CNN)
def there_are_layer_groups_of_unequal_size() -> Found:
    """The model is split into three layer groups, of unequal size, which hold every parameter once."""
    whole = sum(_sizes()) == sum(p.numel() for p in as_made().model.parameters())
    return Found(whole and len(set(_sizes())) == 3, _listed_sizes())


@exact("slip 4", source=CREATE_CNN)
def the_body_is_split_into_a_small_and_a_large_group() -> Found:
    """ResNet-34 splits into 1,347,904 and 19,936,768 parameters, all it has before its last layer, and the head."""
    early, late, _ = _sizes()
    whole = early + late + sum(p.numel() for p in resnet34().fc.parameters())
    known = (early, late, whole) == (1_347_904, 19_936_768, 21_797_672)
    return Found(known, f"{_listed_sizes()}; the first two with the last layer for 1000 classes: {whole:,}")


@exact("slip 5", source=CREATE_CNN)
def the_head_is_more_than_two_matrices_and_a_relu() -> Found:
    """The head also pools, flattens, and has BatchNorm and dropout before each matrix; the body's BatchNorm trains."""
    layers = [type(layer).__name__ for layer in as_made().model[1].children()]
    block = ["BatchNorm1d", "Dropout", "Linear"]
    wanted = ["AdaptiveConcatPool2d", "Flatten", *block, "ReLU", *block]
    shares = [layer.p for layer in as_made().model[1].children() if isinstance(layer, Dropout)]
    trains = any(moved for name, moved in _moved(unfrozen=False).items() if name.startswith("0."))
    return Found(layers == wanted and shares == [0.25, 0.5] and trains, f"{', '.join(layers)}; dropout {shares}")


@exact("slip 6")
def a_matrix_has_a_row_for_each_class() -> Found:
    """PyTorch stores a matrix as (outputs, inputs), so classes are rows: 1000 of ResNet-34's, 10 of the digits'."""
    shapes = [tuple(weight.shape) for weight in (resnet34().fc.weight, Mnist_Logistic().lin.weight)]
    return Found(shapes == [(1000, 512), (10, 784)], f"ResNet-34 {shapes[0]}, the digits {shapes[1]}")
