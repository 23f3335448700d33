"""create_cnn: body, head, layer groups, freezing, rates."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, Images, create_cnn, resnet34
from lesson.metrics import accuracy
from lesson.models import Net, ResNet
from lesson.optimizers import SGD
from lesson.vision import AdaptiveConcatPool2d, create_body, create_head, precompute

tiny = partial(ResNet, (1, 1, 1, 1))


def bunch(n=4, classes=3, size=32, bs=4):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    rows = TensorDataset(x, torch.arange(n) % classes)
    return DataBunch(rows, rows, bs=bs)


def learner(data=None, **how):
    return create_cnn(bunch() if data is None else data, **({"arch": tiny, "opt_func": SGD, "quiet": True} | how))


def sizes(learn):
    return [sum(param.numel() for param in group.parameters()) for group in learn.layer_groups]


def changed(learn, before):
    return {name for name, table in learn.model.state_dict().items() if not torch.equal(table, before[name])}


def tables(learn):
    return {name: table.clone() for name, table in learn.model.state_dict().items()}


def test_the_head_is_fastais():
    head = create_head(channels=512, classes=37)
    names = [type(layer).__name__ for layer in head]
    block = ["BatchNorm1d", "Dropout", "Linear"]
    assert names == ["AdaptiveConcatPool2d", "Flatten", *block, "ReLU", *block]
    assert [(layer.in_features, layer.out_features) for layer in head if type(layer) is nn.Linear] == [
        (1024, 512),
        (512, 37),
    ]
    assert (head[3].p, head[7].p) == (0.25, 0.5)
    assert head[4].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.01)
    assert not head[4].bias.any()
    assert not head[8].bias.any()


def test_the_pool_gives_maxima_then_means():
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(AdaptiveConcatPool2d()(x)[..., 0, 0], torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))


def test_the_model_is_the_body_cut_before_the_pool_and_the_head():
    learn = learner(bunch(classes=3))
    body, head = learn.model
    assert len(body) == 8
    x = learn.data.train[:][0]
    learn.model.eval()
    features = body(x)
    assert features.shape == (4, 512, 1, 1)
    pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)
    hidden = head[4](head[2](pooled)).relu()
    torch.testing.assert_close(learn.model(x), head[8](head[6](hidden)))
    assert learn.model(x).shape == (4, 3)


def test_resnet_34_has_fastais_layer_groups():
    learn = create_cnn(bunch(classes=3))
    assert sizes(learn) == [1_347_904, 19_936_768, 1024 * 2 + (1024 + 1) * 512 + 512 * 2 + (512 + 1) * 3]
    assert [type(layer).__name__ for layer in learn.layer_groups[0][:4]] == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "MaxPool2d",
    ]


def test_another_cut_gives_another_body_and_fewer_groups_where_none_is_left():
    seven = learner(cut=7)
    assert seven.model[1][4].in_features == 2 * 256
    assert len(seven.layer_groups) == 3
    six = learner(cut=6)
    assert len(six.layer_groups) == 2
    assert six.model[1][4].in_features == 2 * 128
    six.fit(1, slice(1e-3, 1e-2))


def test_other_nets_have_a_body_of_one_group():
    def arch():
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 9))

    learn = learner(arch=arch)
    assert [len(group) for group in learn.layer_groups] == [2, 9]
    learn.fit(1, slice(1e-2))


def test_the_head_is_as_wide_as_the_data_have_classes():
    images = Images.from_arrays(torch.zeros(4, 32, 32, 3), [0, 1, 0, 1], classes=["cat", "dog", "horse"])
    assert learner(images.split(valid_pct=0.5)).model[1][8].out_features == 3


@pytest.mark.parametrize("train_bn", [True, False])
def test_in_a_frozen_body_only_batch_norm_moves_and_only_if_it_may(train_bn):
    learn = learner(train_bn=train_bn)
    learn.freeze()
    before = tables(learn)
    learn.fit(1, 0.1)
    body = {name for name in before if name.startswith("0.")}
    convolutions = {name for name in body if before[name].ndim == 4}
    assert changed(learn, before) & body == (body - convolutions if train_bn else set())
    head = {name for name, _ in learn.model.named_parameters() if name.startswith("1.")}
    assert head <= changed(learn, before)


def test_freeze_to_trains_the_groups_from_there_and_unfreeze_all_of_them():
    learn = learner(wd=0.0)
    convolutions = {name for name, table in tables(learn).items() if table.ndim == 4}
    early = {name for name in convolutions if int(name.split(".")[1]) < 6}
    for train, still in (
        (learn.freeze, convolutions),
        (lambda: learn.freeze_to(1), early),
        (lambda: learn.freeze_to(-2), early),
        (learn.unfreeze, set()),
    ):
        train()
        before = tables(learn)
        learn.fit(1, 0.01)
        assert {name for name, _ in learn.model.named_parameters()} - changed(learn, before) == still


@pytest.mark.parametrize(
    ("lr", "how", "rates"),
    [
        (1e-3, {}, [1e-3] * 3),
        (slice(1e-3), {}, [1e-3 / 3, 1e-3 / 3, 1e-3]),
        (slice(1e-3), {"divisor": 10}, [1e-4, 1e-4, 1e-3]),
        (slice(1e-5, 1e-3), {}, [1e-5, 1e-4, 1e-3]),
    ],
)
def test_each_group_moves_by_its_own_rate(lr, how, rates):
    """Under steps of the gradient's sign every number moves by its group's rate."""

    class Signs(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad.sign_()
            super().step()

    learn = learner(wd=0.0, opt_func=Signs, **how)
    before = [[param.clone() for param in group.parameters()] for group in learn.layer_groups]
    learn.fit(1, lr)
    for group, started, rate in zip(learn.layer_groups, before, rates, strict=True):
        moved = max((param - was).abs().max().item() for param, was in zip(group.parameters(), started, strict=True))
        assert moved == pytest.approx(rate, rel=1e-2)


def test_without_bn_wd_only_weights_of_convolutions_and_matrices_decay():
    groups = []

    def opt_func(asked):
        groups.extend(asked)
        return SGD(asked)

    learner(wd=0.3, bn_wd=False, opt_func=opt_func).epochs(1)
    for group in groups:
        assert {param.ndim > 1 for param in group["params"]} == {group["weight_decay"] > 0}
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}


@pytest.fixture
def weights(tmp_path):
    net = tiny(5)
    torch.save(net.state_dict(), tmp_path / "digits.pth")
    return net, tmp_path / "digits.pth"


def test_a_pretrained_body_comes_from_the_file_and_is_frozen(weights):
    net, path = weights
    learn = learner(arch=partial(tiny, 5), pretrained=path)
    for name, table in create_body(net).state_dict().items():
        assert torch.equal(learn.model[0].state_dict()[name], table), name
    trained = [name for name, param in learn.model.named_parameters() if param.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"0", "1"}
    assert all(dict(learn.model.named_parameters())[name].ndim == 1 for name in trained if name.startswith("0."))
    assert all(param.requires_grad for param in learner().model.parameters())


def test_weights_that_do_not_fit_are_one_line(weights):
    _, path = weights
    with pytest.raises(DataError, match=r"digits.pth: fc.bias has shape \[5\], not \[1000\]"):
        learner(pretrained=path)
    with pytest.raises(DataError, match=r"digits.pth: another file, or a damaged one"):
        learner(arch=partial(tiny, 5), pretrained=path, sha256="0" * 64)
    with pytest.raises(DataError, match="sha256='00': of no file"):
        learner(sha256="00")


def test_the_seed_decides_initialization_dropout_and_order():
    learners = []
    for seed in (0, 0, 1):
        torch.rand(3)  # what others draw does not matter
        state = torch.random.get_rng_state()
        learners.append(learner(bunch(8), seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    first, same, other = learners
    assert not torch.equal(tables(first)["0.0.weight"], tables(other)["0.0.weight"])
    for learn in (first, same):
        torch.rand(3)
        learn.fit(1, 0.01)
    assert not changed(first, tables(same))


def test_it_learns_to_tell_digits_apart(tmp_path):
    from lesson import load_digits

    digits = load_digits()
    few = (digits.y < 2).nonzero().flatten()[::12]
    images = Images.from_arrays(digits.x[few].view(-1, 28, 28), digits.y[few], size=32)
    how = {"arch": tiny, "metrics": [accuracy], "quiet": True, "bs": 16}
    learn = create_cnn(images.split(), **how)
    learn.fit_one_cycle(3, 1e-3)
    assert learn.history[-1].metrics["accuracy"] > 0.8
    learn.save(tmp_path / "m.safetensors")
    other = create_cnn(images.split(), seed=5, **how).load(tmp_path / "m.safetensors")
    assert other.validate() == learn.validate()
    renamed = Images.from_arrays(images.x.movedim(1, -1), images.y, classes=["one", "zero"]).split()
    with pytest.raises(DataError, match="saved with other classes"):
        create_cnn(renamed, **how).load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(("n", "bs"), [(5, 4), (4, 1)])
def test_a_row_alone_in_its_batch_is_refused_before_anything_moves(n, bs):
    learn = learner(bunch(n, bs=bs))
    before = tables(learn)
    for train in (learn.fit, lambda _: learn.lr_find()):
        with pytest.raises(DataError, match=f"bs={bs}: BatchNorm needs two rows or more"):
            train(1)
    assert not changed(learn, before)


def of_zeros(*shape):
    rows = TensorDataset(torch.zeros(shape), torch.arange(shape[0]))
    return DataBunch(rows, rows)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"data": 3}, "data=3: pass images, split"),
        ({"data": DataBunch(*[TensorDataset(torch.rand(4, 784), torch.arange(4))] * 2)}, r"shape \[1, 784\]"),
        (
            {"data": DataBunch(*[TensorDataset(torch.rand(4, 1, 32, 32), torch.arange(4))] * 2)},
            r"shape \[1, 1, 32, 32\]",
        ),
        ({"arch": "resnet34"}, "arch='resnet34': pass a function that makes a net"),
        ({"arch": lambda: Net([4, 2])}, "arch: Net has no pool among its children"),
        ({"cut": 0}, "cut=0: ResNet has 10 children"),
        ({"cut": 11}, "cut=11: ResNet has 10 children"),
        ({"cut": "4"}, "cut='4'"),
        ({"cut": 10}, "the body cannot read"),
        ({"seed": -1}, "seed=-1"),
        ({"pretrained": True}, "path=True"),
        ({"wd": -1}, "wd=-1"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(how, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        learner(**how)
    assert "\n" not in str(error.value)


def test_resnet_34_is_the_default():
    assert create_cnn.__defaults__[0] is resnet34


@pytest.mark.parametrize("cut", [None, 6, 0])
def test_a_head_learns_from_precomputed_features_what_it_learns_behind_a_frozen_body(cut):
    learn, other = (learner(train_bn=False, wd=0.1, seed=3) for _ in range(2))
    head = precompute(learn, cut)
    before = tables(learn)
    other.model.load_state_dict(before)  # BatchNorm's statistics are those of the training rows
    early = len(learn.model[0]) if cut is None else cut
    other.layer_groups = [other.model[0][:early], nn.Sequential(*other.model[0][early:], *other.model[1])]
    other.freeze_to(1)
    for each in (head, other):
        each.fit(2, 0.01)
    for name, table in learn.model.state_dict().items():
        torch.testing.assert_close(table, other.model.state_dict()[name], msg=name)
    frozen = {name for name in before if name.startswith("0.") and int(name.split(".")[1]) < early}
    assert not changed(learn, before) & frozen
    assert head.validate() == pytest.approx(other.validate(), rel=1e-5)


def test_the_statistics_of_precomputed_layers_are_those_of_the_training_rows():
    learn = learner()
    precompute(learn)
    conv, norm = learn.model[0][:2]
    x = conv(learn.data.train[:][0])
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))


def test_the_statistics_hold_how_classes_differ_though_rows_come_class_by_class():
    x = (
        torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        + torch.arange(64)[:, None, None, None] / 8
    )
    rows = TensorDataset(x, torch.arange(64) // 32)
    learn = learner(DataBunch(rows, rows, bs=4))
    learn.valid_bs = 8
    precompute(learn)
    conv, norm = learn.model[0][:2]
    of_all = conv(x)
    torch.testing.assert_close(norm.running_mean, of_all.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert ((norm.running_var / of_all.var((0, 2, 3))) - 1).abs().max() < 0.3  # class by class .4 and more


def test_an_interrupt_in_the_middle_leaves_the_learner_as_it_was():
    learn = learner()
    learn.valid_bs = 2
    learn.model.eval()
    before, rows = tables(learn), learn.data.train

    class Interrupted:
        def __len__(self):
            return len(rows)

        def __getitem__(self, chosen):
            if 3 in chosen:
                raise KeyboardInterrupt
            return rows[chosen]

    learn.data = DataBunch(Interrupted(), rows)
    with pytest.raises(KeyboardInterrupt):
        precompute(learn)
    assert not changed(learn, before)
    assert {layer.momentum for layer in learn.model.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}
    assert not any(layer.training for layer in learn.model.modules())


def test_images_of_one_class_are_refused():
    with pytest.raises(DataError, match="all images are of one class"):
        create_cnn(Images("one", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8).long(), ("a",)).split())


def test_more_layers_than_there_are_cannot_be_precomputed():
    with pytest.raises(DataError, match="cut=9"):
        precompute(learner(), 9)


@pytest.mark.parametrize("cut", [None, 6])
def test_what_follows_precomputed_layers_trains_though_a_pretrained_body_starts_frozen(cut):
    learn = learner()
    learn.freeze()
    before = tables(learn)
    precompute(learn, cut).fit(1, 0.01)
    early = len(learn.model[0]) if cut is None else cut
    moved = changed(learn, before)
    for name, _ in learn.model.named_parameters():
        part, place = name.split(".")[:2]
        assert (name in moved) == (part == "1" or int(place) >= early), name
