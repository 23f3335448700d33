"""The lesson's claims and the slips of its notes, read from claims.toml and checked."""

from __future__ import annotations

import string
import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Note = Literal["A", "B"]
Kind = Literal["exact", "measured", "cited", "by construction"]
Role = Literal["core", "extra", "weaker"]
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
        """The heading in the note; for two notes both headings, each after its letter; "" if the claim is ours."""
        if len(self.sections) < 2:
            return "".join(self.sections.values())
        return " · ".join(f"{note}: {heading}" for note, heading in self.sections.items())


class ClaimPart(BaseModel):
    """One sentence of a claim.

    Attributes:
        id: "48", or "47a" if the claim has several sentences.
        kind: what decides it.
        role: "core"; "extra": ours, shown, never changes the verdict; "weaker": the true form of a false sentence.
        says: the sentence.
        check: how it is tested.
        conditions: the data sets its check needs, by their names in the catalog; if empty, any one will do.
        general: whether it is about data in general, not only about the lesson's own.
        source: the citation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kind: Kind
    role: Role = "core"
    says: Text
    check: Text
    conditions: tuple[Text, ...] = ()
    general: bool = True
    source: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind in ("cited", "by construction") and self.source is None:
            raise ValueError(f"part {self.id}: {self.kind} needs a source")
        if self.conditions and self.kind != "measured":
            raise ValueError(f"part {self.id}: conditions are for measured parts; this one is {self.kind}")
        return self


class Claim(_Entry):
    """One claim of the lesson: its sentences are `parts`. A claim of one sentence is its own part."""

    topic: Topic
    claim: Text
    parts: Annotated[tuple[ClaimPart, ...], Field(alias="part", min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _its_own_part(cls, entry: Any) -> Any:
        if not isinstance(entry, dict) or "part" in entry:
            return entry
        own = {key: entry[key] for key in ("kind", "role", "check", "conditions", "general", "source") if key in entry}
        rest = {key: value for key, value in entry.items() if key not in own}
        return rest | {"part": [own | {"id": str(entry.get("id")), "says": entry.get("claim")}]}

    @model_validator(mode="after")
    def _lettered(self) -> Self:
        letters = string.ascii_lowercase[: len(self.parts)] if len(self.parts) > 1 else [""]
        if [part.id for part in self.parts] != [f"{self.id}{letter}" for letter in letters]:
            raise ValueError(f"claim {self.id}: its parts are {', '.join(part.id for part in self.parts)}")
        if all(part.role != "core" for part in self.parts):
            raise ValueError(f"claim {self.id}: none of its parts is core")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of its parts, each once."""
        return tuple(dict.fromkeys(part.kind for part in self.parts))

    @property
    def check(self) -> str:
        """How it is tested, part by part."""
        return " ".join(part.check for part in self.parts)


class Slip(_Entry):
    """An error in the notes, and its correction. `claims` are the ids it concerns."""

    slip: Text
    correction: Text
    claims: Annotated[tuple[Annotated[int, Field(ge=1, le=N_CLAIMS)], ...], Field(min_length=1)]


def load_claims() -> list[Claim]:
    """The claims, by id.

    Raises:
        ValueError: claims.toml lacks or repeats an id, or has an unknown field or word.
    """
    claims = [Claim.model_validate(entry) for entry in _read()["claim"]]
    _require_ids("claim", claims, N_CLAIMS)
    return claims


def load_parts() -> dict[str, ClaimPart]:
    """The parts of all claims, by id."""
    return {part.id: part for claim in load_claims() for part in claim.parts}


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
