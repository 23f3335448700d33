from __future__ import annotations

import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.evidence.outside import Masked, holds_login, printable, storage_name, without_password


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://***"),
        ("--storage=postgresql://me:secret@host/db", "--storage=postgresql://***"),
        ("postgresql://me:secret/with?signs#and@at@host/db", "postgresql://***"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://***"),
        ("postgresql://host/db?password=secret?secret", "postgresql://***"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://***"),
        ("postgresql://me:secret", "postgresql://***"),
        ("postgresql://me:secret#host/db", "postgresql://***"),
        ("postgresql://me:sec\nret@host/db", "postgresql://***"),
        ("me:secret@localhost/db", "***"),
        ("postgresql:/me:secret@localhost/db", "***"),
        ("postgresql//me:secret@localhost/db", "postgresql//***"),
        ("--storage=me:sec=ret@localhost", "--storage=***"),
        ("host=localhost user=me password=secret", "host=localhost user=me password=***"),
        ("Server=here;PWD = secret;", "Server=here;PWD =***"),
        ("{'password': 'secret'}", "{'password':***"),
        ("sqlite:///trials.db?password=secret", "sqlite://***"),
        ("sqlite:////tmp/trials.db", "sqlite:////tmp/trials.db"),
        ("0.05,0.2", "0.05,0.2"),
        ("my@ratings.csv", "my@ratings.csv"),
        ("what?.csv", "what?.csv"),
    ],
)
def test_what_may_be_a_password_is_masked_and_other_words_stay_as_they_are(word: str, shown: str) -> None:
    assert without_password(word) == shown
    assert "sec" not in shown


@pytest.mark.parametrize("word", ["postgresql://me:secret@host/db", "postgresql:/me:secret@host/db", "me:secret@host"])
def test_a_login_is_told_from_the_name_of_a_column(word: str) -> None:
    assert holds_login(word)
    assert not any(map(holds_login, ("user_id:token", "item_token:token", "me@here", "::", "results/x", "utf-8")))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nonsense", "nonsense"),
        ("results/trials.db", "results/trials.db"),
        ("sqlite:////tmp/trials.db", "sqlite:////tmp/trials.db"),
        ("sqlite+pysqlite:///trials.db", "sqlite+pysqlite:///trials.db"),
        ("sqlite:///trials.db?key=secret", "sqlite://***"),
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://***"),
        ("postgresql:me/secret", "***"),
        ("secret@host", "***"),
        ("user=me secret", "***"),
    ],
)
def test_of_a_storage_nothing_is_shown_but_a_file_of_sqlite_or_the_scheme(url: str, shown: str) -> None:
    assert storage_name(url) == shown


@given(st.text(st.characters(exclude_characters="/@:?&=;% \n"), min_size=3), st.sampled_from("@#/%? "), st.booleans())
def test_however_a_storage_is_mistyped_its_password_is_not_shown(password: str, sign: str, has_scheme: bool) -> None:
    url = f"{'postgresql://' * has_scheme}u:{password}{sign}h"
    assert password not in storage_name(url).replace("postgresql://", "").replace("***", "")


def test_logs_and_their_tracebacks_hold_no_password() -> None:
    try:
        raise ValueError("cannot connect to postgresql://me:secret@host/db")
    except ValueError:
        record = logging.LogRecord("optuna", logging.WARNING, "", 0, "tried %s", ("me:secret@host",), sys.exc_info())
    text = Masked().format(record)
    assert "tried ***" in text
    assert "ValueError: cannot connect to postgresql://***" in text
    assert "secret@" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Amélie — «Ödön» 東京 שלום 🎬", "Amélie — «Ödön» 東京 שלום 🎬"),
        ("ratings\u202evsc", r"ratings\u202evsc"),
        ("a\u2066b\u2069\u061c", r"a\u2066b\u2069\u061c"),
        ("two\nlines\r\x1b[31m\0\u2028", r"two\nlines\r\x1b[31m\x00\u2028"),
        ("byte \udcff", r"byte \xff"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_signs_that_turn_break_or_hide_a_line_are_shown_as_escapes_and_letters_stay(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_whatever_is_printable_is_one_line_of_utf8_that_runs_one_way(text: str) -> None:
    shown = printable(text)
    assert shown.splitlines() in ([], [shown])
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert not {unicodedata.bidirectional(char) for char in shown} & {"LRE", "RLE", "LRO", "RLO", "PDF", "RLI", "PDI"}
    assert printable(shown) == shown
