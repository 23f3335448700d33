import datetime
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson.data import DataError, Vocab, read_ratings
from lesson.data.ids import spelled

ONE_ID = [
    7,
    7.0,
    "7",
    " 7\t",
    "7.0",
    "7.00",
    b"7",
    Decimal("7.0"),
    np.int8(7),
    np.float32(7),
    np.str_("7"),
    np.array(7),
]


@pytest.mark.parametrize("key", [*ONE_ID, torch.tensor(7), torch.tensor(7.0)], ids=repr)
def test_a_whole_number_is_one_id_however_it_is_written(key):
    assert spelled(key) == "7"


@pytest.mark.parametrize("key", ["007", "7e0", "+7", "7.5", "seven", "1.0.0", "NA", "nan", "None", "١"])
def test_other_text_stays_what_it_is(key):
    assert spelled(f" {key} ") == key


NOBODY = [None, "", " ", float("nan"), float("inf"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN"), b"\xff"]
NO_ID = [1j, ..., slice(1), [1], (1, 2), {}, {1}, np.array([1]), torch.tensor([1]), pd.Series([1])]


@pytest.mark.parametrize("key", [*NOBODY, *NO_ID], ids=repr)
def test_a_missing_id_is_refused(key):
    with pytest.raises(DataError, match="is not an id") as error:
        spelled(key)
    assert "\n" not in str(error.value)


VOCABULARIES = [
    np.array([3, 5, 8]),
    np.array([3, 5, 8], dtype=np.int32),
    np.array([3, 5, 2**63 + 8], dtype=np.uint64),
    np.array(["ann", "bob", "007"], dtype=object),
    np.array(["ann", "bob", "007"]),  # <U3
    np.array(["1.5", "3", "ann"], dtype=object),
    np.array([3.0, 5.0, 8.5]),
    np.array([3, "3a", 4.5], dtype=object),
]


@pytest.mark.parametrize("ids", VOCABULARIES, ids=lambda ids: str(ids.dtype))
def test_every_id_has_its_row_and_every_row_its_id(ids):
    vocab = Vocab("user", ids)
    assert vocab.rows(ids).tolist() == vocab.rows([str(key) for key in ids.tolist()]).tolist() == [1, 2, 3]
    assert [vocab.key(row) for row in range(4)] == ["#na#", *ids.tolist()]
    assert [vocab.row(key) for key in ids] == [1, 2, 3]
    assert vocab.known([*ids.tolist(), "nobody", 99]).tolist() == [True, True, True, False, False]
    assert vocab.title(ids[0]) == spelled(ids[0])
    with pytest.raises(DataError, match="user 'nobody' has no training rating; users are"):
        vocab.row("nobody")


def doubles(ids):
    return torch.tensor(ids).double()


@pytest.mark.parametrize(
    "make", [list, tuple, iter, np.array, torch.tensor, doubles, pd.Series, pd.Index, pd.array, pd.Categorical]
)
def test_ids_may_come_in_any_container(make):
    assert Vocab("user", np.array([3, 5, 8])).rows(make([8, 3, 4])).tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    "ids",
    [
        5,
        "5",
        torch.tensor(5),
        [[3, 5]],
        np.array([[3, 5]]),
        torch.tensor([[3]]),
        {3: 5},
        {3},
        pd.DataFrame([[3]]),
        [None],
    ],
)
def test_anything_but_a_list_of_ids_is_refused(ids):
    with pytest.raises(DataError) as error:
        Vocab("user", np.array([3, 5, 8])).rows(ids)
    assert "\n" not in str(error.value)


def test_every_id_must_be_known_where_that_is_asked_for():
    vocab = Vocab("user", np.array([3, 5, 8]))
    assert vocab.seen(iter([8, 3])).tolist() == [3, 1]
    with pytest.raises(DataError, match="user 4 has no training rating; users are 3, 5, 8"):
        vocab.seen(iter([8, 4]))


def test_one_id_is_needed_where_one_is_asked_for():
    with pytest.raises(DataError, match="one user is needed"):
        Vocab("user", np.array([3, 5, 8])).row([3])


def test_two_spellings_of_one_id_in_a_vocabulary_are_refused():
    with pytest.raises(DataError, match="2 users have only 1 ids"):
        Vocab("user", np.array(["7", "7.0"])).row(7)


def test_an_id_goes_before_a_title():
    films = Vocab("item", np.array([300, 301]), {300: "2012", 301: "300", 302: "Gone"})
    assert films.rows(["2012", "300", 301, "Gone"]).tolist() == [1, 1, 2, 0]
    assert films.title("301") == films.title(301.0) == "300"


def test_an_id_that_training_never_saw_is_not_taken_for_a_title():
    films = Vocab("item", np.array([300]), {300: "2012", 1917: "Another", 301: " "})
    assert films.rows(["2012", 2012, b"2012", 1917, "1917"]).tolist() == [1, 0, 0, 0, 0]
    films = Vocab("item", np.array([300]), {300: "1917", 1917: "Another"})
    assert films.rows([1917, "1917", "1917.0"]).tolist() == [0, 0, 0]


def test_a_vocabulary_is_shown_on_one_line():
    assert repr(Vocab("user", np.arange(5000))) == "<5,000 users: 0, 1, 2 …>"


TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4),
    st.text(alphabet="01.- ", max_size=4),
    st.integers(0, 3).map(lambda key: f"{key}.0"),
    st.integers(2**63 - 2, 2**64 + 1).map(str),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS.filter(str.strip), min_size=3, max_size=9))
@pytest.mark.filterwarnings("ignore::lesson.data.RepeatedRatingsWarning")
def test_an_id_is_found_as_the_file_spells_it(tmp_path_factory, users):
    users += ["someone", "another"]
    path = tmp_path_factory.getbasetemp() / "drawn-ids.csv"
    pd.DataFrame({"user": users, "item": 1, "rating": range(len(users))}).to_csv(path, index=False, quoting=1)
    ratings = read_ratings(path)
    vocab = Vocab("user", ratings.user_ids)
    assert (vocab.rows(users) == ratings.user + 1).all()
    assert len(ratings.user_ids) == len(set(map(spelled, users)))
    assert ratings.user_ids.tolist() == sorted(ratings.user_ids.tolist())


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, unique=True),
        st.lists(st.integers(0, 2**64 - 1), min_size=2, unique=True).map(lambda keys: np.array(keys, np.uint64)),
        st.lists(st.integers(-(2**53), 2**53).map(float), min_size=2, unique=True),
        st.lists(st.decimals(-999, 999, places=2), min_size=2, unique=True),
        st.lists(st.dates(datetime.date(1970, 1, 1)), min_size=2, unique=True),
        st.lists(st.uuids().map(str), min_size=2, unique=True),
    )
)
def test_an_id_is_found_as_parquet_stores_it(tmp_path_factory, users):
    path = tmp_path_factory.getbasetemp() / "drawn-ids.parquet"
    pd.DataFrame({"user": users, "item": 1, "rating": range(len(users))}).to_parquet(path)
    ratings = read_ratings(path)
    assert (Vocab("user", ratings.user_ids).rows(users) == ratings.user + 1).all()


def test_a_uuid_is_its_text():
    assert spelled(uuid.UUID(int=5)) == "00000000-0000-0000-0000-000000000005"
