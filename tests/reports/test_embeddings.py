"""The page of a net for tables: from any file, safely."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from reports.pages import embeddings, render
from reports.pages.embeddings import context_of, read_embeddings
from reports.read import gather
from studies.evidence.schema import ResultsError
from tests.reports.test_pages import parsed


def put(folder, about=None, **changes):
    factors = np.random.default_rng(0).normal(size=(9, 3))
    columns = {
        "category": ["shop"] * 6 + ["kind"] * 2 + ["one"],
        "value": [*"abcdefxyz"],
        "count": [9, 8, 7, 6, 5, 4, 3, 2, 1],
        "factors": factors.tolist(),
        "components": factors[:, :2].tolist(),
    } | changes
    table = pa.table(columns).replace_schema_metadata({"dotbias": json.dumps(about or {"name": "Sales"})})
    parquet.write_table(table, folder / embeddings.FILE)
    return folder / embeddings.FILE


def page(folder):
    pages = render(gather(folder))
    assert pages.problems == []
    parsed(pages.html["embeddings.html"])
    return pages.html["embeddings.html"]


def test_each_category_of_three_values_or_more_has_a_map(tmp_path):
    put(tmp_path, {"name": "Sales", "target": "sold", "citation": "Cite me", "terms": "be kind"})
    html = page(tmp_path)
    for text in ("learned 3 embeddings", "Sales, to predict sold", "A map of shop", "Cite me", "be kind", "kind, one"):
        assert text in html
    assert "A map of kind" not in html


@pytest.mark.usefixtures("no_drawing")
def test_the_nearest_values_have_the_largest_cosines_and_are_of_the_same_category(tmp_path):
    (shop,) = context_of(read_embeddings(put(tmp_path)))["shown"]
    (first, near), *_ = shop.nearest
    factors = np.random.default_rng(0).normal(size=(9, 3))[:6]
    cosines = factors @ factors[0] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[0])
    assert first == "a"
    assert [value for value, _ in near] == ["abcdef"[k] for k in np.argsort(-cosines) if k != 0][:4]
    assert (shop.values, shop.width) == (6, 3)


def test_names_of_every_kind_are_drawn_and_do_no_harm(tmp_path):
    odd = ["<script>alert(1)</script>", "x" * 5000, "$\\alpha^$", "\u202eevil", "日本語", "a\nb"]
    put(tmp_path, {"name": "<b>mine</b>", "target": 7}, category=["<i>"] * 9, value=[*odd, "", " ", "z"])
    html = page(tmp_path)
    for bad in ("<script>alert", "<b>mine", "\u202e", "<i>", "x" * 101):
        assert bad not in html


def test_of_many_categories_some_have_maps_and_the_others_are_named(tmp_path, no_drawing):
    many = [f"c{k:02}" for k in range(20) for _ in range(3)]
    factors = np.random.default_rng(0).normal(size=(60, 2)).tolist()
    put(tmp_path, category=many, value=[*"abc"] * 20, count=[1] * 60, factors=factors, components=factors)
    shown = context_of(read_embeddings(tmp_path / embeddings.FILE))
    assert len(shown["shown"]) == embeddings.MOST
    assert shown["left"] == [f"c{k}" for k in range(12, 20)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"count": [None] * 9}, "count does not hold finite"),
        ({"factors": [[1.0]] + [[1.0, 2.0]] * 8}, "category shop.*lists of one length"),
        ({"factors": [None] * 9}, "no factors"),
        ({"components": [[1e200, 0.0]] * 9}, "finite"),
        ({"value": [None] * 9}, "no value"),
        ({"category": [None] * 9}, "no category"),
        ({"category": [], "value": [], "count": [], "factors": [], "components": []}, "embeddings.parquet"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_a_problem_and_the_index_is_there(tmp_path, changes, says):
    path = put(tmp_path, **changes)
    with pytest.raises(ResultsError, match=says) as error:
        read_embeddings(path)
    assert "\n" not in str(error.value)
    pages = render(gather(tmp_path))
    assert any("embeddings.parquet" in problem for problem in pages.problems)
    assert "embeddings.html" not in pages.html
