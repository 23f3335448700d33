"""ResNet-34: its names, its numbers, and the files it takes weights from."""

import hashlib
import sys
from types import ModuleType
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lesson import DataError, resnet34
from lesson.models import ResNet
from lesson.saving import load_weights


class Tiny(nn.Module):
    """A net whose files are small."""

    def __init__(self):
        super().__init__()
        self.bn1, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)


def test_it_has_the_names_and_shapes_of_table_1():
    net = resnet34()
    assert sum(param.numel() for param in net.parameters()) == 21_797_672
    assert [name for name, _ in net.named_children()] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"),
    ]
    shapes = {name: tuple(table.shape) for name, table in net.state_dict().items()}
    assert len(shapes) == 218
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3, net.layer4)] == [3, 4, 6, 3]
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (128,)
    assert {name.split(".")[0] for name in shapes if "downsample" in name} == {"layer2", "layer3", "layer4"}
    assert shapes["layer4.2.bn2.num_batches_tracked"] == ()
    assert (shapes["fc.weight"], shapes["fc.bias"]) == ((1000, 512), (1000,))


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "ten"])
def test_a_number_of_classes_that_cannot_be_is_refused(num_classes):
    with pytest.raises(DataError, match="num_classes="):
        resnet34(num_classes)


def by_hand(state, x, training):
    """The scores of a residual net, and its running statistics after them, from its tables and the paper."""
    running = {}

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            n = x.numel() / x.shape[1]
            running[f"{name}.running_mean"] = 0.9 * mean + 0.1 * x.mean((0, 2, 3)).detach()
            running[f"{name}.running_var"] = 0.9 * var + 0.1 * x.var((0, 2, 3), correction=0).detach() * n / (n - 1)
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + state[f"{name}.bias"].view(-1, 1, 1)

    def conv(x, name, stride):
        """A convolution as one product of matrices."""
        weight = state[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        side = (x.shape[-1] + 2 * padding - weight.shape[-1]) // stride + 1
        columns = F.unfold(x, weight.shape[-1], padding=padding, stride=stride)
        return (weight.flatten(1) @ columns).view(len(x), len(weight), side, side)

    x = F.max_pool2d(norm(conv(x, "conv1", 2), "bn1").clamp(min=0), 3, 2, 1)
    blocks = sorted({name.rsplit(".", 2)[0] for name in state if name.endswith(".conv1.weight")})
    for block in blocks:
        stride = 2 if f"{block}.downsample.0.weight" in state else 1
        out = norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1").clamp(min=0)
        out = norm(conv(out, f"{block}.conv2", 1), f"{block}.bn2")
        shortcut = norm(conv(x, f"{block}.downsample.0", 2), f"{block}.downsample.1") if stride == 2 else x
        x = (out + shortcut).clamp(min=0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"], running


def randomized(net):
    """The net with BatchNorms whose numbers are not 0 and 1."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for table in (layer.weight, layer.running_var):
                nn.init.uniform_(table, 0.5, 1.5)
            for table in (layer.bias, layer.running_mean):
                nn.init.normal_(table, std=0.1)
    return net


def test_resnet_34_scores_as_products_of_matrices_do():
    net, x = randomized(resnet34(7)).eval(), torch.randn(1, 3, 32, 32)
    scores, _ = by_hand(net.state_dict(), x, training=False)
    torch.testing.assert_close(net(x), scores, rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.1


def test_scores_running_statistics_and_gradients_in_training_are_those_of_the_formulas():
    net, x = randomized(ResNet((1, 2, 1, 1), 3)).double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tables = {name: param.detach().clone().requires_grad_() for name, param in net.named_parameters()}
    scores, running = by_hand({**net.state_dict(), **tables}, x, training=True)
    wanted = torch.autograd.grad(scores.square().sum(), list(tables.values()))
    found = net(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, scores)
    for (name, param), gradient in zip(net.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(param.grad, gradient, msg=name)
    assert len(running) == 2 * 14
    for name, table in running.items():
        torch.testing.assert_close(net.state_dict()[name], table, msg=name)


@pytest.mark.slow
def test_torchvisions_net_gives_the_same_numbers_on_the_same_weights(monkeypatch):
    # What registers torchvision's operators, which are compiled for one build of torch; the net needs none of them.
    monkeypatch.setitem(sys.modules, "torchvision._meta_registrations", ModuleType("none"))
    make = pytest.importorskip("torchvision").models.resnet34
    theirs, ours = ((torch.manual_seed(1), make())[1] for make in (make, resnet34))
    assert same(theirs, ours)
    randomized(theirs)
    assert [(n, t.shape) for n, t in theirs.state_dict().items()] == [
        (n, t.shape) for n, t in ours.state_dict().items()
    ]
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    for net in (ours.train(), theirs.train()):
        F.cross_entropy(net(x), torch.arange(4)).backward()
    for (name, param), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(param.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)
    for (name, table), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(table, other, rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def trained():
    return randomized(Tiny())


def write(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def same(net, other):
    return all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_weights_load_from_safetensors_and_from_what_torch_saves(trained, tmp_path, name):
    path = write(trained.state_dict(), tmp_path / name)
    for sha256 in (None, hashlib.sha256(path.read_bytes()).hexdigest().upper()):
        net = Tiny()
        assert not same(net, trained)
        load_weights(net, path, sha256)
        assert same(net, trained)


def test_a_file_from_before_batches_were_counted_loads(trained, tmp_path):
    state = {name: table for name, table in trained.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    net = Tiny()
    load_weights(net, tmp_path / "old.pth")
    assert same(net, trained)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("bn1.bias"), "bn1.bias is missing"),
        (lambda state: state.update(extra=torch.ones(1)), "extra is not a table of this model"),
        (
            lambda state: state.update({"fc.weight": torch.ones(1000, 4)}),
            r"fc.weight has shape \[1000, 4\], not",
        ),
        (lambda state: state.update({"fc.bias": torch.ones(3).half()}), "fc.bias has dtype float16, not float32"),
        (
            lambda state: state.update({"fc.bias": torch.full((3,), torch.nan)}),
            "fc.bias holds numbers that are",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_changes(trained, tmp_path, name, change, complaint):
    state = trained.state_dict()
    change(state)
    refused(write(dict(state), tmp_path / name), complaint)


def refused(path, complaint, sha256=None):
    net = Tiny()
    before = {name: table.clone() for name, table in net.state_dict().items()}
    with pytest.raises(DataError, match=complaint) as error:
        load_weights(net, path, sha256)
    assert "\n" not in str(error.value)
    assert all(torch.equal(table, before[name]) for name, table in net.state_dict().items())


def test_another_file_than_the_one_expected_is_refused(trained, tmp_path):
    path = write(trained.state_dict(), tmp_path / "w.pth")
    refused(path, "w.pth: another file, or a damaged one; its sha256 is [0-9a-f]{64}, not 0{64}", "0" * 64)
    for sha256 in ("b627a593", 5, "g" * 64):
        refused(path, "64 hexadecimal digits are needed", sha256)


class Planted:
    def __reduce__(self):
        return pytest.fail, ("a file's code was run",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (nn.Linear(3, 2), "of a whole model that torch.save wrote, save the state_dict"),
        ({"fc.bias": Planted()}, r"neither safetensors nor a state dict of tensors, or damaged \(UnpicklingError\)"),
        ([torch.ones(3)], "holds list instead of tensors by name"),
        ({"state_dict": {"fc.bias": torch.ones(3)}}, "'state_dict' is a dict; a state dict has dense tensors by name"),
        ({"fc.bias": torch.ones(3).to_sparse()}, "'fc.bias' is torch.sparse_coo on cpu"),
        ({"fc.bias": torch.ones(3, device="meta")}, "'fc.bias' is torch.strided on meta"),
        ({3: torch.ones(3)}, "3 is no name"),
    ],
)
def test_what_is_no_state_dict_is_one_line_and_runs_nothing(tmp_path, content, complaint):
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", complaint)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00.", b"12345678{", b"PK\3\4 cut"])
def test_damaged_files_are_one_line(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    refused(tmp_path / "w", "w: neither safetensors nor a state dict of tensors, or damaged")


def test_files_cut_short_are_one_line(trained, tmp_path):
    for name in ("w.safetensors", "w.pth"):
        whole = write(trained.state_dict(), tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        refused(tmp_path / name, f"{name}: neither safetensors nor")
    with ZipFile(tmp_path / "w.zip", "w") as file:
        file.writestr("readme", "no weights")
    refused(tmp_path / "w.zip", "w.zip: neither safetensors nor")


@pytest.mark.parametrize("path", ["none", ".", "a\0b", 3, True])
def test_a_path_without_a_file_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    refused(path, "cannot be read|pass the path of a file")
