"""What is said of results that cannot be used."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from studies.evidence.schema import ResultsError, find_summaries, read_summary


def test_a_message_is_one_line_whatever_the_folder_is_called_and_what_is_wrong_stands_alone(tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines\u202e"
    folder.mkdir()
    with pytest.raises(ResultsError, match="Run the study again") as caught:
        read_summary(folder / "summary.json")
    assert str(caught.value).isprintable()
    assert caught.value.wrong.endswith("cannot be read (No such file or directory).")


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, listed = tmp_path / "locked", os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    locked.mkdir()
    monkeypatch.setattr(os, "scandir", scandir)  # root may list everything
    assert find_summaries(tmp_path) == (
        [],
        [f"{locked}: cannot be looked into (Permission denied), so nothing in it is shown."],
    )
