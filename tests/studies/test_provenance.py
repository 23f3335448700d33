from __future__ import annotations

import pytest

from studies.evidence import provenance


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://***"),
        ("--storage=postgresql://me:secret@host/db", "--storage=postgresql://***"),
        ("postgresql://me:secret/with?signs#and@at@host/db", "postgresql://***"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://***"),
        ("postgresql://host/db?user=me&password=p@ss", "postgresql://***"),
        ("postgresql://host/db?password=secret?secret", "postgresql://***"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://***"),
        ("sqlite:////tmp/trials.db", "sqlite:////tmp/trials.db"),
        ("0.05,0.2", "0.05,0.2"),
        ("my@ratings.csv", "my@ratings.csv"),
        ("what?.csv", "what?.csv"),
    ],
)
def test_a_url_is_shown_without_its_password_and_other_words_as_they_are(argument: str, shown: str) -> None:
    assert provenance.without_password(argument) == shown


def test_the_command_can_be_pasted_and_holds_no_password() -> None:
    arguments = ["--values", "0.05, 0.2", "--storage=mysql://me:secret@host/db"]
    shown = "python -m studies.wd_sweep --values '0.05, 0.2' '--storage=mysql://***'"
    assert provenance.command("studies.wd_sweep", arguments) == shown


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert provenance.digest({"a": 1, "b": {"c": 2, "d": 3}}) == provenance.digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert provenance.digest({"a": 1}) != provenance.digest({"a": 2})
