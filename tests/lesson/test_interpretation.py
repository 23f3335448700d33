"""Looking into a trained model: components, nearest items, predictions taken apart."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson import DataError, collab_learner, load_ratings
from lesson.interpretation import Factors, cosines, pca


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A learner without a sigmoid, on ratings without titles."""
    path = tmp_path_factory.mktemp("plain") / "r.csv"
    lines = (f"u{u},i{i},{1 + (u * i + u) % 5}\n" for u in range(8) for i in range(9))
    path.write_text("user,item,rating\n" + "".join(lines))
    learn = collab_learner(load_ratings(path), n_factors=3, wd=0.01, quiet=True)
    learn.fit(3, 0.05)
    return learn


def test_the_notes_lines_run_as_they_stand(learned):
    top_movies = learned.data.top_items(1000)
    movie_w = learned.weight(top_movies, is_item=True)
    assert movie_w.shape == (1000, 40)
    movie_pca = movie_w.pca(3)
    assert movie_pca.shape == (1000, 3)
    fac0, fac1, fac2 = movie_pca.t()
    assert fac0.std() > fac1.std() > fac2.std()
    assert type(fac0) is type(movie_w * 2) is type(movie_w[0]) is torch.Tensor
    assert torch.equal(movie_w, learned.weight(top_movies))


def test_components_are_the_covariances_eigenvectors_times_the_rows():
    rows = torch.randn(60, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, 8)
    variances, vectors = np.linalg.eigh(np.cov(rows.numpy().T))
    own = (rows.numpy() - rows.numpy().mean(0)) @ vectors[:, ::-1][:, :3]
    found = pca(rows, 3).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(own), atol=1e-10)
    np.testing.assert_allclose(found.var(0, ddof=1), variances[::-1][:3])


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_no_components_sign_depends_on_the_order_of_the_rows(seed, n, width):
    g = torch.Generator().manual_seed(seed)
    rows, order = torch.randn(n, width, generator=g), torch.randperm(n, generator=g)
    k = min(n - 1, width, 2)
    torch.testing.assert_close(pca(rows[order], k), pca(rows, k)[order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pca(rows + 5, k), pca(rows, k), rtol=1e-3, atol=1e-4)


def test_mirrored_rows_have_the_same_components():
    """Turning a factor's sign in users and items changes no prediction; it may change a component's sign, no more."""
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pca(rows * torch.tensor([1, -1, 1]), 2).abs(), pca(rows, 2).abs())
    assert pca(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), 1)[:, 0].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("rows", "k"),
    [
        (torch.ones(3), 1),
        (torch.ones(3, 2).long(), 1),
        (torch.tensor([[1.0, torch.nan]]), 1),
        (torch.ones(3, 2), 3),
        (torch.ones(3, 2), 0),
        (torch.ones(0, 2), 1),
        ([[1.0]], 1),
    ],
)
def test_what_has_no_components_is_refused(rows, k):
    with pytest.raises(DataError, match=r"x=|k="):
        pca(rows, k)
    with pytest.raises(DataError, match="k=4"):
        torch.ones(3, 5).as_subclass(Factors).pca(4)


def test_the_most_rated_items_come_first_and_ties_by_id(learned, plain):
    count = np.bincount(learned.data.ratings.item)
    top = learned.data.top_items(1000)
    assert len(top) == 1000
    assert top[:3] == [50, 258, 100]
    by_hand = sorted(learned.data.items.ids.tolist(), key=lambda film: (-count[film - 1], film))
    assert top == by_hand[:1000]
    assert plain.data.top_items(99) == [f"i{i}" for i in range(9)]
    with pytest.raises(DataError, match="n="):
        plain.data.top_items(0)


def test_mean_ratings_are_the_notes_own(learned):
    means = learned.data.item_ratings["mean"]
    assert means[318] == 4.466442953020135, "Schindler's List"
    assert list(learned.data.item_ratings.index) == learned.data.items.ids.tolist()


