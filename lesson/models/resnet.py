"""ResNet-34 (He and others 2016), with torchvision's names, so that its weights fit."""

from __future__ import annotations

from torch import Tensor, nn

from lesson import checks


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut: relu(f(x) + x), where x is downsampled if f changes its shape.

    Args:
        inplanes: channels of x.
        planes: channels of the result.
        stride: how much lower and narrower the result is.
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            shortcut = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, planes, ⌈height / stride⌉, ⌈width / stride⌉] of images [batch, inplanes, height, width]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem, four stages of blocks, a pool and a last matrix.

    Convolutions are initialized for the ReLU after them, normal with variance 2/n_out (He and others 2015); all else
    as in torch. A seed of torch's gives the same weights as in torchvision.

    Args:
        layers: the number of blocks in each stage.
        num_classes: the rows of the last matrix.
    """

    def __init__(self, layers: tuple[int, int, int, int], num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, layers[0])
        self.layer2 = _stage(64, 128, layers[1], stride=2)
        self.layer3 = _stage(128, 256, layers[2], stride=2)
        self.layer4 = _stage(256, 512, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores [batch, num_classes] of images float32[batch, 3, height, width]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        scores: Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


def _stage(inplanes: int, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
    rest = (BasicBlock(planes, planes) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inplanes, planes, stride), *rest)


def resnet34(num_classes: int = 1000) -> ResNet:
    """ResNet-34 with random weights; `lesson.saving.load_weights` loads trained ones (claim 10).

    Args:
        num_classes: the rows of the last matrix.

    Raises:
        DataError: num_classes is not a whole number of at least one.

    >>> net = resnet34()
    >>> tuple(net.fc.weight.shape), f"{sum(p.numel() for p in net.parameters()):,}"
    ((1000, 512), '21,797,672')
    """
    return ResNet((3, 4, 6, 3), checks.whole("num_classes", num_classes, least=1))
