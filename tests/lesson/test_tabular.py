"""The net on entity embeddings: what it computes, what it learns, and what it refuses."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy, linear, one_hot

from kernels import DeferredAdamW
from lesson import DataError, TabularModel, load_table, tabular_learner
from lesson.learner import stream
from lesson.metrics import accuracy, rmse
from lesson.models import emb_sz_rule
from lesson.optimizers import AdamW

N = 3000


def planted(n=N, seed=0, signal=1.0, groups=16):
    """A class that depends on two categories together, and on neither of them alone: the product of their signs."""
    drawn = np.random.default_rng(seed)
    signs = np.array([-1, 1] * (groups // 2))
    a, b = drawn.integers(0, groups, (2, n))
    told = drawn.random(n) < 0.5 + 0.45 * signal * signs[a] * signs[b]
    size = drawn.normal(5, 2, n).round(3)
    return pd.DataFrame(
        {
            "shop": [f"s{k}" for k in a],
            "kind": [f"k{k}" for k in b],
            "size": size,
            "sold": np.where(told, "much", "little"),
        }
    )


def loaded(folder, table, target="sold", **how):
    path = folder / "t.csv"
    table.to_csv(path, index=False)
    return load_table(path, target, **how)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("planted"), planted())


@pytest.fixture(scope="module")
def learned(data):
    """Trained: to be read, not changed."""
    learn = tabular_learner(data, layers=[50], metrics=[accuracy], quiet=True)
    learn.fit_one_cycle(4, 1e-2)
    return learn


def small(**how):
    model = TabularModel(
        [(4, 2), (6, 3)], n_cont=2, out_sz=1, layers=[7, 5], generator=stream(0, "initialization"), **how
    )
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
    return model.double()


INPUTS = (
    torch.tensor([[0, 5], [3, 1], [3, 0], [2, 2]]),
    torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double(),
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("y_range", [None, (-1, 4)])
def test_the_net_computes_what_plain_torch_does_by_hand(training, y_range):
    model, (ids, numbers) = small(y_range=y_range).train(training), INPUTS
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            mean, var = x.mean(0), x.var(0, correction=0)
        return (x - mean) / (var + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    hot = [one_hot(ids[:, k], rows).double() @ state[f"embeds.{k}.weight"] for k, rows in enumerate((4, 6))]
    x = torch.cat([*hot, norm(numbers, "bn_cont")], 1)
    for place, bn in ((0, 2), (3, 5)):
        x = norm((x @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]).relu(), f"layers.{bn}")
    x = x @ state["layers.6.weight"].T + state["layers.6.bias"]
    if y_range is not None:
        x = 5 / (1 + torch.exp(-x)) - 1
    torch.testing.assert_close(model(ids, numbers), x, rtol=1e-12, atol=1e-12)


def test_an_entity_embedding_is_a_layer_on_one_hot_columns():
    """Claims 25 and 27: the same scores, and the same gradient of the matrix."""
    model, (ids, numbers) = small(), INPUTS
    model(ids, numbers).square().sum().backward()
    matrices = [table.weight.detach().clone().requires_grad_() for table in model.embeds]
    side = [one_hot(ids[:, k], len(w)).double() @ w for k, w in enumerate(matrices)]
    for bn in (model.bn_cont, model.layers[2], model.layers[5]):  # back to what they were before the first pass
        bn.train()
    model.layers(torch.cat([*side, model.bn_cont(numbers)], 1)).square().sum().backward()
    for table, matrix in zip(model.embeds, matrices, strict=True):
        torch.testing.assert_close(table.weight.grad, matrix.grad, rtol=1e-10, atol=1e-12)


def test_dropout_is_of_the_embeddings_and_after_each_hidden_layer():
    model = TabularModel([(4, 2)], 1, 1, [7, 5], ps=[0.0, 0.5], emb_drop=0.25)
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["Linear", "ReLU", "BatchNorm1d", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert (model.emb_drop.p, model.layers[6].p) == (0.25, 0.5)
    assert [layer.p for layer in TabularModel([(4, 2)], 1, 1, [7, 5], ps=0.1).layers if hasattr(layer, "p")] == [
        0.1,
        0.1,
    ]
    model.embeds[0].weight.data.fill_(1)
    zeroed = (model.emb_drop(torch.ones(4000, 2)) == 0).float().mean()
    assert abs(zeroed - 0.25) < 0.03


def test_a_net_for_tables_has_the_same_weights_with_and_without_dropout():
    without, with_it = (
        TabularModel([(4, 2)], 1, 1, [7, 5], p, p, generator=torch.Generator().manual_seed(0)) for p in (0.0, 0.5)
    )
    for one, other in zip(without.parameters(), with_it.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("emb_szs", "n_cont"), [([], 2), ([(4, 2), (6, 3)], 0)])
def test_a_table_may_have_categories_or_numbers_alone(emb_szs, n_cont):
    model = TabularModel(emb_szs, n_cont, 3, [5])
    assert model(INPUTS[0][:, : len(emb_szs)], INPUTS[1][:, :n_cont].float()).shape == (4, 3)


def test_widths_follow_the_rule_unless_they_are_told(data):
    learn = tabular_learner(data, emb_szs={"kind": 3})
    assert [tuple(table.weight.shape) for table in learn.model.embeds] == [(17, emb_sz_rule(17)), (17, 3)]
    assert emb_sz_rule(17) == 8


def one_hot_logistic(data):
    """The validation accuracy of a logistic regression on one-hot columns, fitted to the end, in float64."""

    def columns(part):
        x_cat, x_cont, y = part.tensors
        hot = [one_hot(ids, len(c.vocab)) for ids, c in zip(x_cat.T, data.categories, strict=True)]
        return torch.cat([*hot, x_cont], 1).double(), y

    (x, y), (x_valid, y_valid) = columns(data.train), columns(data.valid)
    weight = torch.zeros(data.c, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        steps.zero_grad()
        value = cross_entropy(linear(x, weight[:, 1:], weight[:, 0]), y) + 1e-4 * weight.square().sum()
        value.backward()
        return value

    steps.step(loss)
    return accuracy(linear(x_valid, weight[:, 1:], weight[:, 0]), y_valid).item()


def test_embeddings_learn_what_no_one_hot_logistic_model_can(data, learned):
    """95 % of the classes are those of the two signs' product; a sum over columns knows nothing of it."""
    assert one_hot_logistic(data) < 0.58
    assert learned.history[-1].metrics["accuracy"] > 0.9


