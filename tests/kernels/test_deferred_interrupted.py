"""An exception such as Ctrl-C at any line of a deferred step, lookup or flush leaves the state before or after it."""

import copy
import linecache
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kernels import DeferredAdamW, DeferredEmbedding
from kernels.deferred import optimizers, rows

OURS = str(Path(optimizers.__file__).parent)
# The other files are the same for both backends, and Triton's interpreter is slow.
PLACES = {"native": OURS, "triton": str(Path(rows.__file__))}
EVERY = {"native": 1, "triton": 3}  # lines
ROWS, BEFORE, AFTER = 6, 30, 1


@contextmanager
def interrupted(at, place):
    """Raise KeyboardInterrupt at the `at`-th line that is run of a file, or of the files of a folder."""
    lines = [0]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(place):
            return None
        # The tracer counts leaving a `with`, before __exit__, as a line: Python handles no signal there.
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith(
            "with"
        ):
            lines[0] += 1
            if lines[0] == at:
                raise KeyboardInterrupt
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(earlier)


class Training:
    """A table that is read by turns: row 5 never, row 4 in the first steps, row 0 at every step."""

    def __init__(self, mode, backend, state=None):
        weight = torch.linspace(1, 2, ROWS * 2, dtype=torch.float64).view(ROWS, 2)
        self.table = DeferredEmbedding.from_pretrained(weight, freeze=False)
        # With this eps nothing is folded, which would take too long in Triton's interpreter.
        self.optimizer = DeferredAdamW(
            self.table.parameters(), 0.1, (0.5, 0.999), weight_decay=0.5, mode=mode, backend=backend
        )
        self.step_number = 0
        if state is not None:
            self.table.load_state_dict(state[0])
            self.optimizer.load_state_dict(state[1])
            self.step_number = state[2]

    def gradient(self):
        number = self.step_number
        self.step_number += 1
        ids = torch.tensor([0, 1 + number % 3] if number > 4 else [0, 4])
        self.optimizer.zero_grad()
        (self.table(ids) * (number % 5 - 1.5)).sum().backward()

    def steps(self, n):
        for _ in range(n):
            self.gradient()
            self.optimizer.step()
        return self

    def state(self):
        return self.table.state_dict(), self.optimizer.state_dict(), self.step_number

    def end(self):
        self.steps(AFTER)
        state = self.optimizer.state_dict()["state"][0]
        return torch.cat([self.table.weight.detach().flatten(), *(value.flatten() for value in state.values())])


@pytest.fixture(scope="module")
def checkpoints():
    return {mode: Training(mode, "native").steps(BEFORE).state() for mode in ("folded", "replay")}


def begun(checkpoints, mode, backend):
    state, optimizer, number = copy.deepcopy(checkpoints[mode])
    optimizer = optimizer | {"param_groups": [group | {"backend": backend} for group in optimizer["param_groups"]]}
    # The record has steps on it, which an exception could lose.
    return Training(mode, backend, (state, optimizer, number)).steps(1)


@pytest.mark.parametrize(("mode", "backend"), [("folded", "native"), ("replay", "native"), ("folded", "triton")])
def test_an_interrupted_step_was_taken_completely_or_not_at_all(checkpoints, mode, backend):
    if backend == "triton":
        pytest.importorskip("triton")

    def after(taken):
        training = begun(checkpoints, mode, backend)
        training.gradient()
        if taken:
            training.optimizer.step()
        return training.end()

    taken, missed = after(True), after(False)
    assert not torch.allclose(taken, missed)
    seen = set()
    at, over = 0, False
    while not over:
        at += EVERY[backend]
        training = begun(checkpoints, mode, backend)
        training.gradient()
        try:
            with interrupted(at, PLACES[backend]):
                training.optimizer.step()
            over = True
        except KeyboardInterrupt:
            pass
        end = training.end()
        which = [torch.allclose(end, one, rtol=0, atol=1e-6) for one in (taken, missed)]
        assert sum(which) == 1, f"at line {at}"
        seen.add(which[0])
    assert at > 20
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("what", "backend"),
    [*((what, "native") for what in ("flush", "lookup", "dense step", "state")), ("flush", "triton")],
)
def test_other_interrupted_calls_apply_only_whole_steps(checkpoints, what, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    expected, at, over = None, 0, False

    def do(training):
        if what == "flush":
            training.optimizer.flush()
        elif what == "lookup":
            training.table(torch.arange(ROWS))
        elif what == "state":
            training.optimizer.state_dict()
        else:
            training.optimizer.step()

    def prepared():
        training = begun(checkpoints, "folded", backend)
        if what == "dense step":
            training.table.weight.grad = torch.ones(ROWS, 2, dtype=torch.float64)
        return training

    training = prepared()
    expected = [training.end()]
    training = prepared()
    do(training)
    expected.append(training.end())
    while not over:
        at += EVERY[backend]
        training = prepared()
        try:
            with interrupted(at, PLACES[backend]):
                do(training)
            over = True
        except KeyboardInterrupt:
            pass
        end = training.end()
        assert any(torch.allclose(end, one, rtol=0, atol=1e-6) for one in expected), f"at line {at}"
    assert at > 3


def test_threads_that_read_rows_at_once_get_the_rows_of_one_thread():
    def trained():
        torch.manual_seed(0)
        table = DeferredEmbedding(4000, 32)
        optimizer = DeferredAdamW(table.parameters(), lr=1e-2, mode="replay")
        for step in range(40):
            optimizer.zero_grad()
            table(torch.arange(4000) if step < 3 else torch.arange(3)).square().sum().backward()
            optimizer.step()
        return table

    expected = trained().weight.detach().clone()
    for reads in (lambda table: table(torch.arange(4000)), lambda table: table.weight.clone()):
        table, found, barrier = trained(), [None] * 4, threading.Barrier(4)

        def look(number, table=table, found=found, barrier=barrier, reads=reads):
            barrier.wait()
            with torch.no_grad():
                found[number] = reads(table).clone()

        threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seen in [*found, table.weight.detach()]:
            assert torch.equal(seen, expected)
