import threading

import numba
import numpy as np
import pytest
import torch

from kernels import threads
from kernels.instructions import flush_denormals, increment, restore
from kernels.threads import in_threads, shares, team
from kernels.trainer.meeting import close_door, join, let_in, meet, meeting, separated, separates_after, wants_to_join


@numba.njit(nogil=True)
def halved(x):
    return x[0] * np.float32(0.5)


@pytest.fixture
def smallest():
    """The smallest normal number."""
    found = bool(halved(np.full(1, np.finfo(np.float32).smallest_normal)) == 0)
    yield np.full(1, np.finfo(np.float32).smallest_normal)
    torch.set_flush_denormal(found)


@numba.njit(nogil=True)
def halved_while_flushing(x):
    before = flush_denormals()
    flushed = halved(x)
    restore(before)
    return flushed, halved(x)


@pytest.mark.parametrize("flushing", [True, False])
def test_restore_undoes_flush_denormals(smallest, flushing):
    torch.set_flush_denormal(flushing)
    flushed, then = halved_while_flushing(smallest)
    assert flushed == 0
    assert (then == 0) == flushing


@numba.njit(nogil=True)
def sign(numbers, nested):
    (table,) = nested
    thread, n = team()
    for row in range(table.shape[0] * thread // n, table.shape[0] * (thread + 1) // n):
        table[row] += 1
    numbers[thread] = n


@pytest.mark.parametrize("n", [1, 2, 3])
def test_threads_divide_a_table_and_get_their_number_and_count(n):
    for rows in (0, 1, 1000):
        numbers, table = np.zeros(4, np.int64), np.zeros((rows, 2))
        in_threads(n, sign, numbers, (table,))
        team = np.count_nonzero(numbers)
        assert 1 <= team <= n
        assert (numbers[:team] == team).all()
        assert (table == 1).all()
    if threads.OPENMP:
        assert team == n


@numba.njit(nogil=True)
def add_up(written, count, total):
    thread, n = team()
    written[thread] = 1
    if increment(count.ctypes.data) == n - 1:
        total[0] = written.sum()


def test_the_last_thread_to_increment_sees_what_all_others_wrote():
    for _ in range(200):
        written, count, total = np.zeros(8), np.zeros(1, np.int32), np.zeros(1)
        in_threads(3, add_up, written, count, total)
        assert total[0] == count[0] >= 1


def test_without_openmp_one_thread_does_everything(monkeypatch):
    monkeypatch.setattr(threads, "OPENMP", False)
    assert threads.threads() == 1
    numbers, table = np.zeros(4, np.int64), np.zeros((10, 2))
    in_threads(2, sign, numbers, (table,))
    assert numbers.tolist() == [1, 0, 0, 0]
    assert (table == 1).all()


def test_a_forked_process_has_one_thread(monkeypatch):
    assert threads.threads() == (torch.get_num_threads() if threads.OPENMP else 1)
    monkeypatch.setattr("os.getpid", lambda: threads.PROCESS + 1)
    assert threads.threads() == 1


def test_a_small_table_uses_one_thread():
    assert shares(np.zeros((10, 4))) == 1
    assert shares(np.zeros((10 * threads.SHARE, 1), np.uint8)) == threads.threads()


def test_the_first_thread_is_alone_until_it_lets_the_second_in_and_further_ones_are_turned_away():
    place = meeting()
    assert join(place) == (0, 1)
    assert not wants_to_join(place)
    admitted = []
    second = threading.Thread(target=lambda: admitted.append(join(place)))
    second.start()
    while not wants_to_join(place):
        pass
    assert not close_door(place)
    let_in(place, 7)
    second.join()
    assert admitted == [(1, 7)]
    assert not wants_to_join(place)
    assert join(place) == (1, 0)


def test_a_second_thread_that_comes_after_the_end_is_turned_away():
    place = meeting()
    join(place)
    assert close_door(place)
    assert join(place) == (1, 0)


@numba.njit(nogil=True)
def walk(place, thread, steps, slow_from, slow_by, written, wrong):
    """Like an epoch: two meetings per step. Each thread writes, and reads what the other wrote before the meeting."""
    since = 0
    for t in range(1, steps + 1):
        written[thread, t % 2] = t
        since = meet(place, thread, t, since)
        wrong[thread] += written[1 - thread, t % 2] != t
        if thread == 1 and t >= slow_from:
            x = 1.0
            for k in range(slow_by):
                x = np.sqrt(x + k)
            written[1, 0] += 0 * int(x)
        since = meet(place, thread, t, since)
        if separates_after(place, t):
            return t
    return steps


def both_walk(steps, slow_from, slow_by):
    place, written, wrong, last = meeting(), np.zeros((2, 2), np.int64), np.zeros(2, np.int64), {}

    def go(thread):
        last[thread] = walk(place, thread, steps, slow_from, slow_by, written, wrong)

    walk(meeting(), 0, 0, 0, 0, written, wrong)  # compiled before anybody waits
    pair = [threading.Thread(target=go, args=(thread,)) for thread in (0, 1)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    assert not wrong.any()
    return last[0], last[1], separated(place)


def test_threads_that_meet_see_what_the_other_wrote():
    first, second, _ = both_walk(20_000, 20_001, 0)
    assert first == second


def test_a_thread_that_often_waits_long_separates_and_both_stop_at_the_same_step():
    for _ in range(50):  # on a busy machine both threads may be slow, and then neither waits
        first, second, early = both_walk(300, 50, 1_000_000)
        assert first == second
        if first < 300:
            break
    assert first < 300
    assert early


@numba.njit(nogil=True)
def ask_for(size, flags):
    flags[team()[0]] = np.empty(size, np.uint8).size


@pytest.mark.parametrize("n", [1, 2])
def test_a_thread_without_memory_is_an_error(n):
    in_threads(n, ask_for, 10, np.zeros(2, np.int64))
    with pytest.raises(MemoryError):
        in_threads(n, ask_for, 1 << 60, np.zeros(2, np.int64))