def test_on_noise_nothing_beats_the_base_rate(tmp_path):
    data = loaded(tmp_path, planted(signal=0.0))
    learn = tabular_learner(data, layers=[50], metrics=[accuracy], wd=0.1, quiet=True)
    learn.fit_one_cycle(2, 1e-2)
    share = torch.bincount(data.train.tensors[2]).double() / len(data.train)
    base = -(share * share.log()).sum().item()
    assert learn.validate() > base - 0.01
    assert abs(learn.history[-1].metrics["accuracy"] - 0.5) < 4 * 0.5 / len(data.valid) ** 0.5


def test_a_target_of_numbers_is_predicted_within_its_range(tmp_path):
    table = planted()
    signs = np.where(table["sold"] == "much", 1, -1)
    data = loaded(tmp_path, table.assign(sold=20_000 + 5_000 * signs + 100 * table["size"]))
    learn = tabular_learner(data, layers=[50], y_range=data.y_range, metrics=[rmse], quiet=True)
    learn.fit_one_cycle(4, 1e-2)
    spread = data.valid.tensors[2].std().item()
    assert learn.history[-1].metrics["rmse"] < 0.55 * spread  # 5 % of the signs are flipped, at 2 spreads each: .44
    out, _ = learn.get_preds()
    low, high = data.y_range
    assert low < out.min() < out.max() < high
    assert learn.predict(table[:3]).shape == (3,)
    assert isinstance(learn.predict(table.iloc[0].to_dict()), float)
    with pytest.raises(DataError, match="'sold' is a number: it has no classes"):
        learn.probabilities(table[:3])


def test_numbers_far_from_zero_ask_for_a_range(tmp_path):
    data = loaded(tmp_path, planted().assign(sold=lambda t: 300 + t["size"]))
    with pytest.warns(UserWarning, match="a net starts near 0: pass y_range=data.y_range"):
        tabular_learner(data)
    with pytest.warns(UserWarning, match=r"y_range=\(0.0, 300.0\): the target 'sold' goes from"):
        tabular_learner(data, y_range=(0, 300))
    data = loaded(tmp_path, planted().assign(sold=lambda t: np.resize([-0.1, 0.05, 0.1], len(t))))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "y_range")
        tabular_learner(data, y_range=(-0.1, 0.1))  # as the file has them, which float32 rounds


def test_a_prediction_is_the_label_of_the_largest_output(data, learned):
    table = planted(5, seed=3)
    labels, chances = learned.predict(table), learned.probabilities(table)
    assert chances.columns.tolist() == data.classes == ["little", "much"]
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-6)
    assert labels == chances.idxmax(axis=1).tolist()
    for row, label in zip(table.to_dict("records"), labels, strict=True):
        assert learned.predict(row) == learned.predict(pd.Series(row)) == label
    out, _ = learned.get_preds()
    rows = pd.DataFrame(data.show_results(torch.arange(len(data.valid)), out))
    assert learned.predict(rows) == rows["prediction"].tolist()


