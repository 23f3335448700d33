"""What the study of tables fits, and what it refuses before its first run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from lesson import DataError
from lesson.data import Tabular, TabularData
from lesson.data.catalog import OWN
from reports.__main__ import app as reports
from studies import entity_embeddings as study
from studies.lab.command import command
from studies.lab.spec import TUNING_SEEDS_FROM, Run

UNTUNED: dict[str, Any] = {"rule": study.HALF, "rate": 1.0, "penalty": 1.0}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"ROWS": 400, "TREES": 5, "EPOCHS": 2, "BATCH": 64}.items():
        monkeypatch.setattr(study, name, value)
    with threadpool_limits(1):
        yield


def sales(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """A shop and a size from which, with noise, follows whether something sold."""
    drawn = np.random.default_rng(seed)
    shop, size = drawn.choice(list("abcde"), n), drawn.normal(size=n)
    sold = (shop == "a") * 2 + size + drawn.normal(scale=0.5, size=n) > 0.5
    return pd.DataFrame({"shop": shop, "size": size.round(4), "sold": np.where(sold, "yes", "no")})


def opened(folder: Path, frame: pd.DataFrame, target: str = "sold", **how: Any) -> Tabular:
    frame.to_csv(folder / "sales.csv", index=False)
    table: Tabular = OWN["--table"].open(folder / "sales.csv", target=target, **how)
    return table


def with_valid(data: TabularData, **changed: torch.Tensor) -> TabularData:
    names = ("categories", "numbers", "y")
    tensors = [changed.get(name, tensor) for name, tensor in zip(names, data.valid.tensors, strict=True)]
    return dataclasses.replace(data, valid=TensorDataset(*tensors))


@pytest.mark.parametrize("model", study.MODELS)
def test_a_model_learns_from_training_rows_alone(model: str, tmp_path: Path) -> None:
    """Other classes, or other inputs, of the other validation rows change no probability."""
    data = opened(tmp_path, sales()).split(seed=0)
    found, _ = study.MODELS[model](data, UNTUNED, 0)
    flipped, _ = study.MODELS[model](with_valid(data, y=1 - data.valid.tensors[-1]), UNTUNED, 0)
    np.testing.assert_array_equal(found, flipped)
    ids, numbers = (tensor.clone() for tensor in data.valid.tensors[:2])
    ids[1:], numbers[1:] = 0, 9.0
    other, _ = study.MODELS[model](with_valid(data, categories=ids, numbers=numbers), UNTUNED, 0)
    np.testing.assert_allclose(other[0], found[0], rtol=0, atol=1e-6)
    assert study.auc(found, data.valid.tensors[-1].numpy()) > 0.8
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", study.MODELS)
def test_a_category_that_only_validation_rows_have_gets_a_probability(model: str, tmp_path: Path) -> None:
    frame = sales()
    valid = np.arange(0, len(frame), 4)
    frame.loc[valid[:50], "shop"] = "new"
    data = opened(tmp_path, frame).split(valid_rows=valid)
    assert (data.valid.tensors[0][:50, 0] == 0).all()
    found, _ = study.MODELS[model](data, UNTUNED, 0)
    assert np.isfinite(study.losses(found, data.valid.tensors[-1].numpy())).all()


def test_one_hot_columns_are_those_of_the_training_rows(tmp_path: Path) -> None:
    frame = sales()
    frame.loc[0, "shop"] = "new"
    data = opened(tmp_path, frame).split(valid_rows=np.arange(100))
    x, new = (part.toarray() for part in study.one_hot(data))
    expected = pd.get_dummies(frame["shop"][100:], dtype=float).to_numpy()
    np.testing.assert_array_equal(x[:, :5], expected)
    np.testing.assert_array_equal(x[:, 5:], data.train.tensors[1])
    assert new[0, :5].sum() == 0
    assert (new[1:, :5].sum(1) == 1).all()


@pytest.mark.parametrize(("categories", "as_categories"), [(254, [0]), (255, [])])
def test_trees_read_a_column_of_too_many_categories_as_numbers(
    categories: int, as_categories: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = sales(n=600).assign(shop=[f"s{row % categories}" for row in range(600)])
    data, seen = opened(tmp_path, frame).split(valid_rows=np.arange(580, 600)), []
    fit = study.boosted
    monkeypatch.setattr(study, "boosted", lambda *how: seen.append(how[-1]) or fit(*how))
    found, _ = study.boosted_trees(data, UNTUNED, 0)
    assert seen == [as_categories]
    assert np.isfinite(found).all()


def test_log_loss_and_auc_are_their_definitions() -> None:
    drawn = torch.Generator().manual_seed(0)
    scores, y = torch.randn(50, 2, generator=drawn, dtype=torch.float64), torch.arange(50) % 2
    found = scores.softmax(1).numpy()
    assert study.losses(found, y.numpy()).mean() == pytest.approx(cross_entropy(scores, y).item())
    ones, zeros = found[y == 1, 1], found[y == 0, 1]
    assert study.auc(found, y.numpy()) == pytest.approx((ones[:, None] > zeros).mean())
    assert study.auc(found, np.zeros(50, int)) is None


def test_trees_read_the_learned_embeddings_in_place_of_categories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = opened(tmp_path, sales()).split(seed=0), []
    fit = study.boosted
    monkeypatch.setattr(study, "boosted", lambda x, *rest: seen.append(x) or fit(x, *rest))
    study.trees_with_embeddings(data, UNTUNED, 7)
    _, learn = study.embedding_net(data, UNTUNED, 7)
    (table,), (x,) = learn.model.embeds, seen  # type: ignore[union-attr]
    np.testing.assert_array_equal(x[:, :-1], table(data.train.tensors[0][:, 0]).detach())
    np.testing.assert_array_equal(x[:, -1:], data.train.tensors[1])


def test_tuning_never_sees_the_rows_that_all_seeds_validate_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = sales().assign(day=pd.date_range("2026-01-01", periods=400))
    table, seen = opened(tmp_path, frame, split="time"), []
    monkeypatch.setattr(study, "split", lambda source, seed: seen.append(source) or source.split(seed))
    arm = study.STUDY.arms["logistic regression"]
    for seed in (0, TUNING_SEEDS_FROM):
        study.run(Run("any", 1, "sales", "", arm, seed), table)
    confirming, tuning = seen
    assert confirming is table
    assert not np.isin(table.split().valid_rows, tuning.rows).any()
    assert len(tuning) == 320


@pytest.mark.parametrize("seed", range(3))
def test_a_random_target_gets_no_verdict(seed: int, tmp_path: Path) -> None:
    frame = sales(seed=seed)
    frame["sold"] = np.random.default_rng(seed).permutation(frame["sold"])
    with pytest.raises(DataError, match=r"does not show that 2% can be learned.*no verdict is given") as error:
        study.check(opened(tmp_path, frame))
    assert "\n" not in str(error.value)


def test_what_can_be_learned_is_said(tmp_path: Path) -> None:
    (said,) = study.check(opened(tmp_path, sales()))
    assert said.startswith("There is something to learn: untuned models take ")


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda frame: frame["sold"].str.upper(), id="text"),
        pytest.param(lambda frame: (frame["sold"] == "yes").astype(int), id="number"),
        pytest.param(lambda frame: frame["sold"].where(frame["sold"] == "yes"), id="gap"),
        pytest.param(lambda frame: np.where(frame["sold"] == "yes", 10, -10) + frame["size"], id="threshold"),
        pytest.param(
            lambda frame: (
                pd.Timestamp("2026-01-01") + pd.to_timedelta(500 * (frame["sold"] == "yes") + frame.index, "D")
            ),
            id="date",
        ),
    ],
)
def test_a_column_that_repeats_the_target_is_named(copy: Any, tmp_path: Path) -> None:
    table = opened(tmp_path, sales().assign(result=copy))
    with pytest.raises(DataError, match=r"column 'result' alone tells the class of every row.*--drop 'result'"):
        study.check(table)
    assert study.check(opened(tmp_path, sales().assign(result=copy), drop="result"))


@pytest.mark.parametrize(
    ("target", "said"), [("size", "target 'size' is a number"), ("shop", "target 'shop' has 5 classes")]
)
def test_another_target_than_one_of_two_classes_is_refused(target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{said}; log loss and AUC"):
        study.check(opened(tmp_path, sales(), target=target))


def test_too_many_categories_are_refused_with_the_column_that_has_them(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(study, "ONE_HOT", 100)
    frame = sales().assign(code=[f"c{row % 150}" for row in range(400)])
    with pytest.raises(DataError, match=r"categories, of 100 at most; leave out a column \(--drop 'code'\?\)"):
        study.check(opened(tmp_path, frame))


def messy(path: Path) -> None:
    """Text, dates, gaps, a constant column, ids, rows without a target."""
    frame = sales(n=300).assign(
        day=pd.date_range("2026-01-01", periods=300).strftime("%Y-%m-%d"),
        country="NO",
        code=[f"<b>{row}</b>" for row in range(300)],
    )
    frame.loc[::7, "shop"] = None
    frame["size"] = frame["size"].astype(object)
    frame.loc[::5, "size"] = "?"
    frame.loc[[3, 4], "sold"] = None
    frame.to_csv(path, index=False)


@pytest.mark.usefixtures("inline")
def test_ones_own_table_is_judged_and_every_oddity_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messy(tmp_path / "messy.csv")
    arms = ("embedding net", "boosted trees", "trees with embeddings")
    parts = tuple(part for part in study.STUDY.parts if part.weights.keys() <= set(arms))
    fewer = dataclasses.replace(
        study.STUDY, arms={arm: study.STUDY.arms[arm] for arm in arms}, parts=parts, question="Which?"
    )
    options = ["--table", str(tmp_path / "messy.csv"), "--results", str(tmp_path / "results"), "--seeds", "8"]
    result = CliRunner().invoke(command(fewer), [*options, "--target", "sold"])
    assert result.exit_code == 0, result.stderr
    oddities = [
        "categories: 'shop', 'country', 'code'; dates: 'day'",
        "2 of 300 rows have no target 'sold', the first at line 5: left out",
        "'country' ('NO') is the same in all training rows that have it: left out",
        "'code' has another text in each training row, as ids do: left out",
        "There is something to learn",
    ]
    summary = json.loads((tmp_path / "results/entity_embeddings/messy/custom/summary.json").read_text())
    for oddity in oddities:
        assert result.stderr.count(oddity) == 1
        assert sum(oddity in note for note in summary["notes"]) == 1
    assert summary["own"]
    assert [part["part"] for part in summary["parts"]] == ["44a", "44b", "1b", "", ""]

    drawn = CliRunner().invoke(reports, ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "html")])
    assert drawn.exit_code == 0, drawn.stderr
    page = next((tmp_path / "html").glob("entity_embeddings*.html")).read_text()
    assert "2 of 300 rows have no target" in page

    without = CliRunner().invoke(command(fewer), options)
    assert (without.exit_code, without.stderr.count("\n")) == (2, 1)
    assert "name the column to predict with --target: 'shop', 'size', 'sold'" in without.stderr
    shuffled = pd.read_csv(tmp_path / "messy.csv").assign(sold=lambda frame: frame["sold"].sample(frac=1).to_numpy())
    shuffled.to_csv(tmp_path / "messy.csv", index=False)
    refused = CliRunner().invoke(
        command(fewer), [*options[:2], "--results", str(tmp_path / "none"), "--target", "sold"]
    )
    assert refused.exit_code == 2
    assert "no verdict is given" in refused.stderr
    assert not (tmp_path / "none").exists()
