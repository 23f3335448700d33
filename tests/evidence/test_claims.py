from itertools import groupby

import pytest

from studies.evidence import claims
from studies.evidence.claims import load_claims, load_notes, load_parts, load_slips

HEADINGS = {
    "A": {"Fast.ai Lesson 5 notes — Part 1 v3", "Review from the last lesson", "Fine-tuning", "Weight decay"},
    "B": {
        "Discussion on basic NN",
        "Finetuning: what happens when we do transfer learning on resnet-34?",
        "Collaborative Filtering cont.",
        "Weight Decay wd in learner",
        "Entity Embeddings of Categorical Variables",
        "SGD with MNIST",
        "Optimizer: SGD with Momentum",
        "Optimizer: RMSprop",
        "Optimizer: Adam",
        "In fastai, use learner, and it sets the optimizer",
        "Cross-Entropy Loss",
    },
}


def test_every_claim_and_every_slip_is_there_once():
    assert [claim.id for claim in load_claims()] == list(range(1, 86))
    assert [slip.id for slip in load_slips()] == list(range(1, 25))


def test_topics_are_whole_blocks_in_the_lessons_order():
    topics = [topic for topic, _ in groupby(load_claims(), key=lambda claim: claim.topic)]
    assert len(topics) == len(set(topics)) == 7


def test_only_our_own_claims_have_no_note():
    ours = {claim.id for claim in load_claims() if claim.note == "ours"}
    assert ours == {53, 54, 55, 78}
    assert all(slip.note != "ours" for slip in load_slips())


def test_parts_of_several_kinds_stand_side_by_side():
    assert {claim.id for claim in load_claims() if {"exact", "measured"} <= set(claim.kinds)} == {51, 66, 72, 84}
    assert {part.id for part in load_parts().values() if part.kind == "cited"} == {"7a", "44c", "71"}


def test_what_is_true_of_our_own_port_alone_says_so():
    ported = {part.id for part in load_parts().values() if part.kind == "by construction"}
    assert ported == {"11", "19", "23", "35", "49", "75"}


def test_false_sentences_have_a_true_form_beside_them():
    weaker = {part.id for part in load_parts().values() if part.role == "weaker"}
    assert weaker == {"2a", "4c", "5b", "14b", "20a", "21b", "37b", "37c", "51a", "66c", "70b", "72b", "77b", "79a"}


def test_a_claim_of_one_sentence_is_its_own_part():
    (part,) = load_claims()[47].parts
    assert (part.id, part.kind, part.says) == ("48", "measured", load_claims()[47].claim)
    assert part.conditions == ("movielens", "filmtrust", "digits", "adult", "flights")
    assert [part.id for part in load_claims()[46].parts] == ["47a", "47b", "47c", "47d"]


def test_a_measured_part_names_the_data_it_asks_for_unless_it_is_the_benchmarks():
    unnamed = {part.id for part in load_parts().values() if part.kind == "measured" and not part.conditions}
    assert unnamed == {"26a", "26b"}


@pytest.mark.parametrize("entry", [*load_claims(), *load_slips()], ids=lambda e: f"{type(e).__name__}{e.id}")
def test_sections_are_headings_of_the_notes(entry):
    assert all(heading in HEADINGS[note] for note, heading in entry.sections.items())


def test_a_section_of_both_notes_names_both_headings():
    in_both, in_one = load_claims()[1], load_claims()[4]
    assert (in_both.note, in_one.note) == ("both", "B")
    assert in_both.section == "A: Review from the last lesson · B: Discussion on basic NN"
    assert in_one.section == "Discussion on basic NN"


def test_no_two_claims_say_the_same():
    assert len({claim.claim for claim in load_claims()}) == len(load_claims())


def test_each_note_has_a_title():
    assert set(load_notes()) == {"A", "B"}


def _entry(**changes):
    return {"id": 1, "sections": {}, "kind": "exact", "topic": "Loss", "claim": "c", "check": "k"} | changes


def _part(part_id="1a", **changes):
    return {"id": part_id, "kind": "exact", "says": "s", "check": "k"} | changes


def _of(*parts):
    return {"id": 1, "sections": {}, "topic": "Loss", "claim": "c", "part": list(parts)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (_of(_part("1a"), _part("1c")), "its parts are 1a, 1c"),
        (_of(_part("1a")), "its parts are 1a"),
        (_of(_part("1", role="extra")), "none of its parts is core"),
        (_of(), "part"),
        (_entry(kind="cited"), "cited needs a source"),
        (_entry(kind="by construction"), "needs a source"),
        (_entry(conditions=["movielens"]), "conditions are for measured parts"),
        (_of(_part("1", role="main")), "role"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_their_claim_are_refused(monkeypatch, entry, message):
    monkeypatch.setattr(claims, "N_CLAIMS", 1)
    monkeypatch.setattr(claims, "_read", lambda: {"claim": [entry]})
    with pytest.raises(ValueError, match=message):
        load_claims()


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "guessed"}, {"topic": "Cooking"}, {"sections": {"C": "x"}}, {"claim": ""}, {"z": 1}],
    ids=str,
)
def test_a_word_that_is_not_known_is_refused(monkeypatch, wrong):
    monkeypatch.setattr(claims, "N_CLAIMS", 1)
    monkeypatch.setattr(claims, "_read", lambda: {"claim": [_entry()]})
    load_claims()
    monkeypatch.setattr(claims, "_read", lambda: {"claim": [_entry(**wrong)]})
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load_claims()


def test_missing_and_doubled_ids_are_named(monkeypatch):
    monkeypatch.setattr(claims, "N_CLAIMS", 3)
    monkeypatch.setattr(claims, "_read", lambda: {"claim": [_entry(id=1), _entry(id=2), _entry(id=2)]})
    with pytest.raises(ValueError, match=r"missing \[3\], more than once \[2\]"):
        load_claims()
    monkeypatch.setattr(claims, "_read", lambda: {"claim": [_entry(id=i) for i in (1, 2, 3, 3)]})
    with pytest.raises(ValueError, match=r"missing \[\], more than once \[3\]"):
        load_claims()
