"""The search for settings: what it sees, what it gives up, what it concludes, and what it leaves behind."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lesson import collab_learner, load_ratings
from lesson.data import open_ratings, split
from reports.pages import render
from reports.read import gather
from studies import tune
from studies.evidence.tuning import FILE, MODEL, Gain, Tuning, read_tuning


@pytest.fixture(scope="module")
def ratings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 ratings that a model of one factor explains."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 40, 1500), rng.integers(0, 60, 1500)
    user, item = np.unique(np.stack([user, item]), axis=1)
    stars = (
        3
        + 1.4 * np.sign(rng.normal(size=40))[user] * np.sign(rng.normal(size=60))[item]
        + rng.normal(0, 0.2, len(user))
    )
    lines = [f"{u},{i},{np.clip(round(s * 2) / 2, 0.5, 5)}" for u, i, s in zip(user, item, stars, strict=True)]
    path = tmp_path_factory.mktemp("ratings") / "planted.csv"
    path.write_text("\n".join(["user,item,rating", *lines]))
    return path


@pytest.fixture(scope="module")
def found(ratings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, Path, str]:
    """The command's result, its folder and its output."""
    results = tmp_path_factory.mktemp("results")
    arguments = ["--ratings", str(ratings_file), "--trials", "4", "--results", str(results)]
    outcome = CliRunner().invoke(tune.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    folder = results / "tune" / "planted"
    return read_tuning(folder / FILE), folder, outcome.stdout


def test_the_first_trial_is_the_lessons_and_the_choice_the_best(found):
    result, _, said = found
    assert len(result.trials) == 4
    assert result.trials[0].settings == result.lesson
    done = [trial for trial in result.trials if trial.rmse is not None]
    best = min(done, key=lambda trial: trial.rmse)
    assert result.best == best.settings
    assert result.promised == pytest.approx(done[0].rmse - best.rmse)
    assert result.verdict() in said


def test_the_learner_that_the_command_prints_loads_the_model_that_it_saved(found, ratings_file):
    result, folder, said = found
    program = said[said.index("data = ") : said.index("# or,")]
    space = {"load_ratings": load_ratings, "collab_learner": collab_learner}
    exec(program, space)  # the test's own output
    learn = space["learn"]
    trained = learn.model.state_dict()["u_weight.weight"].clone()
    learn.load(folder / MODEL)
    assert learn.data.valid_rows.tolist() == split(open_ratings(ratings_file), seed=result.seed).valid_rows.tolist()
    assert learn.model.u_weight.weight.shape == trained.shape


def test_the_page_shows_the_choice_and_a_broken_file_costs_the_page_alone(found, tmp_path):
    result, folder, _ = found
    pages = render(gather(folder.parent.parent))
    page = pages.html["tune-planted.html"]
    assert result.verdict() in page.replace("&#39;", "'")
    assert '<th scope="row">learning rate</th>' in page
    broken = tmp_path / "tune" / "planted"
    broken.mkdir(parents=True)
    (broken / FILE).write_text((folder / FILE).read_text().replace('"users"', '"people"'))
    pages = render(gather(tmp_path))
    assert "tune-planted.html" not in pages.html
    assert any("tune.json: not a result of studies.tune" in problem for problem in pages.problems)


def test_the_search_sees_no_test_row(ratings_file, monkeypatch):
    seen = []

    class SearchBeganError(Exception):
        pass

    def search(ratings, *_):
        seen.append(ratings)
        raise SearchBeganError

    monkeypatch.setattr(tune, "search", search)
    ratings = open_ratings(ratings_file)
    with pytest.raises(SearchBeganError):
        tune.tune(ratings, 1.0, seed=3)
    pairs = {(u, i) for u, i in zip(seen[0].user, seen[0].item, strict=True)}
    held_out = split(ratings, seed=3).valid_rows
    tested = {(u, i) for u, i in zip(ratings.user[held_out], ratings.item[held_out], strict=True)}
    assert tested
    assert not pairs & tested
    assert len(pairs | tested) == len(ratings)


def test_settings_that_are_worse_on_two_splits_or_diverge_are_given_up(ratings_file, monkeypatch):
    def error(data, settings, seed):
        if settings == tune.LESSON:
            return 1.0 + 0.01 * (seed % 10)
        return math.inf if settings.lr > 0.01 else 2.0 + 0.01 * (seed % 10)

    monkeypatch.setattr(tune, "error", error)
    study = tune.search(open_ratings(ratings_file), 60.0, 12, 0, lambda line: None)
    assert tune.best_of(study).params == tune.dataclasses.asdict(tune.LESSON)
    tried = [len(trial.intermediate_values) for trial in study.trials]
    assert tried[0] == tune.SPLITS
    assert set(tried[1:]) == {0, 2}


def test_the_interval_is_over_users_and_covers_what_is_planted():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(200), 5)
    ours = rng.chisquare(1, 1000)
    found = tune.gain_of(1.44 * ours, ours, users, 0)  # so the RMSE is lower by a fifth of ours
    assert found.estimate == pytest.approx(0.2 * math.sqrt(ours.mean()))
    assert found.low < found.estimate < found.high
    shared = tune.gain_of(np.ones(1000), 1 + rng.normal(0, 0.1, 200)[users], users, 0)
    alone = tune.gain_of(np.ones(1000), 1 + rng.normal(0, 0.1, 1000), np.arange(1000), 0)
    assert shared.high - shared.low > 1.7 * (alone.high - alone.low)  # five rows that err together count as one
    few = tune.gain_of(ours, ours + 1, users % 7, 0)
    assert few.low is None
    assert few.users == 7


