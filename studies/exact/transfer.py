"""ResNet-34 and its new head; frozen and unfrozen layers; layer groups: claims 10, 11, 14, 16, 21."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from studies.exact import Found, exact

HE = "K. He et al. (2016), Deep Residual Learning, table 1; torchvision's resnet34 has 21,797,672 parameters"
CREATE_CNN = "fastai 1.0.61, vision/learner.py, create_cnn_model, create_head and _resnet_split"
FREEZE = "fastai 1.0.61, basic_train.py, Learner.freeze_to: BatchNorm stays trainable (train_bn=True)"


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution and the BatchNorm after it, whose offset replaces the bias."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_conv(inputs, outputs, 3, stride), nn.ReLU(), _conv(outputs, outputs, 3))
        self.shortcut = _conv(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, outputs, height / stride, width / stride] of images [batch, inputs, height, width]."""
        return F.relu(self.convs(x) + self.shortcut(x))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride=1 if inputs == outputs else 2)
    return nn.Sequential(first, *(Block(outputs, outputs, stride=1) for _ in range(blocks - 1)))


def _body() -> nn.Sequential:
    """ResNet-34 up to its last two layers, without memory for its numbers: stem, pooling, four stages."""
    with torch.device("meta"):
        stages = [_stage(64, 64, 3), _stage(64, 128, 4), _stage(128, 256, 6), _stage(256, 512, 3)]
        return nn.Sequential(_conv(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages)


def _head(classes: int) -> nn.Sequential:
    """The layers with which create_cnn replaces the last two, after the pooling."""
    with torch.device("meta"):
        first = [nn.BatchNorm1d(1024), nn.Dropout(0.25), nn.Linear(1024, 512), nn.ReLU()]
        return nn.Sequential(*first, nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, classes))


def _size(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@exact("10", source=HE)
def the_last_matrix_of_resnet_34_has_1000_classes_on_one_side() -> Found:
    """The last weight matrix of a ResNet-34 for ImageNet is (1000, 512), as PyTorch stores it: 1000 rows."""
    last = nn.Linear(512, 1000, device="meta")
    size = _size(_body(), last)
    return Found(
        size == 21_797_672, f"with a last matrix of {tuple(last.weight.shape)} the net has {size:,} parameters"
    )


@exact("11", by_construction=True, source=CREATE_CNN)
def create_cnn_puts_a_head_as_wide_as_the_task_has_classes() -> Found:
    """`create_cnn` drops the last matrix and adds a head with two, the last of them as wide as `data.c`."""
    matrices = [tuple(layer.weight.shape) for layer in _head(classes=37) if isinstance(layer, nn.Linear)]
    dropped = all(1000 not in p.shape for p in _body().parameters())
    return Found(dropped and matrices == [(512, 1024), (37, 512)], f"37 classes: {matrices[0]}, ReLU, {matrices[1]}")


def _moved(frozen: bool) -> dict[str, bool]:
    """Whether a step of SGD moves each number of a small residual net with a head, its body frozen or not."""
    body, head = nn.Sequential(_conv(3, 8, 3), nn.ReLU(), Block(8, 16, stride=2)), nn.Linear(16, 5)
    for module in body.modules():
        if frozen and isinstance(module, nn.Conv2d):
            module.requires_grad_(False)
    model = nn.ModuleDict({"body": body, "head": head})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = F.cross_entropy(head(body(torch.randn(20, 3, 8, 8)).mean((2, 3))), torch.arange(20) % 5)
    for p, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
        p.data -= 0.1 * gradient
    return {name: not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()}


def _is_batch_norm(name: str) -> bool:
    return name.startswith("body") and not name.endswith("0.weight")


@exact("14a", expected=False, source=FREEZE)
def frozen_layers_do_not_change() -> Found:
    """With the body frozen, as create_cnn leaves it, nothing in the body changes."""
    body = {name: moved for name, moved in _moved(frozen=True).items() if name.startswith("body")}
    norms = sum(moved and _is_batch_norm(name) for name, moved in body.items())
    return Found(not any(body.values()), f"{sum(body.values())} of {len(body)} tensors change, {norms} of BatchNorm")


@exact("14b", source=FREEZE)
def frozen_layers_other_than_batch_norm_do_not_change() -> Found:
    """With the body frozen, its convolutions do not change by a bit; only BatchNorm and the head are trained."""
    moved = _moved(frozen=True)
    still = [name for name, one in moved.items() if not one]
    convolutions = [name for name in moved if name.startswith("body") and not _is_batch_norm(name)]
    return Found(
        still == convolutions, f"{len(still)} of {len(moved)} tensors stay; there are {len(convolutions)} convolutions"
    )


@exact("16")
def after_unfreeze_all_layers_are_trained() -> Found:
    """Unfrozen, every parameter moves within a step, without any weight decay."""
    moved = _moved(frozen=False)
    return Found(all(moved.values()), f"{sum(moved.values())} of {len(moved)} tensors change")


def _groups() -> list[int]:
    """Parameters of the three layer groups into which create_cnn splits: before stage 3, up to the head, the head."""
    body = list(_body())
    return [_size(*body[:5]), _size(*body[5:]), _size(_head(classes=37))]


@exact("21a", expected=False, source=CREATE_CNN)
def layer_groups_have_equal_size() -> Found:
    """The layer groups have equal size: the same number of parameters each."""
    sizes = _groups()
    return Found(len(set(sizes)) == 1, f"parameters: {' / '.join(f'{size:,}' for size in sizes)}")


@exact("21b", source=CREATE_CNN)
def there_are_layer_groups_of_unequal_size() -> Found:
    """The model is split into three layer groups, of unequal size."""
    sizes = _groups()
    known = sizes[:2] == [1_347_904, 19_936_768]
    return Found(known and len(set(sizes)) == 3, f"parameters: {' / '.join(f'{size:,}' for size in sizes)}")
