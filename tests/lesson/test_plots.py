import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, Learner, collab_learner, create_cnn, load_digits, load_movielens, optimizers
from lesson.data import Curves, Images
from lesson.lr_find import FoundRates, smoothed
from lesson.models import Mnist_Logistic
from lesson.schedules import one_cycle

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    return load_digits().split(seed=0)


@pytest.fixture
def learn():
    learn = Learner(Curves().split(n=100), nn.Linear(1, 1), mse_loss, quiet=True)
    learn.fit_one_cycle(3, 1e-2)
    return learn


def drawn(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_the_losses_of_batches_and_epochs_are_drawn_where_they_were(learn):
    axes = learn.recorder.plot_losses()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("batches", "loss")
    lines = drawn(axes)
    assert list(lines) == ["each batch", "training, smooth", "validation"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)
    losses = learn.recorder.losses
    np.testing.assert_allclose(lines["each batch"], np.column_stack([np.arange(1, 7), losses]))
    np.testing.assert_allclose(lines["training, smooth"][:, 1], smoothed(np.array(losses)))
    np.testing.assert_allclose(lines["validation"], np.column_stack([[2, 4, 6], learn.recorder.val_losses]))


def test_the_rate_and_the_momentum_are_the_schedules(learn):
    rate, momentum = learn.recorder.plot_lr()
    wanted = one_cycle(6, 1e-2)
    for axes, name, values in ((rate, "learning rate", wanted.lr), (momentum, "momentum", wanted.momentum)):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("batches", name)
        np.testing.assert_allclose(axes.lines[0].get_xydata(), np.column_stack([np.arange(1, 7), values]))


@pytest.mark.parametrize(
    ("opt_func", "momentum"), [(optimizers.SGD, 0), (optimizers.Momentum, 0.9), (torch.optim.Adam, 0.9)]
)
def test_without_a_cycle_the_momentum_is_the_optimizers_own(opt_func, momentum):
    learn = Learner(Curves().split(n=100), nn.Linear(1, 1), mse_loss, opt_func=opt_func, quiet=True)
    learn.fit(2, 1e-3)
    assert learn.recorder.lrs == [1e-3] * 4
    assert learn.recorder.moms == [momentum] * 4
    learn.fit_one_cycle(1, 1e-2)
    np.testing.assert_allclose(learn.recorder.lrs[4:], one_cycle(2, 1e-2).lr)
    np.testing.assert_allclose(learn.recorder.moms[4:], one_cycle(2, 1e-2).momentum if momentum else [0, 0])
    assert learn.recorder.epoch_ends == [2, 4, 6]


def test_an_epoch_that_diverges_moves_no_later_one_in_the_record(learn):
    with pytest.raises(FloatingPointError):
        learn.fit(1, 1e30)
    with torch.no_grad():
        learn.model.weight.fill_(0)
        learn.model.bias.fill_(0)
    learn.fit(1, 1e-3)
    record = learn.recorder
    assert record.epoch_ends == [2, 4, 6, 10]
    assert len(record.losses) == len(record.lrs) == len(record.moms) == 10
    assert drawn(record.plot_losses())["validation"][:, 0].tolist() == record.epoch_ends


def test_the_found_rates_are_drawn_on_a_logarithmic_axis_with_the_suggestion():
    losses = np.concatenate([np.full(50, 3.0), np.linspace(3, 1, 10), np.full(40, 1.0)])
    found = FoundRates(np.geomspace(1e-7, 10, 100), losses + 1, losses)
    axes = found.plot()
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "loss, smooth")
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.column_stack([found.lrs, losses]))
    (point,) = axes.collections[0].get_offsets()
    assert point[0] == found.suggestion
    assert f"{found.suggestion:.2g}" in axes.get_legend().get_texts()[0].get_text()


def test_without_a_suggestion_there_is_no_point():
    assert not FoundRates(np.ones(3), np.ones(3), np.ones(3)).plot().collections


def shown(grid):
    return [(axes.get_title(), axes.images[0].get_array()) for axes in grid.flat if axes.images]