def gain(low, high):
    return Gain(estimate=(low + high) / 2, low=low, high=high, users=50)


@pytest.mark.parametrize(
    ("over_lesson", "over_mean", "said"),
    [
        (gain(0.01, 0.03), gain(0.1, 0.2), "The choice is better than the lesson's settings."),
        (gain(0.01, 0.03), gain(-0.01, 0.2), "No gain: even the best settings found are not shown to beat predicting"),
        (gain(0.01, 0.03), gain(-0.2, -0.01), "No gain: even the best settings found do not beat predicting the mean"),
        (gain(-0.01, 0.03), gain(0.1, 0.2), "The choice is not shown to be better than the lesson's settings."),
        (gain(-0.03, -0.01), gain(0.1, 0.2), "The choice is worse than the lesson's settings: keep those."),
        (Gain(estimate=1.0, low=None, high=None, users=5), gain(0.1, 0.2), "The test rows have 5 users: too few"),
    ],
)
def test_a_gain_counts_if_it_is_one_over_the_lesson_and_over_the_mean(found, over_lesson, over_mean, said):
    other = found[0].lesson | {"epochs": 6}
    result = found[0].model_copy(update={"best": other, "gain": over_lesson, "over_mean": over_mean})
    assert result.verdict().startswith(said)


def test_where_the_lessons_settings_are_the_best_it_says_so(found):
    result = found[0].model_copy(update={"best": found[0].lesson, "gain": gain(0.0, 0.0), "over_mean": gain(0.1, 0.2)})
    assert result.verdict() == "No settings were found that are better than the lesson's."


def test_a_result_of_fewer_trials_does_not_replace_one_of_more(found, ratings_file):
    result, folder, _ = found
    before = (folder / FILE).read_bytes(), (folder / MODEL).read_bytes()
    learn = tune.trained(split(open_ratings(ratings_file), seed=0), tune.LESSON, 1)
    fewer = result.model_copy(update={"trials": result.trials[:2]})
    with pytest.raises(tune.UsageError, match="has 4 trials, this search 2: it is kept"):
        tune.written(fewer, learn, folder, fresh=False)
    assert ((folder / FILE).read_bytes(), (folder / MODEL).read_bytes()) == before


def test_a_result_that_cannot_be_written_whole_leaves_the_earlier_one_and_its_model(
    found, ratings_file, tmp_path, monkeypatch
):
    result, folder, _ = found
    for file in (FILE, MODEL):
        shutil.copy(folder / file, tmp_path)
    before = (tmp_path / FILE).read_bytes(), (tmp_path / MODEL).read_bytes()
    assert read_tuning(tmp_path / FILE).model == hashlib.sha256(before[1]).hexdigest()
    learn = tune.trained(split(open_ratings(ratings_file), seed=0), tune.LESSON, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tune, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        tune.written(result, learn, tmp_path, fresh=False)
    assert ((tmp_path / FILE).read_bytes(), (tmp_path / MODEL).read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".replacing.lock", FILE, MODEL])


def test_a_whole_number_is_told_with_all_its_digits(found):
    result = found[0].model_copy(update={"best": {**found[0].best, "n_factors": 1013, "wd": 0.10129}})
    assert "n_factors 1013" in result.answer()
    assert "wd 0.101" in result.answer()


def test_splits_by_time_say_nothing_about_selection(found):
    by_time = found[0].model_copy(update={"split": "time"})
    assert "on new splits it is" in found[0].answer()
    assert "was selection" in found[0].answer()
    assert "with fresh seeds on the same rows it is" in by_time.answer()
    assert "was selection" not in by_time.answer()


def test_results_whose_names_look_alike_have_a_page_each(found, tmp_path):
    for name in ("my ratings", "my-ratings", "données", "donnÈes"):
        (tmp_path / "tune" / name).mkdir(parents=True)
        shutil.copy(found[1] / FILE, tmp_path / "tune" / name)
    pages = [name for name in render(gather(tmp_path)).html if name.startswith("tune-")]
    assert len({name.casefold() for name in pages}) == 4


