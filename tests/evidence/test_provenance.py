from __future__ import annotations

import os
import subprocess

import pytest

from studies.evidence import provenance


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--values", "0.05, 0.2"], "--values '0.05, 0.2'"),
        (["--storage=mysql://me:secret@host/db"], "'--storage=mysql://***'"),
        (["--storage", "postgresql://me:secret"], "--storage 'postgresql://***'"),
        (["--storage", "postgresql:/me:secret@host/db"], "--storage '***'"),
        (["--storage", "host=here password=secret"], "--storage '***'"),
        (["--storage", "me/secret@host"], "--storage '***'"),
        (["--storage", "sqlite:///my.db"], "--storage sqlite:///my.db"),
        (["--results", "me:secret@host/db"], "--results '***'"),
    ],
)
def test_the_command_can_be_pasted_and_holds_no_password(arguments: list[str], shown: str) -> None:
    assert provenance.command("studies.wd_sweep", arguments) == f"python -m studies.wd_sweep {shown}"


@pytest.mark.parametrize("name", [b"turned\xe2\x80\xaevsc.csv", b"no utf-8 \xff \x80.csv", b"it's\\two\nlines.csv"])
def test_a_pasted_command_names_the_very_file_and_shows_no_sign_that_turns_or_breaks_a_line(name: bytes) -> None:
    shown = provenance.command("lesson", [os.fsdecode(name)])
    assert shown.isprintable()
    pasted = shown.replace("python -m lesson", "printf %s")
    assert subprocess.run(["bash", "-c", pasted], check=True, capture_output=True).stdout == name


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert provenance.digest({"a": 1, "b": {"c": 2, "d": 3}}) == provenance.digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert provenance.digest({"a": 1}) != provenance.digest({"a": 2})


def test_new_code_and_changed_files_are_no_clean_commit_but_new_data_are(tmp_path, monkeypatch) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *name, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    git("init")
    (tmp_path / "study.py").write_text("A = 1")
    git("add", ".")
    git("commit", "-m", "a study")
    (tmp_path / "ratings.csv").write_text("user,item,rating")
    (tmp_path / "a\nb").mkdir()
    (tmp_path / os.fsdecode(b"a\nb/\xe9.csv")).write_text("a name that is no text")
    assert provenance.commit()[1] is False
    (tmp_path / "another.py").write_text("")
    assert provenance.commit()[1] is True
    (tmp_path / "another.py").unlink()
    (tmp_path / "study.py").write_text("A = 2")
    assert provenance.commit()[1] is True
