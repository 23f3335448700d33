"""The page of the items: from any file, safely."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from reports.factors import mapped, nearest, shortened
from reports.figures import map as figure
from reports.pages import films, render
from reports.pages.films import end_of, read_films
from reports.read import gather
from studies.evidence.schema import ResultsError
from tests.reports.test_pages import parsed

ODD = ["<script>alert(1)</script>", "x" * 5000, "$\\alpha^$", "\u202eevil", "日本語", "a\nb", "", None, "  "]


def columns(n=40, width=5, **changes):
    g = np.random.default_rng(0)
    factors = g.normal(size=(n, width))
    return {
        "item": [f"i{k}" for k in range(n)],
        "title": [f"Film {k}" for k in range(n)],
        "bias": np.linspace(0.5, -0.5, n),
        "factors": factors.tolist(),
        "mean": np.linspace(5, 1, n),
        "count": list(range(1, n + 1)),
        "genres": [["War"] if row[0] > 1 else ["Drama", "Comedy"] for row in factors],
        "components": factors[:, :3].tolist(),
    } | changes


def put(folder, about=None, **changes):
    table = pa.table(columns(**changes)).replace_schema_metadata({"dotbias": json.dumps(about or {"name": "mine"})})
    parquet.write_table(table, folder / "films.parquet")
    return folder / "films.parquet"


def test_a_description_that_nests_without_end_and_a_map_without_items_are_no_failure(tmp_path):
    table = pa.table(columns(2, components=[None, None]))
    table = table.cast(table.schema.set(7, pa.field("components", pa.list_(pa.float64()))))
    parquet.write_table(table.replace_schema_metadata({"dotbias": "[" * 100_000}), tmp_path / "films.parquet")
    pages = render(gather(tmp_path))
    assert ["not a file of items" in problem for problem in pages.problems] == [True]
    assert "index.html" in pages.html
    parquet.write_table(table.replace_schema_metadata({"dotbias": "{}"}), tmp_path / "films.parquet")
    assert "2 items" in page(tmp_path)


def page(folder):
    pages = render(gather(folder))
    assert pages.problems == []
    parsed(pages.html["films.html"])
    return pages.html["films.html"]


@pytest.mark.usefixtures("no_drawing")
def test_the_page_says_what_the_file_says(tmp_path):
    put(tmp_path, {"name": "My films", "citation": "Cite me", "terms": "be kind"})
    html = page(tmp_path)
    for text in (
        "Film 0” highest and “Film 39” lowest",
        "My films: 40 items",
        "Cite me",
        "be kind",
        "+0.500",
        "−0.500",
    ):
        assert text in html


def test_titles_of_every_kind_are_drawn_and_do_no_harm(tmp_path):
    put(tmp_path, {"name": "<b>mine</b>"}, title=ODD + [f"Film {k}" for k in range(31)])
    html = page(tmp_path)
    assert "<script>alert" not in html
    assert "<b>mine" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "x" * 101 not in html
    assert "x" * 98 in html
    assert "i6" in html, "an item without a title is named by its id"


def test_what_can_be_drawn_of_few_items_is_drawn(tmp_path):
    for n, width in ((1, 1), (2, 1), (2, 2), (3, 3)):
        put(tmp_path, n=n, width=width, genres=pa.nulls(n, pa.list_(pa.string())))
        html = page(tmp_path)
        assert ("A map of the items" in html) == (n > 1 and width > 1)
        assert ("Nearest items" in html) == (n > 1)


def test_equal_points_and_ties_are_drawn(tmp_path):
    put(tmp_path, components=[[0.0, 0.0]] * 40, factors=[[0.0]] * 40, bias=[0.0] * 40)
    assert "A map of the items" in page(tmp_path)


def test_no_results_file_no_page(tmp_path):
    assert "films.html" not in render(gather(tmp_path)).html


def test_a_genre_is_named_where_it_is_more_frequent_than_overall(tmp_path):
    items = mapped(read_films(put(tmp_path)).items)
    high, low = end_of(items, "first", up=True), end_of(items, "first", up=False)
    assert [genre for genre, _, _ in high.genres] == ["War"]
    war = np.array([row[0] == "War" for row in items.sort_values("first")["genres"]])
    assert high.genres[0] == ("War", war[-6:].mean(), war.mean())
    assert {genre for genre, _, _ in low.genres} == {"Drama", "Comedy"}
    assert high.titles == items.nlargest(6, "first")["name"].tolist()


def test_nearest_items_have_the_largest_cosines(tmp_path):
    items = read_films(put(tmp_path)).items
    (name, near), *others = nearest(items)
    assert (name, len(others)) == ("Film 39", 5)
    factors = np.array(items["factors"].tolist())
    cosines = factors @ factors[39] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[39])
    best = [f"Film {k}" for k in np.argsort(-cosines) if k != 39][:4]
    assert [other for other, _ in near] == best


def test_labels_of_the_map_do_not_touch(tmp_path):
    from matplotlib.figure import Figure

    items = mapped(read_films(put(tmp_path)).items)
    for wide, width in ((True, 10), (False, 350 / 72)):
        drawn = Figure(figsize=(width, 8))
        figure.draw(drawn, items, wide)
        texts = drawn.axes[0].texts
        assert 3 < len(texts) <= figure.LABELS[wide]
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bias": [float("nan")] * 40}, "bias does not hold finite"),
        ({"mean": [None] * 40}, "mean does not hold finite"),
        ({"count": [1e300] * 40}, "not a file of items"),
        ({"factors": [[1.0]] * 39 + [[1.0, 2.0]]}, "lists of one length"),
        ({"factors": [[float("inf")]] * 40}, "finite"),
        ({"factors": [[None]] * 40}, "finite"),
        ({"factors": [None] * 40}, "no factors"),
        ({"components": [[1e200, 0.0]] * 40}, "finite"),
        ({"item": [None] * 40}, "no id"),
        ({"title": [[1]] * 40}, "not a file of items"),
        ({"n": 0}, "no items"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_a_problem_and_the_index_is_there(tmp_path, changes, says):
    path = put(tmp_path, **changes)
    with pytest.raises(ResultsError, match=says) as error:
        read_films(path)
    assert "\n" not in str(error.value)
    pages = render(gather(tmp_path))
    assert any(says in problem for problem in pages.problems)
    assert "films.html" not in pages.html


def test_what_is_no_such_file_is_a_problem(tmp_path):
    path = tmp_path / "films.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ResultsError, match="not a file of items"):
        read_films(path)
    parquet.write_table(pa.table({"item": ["a"]}), path)
    with pytest.raises(ResultsError, match="it needs one column title"):
        read_films(path)
    for about in ("[1]", "{", "7"):
        parquet.write_table(pa.table(columns()).replace_schema_metadata({"dotbias": about}), path)
        with pytest.raises(ResultsError):
            read_films(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ResultsError):
        read_films(path)


def test_long_titles_are_cut_with_a_sign():
    assert shortened("a  b\nc", 10) == "a b c"
    assert shortened("abcdef", 4) == "abc…"
    assert films.FILE == "films.parquet"
