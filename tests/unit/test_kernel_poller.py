"""How long the serving thread looks for the next request, on a clock of the test."""

from __future__ import annotations

import pytest

from memfs_daemon.kernel.poller import (
    CALM_S,
    LOOK_S_MAX,
    LOOK_S_MIN,
    PAUSE_MS,
    PREEMPTED_S,
    AdaptivePoller,
)

LOOK_S = 1e-6


class Program:
    """Asks some time after its last answer; `looks` are what the thread did meanwhile.

    Args:
        delay_s: Until the next request; None: it never asks.
        slice_s: What others take of the processor at every 10th look.
    """

    def __init__(self, delay_s: float | None, slice_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.delay_s = delay_s
        self.slice_s = slice_s
        self.look_count = self.sleep_count = 0
        self._asks_s = 0.0
        self.poller = AdaptivePoller(self._wait, lambda: self.now_s)

    def ask(self, *, may_sleep: bool = True) -> bool:
        """Let the thread wait once."""
        self._asks_s = self.now_s + self.delay_s if self.delay_s is not None else float("inf")
        self.look_count = self.sleep_count = 0
        return self.poller.find_next(may_sleep=may_sleep)

    def _wait(self, wait_ms: int) -> bool:
        if not wait_ms:
            self.look_count += 1
            self.now_s += LOOK_S
            if self.look_count % 10 == 0:
                self.now_s += self.slice_s
            return self.now_s >= self._asks_s
        self.sleep_count += 1
        assert wait_ms == PAUSE_MS
        end_s = self.now_s + wait_ms / 1000
        self.now_s = min(end_s, max(self.now_s, self._asks_s))
        return self.now_s >= self._asks_s


def test_a_program_that_asks_again_at_once_is_looked_for() -> None:
    """After a few sleeps, which taught that it does."""
    program = Program(90e-6)
    slept = [program.ask() and program.sleep_count for _ in range(10)]
    assert slept == [1, 1, 1, *[0] * 7]
    assert program.poller.look_s <= LOOK_S_MAX


def test_a_program_that_takes_its_time_is_slept_for() -> None:
    """Looking would take the processor from it."""
    program = Program(90e-6)
    for _ in range(10):
        program.ask()
    program.delay_s = 500e-6
    for _ in range(10):
        assert program.ask()
    assert program.sleep_count == 1
    program.delay_s = None
    for _ in range(5):
        assert not program.ask()
    assert program.poller.look_s == 0.0
    assert program.look_count == 1


def test_nothing_is_looked_for_where_others_need_the_processor() -> None:
    """The time that a look took tells; it is tried again later."""
    program = Program(90e-6, slice_s=3e-3)
    for _ in range(5):
        program.ask()
    assert program.poller.look_s == 0.0
    program.slice_s = 0.0
    program.ask()
    assert program.look_count == 1
    program.now_s += CALM_S
    program.ask()
    assert program.poller.look_s == LOOK_S_MIN


@pytest.mark.parametrize("asks", [False, True])
def test_the_thread_does_not_sleep_while_trio_has_work(asks: bool) -> None:
    """Its tasks would wait."""
    program = Program(0.0 if asks else None)
    assert program.ask(may_sleep=False) is asks
    assert program.sleep_count == 0


def test_a_short_pause_is_no_preemption() -> None:
    """An interrupt takes some microseconds, and an idle machine would be taken for a busy one."""
    program = Program(150e-6, slice_s=PREEMPTED_S / 2)
    for _ in range(10):
        program.ask()
    assert program.sleep_count == 0