def test_an_unseen_category_is_predicted_by_row_0(learned):
    row = {"shop": "s1", "kind": "k2", "size": 5.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chances = [learned.probabilities(row | {"shop": shop}) for shop in (None, "")]
    with pytest.warns(UserWarning, match=r"training has not seen shop 'elsewhere' \(1 in all\); row 0") as told:
        chances.append(learned.probabilities(row | {"shop": "elsewhere"}))
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="row 0") as told:
        learned.data.encoded(pd.DataFrame([row | {"shop": "elsewhere"}]))
    assert told[0].filename == __file__
    assert chances[0].equals(chances[1])
    assert chances[1].equals(chances[2])


def test_a_saved_model_loads_into_a_learner_of_the_same_data_alone(tmp_path, data, learned):
    learned.save(tmp_path / "net")
    again = tabular_learner(data, layers=[50], seed=5, quiet=True).load(tmp_path / "net")
    assert again.validate() == learned.validate()
    other = tabular_learner(data.source.split(seed=1), layers=[50])
    with pytest.raises(DataError, match="saved with other numbers"):
        other.load(tmp_path / "net")


def test_the_rate_finder_leaves_the_learner_as_it_is(data):
    for deferred in (False, True):
        learn = tabular_learner(data, layers=[20], ps=0.1, deferred=deferred, quiet=True)
        before = {name: value.clone() for name, value in learn.model.state_dict().items()}
        assert len(learn.lr_find(steps=20).losses) > 5
        assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())


def test_freezing_keeps_the_embeddings(data):
    learn = tabular_learner(data, layers=[20], quiet=True)
    learn.freeze()
    before = [table.weight.clone() for table in learn.model.embeds]
    first = learn.model.layers[0].weight.clone()
    next(learn.epochs(1, 1e-2))
    assert all(torch.equal(table.weight, old) for table, old in zip(learn.model.embeds, before, strict=True))
    assert not torch.equal(learn.model.layers[0].weight, first)


def test_deferred_embeddings_train_as_dense_ones_do(tmp_path):
    data = loaded(tmp_path, planted(600, groups=200))  # a batch reads some of the rows

    def trained(**how):
        learn = tabular_learner(data, layers=[20], emb_drop=0.1, ps=0.1, wd=0.1, quiet=True, **how)
        learn.fit_one_cycle(2, 1e-2)
        return learn

    ours, theirs = trained(deferred=True), trained()
    groups = [{"params": list(ours.model.parameters()), "lr": 1e-3}]
    assert isinstance(ours.opt_func(groups), DeferredAdamW)
    for name, mine in ours.model.state_dict().items():
        torch.testing.assert_close(mine, theirs.model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_deferred_embeddings_need_a_deferred_optimizer(data):
    learn = tabular_learner(data, layers=[20], deferred=True, opt_func=AdamW, quiet=True)
    with pytest.raises(DataError, match="with deferred=True use one of DeferredAdam, DeferredAdamW"):
        learn.fit(1)


def test_the_optimizer_takes_the_lessons_steps(data):
    ours, theirs = (tabular_learner(data, layers=[20], quiet=True, **how) for how in ({}, {"opt_func": AdamW}))
    for learn in (ours, theirs):
        learn.fit_one_cycle(1, 1e-2)
    assert ours.recorder.losses != theirs.recorder.losses  # two implementations
    np.testing.assert_allclose(ours.recorder.losses, theirs.recorder.losses, rtol=1e-4)


def test_the_same_seed_gives_the_same_net_and_another_one_another(data):
    nets = [tabular_learner(data, layers=[20], ps=0.5, seed=seed, quiet=True) for seed in (0, 0, 1)]
    for learn in nets:
        next(learn.epochs(1, 1e-2))
    losses = [learn.recorder.losses for learn in nets]
    assert losses[0] == losses[1] != losses[2]


def test_a_last_batch_of_one_row_is_an_error_before_training(data):
    bs = next(bs for bs in itertools.count(2) if len(data.train) % bs == 1)
    learn = tabular_learner(data, bs=bs, layers=[20], quiet=True)
    for start in (lambda: learn.fit(1), learn.lr_find):
        with pytest.raises(DataError, match=rf"bs={bs}: BatchNorm needs two rows or more"):
            start()


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"emb_szs": {"town": 3}}, "emb_szs: no category 'town'; the categories are 'shop', 'kind'"),
        ({"emb_szs": [3, 4]}, "emb_szs=[3, 4]: a dictionary is needed"),
        ({"emb_szs": {"shop": 0}}, "emb_szs['shop']=0: a whole number of at least 1"),
        ({"layers": 20}, "layers=20: a list is needed"),
        ({"layers": [20, 0]}, "layers=0: a whole number of at least 1"),
        ({"ps": [0.1]}, "ps=[0.1]: 1 shares for 2 hidden layers"),
        ({"ps": 1.0}, "ps=1.0: a finite number"),
        ({"emb_drop": -0.1}, "emb_drop=-0.1: a finite number"),
        ({"y_range": (0, 1)}, "y_range=(0, 1): the target 'sold' is a class"),
        ({"bs": 0}, "bs=0"),
        ({"opt_func": "adam"}, "opt_func='adam': pass a function"),
    ],
)
def test_wrong_arguments_are_refused(data, how, complaint):
    with pytest.raises(DataError) as error:
        tabular_learner(data, **how)
    assert complaint in str(error.value)


