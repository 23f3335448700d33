import importlib.util
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from bench.clients import __main__ as clients
from bench.clients import turns
from bench.peers.environments import python_of

PACKAGES = {"fastai": "fastai", "RecBole": "recbole"}


def environment(client):
    """An interpreter that has the library, if there is one: nothing is installed here."""
    folder = clients.ENVIRONMENTS / clients.CLIENTS[client]
    if (folder / "made.txt").exists():
        return python_of(clients.HERE / f"{clients.CLIENTS[client]}.txt", clients.ENVIRONMENTS)
    can_import = f"import {PACKAGES[client]}"
    if (
        importlib.util.find_spec(PACKAGES[client])
        and not subprocess.run([sys.executable, "-c", can_import], check=False, capture_output=True).returncode
    ):
        return sys.executable
    return None


@pytest.mark.slow
@pytest.mark.parametrize("client", clients.CLIENTS)
def test_in_other_libraries_the_guides_code_gives_what_their_own_adamw_gives(client, tmp_path):
    python = environment(client)
    if python is None:
        pytest.skip(f"needs {client}: tox run -e clients makes its environment")
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 200, 5000), rng.integers(1, 300, 5000)
    ratings = np.clip(np.round(3 + rng.normal(size=200)[users] + rng.normal(size=300)[items]), 1, 5)
    np.savez(tmp_path / "ratings.npz", train_users=users, train_items=items, train_ratings=ratings.astype(np.float32))
    (row,) = clients.trained(python, client, 1, tmp_path / "ratings.npz").to_dict("records")
    assert math.isfinite(row["dense.figure"])
    assert row["deferred.figure"] == pytest.approx(row["dense.figure"], rel=1e-3)


def test_every_client_has_a_section_of_the_guide_and_a_list_of_requirements():
    for client, requirements in clients.CLIENTS.items():
        shared, own = turns.blocks(client)
        assert "def defer(model)" in shared
        assert "def train(deferred, seed)" in own
        assert "DeferredAdamW(" in own or "opt=partial(DeferredAdamW" in own
        assert (clients.HERE / f"{requirements}.txt").exists()
    with pytest.raises(ValueError, match="no section 'Keras'"):
        turns.blocks("Keras")


def test_the_table_of_clients_shows_how_far_the_figures_are_apart_and_the_median_ratio():
    rows = pd.DataFrame(
        {
            "seed": range(6),
            "dense.figure": [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
            "deferred.figure": [1.0, 2.0, 3.0, 1.0, 2.0, 3.25],
            "dense.seconds": [2.0] * 6,
            "deferred.seconds": [1.0, 1.0, 1.0, 1.0, 1.0, 9.0],
        }
    )
    found = clients.summary(rows)
    assert (found["apart"], found["seeds"], found["time"]) == ("0.2", "0.9", "0.50 [0.50, 4.50]")


def test_a_training_without_a_row_is_a_failure_too(tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "HERE", tmp_path)
    (tmp_path / "turns.py").write_text("print('nothing')")
    with pytest.raises(clients.ClientError, match="it printed no row"):
        clients.trained(sys.executable, "fastai", 1, tmp_path / "ratings.npz")


def test_a_training_that_fails_is_named_by_its_last_line(tmp_path):
    np.savez(tmp_path / "ratings.npz")
    with pytest.raises(clients.ClientError, match="train_users"):
        clients.trained(sys.executable, "fastai", 1, tmp_path / "ratings.npz")
