"""How far rounding takes the lesson's training from its float64 trajectory: native code beside eager PyTorch.

MovieLens 100k, five epochs of one-cycle, the same initialization and order of ratings for all. The distance is
‖w − w*‖ / ‖w*‖ over all parameters: w as trained in float32, w* by native dense steps in float64. PyTorch is eager with
fused AdamW; "of eager" is a distance as a share of its distance. "native" takes the fastest kind of steps at that size,
"native replay" runs every step that a row has missed. Eager float64 must agree with w*, or nothing is shown. Takes a
minute.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import pandas as pd
import torch

from bench.harness import InaccurateError
from bench.training import EPOCHS, LR, Ratings, Tables, trained
from lesson import load_movielens
from lesson.data import DataError
from lesson.schedules import one_cycle

BATCHES = (64, 512)
AGREEMENT = 1e-3  # of the smallest float32 distance: below it, either float64 run can count as exact


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.distance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    try:
        data = load_movielens()
    except DataError as error:
        parser.error(str(error))
    ratings = data.train.users, data.train.items, data.train.ratings
    tables = len(data.users), len(data.items)
    table = pd.concat(distances(ratings, tables, batch) for batch in BATCHES)
    print(table.to_string(index=False, float_format="{:.2g}".format))
    print(f"torch {torch.__version__}")


def distances(ratings: Ratings, tables: Tables, batch: int) -> pd.DataFrame:
    """One row per implementation: batch, implementation, distance, of eager.

    Raises:
        InaccurateError: eager and native float64 do not agree.
    """
    print(f"batch {batch}", file=sys.stderr)
    schedule = one_cycle(EPOCHS * -(-len(ratings[2]) // batch), LR)
    after = partial(trained, batch=batch, schedule=schedule, ratings=ratings, tables=tables, epochs=EPOCHS)
    exact = after("native dense", dtype=torch.float64)

    def distance(implementation: str, dtype: torch.dtype) -> float:
        return ((after(implementation, dtype=dtype) - exact).norm() / exact.norm()).item()

    found = {name: distance(name, torch.float32) for name in ("native", "native replay", "eager")}
    apart = distance("eager", torch.float64)
    if not apart <= AGREEMENT * min(found.values()):
        raise InaccurateError(f"batch {batch}: eager float64 is {apart:.2g} from native float64; float32 is {found}")
    found["eager float64"] = apart
    table = pd.DataFrame({"batch": batch, "implementation": found.keys(), "distance": found.values()})
    return table.assign(**{"of eager": table["distance"] / found["eager"]})


if __name__ == "__main__":
    main()
