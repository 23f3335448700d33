"""The studies of transfer learning: which stages are pretrained, nets without BatchNorm, the probe, the bytes saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lesson import DataBunch, Images, Learner, create_cnn
from lesson.learner import NORMS
from lesson.models import ResNet
from lesson.pretraining import NewTask, Recipe
from lesson.saving import save
from studies import divisors, freezing, transfer, unfrozen
from studies.lab.results import Asked, limits
from studies.lab.source import Source, own_options
from studies.lab.spec import Run, Study

LAYERS = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> NewTask:
    """Noise in three classes, and a net from a file."""
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save(ResNet(LAYERS, 7), file, {})
    images = Images.from_arrays(torch.rand(40, 32, 32), torch.arange(40) % 3)
    return NewTask(images, Path(file), recipe=Recipe(layers=LAYERS))


@pytest.fixture
def job() -> Run:
    return Run("divisors", 1, "noise", "none", {"pretrained": True}, seed=3)


STUDIES = [module.STUDY for module in (transfer, unfrozen, divisors, freezing)]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_answer_says_that_digits_stand_in_and_what_the_seeds_repeat(task: NewTask, study: Study) -> None:
    said = " ".join(limits(study, task.origin, Asked("", "regular", 8, 0, 1, Source("new-digits"))))
    assert "Exploratory: the net was pretrained once, and the seeds repeat what comes after." in said
    assert "instead of on ImageNet: a stand-in neither proves nor refutes a claim" in said


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_users_images_take_the_place_of_digits_and_stand_in_for_nothing(study: Study, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    assert own_options(study) == {"images": "new-digits"}
    source = Source("new-digits", tmp_path, {"size": "16"})
    opened = source.open()
    assert (opened.images.classes, opened.images.x.shape) == (("cat", "dog"), (2, 3, 16, 16))
    said = " ".join(limits(study, opened.origin, Asked("", "regular", 8, 0, 1, source)))
    assert "stand-in" not in said
    assert "UCI's digits" not in said


@pytest.mark.parametrize("stages", ["", "1", "12", "34", "1234"])
def test_a_net_has_the_stages_that_are_pretrained_and_the_others_drawn(task: NewTask, stages: str) -> None:
    torch.manual_seed(5)
    mixed = transfer.net(task, stages).state_dict()
    torch.manual_seed(5)
    drawn = ResNet(LAYERS, 7).state_dict()
    for name, table in mixed.items():
        stage = name[5] if name.startswith("layer") else "" if name.startswith("fc") else "1"
        expected = task.state if stage and stage in stages else drawn
        assert torch.equal(table, expected[name]), name


def test_a_cut_lies_behind_each_stage(task: NewTask) -> None:
    names = [name for name, _ in task.net().named_children()]
    assert [names[end - 1] for end in transfer.ENDS[1:]] == ["layer1", "layer2", "layer3", "layer4"]


def test_few_rows_are_of_the_training_rows_and_others_for_another_seed(task: NewTask, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "ROWS", 8)
    whole = task.images.split(0)
    chosen, same, other = (transfer.few(whole, draw).train.x.flatten(1) for draw in (1, 1, 2))
    known = {tuple(row) for row in whole.train.x.flatten(1)[:, :50].tolist()}
    assert {tuple(row) for row in chosen[:, :50].tolist()} < known
    assert len(chosen) == 8
    assert torch.equal(chosen, same)
    assert not torch.equal(chosen, other)


def test_no_batch_has_a_single_row(task: NewTask, monkeypatch: Any) -> None:
    monkeypatch.setattr(transfer, "BS", 31)
    assert [len(transfer.few(task.images.split(0), 1).train), len(task.images.split(0).train)] == [31, 32]


def test_the_error_is_of_all_validation_rows_with_statistics_of_the_final_weights(task: NewTask) -> None:
    whole = task.images.split(0)
    found = []
    for mean in (0.0, 100.0):  # running means of earlier weights
        learn = create_cnn(transfer.few(whole, 1), task.net, seed=1, quiet=True)
        for layer in learn.model.modules():
            if isinstance(layer, NORMS):
                assert layer.running_mean is not None
                layer.running_mean.fill_(mean)
        learn.model[1][3].p = learn.model[1][7].p = 0  # no dropout
        found.append(transfer.error(learn, whole))
        assert len(learn.get_preds()[1]) == len(whole.valid) == 8
        learn.model.train()
        right = (learn.model(learn.data.train[:][0]).argmax(1) == learn.data.train[:][1]).float().mean()
        learn.data = replace(learn.data, valid=learn.data.train)
        out, y = learn.get_preds()
        assert (out.argmax(1) == y).float().mean().item() == pytest.approx(right.item(), abs=0.07)
    assert found[0] == found[1]


def test_without_batch_norm_a_net_begins_as_the_same_function(task: NewTask, job: Run) -> None:
    learn = unfrozen.with_head(task, transfer.few(task.images.split(0), 1), job)
    learn.model.eval()
    x = learn.data.train[:5][0]
    before = learn.model(x)
    divisors.without_bn(learn.model)
    learn.model.train()
    assert not any(isinstance(layer, NORMS) for layer in learn.model.modules())
    for layer in learn.model.modules():
        layer.train(not isinstance(layer, type(learn.model[1][3])))  # no dropout
    torch.testing.assert_close(learn.model(x), before, rtol=1e-3, atol=1e-4)
    assert all(param.requires_grad for param in learn.model.parameters())


def test_the_slopes_weights_find_the_growth_per_factor_of_ten() -> None:
    weights = divisors.slope(1, "BatchNorm")
    errors = {f"divisor {d}, BatchNorm": 0.3 + 0.05 * torch.tensor(float(d)).log10().item() for d in divisors.DIVISORS}
    assert sum(weights[arm] * error for arm, error in errors.items()) == pytest.approx(0.05)
    assert sum(weights.values()) == pytest.approx(0)


class Means(nn.Module):
    """A body whose features are the images' channels."""

    def __init__(self, know: bool) -> None:
        super().__init__()
        self.know = know

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.know else torch.zeros_like(x)