def test_fresh_sets_a_result_of_more_trials_aside(found, ratings_file, tmp_path):
    result, folder, _ = found
    for file in (FILE, MODEL):
        shutil.copy(folder / file, tmp_path)
    before = (tmp_path / FILE).read_bytes(), (tmp_path / MODEL).read_bytes()
    learn = tune.trained(split(open_ratings(ratings_file), seed=0), tune.LESSON, 1)
    fewer = result.model_copy(update={"trials": result.trials[:2]})
    tune.written(fewer, learn, tmp_path, fresh=True)
    assert len(read_tuning(tmp_path / FILE).trials) == 2
    aside = [next(tmp_path.glob(f"{file}.until-*")).read_bytes() for file in (FILE, MODEL)]
    assert tuple(aside) == before


def test_a_result_of_other_data_is_not_replaced(found, ratings_file, tmp_path, monkeypatch):
    result, folder, _ = found
    there = tmp_path / "tune" / "planted"
    there.mkdir(parents=True)
    before = (folder / FILE).read_text().replace(result.checksum, "0" * 64)
    (there / FILE).write_text(before)
    monkeypatch.setattr(tune, "search", lambda *_: pytest.fail("searched"))
    outcome = CliRunner().invoke(tune.main, ["--ratings", str(ratings_file), "--results", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "is of other data, or of these read in another way: it is kept" in outcome.stderr
    assert (there / FILE).read_text() == before


def test_a_trial_that_was_given_up_has_no_error(ratings_file, monkeypatch):
    def error(data, settings, seed):  # the second split has the lowest errors, which alone would be the best result
        return (1.6, 1.3, 1.45, 1.45)[seed % 4] + 0.05 * (settings != tune.LESSON)

    monkeypatch.setattr(tune, "error", error)
    result, _ = tune.tune(open_ratings(ratings_file), 60.0, 8, say=lambda line: None)
    given_up = [trial for trial in result.trials if trial.splits < tune.SPLITS]
    assert given_up
    assert {trial.rmse for trial in given_up} == {None}
    assert min(trial.rmse for trial in result.trials if trial.rmse is not None) == pytest.approx(1.45)


def test_lessons_settings_that_diverge_on_a_later_split_leave_nothing_to_compare(ratings_file, monkeypatch):
    monkeypatch.setattr(tune, "error", lambda data, settings, seed: 1.0 if seed % 4 < 2 else math.inf)
    with pytest.raises(tune.DataError, match="the lesson's settings diverge"):
        tune.search(open_ratings(ratings_file), 60.0, 4, 0, lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "netflix"], "error: --data netflix: there are movielens, filmtrust, and --ratings for your own"),
        (["--user", "who"], "error: --user: describes your own file; name the file with --ratings"),
        (["--ratings", "none.csv"], "error: none.csv: "),
        (["--seconds", "-1"], "Invalid value for '--seconds'"),
        (["--seconds", "inf"], "error: --seconds inf: it must be a number of seconds from 0 on"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(tune.main, arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_the_way", ["a file", "another result"])
def test_what_is_in_the_way_is_said_before_the_search(ratings_file, tmp_path, monkeypatch, in_the_way):
    monkeypatch.setattr(tune, "search", lambda *_: pytest.fail("searched"))
    results = tmp_path / "results"
    if in_the_way == "a file":
        results.write_text("mine")
    else:
        (results / "tune" / "planted").mkdir(parents=True)
        (results / "tune" / "planted" / FILE).write_text("mine")
    outcome = CliRunner().invoke(tune.main, ["--ratings", str(ratings_file), "--results", str(results)])
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert str(results) in outcome.stderr


@pytest.mark.slow  # a minute and a half
def test_on_planted_ratings_it_gains_four_fifths_of_what_the_best_of_a_grid_does(tmp_path):
    """Of six factors; the grid is judged by the test rows themselves."""
    rng = np.random.default_rng(0)
    user, item = np.unique(np.stack([rng.integers(0, 400, 20_000), rng.integers(0, 300, 20_000)]), axis=1)
    scores = (rng.normal(0, 0.7, (400, 6))[user] * rng.normal(0, 0.7, (300, 6))[item]).sum(1)
    scores += rng.normal(0, 0.4, 400)[user] + rng.normal(0, 0.5, 300)[item]
    stars = np.clip(np.round(2 * (3.2 + scores + rng.normal(0, 0.5, len(user)))) / 2, 0.5, 5)
    path = tmp_path / "planted.csv"
    path.write_text(
        "\n".join(["user,item,rating", *(f"{u},{i},{s}" for u, i, s in zip(user, item, stars, strict=True))])
    )
    ratings = open_ratings(path)
    result, _ = tune.tune(ratings, 600.0, trials=160, say=lambda _: None)

    held_out = split(ratings, seed=0)
    grid = [
        tune.Settings(lr, wd, n_factors, bs=64, epochs=15)
        for lr in (5e-3, 1e-2, 2e-2) for wd in (0.02, 0.05, 0.1) for n_factors in (5, 6, 8, 16)
    ]  # fmt: skip
    best = min(tune.squared_errors(held_out, settings).mean() for settings in grid) ** 0.5
    assert result.rmse.lesson - result.rmse.choice >= 0.8 * (result.rmse.lesson - best)