def test_other_data_are_refused():
    with pytest.raises(DataError, match="pass the result of load_table"):
        tabular_learner([1, 2])


def test_a_row_without_finite_outputs_is_refused(data):
    learn = tabular_learner(data, layers=[5], quiet=True)
    with torch.no_grad():
        learn.model.layers[-1].bias.fill_(torch.nan)
    for predict in (learn.predict, learn.probabilities):
        with pytest.raises(DataError, match="row 1: the net gives no finite numbers"):
            predict({"shop": "s1", "kind": "k2", "size": 5.0})


def test_a_number_too_far_from_training_is_named(data, tmp_path):
    table = pd.DataFrame({"size": [1e-3, 2e-3, 3e-3, 4e-3] * 3, "y": ["a", "b"] * 6})
    learn = tabular_learner(loaded(tmp_path, table, "y"), layers=[5], quiet=True)
    with pytest.raises(DataError, match=r"column 'size': 3e\+38 is too far from the training rows"):
        learn.predict({"size": 3e38})


def test_a_net_without_batchnorm_takes_a_batch_of_one_row(data):
    bs = next(bs for bs in itertools.count(2) if len(data.train) % bs == 1)
    learn = tabular_learner(data, bs=bs, layers=[20], quiet=True)
    learn.model.bn_cont, learn.model.layers = torch.nn.Identity(), learn.model.layers[-1:]
    learn.model.layers[0] = torch.nn.LazyLinear(data.c or 1)
    learn.get_preds()
    learn.layer_groups = [learn.model]
    learn.fit(1)


def test_a_batch_of_one_row_is_refused(data):
    with pytest.raises(DataError, match="bs=1: BatchNorm needs two rows"):
        tabular_learner(data, bs=1, quiet=True).fit(1)


def test_a_single_row_may_lack_a_date_and_text_beside_lists_is_no_list(tmp_path):
    days = pd.Series(pd.to_datetime(["2026-01-01", "2026-02-03", None, "2026-03-05"] * 5))
    table = pd.DataFrame({"day": days, "size": [1.0, 2, 3, 4] * 5, "y": ["a", "b"] * 10})
    learn = tabular_learner(loaded(tmp_path, table, "y"), layers=[5], quiet=True)
    row = {"day": pd.NaT, "size": 1.0}
    assert learn.predict(row) == learn.predict(pd.DataFrame([{"day": None, "size": 1.0}]))[0]
    assert learn.predict({"day": None, "size": pd.NA}) in ("a", "b")
    with pytest.raises(DataError, match="rows, column 'day': '2026-01-01' is text, not a list"):
        learn.predict({"day": "2026-01-01", "size": [1.0, 2.0]})


def test_a_single_row_may_hold_numpys_and_torchs_scalars_and_anything_that_the_net_does_not_use(tmp_path):
    days = pd.Series(pd.to_datetime(["2026-01-01", "2026-02-03", "2026-03-05"] * 6))
    data = loaded(tmp_path, pd.DataFrame({"day": days, "size": [1.0, 2, 3] * 6, "y": ["a", "b"] * 9}), "y")
    learn = tabular_learner(data, layers=[5], quiet=True)
    expected = learn.probabilities({"day": "2026-02-03", "size": 2.0})
    for size in (np.array(2.0), np.float32(2), torch.tensor(2.0), 2):
        row = {"size": size, "day": "2026-02-03", "tags": ["x", "y"], "y": np.zeros((2, 2))}
        assert learn.probabilities(row).equals(expected)
        assert learn.predict(row) in ("a", "b")
    for unit in ("D", "h", "m", "s", "ns"):
        day = np.datetime64("2026-02-03").astype(f"M8[{unit}]")
        for one in (day, np.array(day)):
            assert learn.probabilities({"day": one, "size": 2.0}).equals(expected)
        for several in ([day], np.array([day])):
            assert learn.probabilities({"day": several, "size": [2.0]}).equals(expected)


def test_whole_numbers_of_a_category_are_shown_as_they_are(tmp_path):
    ids = [2**53 + 1, 2**53 + 2, None, 2**53 + 4]
    table = pd.DataFrame({"who": pd.array(ids * 10, "Int64"), "y": ["a", "b", "a", "b"] * 10})
    data = loaded(tmp_path, table, "y", cat_names=["who"])
    assert set(data.show_batch(40)["who"]) == {*ids}
