import json
from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner

from lesson import collab_learner
from studies import exact
from studies.exact import Check, Found, checks, rates, transfer
from studies.exact import __main__ as command

EVERY = checks()


def made_up(part: str, run: Callable[[], Found], expected: bool = True) -> Check:
    return Check(part, expected, by_construction=False, source=None, run=run)


def holds() -> Found:
    """It holds."""
    return Found(True, f"drawn: {torch.rand(1).item():.6f}")


def holds_not() -> Found:
    """It does not hold."""
    return Found(False, "2 ≠ 3")


def raises() -> Found:
    """It cannot be decided."""
    raise ArithmeticError("1 / 0")


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.part)
def test_each_part_is_what_we_know_it_to_be(check):
    found = command.decide(check)
    assert found["holds"] == check.expected, f"{check.says} {found['figure']}"


def test_that_unfreeze_trains_all_layers_is_not_so_where_it_does_nothing(monkeypatch):
    monkeypatch.setattr(transfer.CnnLearner, "unfreeze", lambda self: None)
    transfer._moved.cache_clear()
    try:
        assert not transfer.after_unfreeze_all_layers_are_trained().holds
    finally:
        transfer._moved.cache_clear()


def test_a_collaborative_learner_that_is_split_has_no_single_layer_group(monkeypatch):
    def split_in_two(*args, **kwargs):
        learn = collab_learner(*args, **kwargs)
        learn.layer_groups = list(learn.model.children())
        return learn

    monkeypatch.setattr(rates, "collab_learner", split_in_two)
    assert not rates.a_collaborative_model_has_one_layer_group().holds


def test_each_check_says_one_sentence_and_shows_a_figure():
    for check in EVERY:
        assert check.says.endswith("."), check.name
    assert len({check.says for check in EVERY}) == len(EVERY)


def test_facts_of_fastais_code_cite_it():
    by_construction = {check.part: check.source for check in EVERY if check.by_construction}
    assert set(by_construction) == {"11", "19", "23", "35", "49", "75"}
    assert all(source and source.startswith("fastai ") for source in by_construction.values())


def test_checks_stand_in_the_order_of_the_claims_and_slips_come_last():
    parts = [check.part for check in EVERY]
    assert parts.index("2a") < parts.index("2b") < parts.index("10") < parts.index("84a") < parts.index("slip 8")
    assert parts.index("slip 9") < parts.index("slip 12")


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(exact, "CHECKS", {})


def test_a_part_is_checked_once(registry):
    exact.exact("51a")(holds)
    with pytest.raises(ValueError, match=r"51a: .*holds already checks it; give holds_not another part"):
        exact.exact("51a")(holds_not)


def test_what_holds_by_construction_needs_a_source(registry):
    with pytest.raises(ValueError, match="19: holds holds by construction; cite the code"):
        exact.exact("19", by_construction=True)(holds)


def test_a_checks_random_numbers_do_not_depend_on_others_or_affect_them():
    state = torch.random.get_rng_state()
    first = command.decide(made_up("1", holds))["figure"]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(10)
    assert command.decide(made_up("1", holds))["figure"] == first


def run(monkeypatch, results, *made):
    monkeypatch.setattr(command, "checks", lambda: list(made))
    return CliRunner().invoke(command.app, ["--results", str(results)])


def test_the_command_prints_what_it_found_and_writes_it(monkeypatch, tmp_path):
    ran = run(monkeypatch, tmp_path / "new", made_up("3a", holds), made_up("slip 9", holds_not, expected=False))
    assert ran.exit_code == 0, ran.output
    assert "It does not hold." in ran.stdout
    assert "2 ≠ 3" in ran.stdout
    assert ran.stderr == ""
    written = json.loads((tmp_path / "new" / "exact.json").read_text(encoding="utf-8"))
    assert written["schema_version"] == 1
    assert set(written["provenance"]) == {"commit", "dirty", "versions", "created"}
    first, second = written["checks"]
    assert (first["part"], first["holds"], first["expected"], first["says"]) == ("3a", True, True, "It holds.")
    assert (second["holds"], second["expected"], second["figure"]) == (False, False, "2 ≠ 3")
    assert set(first) == {
        *("part", "holds", "expected", "by_construction", "figure", "says", "check", "source", "seconds"),
    }


def test_a_check_that_raises_is_named_and_loses_no_other(monkeypatch, tmp_path):
    ran = run(monkeypatch, tmp_path, made_up("3a", raises), made_up("3b", holds))
    assert ran.exit_code == 1
    assert "problem: 3a (test_exact.raises): ArithmeticError: 1 / 0 (test_exact.py, line " in ran.stderr
    assert [check["part"] for check in json.loads((tmp_path / "exact.json").read_text())["checks"]] == ["3b"]


@pytest.mark.parametrize(
    ("function", "expected", "told"),
    [(holds, False, "holds, but was expected not to"), (holds_not, True, "does not hold, but was expected to: 2 ≠ 3")],
)
def test_an_unexpected_result_is_a_problem_and_is_written_as_found(monkeypatch, tmp_path, function, expected, told):
    ran = run(monkeypatch, tmp_path, made_up("7", function, expected))
    assert ran.exit_code == 1
    assert f"problem: 7 (test_exact.{function.__name__}): {told}" in ran.stderr
    assert json.loads((tmp_path / "exact.json").read_text())["checks"][0]["holds"] is not expected


def test_a_folder_that_cannot_be_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    ran = run(monkeypatch, tmp_path / "file", made_up("3a", holds))
    assert ran.exit_code == 1
    assert "exact.json: cannot be written (" in ran.stderr
    assert "Traceback" not in ran.output
