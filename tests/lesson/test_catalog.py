import pytest

from lesson import DataError
from lesson.data.catalog import CATALOG, OWN
from studies.evidence.claims import load_parts
from tests.lesson.test_digits import write


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.carrier])
def test_every_data_set_that_is_read_says_where_it_comes_from(name):
    origin = CATALOG[name].open().origin
    assert len(origin.checksum) == 64
    assert all(count > 0 for count in origin.size.values())
    assert origin.name
    assert origin.terms
    assert origin.citation
    assert CATALOG[name].option in (None, *OWN)


def test_ones_own_in_its_place_says_so_too(tmp_path):
    (tmp_path / "mine.csv").write_text("user,item,rating\n1,2,3\n2,2,4\n")
    write(tmp_path / "digits")
    ratings = OWN["--ratings"].open(tmp_path / "mine.csv", rating="rating").origin
    assert (ratings.name, ratings.size) == ("mine", {"ratings": 2, "users": 2, "items": 1})
    table = OWN["--table"].open(tmp_path / "mine.csv", target="rating").origin
    assert (table.name, table.size, len(table.checksum)) == ("mine", {"rows": 2, "columns": 2}, 64)
    assert OWN["--digits"].open(tmp_path / "digits").origin.size == {"digits": 6}


def test_ones_own_table_needs_the_name_of_its_target(tmp_path):
    (tmp_path / "mine.csv").write_text("shop,size,sold\na,1,0\nb,?,1\na,3,0\n")
    with pytest.raises(DataError, match=r"mine.csv: name the column to predict with --target: 'shop', 'size', 'sold'"):
        OWN["--table"].open(tmp_path / "mine.csv")
    with pytest.raises(DataError, match="target has 'price', but the columns are 'shop', 'size', 'sold'"):
        OWN["--table"].open(tmp_path / "mine.csv", target="price")
    table = OWN["--table"].open(tmp_path / "mine.csv", target="sold", drop="size, ", na="?,-")
    assert [column.name for column in table.columns] == ["shop"]
    assert table.target.kind == "category"  # two numbers are classes
    assert table.na_values == {"?", "-"}


def test_other_options_for_reading_make_other_data(tmp_path):
    (tmp_path / "r.csv").write_text("user,item,rating,stars\n1,2,3,1\n2,2,4,2\n")
    first, other = (OWN["--ratings"].open(tmp_path / "r.csv", rating=column).origin for column in ("rating", "stars"))
    assert first.checksum != other.checksum


def test_a_data_set_that_claims_name_has_their_name_for_it():
    """The ledger finds evidence by the data's key, or else by its name in the catalog."""
    named = {condition for part in load_parts().values() for condition in part.conditions}
    found = {name: CATALOG[name].open().origin.key for name in named & CATALOG.keys()}
    assert found == {"movielens": None, "filmtrust": None, "digits": None} | {
        name: name for name in ("uci-digits", "adult", "flights", "made-1d", "made-ratings")
    }
    assert named - found.keys() == {"imagenet", "mnist"}  # mnist: all of it, from IDX files
