from __future__ import annotations

import subprocess
import sys

from studies.evidence.provenance import CHECKOUT

# What a worker does, and the heavy modules that it has then imported.
WORK = """
import sys, torch
from lesson import DataBunch, Net, collab_learner, load_table, net_learner, tabular_learner
from lesson.data import load_ratings
from studies import mnist, one_cycle
from torch.utils.data import TensorDataset

lines = "\\n".join(f"{i % 7},{i % 5},{1 + i % 3}" for i in range(60))
ratings = "{folder}/ratings.csv"
open(ratings, "w").write("user,item,rating\\n" + lines)
learn = collab_learner(load_ratings(ratings), 3, quiet=True)
learn.fit_one_cycle(1)
unfinished = learn.epochs(2, 1e-3)
next(unfinished)  # it ends with the program, which must not crash
rows = TensorDataset(torch.rand(8, 3), torch.arange(8) % 2)
net_learner(DataBunch(rows, rows), Net([3, 2]), quiet=True).fit(1)
table = "{folder}/table.csv"
open(table, "w").write("shop,size,sold\\n" + "\\n".join(f"s{i % 3},{i % 11},{i % 2}" for i in range(200)))
for deferred in (False, True):
    tabular_learner(load_table(table, "sold"), layers=[4], deferred=deferred, bs=50, quiet=True).fit(1)
for name in ("update", "Adam", "Adam re-created"):
    mnist.stepper(name, torch.nn.Linear(3, 2), 1e-3)(rows[:][0], rows[:][1])
print(sorted({"torch._dynamo", "scipy.stats", "statsmodels", "sklearn", "optuna"} & set(sys.modules)))
"""


def test_a_study_and_a_training_load_no_statistics_no_trees_no_search_and_not_torchs_compiler(tmp_path):
    code = WORK.replace("{folder}", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