def test_the_probe_finds_what_the_body_gives_and_nothing_else() -> None:
    y = torch.arange(60) % 3
    rows = TensorDataset(torch.eye(3)[y][..., None, None].repeat(1, 1, 2, 2), y)
    data: Any = DataBunch(rows, rows)
    errors = [
        unfrozen.probe_error(SimpleNamespace(model=[Means(know)], device="cpu"), data)  # type: ignore[arg-type]
        for know in (True, False)
    ]
    assert errors == pytest.approx([0, 2 / 3])


def test_the_bytes_saved_are_those_of_the_activations_each_once() -> None:
    rows = TensorDataset(torch.rand(8, 1000), torch.arange(8) % 2)
    layers = nn.Sequential(nn.Linear(1000, 2), nn.Sigmoid())
    learn: Any = Learner(DataBunch(rows, rows), layers, cross_entropy, bs=4, quiet=True)
    saved = freezing.saved_bytes(learn)
    inputs, outputs = 4 * 1000 * 4, 4 * 2 * 4
    assert inputs + 2 * outputs <= saved <= inputs + 4 * outputs + 100  # x, sigmoid, log-softmax, classes


def test_frozen_layers_save_less_and_only_without_training_batch_norm_nothing(task: NewTask) -> None:
    data = transfer.few(task.images.split(0), 1)
    ways = (freezing.ALL, freezing.FROZEN, freezing.EARLY, freezing.FIXED, freezing.ONCE)
    saved = {way: freezing.saved_bytes(freezing.learner(data, task.net(), way, 1)) for way in ways}
    assert saved[freezing.FIXED] < 0.2 * saved[freezing.FROZEN]
    assert saved[freezing.ONCE] <= saved[freezing.FIXED] < saved[freezing.EARLY] <= saved[freezing.ALL]
    assert saved[freezing.FROZEN] <= saved[freezing.ALL]


@pytest.mark.slow  # two processes that import torch and train ResNet-34
def test_a_body_that_is_frozen_with_its_batch_norm_needs_less_memory_in_a_fresh_process() -> None:
    peaks = [
        freezing.peak_growth("studies.freezing", "two_steps", way, "3,4,6,3", "32")
        for way in ("unfrozen", "BatchNorm fixed")
    ]
    assert 2 * peaks[1] < peaks[0]
