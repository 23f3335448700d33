"""Compile the loops that training on a CPU needs, and keep them on disk, so that no training waits for the compiler.

Numba compiles a loop when it is first called with arguments of certain types. This command calls all float32 ones: for
installers, images and CI. `NUMBA_CACHE_DIR` is the folder that keeps them; without it they are kept beside the modules.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from . import (
    DeferredAdamW,
    DeferredEmbedding,
    DeferredRMSprop,
    DeferredSGD,
    adam_step_,
    dot_bias_loss,
    embedding_dot_bias,
)
from .net import Layer, NetTrainer, listed
from .steps import KINDS, Optimizer, constants, stacked
from .threads import SHARE
from .trainer import Mode, Trainer
from .trainer.epoch import epoch

ROWS = 2 * SHARE // 64  # of 16 numbers of 4 bytes: enough rows for two threads


def train(optimizer: Optimizer = "adam", mode: Mode = "folded") -> None:
    """Train for one step, bring all rows up to date, and score."""
    ids, tables = torch.arange(64), [torch.ones(shape) for shape in ((ROWS, 2), (64, 2), (ROWS,), (64,))]
    trainer = Trainer(*tables, lr=[0.1], momentum=[0.9], optimizer=optimizer, weight_decay=0.1, mode=mode)
    trainer.epoch(ids, ids, torch.ones(64), ids, 64)
    trainer.weights()
    trainer.scores(ids, ids)


def net() -> None:
    """Train a net for one step."""
    rows = listed(torch.eye(2), torch.arange(2))
    trainer = NetTrainer(
        [Layer("linear", 2, (torch.zeros(2, 2), torch.zeros(2)))], 2, rows, batch_size=2, optimizer="sgd"
    )
    trainer.epoch(torch.arange(2), [stacked(constants("sgd", lr=0.1), 1)] * 2)


def deferred(optimizer: type[DeferredAdamW | DeferredRMSprop | DeferredSGD], **settings: float) -> None:
    """Take a deferred step, and bring all rows up to date."""
    embedding = DeferredEmbedding(ROWS, 16)
    stepping = optimizer(embedding.parameters(), lr=0.1, **settings)  # type: ignore[arg-type]
    embedding(torch.arange(64)).sum().backward()
    stepping.step()
    stepping.flush()


def ops() -> None:
    """Call the ops."""
    ids, ratings = torch.arange(64), torch.ones(64)
    weight, bias = torch.ones(64, 2, requires_grad=True), torch.ones(64, requires_grad=True)
    embedding_dot_bias(ids, ids, weight, weight, bias, bias).sum().backward()
    dot_bias_loss(ids, ids, ratings, weight, weight, bias, bias).backward()
    with torch.no_grad():
        adam_step_(*(torch.ones(64) for _ in range(4)), lr=0.1, step=1)


WORK: dict[str, Callable[[], None]] = {
    **{f"trainer: {name}": partial(train, name) for name in KINDS},
    "trainer: approximations of Adam": partial(train, mode="skip"),
    "DeferredAdam, DeferredAdamW": partial(deferred, DeferredAdamW),
    "DeferredRMSprop": partial(deferred, DeferredRMSprop),
    "DeferredSGD": partial(deferred, DeferredSGD),
    "DeferredSGD with momentum": partial(deferred, DeferredSGD, momentum=0.9),
    "embedding-dot-bias, adam_step_": ops,
    "nets": net,
}


def main(arguments: list[str] | None = None) -> int:
    """Compile, and print what was compiled and how long it took; returns 1 if no folder can be written."""
    parser = argparse.ArgumentParser(prog="python -m kernels.warm", description=" ".join(__doc__.split()))
    parser.parse_args(arguments)
    if not epoch.stats.cache_path:
        print("no folder to keep compiled code in: set NUMBA_CACHE_DIR to one that can be written", file=sys.stderr)  # noqa: T201
        return 1
    began = time.perf_counter()
    for name, call in WORK.items():
        since = time.perf_counter()
        call()
        print(f"{time.perf_counter() - since:6.1f} s  {name}")  # noqa: T201
    print(f"{time.perf_counter() - began:6.1f} s, kept in {epoch.stats.cache_path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