def test_a_batch_of_digits_is_a_grid_of_images_with_their_digits(digits):
    grid = digits.show_batch(10)
    assert grid.shape == (3, 4)
    images = shown(grid)
    assert len(images) == 10
    rows = torch.linspace(0, 3999, 10).long()
    assert [title for title, _ in images] == [str(y) for y in digits.train.tensors[1][rows].tolist()]
    assert len({title for title, _ in images}) > 5  # the file is sorted by digit; the rows are spread over it
    for row, (_, pixels) in zip(rows, images, strict=True):
        np.testing.assert_array_equal(pixels, digits.train.tensors[0][row].reshape(28, 28))


def test_results_have_a_red_title_where_the_net_is_wrong(digits):
    learn = Learner(digits, Mnist_Logistic(), cross_entropy, quiet=True)
    grid = learn.show_results(25)
    x, y = digits.valid[:25]
    predicted = learn.model(x).argmax(1)
    assert 0 < (predicted == y).sum() < 25
    titles = [axes.title for axes in grid.flat]
    wanted = [f"{t}" if t == p else f"{t}, not {p}" for t, p in zip(y.tolist(), predicted.tolist(), strict=True)]
    assert [title.get_text() for title in titles] == wanted
    assert [title.get_color() == "tab:red" for title in titles] == (predicted != y).tolist()


def test_other_data_are_tables():
    data = Curves().split(n=20)
    learn = Learner(data, nn.Linear(1, 1), mse_loss, quiet=True)
    batch, results = data.show_batch(3), learn.show_results(4)
    assert batch.columns.tolist() == ["x0", "y"]
    rows = torch.tensor([0, 9, 19])
    np.testing.assert_array_equal(batch, torch.cat([part[rows] for part in data.train.tensors], 1))
    assert results.columns.tolist() == ["x0", "y", "prediction"]
    np.testing.assert_array_equal(results["prediction"], learn.get_preds()[0][:4, 0])
    assert len(learn.show_results(100)) == 20


def test_ratings_are_a_table_with_predictions_and_nobody_for_who_is_unknown():
    data = load_movielens(valid_rows=range(20_000, 100_000))
    learn = collab_learner(data, 4, (0, 5.5), quiet=True)
    table = learn.show_results(500)
    assert table.columns.tolist() == ["user", "item", "title", "rating", "prediction"]
    np.testing.assert_array_equal(table["prediction"], learn.get_preds()[0][:500])
    np.testing.assert_array_equal(table["rating"], data.valid.ratings[:500])
    known = data.valid.items[:500] > 0
    assert 0 < known.sum() < 500
    assert table["item"].notna().tolist() == table["title"].notna().tolist() == known.tolist()
    row = int(known.nonzero()[0])
    assert table["item"][row] == data.items.key(int(data.valid.items[row]))
    assert isinstance(table, pd.DataFrame)


def test_filters_keep_their_place_and_scale_before_and_after():
    learn = create_cnn(
        Images("x", torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b")).split(bs=2)
    )
    before = learn.filters.clone()
    with torch.no_grad():
        learn.filters[5] *= 2
    first, second = learn.show_filters(before)
    assert (first.get_title(), second.get_title()) == ("before", "after")
    then, now = (axes.images[0].get_array() for axes in (first, second))
    assert then.shape == (8 * 8 - 1, 8 * 8 - 1, 3)  # 64 filters of 7 × 7 pixels, a line between them
    at = np.s_[0:7, 40:47]
    np.testing.assert_allclose(now[at] - 0.5, 2 * (then[at] - 0.5), atol=1e-6)
    assert np.abs(now[at] - 0.5).max() == pytest.approx(0.5)
    same = np.ones(then.shape[:2], bool)
    same[at] = False
    np.testing.assert_array_equal(then[same], now[same])
    (alone,) = learn.show_filters()
    np.testing.assert_allclose(np.abs(alone.images[0].get_array()[at] - 0.5).max(), 0.5)
    with pytest.raises(DataError, match="a copy is needed"):
        learn.show_filters(before[:3])


def test_data_that_cannot_be_shown_are_one_line():
    class Mine:
        train = valid = TensorDataset(torch.zeros(3, 1), torch.zeros(3, 1))

    with pytest.raises(DataError, match="only a DataBunch and ratings can be shown"):
        Learner(Mine(), nn.Linear(1, 1), mse_loss).show_results()
    with pytest.raises(DataError, match="n=0"):
        DataBunch(Mine.train, Mine.valid).show_batch(0)