def test_the_nearest_items_are_those_of_the_largest_cosine(learned):
    found = learned.nearest("Star Wars (1977)", 5, least=50)
    assert set(found["title"][:2]) == {"Empire Strikes Back, The (1980)", "Return of the Jedi (1983)"}
    ids = [film for film in learned.data.items.ids.tolist() if film != 50]
    weights, own = learned.weight(ids).numpy(), learned.weight([50]).numpy()[0]
    cosines = weights @ own / np.linalg.norm(weights, axis=1) / np.linalg.norm(own)
    everything = learned.nearest(50, 10_000)
    assert len(everything) == len(ids)
    np.testing.assert_allclose(everything["similarity"], np.sort(cosines)[::-1], atol=1e-6)
    assert everything["item"][0] == ids[int(cosines.argmax())]
    assert (learned.data.item_ratings["count"][found["item"]] >= 50).all()


def test_an_item_without_length_is_near_nothing(plain):
    model = plain.model
    kept = model.i_weight.weight.detach().clone()
    with torch.no_grad():
        model.i_weight.weight[1] = 0
    try:
        assert (plain.nearest("i0")["similarity"] == 0).all()
        assert plain.nearest("i0")["item"].tolist() == [f"i{i}" for i in range(1, 9)], "ties by id"
        last = plain.nearest("i3").set_index("item")["similarity"]
        assert last["i0"] == 0
    finally:
        with torch.no_grad():
            model.i_weight.weight.copy_(kept)


@pytest.mark.parametrize("bad", [{"item": "nothing"}, {"item": None}, {"item": ["i1"]}, {"n": 0}, {"least": -1}])
def test_what_cannot_be_near_is_refused(plain, bad):
    with pytest.raises(DataError):
        plain.nearest(**({"item": "i1"} | bad))


def test_the_parts_of_a_prediction_add_up_to_it_exactly(learned, plain):
    rng = np.random.default_rng(0)
    for learn, first in ((learned, ["middle of 0 to 5.5"]), (plain, [])):
        for _ in range(40):
            user, item = rng.choice(learn.data.users.ids), rng.choice(learn.data.items.ids)
            table = learn.explain(user, item)
            assert table.index.tolist() == [*first, "item bias", "user bias", "dot product", "prediction"]
            assert table.loc["prediction", "rating"] == learn.predict(user, item)
            parts = table.drop(index="prediction").sum()
            assert parts["rating"] == table.loc["prediction", "rating"]
            assert parts["score"] == table.loc["prediction", "score"]


def test_each_part_is_what_the_tables_say(learned):
    table = learned.explain(196, 242)
    u, i = learned.weight([196], is_item=False).double()[0], learned.weight([242]).double()[0]
    assert table.loc["dot product", "score"] == pytest.approx((u @ i).item(), abs=1e-12)
    assert table.loc["item bias", "score"] == learned.bias([242]).item()
    assert table.loc["user bias", "score"] == learned.bias([196], is_item=False).item()
    assert table.loc["middle of 0 to 5.5"].tolist() == [0, 2.75]
    item_alone = 5.5 / (1 + np.exp(-learned.bias([242]).item()))
    assert table["rating"].iloc[:2].sum() == pytest.approx(item_alone, abs=1e-6)


def test_a_prediction_is_taken_apart_for_known_ids_alone(learned):
    for user, item in (("nobody", 242), (196, "nothing"), (None, 242), ([196], 242), (196, [242])):
        with pytest.raises(DataError):
            learned.explain(user, item)


def test_tables_are_ordinary_frames(learned):
    assert isinstance(learned.explain(196, 242), pd.DataFrame)
    assert learned.nearest(50, 3).columns.tolist() == ["item", "title", "similarity"]


def test_a_cosine_of_nan_is_nan_and_of_no_length_0():
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0], [math.nan, 1.0]])
    assert cosines(weights, 0)[:2].tolist() == [1, 0]
    assert cosines(weights, 0)[2].isnan()
