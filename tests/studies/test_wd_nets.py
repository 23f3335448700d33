"""Weight decay on tables: what the study refuses, and what tuning sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from lesson import DataError
from lesson.data import Tabular, open_table
from studies import wd_nets
from studies.lab.spec import TUNING_SEEDS_FROM, Run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = "".join(f"{day},{'abc'[day % 3]},{day * 7 % 11},{'yes' if day % 5 else 'no'}\n" for day in range(100))
    path = tmp_path / "rows.csv"
    path.write_text("day,shop,size,sold\n" + rows)
    return path


def test_a_target_of_numbers_is_refused_before_any_run(path: Path) -> None:
    assert wd_nets.check(open_table(path, "sold")) == []
    with pytest.raises(DataError, match=r"rows.csv, target 'size' is a number; cross-entropy"):
        wd_nets.check(open_table(path, "size"))


def test_tuning_sees_no_row_on_which_all_seeds_validate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wd_nets, "STEPS", 5)
    table = open_table(path, "sold", split="time", time="day")
    seen: list[float] = []
    split = Tabular.split

    def spy(self: Tabular, *arguments: object, **how: object) -> object:
        assert self.time is not None
        seen.append(float(self.time.max()))
        return split(self, *arguments, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Tabular, "split", spy)
    first_validated = table.time[split(table, 0).valid_rows].min()  # type: ignore[index]
    for seed in (0, TUNING_SEEDS_FROM):
        wd_nets.run(Run("wd_nets", 1, "own", "none", wd_nets.STUDY.arms["wd=0.1"], seed), table)
    assert seen[0] >= first_validated
    assert seen[1] < first_validated
