"""Our side of the conversation with a runner; `runners/protocol.py` is the other side."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.peers.declared import RUNNERS, Peer
from lesson.data import CollabData
from studies.evidence.peers import Point

ROOT = Path(__file__).parents[2]
THREADS_OF = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")


class PeerError(RuntimeError):
    """A peer died or violated the protocol: the message says how."""


def export(data: CollabData, path: Path) -> None:
    """Write the triples that every peer gets: train_users, …, valid_ratings."""
    parts = {"train": data.train, "valid": data.valid}
    np.savez(
        path, **{f"{part}_{name}": column.numpy() for part, rows in parts.items() for name, column in columns(rows)}
    )


def export_everything(known: Mapping[str, np.ndarray], ratings: Path) -> None:
    """Write times, and what is known about users and films, beside the triples: see `bench.peers.known`."""
    np.savez(ratings.with_name("everything.npz"), **known)


def columns(rows: Any) -> list[tuple[str, Any]]:
    """Users, items and ratings by name."""
    return [(name, getattr(rows, name)) for name in ("users", "items", "ratings")]


class Runner:
    """A peer's process, ready to fit.

    Attributes:
        versions: of its packages.
        drawn: how many rows an epoch has, and how many are distinct, if it reports them.

    Args:
        peer: the declared peer.
        python: the interpreter of its environment.
        ratings: the file that `export` wrote; the peer's predictions and output go beside it.
        threads: that it may use.

    Raises:
        PeerError: it does not start.
    """

    def __init__(self, peer: Peer, python: str, ratings: Path, threads: int) -> None:
        self.log = ratings.with_name(f"{peer.name}.log")
        self.predictions = ratings.with_name(f"{peer.name}.npy")
        with np.load(ratings, allow_pickle=False) as file:
            self.expected = file["valid_ratings"].astype(np.float64)
        paths = [RUNNERS, *([] if peer.requirements else [ROOT])]
        environment = {f"{name}_NUM_THREADS": str(threads) for name in THREADS_OF}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        with self.log.open("w", encoding="utf-8") as printed:
            self.process = subprocess.Popen(
                [python, str(peer.runner), str(ratings), str(self.predictions), json.dumps(dict(peer.settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env={**os.environ, **environment},
                text=True,
            )
        ready = self._answer()
        self.versions, self.drawn = ready["versions"], ready["drawn"]

    def fit(self, seed: int, epochs: int) -> Iterator[Point]:
        """The points of a fit, each trained when it is requested."""
        answer = self._ask(seed=seed, epochs=epochs)
        while "done" not in answer:
            try:
                point = Point(epochs=answer["epochs"], seconds=answer["seconds"], rmse=self._rmse())
            except (KeyError, ValidationError):
                raise PeerError(f"it answered {answer}, which is not an epoch with seconds above 0") from None
            yield point
            answer = self._ask()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has died and will not answer
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            printed = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((words.strip() for words in reversed(printed) if words.strip()), "it printed nothing")
            raise PeerError(f"it ended with status {self.process.wait()}: {said}")
        try:
            return dict(json.loads(line))
        except ValueError:
            raise PeerError(f"it answered {line!r:.100}, which is not a JSON object") from None

    def _rmse(self) -> float | None:
        predicted = np.load(self.predictions, allow_pickle=False)
        if predicted.shape != self.expected.shape:
            raise PeerError(f"it predicted {list(predicted.shape)} ratings instead of {list(self.expected.shape)}")
        rmse = float(np.sqrt(np.mean((predicted - self.expected) ** 2)))
        return rmse if np.isfinite(rmse) else None
