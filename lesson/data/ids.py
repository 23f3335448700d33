"""Ids: one spelling for files and for callers, and the rows of a table that ids map to."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import uuid
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from lesson.checks import DataError, printable, shown

NA = "#na#"  # fastai's name for the reserved row of ids that training never saw

WHOLE = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")


class UnknownIdsWarning(UserWarning):
    """Some ids have no training rating; their predictions come from the reserved row."""


def spelled(key: Any) -> str:
    """The one spelling of an id: 7, 7.0, "7", " 7" and "7.0" are "7"; "007" is another id.

    Raises:
        DataError: it is not an id: None, NaN, blank text, or several ids.
    """
    if isinstance(key, np.generic) or getattr(key, "ndim", None) == 0:
        key = key.item()
    if isinstance(key, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            key = key.decode()
    if isinstance(key, str):
        text = key.strip()
        whole = WHOLE.fullmatch(text)
        if text:
            return whole[1] if whole else text
    elif isinstance(key, Integral):
        return str(key)
    elif isinstance(key, float | Decimal):
        if math.isfinite(key):
            return str(int(key) if key == int(key) else key)
    elif isinstance(key, datetime.date | uuid.UUID) and key == key:  # NaT is a date, not an id
        return str(key)
    raise DataError(f"{shown(key)} is not an id; use text or a whole number")


def listed(ids: Any) -> tuple[list[Any], bool]:
    """Ids as a list, from a list, array, tensor or Series, and whether it was a single id.

    Raises:
        DataError: a table, a set or a dictionary.
    """
    if getattr(ids, "ndim", 0) > 1 or isinstance(ids, Mapping | AbstractSet):
        raise DataError(f"{shown(ids)}: a flat list of ids is needed")
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        return [ids], True
    return list(ids), False


def several(ids: Any) -> list[Any]:
    """Ids as a list; a single id is not allowed.

    Raises:
        DataError: as in `listed`, or a single id.
    """
    keys, single = listed(ids)
    if single:
        raise DataError(f"a list of ids is needed, not {shown(ids)}")
    return keys


def narrowed(texts: Sequence[str]) -> np.ndarray:
    """Spellings as int64 or uint64 if all are whole numbers that fit, else as text (object)."""
    if all(map(INTEGER.fullmatch, texts)):
        for dtype in (np.int64, np.uint64):
            try:
                return np.array([int(text) for text in texts], dtype)
            except OverflowError:
                continue
    return np.array(texts, dtype=object)


@dataclass(frozen=True, eq=False, repr=False)
class Vocab:
    """Ids by row of an embedding table. Row 0 is reserved for ids that no training row has, as in fastai.

    Attributes:
        kind: "user" or "item".
        ids: the distinct ids, row 1 first.
        titles: an id's title, which can be used instead of the id.
    """

    kind: str
    ids: np.ndarray
    titles: Mapping[Hashable, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids) + 1

    def __repr__(self) -> str:
        some = ", ".join(map(shown, self.ids[:3].tolist()))
        return f"<{len(self.ids):,} {self.kind}s: {some}{' …' if len(self.ids) > 3 else ''}>"

    @cached_property
    def _keys(self) -> list[Hashable]:
        return [NA, *self.ids.tolist()]

    @cached_property
    def _rows(self) -> dict[str, int]:
        rows = {spelled(key): row for row, key in enumerate(self._keys[1:], start=1)}
        if len(rows) < len(self.ids):
            raise DataError(f"{len(self.ids):,} {self.kind}s have only {len(rows):,} ids: 7, '7' and 7.0 are the same")
        return rows

    @cached_property
    def _titles(self) -> dict[str, str]:
        return {spelled(key): title for key, title in self.titles.items() if title.strip()}

    @cached_property
    def _titled(self) -> set[str]:
        """All ids that have a title, those that training never saw too."""
        return set(map(spelled, self.titles))

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = {}
        for key, title in self._titles.items():
            named.setdefault(spelled(title), []).append(key)
        return named

    def rows(self, ids: Any) -> np.ndarray:
        """The rows of several ids or titles, int64[len(ids)]; 0 (the reserved row) for ids that training has not seen.

        Args:
            ids: a list, an array, a tensor or a Series.

        Raises:
            DataError: an id is None, NaN or blank, or several items share a title.
        """
        return np.array([self._row(key) for key in several(ids)], dtype=np.int64)

    def known(self, ids: Any) -> np.ndarray:
        """Whether training has seen them, bool[len(ids)]; see `rows`."""
        return self.rows(ids) > 0

    def seen(self, ids: Any) -> np.ndarray:
        """As `rows`, but training must have seen them all.

        Raises:
            DataError: it has not.
        """
        keys = several(ids)
        rows = self.rows(keys)
        if not rows.all():
            some = ", ".join(shown(key) for key in self._keys[1:4])
            unknown = shown(keys[int(np.argmin(rows))])
            raise DataError(f"{self.kind} {unknown} has no training rating; {self.kind}s are {some} …")
        return rows

    def row(self, key: Any) -> int:
        """The row of one id, or of a title that only one item has.

        Raises:
            DataError: training has not seen it.
        """
        if not listed(key)[1]:
            raise DataError(f"one {self.kind} is needed, not {shown(key)}")
        return int(self.seen([key])[0])

    def _row(self, key: Any) -> int:
        text = spelled(key)
        if text in self._rows:  # ids have priority over titles
            return self._rows[text]
        if not isinstance(key, str) or text in self._titled:
            return 0
        named = self._named.get(text, [])
        if len(named) > 1:
            ids = printable(", ".join(named))
            raise DataError(f"{len(named)} {self.kind}s have the title {text!r}: use one of the ids {ids}")
        return self._rows.get(named[0], 0) if named else 0

    def key(self, row: int) -> Hashable:
        """The id of a row; '#na#' for the reserved one."""
        return self._keys[row]

    def title(self, key: Any) -> str:
        """The title of an id, or the id as text where no title is known."""
        text = spelled(key)
        return self._titles.get(text, text)


class Categories(Vocab):
    """A table's categories by row. Text is told apart as it is written: "1" and "1.0" are two categories.

    New rows may have another spelling, as 1 for "1.0": it counts where training has no category that is written so.
    """

    @cached_property
    def _rows(self) -> dict[str, int]:
        rows: dict[str, int] = {}
        for row, key in enumerate(self._keys[1:], start=1):
            rows.setdefault(spelled(key), row)
        return rows | {str(key): row for row, key in enumerate(self._keys[1:], start=1)}

    def _row(self, key: Any) -> int:
        return self._rows.get(str(key)) or self._rows.get(spelled(key), 0)
