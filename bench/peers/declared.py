"""The libraries, with settings, lengths of fits and seeds, and the splits on which they are compared.

Other libraries run with their own defaults and a suitable size. Settings that were chosen were chosen on other splits
than the measured ones (seeds 1–4 of the split; 42 and 101–105 are measured), those of everything known on parts of u1's
training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.known import everything_known
from lesson.data import CollabData, load_movielens, open_movielens
from lesson.data import split as split_ratings
from studies.evidence.peers import FILES, Splits

RUNNERS = Path(__file__).parent / "runners"


@dataclass(frozen=True)
class Peer:
    """A library with settings.

    Args:
        name: for the command line.
        title: for the page.
        runner: a file of `runners/`.
        settings: passed to the runner.
        epochs: the lengths of the fits; a single fit evaluated after each epoch if the library can be interrupted.
        seeds: how many; fewer for slow libraries.
        requirements: a file of `runners/`, or None for those that run in the suite's own environment.
        note: what to know when comparing.
    """

    name: str
    title: str
    runner: Path
    settings: Mapping[str, Any]
    epochs: tuple[int, ...]
    seeds: int
    requirements: Path | None
    note: str


LESSON = {"n_factors": 40, "y_range": [0, 5.5], "wd": 0.1, "lr": 5e-3, "pct_start": 0.3, "bs": 64}
CANDIDATES = [
    {"wd": 0.08, "lr": 5e-3, "pct_start": 0.3, "epochs": 5},
    {"wd": 0.06, "lr": 5e-3, "pct_start": 0.15, "epochs": 5},
    {"wd": 0.07, "lr": 6e-3, "pct_start": 0.15, "epochs": 4},
    {"wd": 0.05, "lr": 6e-3, "pct_start": 0.15, "epochs": 4},
]
AVERAGED = {"n_factors": 40, "y_range": [0, 5.5], "bs": 64, "models": 24, "tried": 4, "held": 0.1}
AVERAGED |= {"candidates": CANDIDATES}
FASTAI = {"n_factors": 40, "y_range": [0, 5.5], "wd": 0.1, "lr": 5e-3, "bs": 64}

PEERS = [
    Peer("dotbias", "dotbias, the lesson’s recipe", RUNNERS / "ours.py", LESSON, (5,), 20, None,
         "One-cycle of 5 epochs: the epochs before the last are moments of that schedule, not shorter fits. "
         "Trains on two threads where two are allowed."),
    Peer("dotbias-quick", "dotbias, 4 epochs", RUNNERS / "ours.py",
         LESSON | {"wd": 0.15, "lr": 8e-3, "pct_start": 0.4, "bs": 256}, (4,), 20, None,
         "The same model with the settings that reach the lesson’s level soonest, "
         "found on other splits."),
    Peer("dotbias-averaged", "dotbias, 24 trainings averaged", RUNNERS / "averaged.py", AVERAGED, (5,), 5, None,
         "The mean prediction of trainings that differ in their seeds. Part of the timed fit: each of four settings, "
         "which were found on other splits, trains 4 models on nine tenths of the training rows; the one whose mean is "
         "best on the other tenth trains the 24. Clips its predictions to the scale."),
    Peer("cornac", "cornac MF", RUNNERS / "cornac_mf.py", {"k": 40}, (5, 10, 15, 20, 30), 20, RUNNERS / "cornac.txt",
         "Given a seed, cornac trains on one thread. Clips its predictions to the scale."),
    Peer("libmf", "LIBMF", RUNNERS / "libmf_sgd.py", {"k": 40, "lambda": 0.07}, (10, 20, 40), 5, RUNNERS / "libmf.txt",
         "No biases, no seed of its own; λ chosen on other splits. Its predict passes the factors wrongly, "
         "so the product is made from its factors."),
    Peer("lenskit", "LensKit biased ALS", RUNNERS / "lenskit_als.py", {"embedding_size": 50}, (2, 5, 10), 5,
         RUNNERS / "lenskit.txt", "With its usual fallback to biases for unknown ids."),
    Peer("surprise", "Surprise SVD", RUNNERS / "surprise_svd.py", {"n_factors": 100}, (5, 10, 20, 40), 3,
         RUNNERS / "surprise.txt", "One thread. Clips its predictions to the scale."),
    Peer("myfm", "myFM", RUNNERS / "myfm_gibbs.py", {"rank": 10}, (20, 50, 200), 3, RUNNERS / "myfm.txt",
         "Bayesian: an epoch is a Gibbs sample, and predictions average all of them. One thread."),
    Peer("myfm-40", "myFM, rank 40", RUNNERS / "myfm_gibbs.py", {"rank": 40}, (200,), 3, RUNNERS / "myfm.txt",
         "As myFM, with as many factors as the lesson’s model."),
    Peer("pytorch", "PyTorch, eager", RUNNERS / "pytorch.py", LESSON | {"compiled": False}, (5,), 3, None,
         "The lesson’s recipe: nn.Embedding, batches by index without a DataLoader, fused AdamW."),
    Peer("pytorch-compiled", "PyTorch, compiled", RUNNERS / "pytorch.py", LESSON | {"compiled": True}, (5,), 3, None,
         "As eager, with torch.compile of model and loss; compiled before the first timed fit."),
    Peer("fastai", "fastai, stock", RUNNERS / "fastai_collab.py", FASTAI | {"replacement": True}, (5,), 3,
         RUNNERS / "fastai.txt", "The lesson’s recipe. Its loader draws rows with replacement; its own validation is "
         "skipped."),
    Peer("fastai-distinct", "fastai, without replacement", RUNNERS / "fastai_collab.py",
         FASTAI | {"replacement": False}, (5,), 3, RUNNERS / "fastai.txt",
         "Like stock, but with TabDataLoader, which draws every row once."),
]  # fmt: skip

EVERYTHING = {
    "n_factors": 20,
    "models": 12,
    "levels": 5,
    "rate": 0.15,
    "deviation": 0.02,
    "decay": 0.06,
    "bias_decay": 2,
    "implicit_rate": 1.5,
    "implicit_decay": 0.002,
    "side_rate": 0.05,
    "side_decay": 0.03,
}
DAY = [86400, 20]  # the width of a window in seconds, and the decay of its bias
WINDOWS = [[1, 6], [10, 8], [60, 5], [600, 7], DAY]

WITH_EVERYTHING = [
    Peer("dotbias-everything", "dotbias, everything, to the second", RUNNERS / "everything.py",
         EVERYTHING | {"windows": WINDOWS}, (8,), 5, None,
         "Implicit feedback of both sides, side information, biases of a user in windows of 1, 10, 60 and 600 seconds "
         "and a day; ordinal output; the mean of 12 trainings. Settings found on parts of u1’s training rows."),
    Peer("dotbias-everything-day", "dotbias, everything, to the day", RUNNERS / "everything.py",
         EVERYTHING | {"windows": [DAY]}, (8,), 5, None, "The same with the day as the only window."),
    next(peer for peer in PEERS if peer.name == "dotbias-averaged"),
    Peer("myfm-everything", "myFM, everything, to the day", RUNNERS / "myfm_everything.py",
         {"rank": 10, "output": "regression"}, (512,), 3, RUNNERS / "myfm.txt",
         "Blocks of users and films as in its examples: implicit feedback of both sides, side information, and the "
         "day as a feature that all users share. Not tuned. Keeps all samples but the first five. One thread."),
    Peer("myfm-everything-ordinal", "myFM, everything, to the day, ordinal", RUNNERS / "myfm_everything.py",
         {"rank": 10, "output": "ordered probit"}, (512,), 3, RUNNERS / "myfm.txt",
         "The same with an ordered probit output; predicts the mean of the probabilities."),
]  # fmt: skip

ENDS = {"dotbias": 5, "dotbias-averaged": 5, "cornac": 20, "lenskit": 10, "myfm": 200, "myfm-40": 200}


@dataclass(frozen=True)
class Comparison:
    """Peers on some splits of MovieLens 100k.

    Args:
        splits: their name.
        peers: the peers; the rows of a seed are of the split of that number, if there are several.
        split: the data of a seed.
        known: what is known beside ids and ratings, for the runners that ask for everything.
        most: how many splits there are; None if there is one, or one for every seed.
    """

    splits: Splits
    peers: Sequence[Peer]
    split: Callable[[int], CollabData]
    known: Callable[[CollabData], Mapping[str, np.ndarray]] | None = None
    most: int | None = None

    @property
    def file(self) -> str:
        """What it writes."""
        return FILES[self.splits]


@cache
def _one() -> CollabData:
    return load_movielens()


@cache
def _fresh(number: int) -> CollabData:
    return load_movielens(valid_pct=0.1, seed=101 + number)


@cache
def _fifths(number: int) -> CollabData:
    """u1 to u5 as GroupLens makes them: each fifth of u.data, in its order, validates once."""
    ratings = open_movielens()
    fifth = len(ratings) // 5
    return split_ratings(ratings, valid_rows=np.arange(number * fifth, (number + 1) * fifth))


# One fit to its end for each split: how a fit goes on is seen on the one split.
ON_SPLITS = [replace(peer, seeds=5, epochs=(ENDS[peer.name],)) for peer in PEERS if peer.name in ENDS]
COMPARISONS = {
    one.splits: one
    for one in (
        Comparison("one", PEERS, lambda _: _one()),
        Comparison("fresh", ON_SPLITS, _fresh),
        Comparison("fifths", ON_SPLITS, _fifths, most=5),
        Comparison("everything", WITH_EVERYTHING, lambda _: _fifths(0), everything_known),
    )
}
