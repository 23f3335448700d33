"""Prints how many Gauss points Adam's missed steps fold into, from which step on, and the distance to replay.

python -m kernels.deferred
python -m kernels.deferred .9/.95 .95/.99
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from .. import quadrature, steps

PAIRS = [(0.9, 0.9), (0.9, 0.95), (0.9, 0.99), (0.9, 0.999), (0.95, 0.99), (0.95, 0.999), (0.95, 0.9999), (0.9, 0.9999)]


def pair(text: str) -> tuple[float, float]:
    """Read β1/β2, both in [0, 1)."""
    beta1, beta2 = map(float, text.split("/"))
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError
    return beta1, beta2


def worst_error(beta1: float, beta2: float, start: int, points: int) -> float:
    """The largest distance of a folded weight from a replayed one, in steps, over gaps up to 500 and 60 roots √v."""
    gap = np.arange(1.0, 501)
    kappa = np.sqrt((1 - beta2 ** (start + gap)) / beta2**gap)
    weight = beta1**gap / (1 - beta1 ** (start + gap)) * kappa
    root = np.logspace(-4, 6, 60)[:, None]  # over eps
    sums = np.cumsum(weight / (root + kappa), axis=1)
    folds = np.empty((quadrature.ROWS, len(gap) + 1))
    quadrature.clear(folds)
    work, worst = quadrature.new_work(1)[0], 0.0
    for t in range(1, len(gap) + 1):
        c = steps.constants("adam", lr=1.0, beta1=beta1, beta2=beta2, step=start + t)
        quadrature.add_step(folds, t, 0, points, np.array(c))
        quadrature.gauss(folds, 0, points, work)
        folded = (work[2, :points] / (root + work[0, :points])).sum(1)
        worst = max(worst, float(np.abs((folded - sums[:, t - 1]) * root[:, 0]).max()))
    return worst


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m kernels.deferred", description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", type=pair, default=PAIRS, metavar="β1/β2", help="such as .9/.95")
    print("| β1/β2 | points | from step | bound | measured |\n| --- | --- | --- | --- | --- |")  # noqa: T201
    for beta1, beta2 in parser.parse_args().pairs:
        points, start = quadrature.folding(beta1, beta2)
        row = "replay | – | – | –"
        if start < math.inf:
            bound = quadrature.fold_error(beta1, beta2, int(start), points)
            row = f"{points} | {int(start)} | {bound:.1e} | {worst_error(beta1, beta2, int(start), points):.1e}"
        print(f"| {beta1:g}/{beta2:g} | {row} |")  # noqa: T201


if __name__ == "__main__":
    main()
