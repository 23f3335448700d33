"""Runs in a client library's own environment: trains with dense and with deferred steps in turns.

    python turns.py FASTAI-OR-OTHER-HEADING SEEDS RATINGS.npz

The code is that of docs/clients.md. Prints one line of JSON for each seed: both figures and both times in seconds. The
first pair, which compiles and loads, is not reported.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clients.md"


def blocks(client: str) -> list[str]:
    """The code of the guide that belongs to a client: what all share, and what its own section has."""
    sections = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    own = [section for section in sections[1:] if section.partition("\n")[0] == client]
    if not own:
        raise ValueError(f"{GUIDE.name} has no section {client!r}")
    return re.findall(r"^```python\n(.*?)^```", sections[0] + own[0], re.DOTALL | re.MULTILINE)


def main(client: str, seeds: str, ratings: str) -> None:
    """Train and print."""
    import numpy as np
    import pandas as pd

    sys.path.insert(0, str(ROOT))
    import kernels  # the wheel ships it as dotbias

    sys.modules["dotbias"] = kernels
    arrays = np.load(ratings)
    table = pd.DataFrame({name: arrays[f"train_{name}s"] for name in ("user", "item", "rating")})
    names: dict[str, Any] = {"ratings": table}
    for block in blocks(client):
        exec(compile(block, str(GUIDE), "exec"), names)
    for seed in range(-1, int(seeds)):
        row: dict[str, Any] = {"seed": seed}
        for deferred in (False, True) if seed % 2 else (True, False):
            start = time.perf_counter()
            figure = float(names["train"](deferred, max(seed, 0)))
            row["deferred" if deferred else "dense"] = {"figure": figure, "seconds": time.perf_counter() - start}
        if seed >= 0:
            print("row", json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
