"""The libraries, with settings, lengths of fits and seeds.

Other libraries run with their own defaults and a suitable size. Settings that were chosen were chosen on other splits
than the measured one (seeds 1–4 of the split, not 42).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
FASTAI = {"n_factors": 40, "y_range": [0, 5.5], "wd": 0.1, "lr": 5e-3, "bs": 64}

PEERS = [
    Peer("dotbias", "dotbias, the lesson’s recipe", RUNNERS / "ours.py", LESSON, (5,), 20, None,
         "One-cycle of 5 epochs: the epochs before the last are moments of that schedule, not shorter fits. "
         "Trains on one thread."),
    Peer("dotbias-quick", "dotbias, 4 epochs", RUNNERS / "ours.py",
         LESSON | {"wd": 0.15, "lr": 8e-3, "pct_start": 0.4, "bs": 256}, (4,), 20, None,
         "The same model with the settings that reach the lesson’s level soonest, "
         "found on other splits."),
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
