"""What other optimizers do with rows that missed steps: approximations of dense Adam, only for comparison.

A row was last stepped at step z. It has weights w, running mean m and mean square v, and no batch read it in the k
steps z + 1 … t. Dense Adam moves it in each of them. Let A be the product of the missed KEEPs (1 − lr·weight_decay),
and c1, c2 the bias corrections 1 − β1^step, 1 − β2^step. The rules are:

- "skip": w, m and v stay, so momentum stops and nothing decays. So do torch.optim.SparseAdam (which has no decay),
  FBGEMM's table-batched embeddings (which apply decoupled decay only to the rows that a batch reads) and TensorFlow
  Addons' LazyAdam.
- "skip momentum": w ← A·w; m and v stay. It is one half of what "skip" does.
- "skip decay": every missed step moves w by its momentum, as in dense Adam, and none decays. It is the other half of
  what "skip" does: it tells the effect of decay from that of momentum (claim 54).
- "hugectr": momentum continues, divided by the denominator of the row's last step, in closed form:

      w ← A·w − lr_t/c1_z · m·(β1 + … + β1^k) / (√v/√c2_z + eps),   m ← β1^k·m,   v ← β2^k·v

  This follows the Adam of HugeCTR's `Update_t.LazyGlobal` (`opt_adam_kernel_lazy`); HugeCTR calls it a local
  approximation of the global update. In HugeCTR even the row's own step waits until its next gradient, so until after
  the next batch has read it, and eps is added before c2. Here the own step is dense Adam's, and the missed steps are
  applied before the batch reads the row, and at the end of an epoch.
- "caffe2": m ← β1^k·m and v ← β2^k·v. The row's next step also applies the missed momentum, divided by the denominator
  that includes the new gradient, without bias corrections:

      w ← A·w − (its own step) − lr·m·(β1 + … + β1^k) / (√v' + eps),   v' after that step

  This follows caffe2's `SmartDecaySparseAdam` (`adam_compute_smart_decay`). Its own step has no bias corrections
  either; here the own step is dense Adam's. Nothing reads a row between its step and its next read, so the last term is
  kept in a plane of its own and subtracted at that read.

HugeCTR's and caffe2's Adam have no weight decay. Here they decay as dense Adam does, so that they approximate nothing
but momentum. Both assume a constant β1: here it is that of the last missed step.

None of these is as accurate as "replay" or "folded", and `Trainer` never chooses one by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..native import compiled

SKIP, SKIP_MOMENTUM, HUGECTR, CAFFE2 = RULES = range(3, 7)  # mode numbers, after those of `native`
SKIP_DECAY = 7  # runs as a replay of steps that do not decay
LOG_KEPT, LR, BETA1, C1, ROOT_C2 = range(5)
OWED = 3  # the plane of "caffe2" after w, m and v: missed momentum that the next step divides and applies


def constants(keep: np.ndarray, rate: np.ndarray, beta1: np.ndarray, beta2: float, first: int) -> np.ndarray:
    """The constants of the rules, float64[5, steps + 1]: those of step t are in column t.

    Args:
        keep: float64[steps + 1], positive except for element 0, the state before the epoch.
        rate: lr / c1 of each step, likewise.
        beta1: β1 of each step, likewise.
        beta2: decay of the mean square.
        first: how many steps were taken before column 1.
    """
    steps = first + np.arange(len(keep))
    c1, c2 = 1 - beta1**steps, 1 - beta2**steps
    return np.stack([np.append(0, np.log(keep[1:]).cumsum()), rate * c1, beta1, c1, np.sqrt(c2)])


@compiled
def catch_up(
    table: Any, width: int, rows: Any, starts: Any, unread: Any, n: int, t: int, rule: int, of: Any, beta2: float,
    eps: float,
) -> None:  # fmt: skip
    """Bring rows[:n] from the steps `starts` to the state that the rule gives them after step t.

    `unread` marks rows that no batch has ever read; `of` comes from `constants`.
    """
    if rule == SKIP:
        return
    number = table.dtype.type
    for q in range(n):
        r, z = rows[q], starts[q]
        k = t - z
        if k == 0 and rule != CAFFE2:
            continue
        keep = number(math.exp(of[LOG_KEPT, t] - of[LOG_KEPT, z]))
        if rule == SKIP_MOMENTUM or unread[q]:
            for i in range(width):
                table[r, i] *= keep
            continue
        beta1 = of[BETA1, t]
        left1, left2 = number(beta1**k), number(beta2**k)
        missed = number(beta1 * (1 - beta1**k) / (1 - beta1))
        if rule == HUGECTR:
            rate, scale = number(of[LR, t] / of[C1, z]) * missed, number(1 / of[ROOT_C2, z])
            for i in range(width):
                moved = rate * table[r, width + i] / (np.sqrt(table[r, 2 * width + i]) * scale + number(eps))
                table[r, i] = table[r, i] * keep - moved
        else:
            due = number(of[LR, z])
            for i in range(width):
                owed = table[r, OWED * width + i]
                if z > 0:  # the row was stepped in this epoch, so what it owed can be applied
                    table[r, i] -= due * owed / (np.sqrt(table[r, 2 * width + i]) + number(eps))
                    owed = number(0)
                table[r, i] *= keep
                table[r, OWED * width + i] = owed + missed * table[r, width + i]
        for i in range(width):
            table[r, width + i] *= left1
            table[r, 2 * width + i] *= left2
