"""What is said of results that cannot be used, and what a summary refuses."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from studies.evidence.schema import (
    PartFound,
    ResultsError,
    Summary,
    find_summaries,
    read_summary,
    since,
    write_summary,
)

ARM = {
    "settings": {"wd": 0.1, "n_factors": 40, "bn": True},
    "n": 20,
    "metrics": {"rmse": {"mean": 0.9, "sd": 0.1, "n": 19}},
}
PART = {
    "part": "48", "says": "a beats b", "form": "superior", "metric": "rmse", "better": "lower",
    "weights": {"a": 1.0, "b": -1.0}, "margin": 0.002, "estimate": 0.003, "low": 0.001, "high": None, "n": 20,
    "interval": "corrected t", "outcome": "yes", "reason": "by more than 0", "declared": "d1",
}  # fmt: skip
CONTRAST = {
    "arm": "b", "baseline": "a", "metric": "rmse", "difference": None, "interval": None, "interval_corrected": None,
    "n": 20, "p": 0.5, "p_holm": 1.0, "probability_of_improvement": None, "skewness": None,
}  # fmt: skip
PROVENANCE = {
    "command": "c", "commit": None, "dirty": None, "commits": [], "spec_hash": "s", "recipe": 1, "threads": 1,
    "workers": 1, "seeds": [0, 1], "trials": {}, "seconds": 1.0, "started": "t", "finished": "t", "python": "3",
    "platform": "p", "cpu": "c", "cores": 2, "gpu": None, "versions": {},
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "study": "wd_sweep", "title": "Weight decay", "question": "Does it?", "profile": "quick",
    "metrics": {"rmse": {"title": "RMSE", "better": "lower", "smallest": "0.2 %"}}, "arms": {"a": ARM, "b": ARM},
    "parts": [PART], "preliminary": True, "provenance": PROVENANCE,
    "data": {"key": "movielens", "name": "MovieLens 100k", "checksum": "c", "size": {"ratings": 100_000}},
}  # fmt: skip


def summary(parts: tuple[dict[str, Any], ...] = ({},), seeds: int = 2, recipe: int = 1, **changes: Any) -> Summary:
    changes["parts"] = [PART | part for part in parts]
    changes["provenance"] = PROVENANCE | {"seeds": list(range(seeds)), "recipe": recipe}
    return Summary.model_validate(WHOLE | changes)


def test_a_summary_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = summary(baseline="a", contrasts=[CONTRAST])
    write_summary(written, tmp_path / "summary.json")
    assert read_summary(tmp_path / "summary.json") == written
    assert written.arms["a"].settings == {"wd": 0.1, "n_factors": 40, "bn": True}
    assert (written.metric, written.claims, written.seeds) == ("rmse", [48], 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "schema_version"),
        ({"baseline": "z"}, "the baseline names 'z', which is not one of the arms"),
        ({"contrasts": [CONTRAST | {"arm": "z"}]}, "the contrast names 'z'"),
        ({"contrasts": [CONTRAST, CONTRAST]}, "the contrast names 'b' more than once"),
        ({"contrasts": [CONTRAST | {"metric": "mae"}]}, "the contrast names 'mae', which is not one of the metrics"),
        ({"contrasts": [CONTRAST | {"difference": 2.0, "interval": [0.0, 1.0]}]}, "outside its interval"),
        ({"measures": {"rmse": {"title": "t", "logarithmic": False, "arms": {}}}}, "lacks 'a'"),
        ({"parts": [PART | {"weights": {"z": 1.0}}]}, "the part 48 names 'z'"),
        ({"parts": [PART, PART]}, "the part 48 occurs more than once"),
        ({"parts": [PART | {"low": 0.2, "high": 0.1}]}, "in the wrong order"),
        ({"parts": [PART | {"low": 0.2}]}, "outside its interval"),
        ({"parts": [PART | {"outcome": "maybe"}]}, "outcome"),
        ({"parts": [PART | {"reason": "who knows"}]}, "reason"),
        ({"arms": {"a": ARM, "b": ARM | {"diverged": 21}}}, "21 of 20 runs diverged"),
        ({"arms": {"a": ARM, "b": ARM | {"n": 18}}}, "19 of 18 runs have measured rmse"),
        ({"metrics": {}}, "metrics"),
        ({"looks": 0}, "looks"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_one_line_that_says_where(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(WHOLE | {"schema_version": 2} | change), encoding="utf-8")
    with pytest.raises(ResultsError, match=message) as caught:
        read_summary(path)
    assert "\n" not in str(caught.value)


def test_the_claim_of_a_part_is_its_number() -> None:
    ids = {"48": 48, "47a": 47, "": None}
    assert {part: PartFound.model_validate(PART | {"part": part}).claim for part in ids} == ids


class TestSince:
    def test_a_first_result_was_looked_at_once_and_declared_before(self) -> None:
        first = since(summary(), [])
        assert (first.looks, first.parts[0].changed) == (1, False)

    def test_more_seeds_are_another_look_and_the_same_ones_are_not(self) -> None:
        quick = since(summary(seeds=10), [])
        regular = since(summary(seeds=20, profile="regular"), [quick])
        assert regular.looks == 2
        assert since(summary(seeds=20, profile="regular"), [quick, regular]).looks == 2
        assert since(summary(seeds=40, profile="full"), [quick, regular]).looks == 3
        assert since(summary(study="other"), [quick, regular]).looks == 1

    def test_another_recipe_is_another_look_and_marks_the_parts_ever_after(self) -> None:
        quick = since(summary(seeds=10), [])
        other = since(summary(seeds=10, recipe=2), [quick])
        assert (other.looks, other.parts[0].changed) == (2, True)
        assert since(summary(seeds=20, recipe=2), [other]).parts[0].changed
        assert since(summary(seeds=10, recipe=2), [quick, other]).looks == 2

    def test_a_part_changed_or_added_after_a_look_says_so_ever_after(self) -> None:
        quick = since(summary(seeds=10), [])
        changed = since(summary(({"declared": "d2"}, {"part": "47a"}), seeds=20), [quick])
        assert [(part.declared, part.changed) for part in changed.parts] == [("d1", True), ("d1", True)]
        again = since(summary(({"declared": "d2"}, {"part": "47a"}), seeds=40), [quick, changed])
        assert [part.changed for part in again.parts] == [True, True]
        assert not since(summary(seeds=20), [quick]).parts[0].changed

    def test_a_part_that_was_declared_but_had_no_runs_was_not_declared_after_a_look(self):
        declared = {"declared": {"47a": "d1", "48": "d1"}}
        values = since(summary(({"part": "47a"},), seeds=10, **declared), [])
        assert not any(part.changed for part in since(summary(({}, {"part": "47a"}), 20, **declared), [values]).parts)
        changed = since(summary(({"declared": "d2"}, {"part": "47a"}), 20, **declared), [values])
        assert [part.changed for part in changed.parts] == [True, False]

    def test_a_file_without_digests_says_nothing_of_a_part_that_it_does_not_judge(self):
        quick, values = since(summary(seeds=10), []), since(summary(({"part": "47a"},), seeds=12), [])
        assert not since(summary(seeds=20), [quick, values]).parts[0].changed
        assert since(summary(seeds=20), [values]).parts[0].changed

    def test_an_arm_with_other_settings_changes_its_parts_but_a_tuned_setting_does_not(self) -> None:
        def with_arm(seeds: int, settings: dict[str, Any]) -> Summary:
            return summary(seeds=seeds, arms={**WHOLE["arms"], "a": ARM | {"settings": settings}})

        quick = since(with_arm(10, {"wd": 0.1, "lr": 5e-3}), [])
        assert since(with_arm(20, {"wd": 0.2, "lr": 5e-3}), [quick]).parts[0].changed
        assert not since(with_arm(20, {"wd": 0.1}), [quick]).parts[0].changed


def test_summaries_are_found_by_study_data_and_profile_and_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    places = ["wd_sweep/movielens/quick", "mine/wd_sweep/ratings/quick", ".", "a/b/c/d/e"]
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "summary.json").touch()
    found, (problem,) = find_summaries(tmp_path)
    assert {path.parent for path in found} == {tmp_path / place for place in places[:3]}
    assert "more than 4 folders below" in problem


def test_a_message_is_one_line_for_any_folder_name_and_has_the_error_alone(tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines\u202e"
    folder.mkdir()
    with pytest.raises(ResultsError, match="Run the study again") as caught:
        read_summary(folder / "summary.json")
    assert str(caught.value).isprintable()
    assert caught.value.wrong.endswith("cannot be read (No such file or directory).")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, listed = tmp_path / "locked", os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    locked.mkdir()
    monkeypatch.setattr(os, "scandir", scandir)  # root may list everything
    assert find_summaries(tmp_path) == (
        [],
        [f"{locked}: cannot be read (Permission denied), so nothing in it is shown."],
    )
