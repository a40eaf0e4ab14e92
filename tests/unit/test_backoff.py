"""Back-off."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from memfs.backoff import JITTER, Backoff, CircuitBreaker, pause_after

if TYPE_CHECKING:
    from trio.testing import MockClock


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [pause_after(count, 0.5, 6.0) for count in range(1, 8)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 6.0, 6.0, 6.0]
    assert pause_after(100_000, 0.5, 6.0) == 6.0


def test_jitter_stays_within_its_bounds_and_differs() -> None:
    rng = random.Random(1)
    pauses = [pause_after(1, 10.0, 60.0, rng) for _ in range(200)]
    assert all(10.0 * (1 - JITTER) <= pause <= 10.0 for pause in pauses)
    assert len(set(pauses)) > 100


async def test_the_next_attempt_is_due_when_the_pause_is_over(mock_clock: MockClock) -> None:
    backoff = Backoff(2.0, 10.0)
    assert backoff.wait_s == 0.0
    assert backoff.fail() == 2.0
    mock_clock.jump(1.5)
    assert backoff.wait_s == pytest.approx(0.5)
    mock_clock.jump(1.0)
    assert backoff.wait_s == 0.0
    assert backoff.fail() == 4.0


async def test_after_a_reset_it_begins_anew(mock_clock: MockClock) -> None:
    backoff = Backoff(2.0, 10.0)
    for _ in range(5):
        backoff.fail()
    backoff.reset()
    assert backoff.wait_s == 0.0
    mock_clock.jump(0.1)
    assert backoff.fail() == 2.0


async def test_what_was_under_way_when_a_breaker_opened_makes_no_pause_longer(
    mock_clock: MockClock,
) -> None:
    breaker = CircuitBreaker(2.0, 60.0, random.Random(1))
    for _ in range(10):
        breaker.fail("it is down")
    assert 0.0 < breaker.wait_s <= 2.0
    assert breaker.reason == "it is down"
    mock_clock.jump(2.0)
    assert breaker.wait_s == 0.0
    breaker.fail("it is down")
    assert 4.0 * (1 - JITTER) <= breaker.wait_s <= 4.0
    breaker.succeed()
    assert breaker.wait_s == 0.0
    assert breaker.reason is None
