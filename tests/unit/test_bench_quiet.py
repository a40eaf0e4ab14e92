"""Unit tests of how the benchmark waits for its servers."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.bench import quiet
from tests.waiting import join


def test_processor_time_of_a_busy_process_grows() -> None:
    """Else every server would seem to rest."""
    before_ns = quiet.processor_ns([os.getpid()])
    begin_ns = time.process_time_ns()
    while time.process_time_ns() - begin_ns < 5_000_000:
        pass
    assert quiet.processor_ns([os.getpid()]) - before_ns >= 4_000_000


def test_process_that_has_ended_counts_as_resting() -> None:
    """A server may end while it is watched."""
    assert quiet.processor_ns([2**22 + 1]) == 0


def test_waits_while_a_server_computes_and_no_longer() -> None:
    """Two busy windows, then a quiet one."""
    now_s = 0.0
    used_ns = iter([0, 20_000_000, 40_000_000, 41_000_000, 99_000_000])

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    quiet.await_rest([1], lambda _pids: next(used_ns), lambda: now_s, sleep)
    assert now_s == pytest.approx(3 * quiet.WINDOW_S)


def test_gives_up_on_a_server_that_never_rests() -> None:
    """A peer that spins must not stop the run."""
    now_s = 0.0

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    quiet.await_rest([1], lambda _pids: round(now_s * 1e9), lambda: now_s, sleep)
    assert quiet.WAIT_S_MAX <= now_s < quiet.WAIT_S_MAX + 2 * quiet.WINDOW_S


def test_the_time_of_threads_that_have_ended_counts() -> None:
    """Else a sample in which a worker thread ends would have less than no time."""

    def work() -> None:
        begin_ns = time.thread_time_ns()
        while time.thread_time_ns() - begin_ns < 20_000_000:
            pass

    before_ns = quiet.processor_ns([os.getpid()])
    thread = threading.Thread(target=work)
    thread.start()
    join(thread)
    assert quiet.processor_ns([os.getpid()]) - before_ns >= 20_000_000
