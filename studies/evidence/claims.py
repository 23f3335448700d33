"""The lesson's claims and the slips of its notes, read from claims.toml and checked."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Note = Literal["A", "B"]
Kind = Literal["exact", "measured", "cited"]
Topic = Literal[
    "Framing",
    "Fine-tuning",
    "Embeddings and collaborative filtering",
    "Weight decay",
    "MNIST from scratch",
    "Optimizers",
    "Loss",
]
Text = Annotated[str, Field(min_length=1)]

N_CLAIMS = 85
N_SLIPS = 24


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int
    sections: dict[Note, Text]

    @property
    def note(self) -> str:
        """Who says it: "A", "B", "both", or "ours"."""
        return "both" if len(self.sections) == 2 else next(iter(self.sections), "ours")

    @property
    def section(self) -> str:
        """The heading in the note; with two notes both headings, each after its letter; "" where it is ours."""
        if len(self.sections) < 2:
            return "".join(self.sections.values())
        return " · ".join(f"{note}: {heading}" for note, heading in self.sections.items())


class Claim(_Entry):
    """One claim of the lesson. `check` says how it is put to the test."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)]
    topic: Topic
    claim: Text
    check: Text


class Slip(_Entry):
    """One place where the notes go wrong, and what is right. `claims` are the ids it concerns."""

    slip: Text
    correction: Text
    claims: Annotated[tuple[Annotated[int, Field(ge=1, le=N_CLAIMS)], ...], Field(min_length=1)]


def load_claims() -> list[Claim]:
    """The claims, by id.

    Raises:
        ValueError: claims.toml lacks an id, has one twice, or a field or word that is not known.
    """
    claims = [Claim.model_validate(entry) for entry in _read()["claim"]]
    _require_ids("claim", claims, N_CLAIMS)
    return claims


def load_slips() -> list[Slip]:
    """The slips, by id.

    Raises:
        ValueError: as for `load_claims`.
    """
    slips = [Slip.model_validate(entry) for entry in _read()["slip"]]
    _require_ids("slip", slips, N_SLIPS)
    return slips


def load_notes() -> dict[str, str]:
    """Title and author of each note, by its letter."""
    return dict(_read()["notes"])


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("claims.toml").read_text(encoding="utf-8"))


def _require_ids(what: str, entries: list[Any], last: int) -> None:
    found = [entry.id for entry in entries]
    if found != list(range(1, last + 1)):
        raise ValueError(
            f"claims.toml: the {what} ids must run from 1 to {last} in order, each once; "
            f"missing {sorted(set(range(1, last + 1)) - set(found))}, "
            f"more than once {sorted({i for i in found if found.count(i) > 1})}"
        )
