"""Policies of users: loaded by name, checked, and replaced where they fail."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError
from memfs.policy.plan import plan
from memfs.policy.plugins import (
    BUILT_IN,
    ENTRY_POINT_GROUP,
    FAILURES_MAX,
    GuardedPlanner,
    check_moves,
    load_planner,
)
from memfs.policy.view import Goal, Move
from memfs.types import InodeNo, Tier
from tests.unit.test_policy import LIMITS, candidate, view

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.policy.view import Limits, TierView

HELD = candidate(1, held=True)
PINNED = candidate(2, pin=Tier.WARM, held=True)
FRESH = candidate(3, fresh=True)
LARGE = candidate(4, fresh=True, ram_bytes=5000)
WAITING = candidate(5, waiting=True)
VIEW = view(HELD, PINNED, FRESH, LARGE, WAITING)


def move(ino: int, goal: Goal, /, **changes: object) -> Move:
    plain = Move(InodeNo(ino), goal, "mine", "because", 100)
    return Move(**(plain._asdict() | changes))


def pack_all(tier_view: TierView, limits: Limits) -> list[Move]:
    """A policy of a user, as an entry point names it."""
    return [
        move(int(each.ino), Goal.PACKED)
        for each in tier_view.candidates
        if each.pin is None and not each.waiting
    ]


NOT_CALLABLE = 7


def point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        point("packer", f"{__name__}:pack_all"),
        point("gone", f"{__name__}:no_such_function"),
        point("number", f"{__name__}:NOT_CALLABLE"),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[object]:
        assert group == ENTRY_POINT_GROUP
        return [each for each in points if name is None or each.name == name]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.mark.usefixtures("installed")
def test_a_policy_by_entry_point_decides() -> None:
    """The same view in, its moves out."""
    planner = GuardedPlanner("packer", load_planner("packer"))
    assert {each.goal for each in planner.plan(VIEW, LIMITS)} == {Goal.PACKED}
    assert planner.note is None


def test_the_built_in_policy_has_a_name() -> None:
    assert load_planner(BUILT_IN) is plan


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "there are s3fifo, gone, number, packer"),
        ("gone", "AttributeError"),
        ("number", "not a function"),
    ],
)
def test_a_policy_that_cannot_be_loaded_is_refused_with_the_reason(name: str, reason: str) -> None:
    """At the mount, and not in the middle of the night."""
    with pytest.raises(InvalidValueError, match=reason):
        load_planner(name)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([move(99, Goal.COLD)], "was not shown"),
        ([move(1, Goal.COLD), move(1, Goal.PACKED)], "named twice"),
        ([move(2, Goal.COLD)], "pinned to warm"),
        ([move(4, Goal.WARM)], "exceed 1000"),
        ([move(5, Goal.COLD)], "being moved"),
        ([(1, Goal.COLD)], "not a Move"),
        (["COLD"], "not a Move"),
        ([move(1, Goal.COLD, goal=2)], "not a Goal"),
        ([move(1, Goal.COLD, rule="")], "texts"),
        ([move(1, Goal.COLD, detail="x" * 2000)], "texts"),
        ([move(1, Goal.COLD, bytes="many")], "whole numbers"),
        ([move(ino, Goal.COLD) for ino in range(300)], "more than 256"),
    ],
)
def test_nonsense_is_not_acted_on(answer: list[Move], reason: str) -> None:
    """What a policy may not do, with the reason that its author needs."""
    with pytest.raises(InvalidValueError, match=reason):
        check_moves(answer, VIEW, LIMITS)


def test_what_the_built_in_policy_answers_passes_the_check() -> None:
    """Else the check would forbid more than is wrong."""
    check_moves(plan(VIEW, LIMITS), VIEW, LIMITS)


def test_a_glacier_that_is_not_there_is_no_goal() -> None:
    with pytest.raises(InvalidValueError, match="no object store"):
        check_moves([move(1, Goal.GLACIER)], VIEW, LIMITS._replace(glacier=False))


def raising(_view: TierView, _limits: Limits) -> list[Move]:
    raise ZeroDivisionError("division by zero")


def answering_nothing(_view: TierView, _limits: Limits) -> list[Move]:
    return None  # type: ignore[return-value]  # what careless policies do


def naming_strangers(_view: TierView, _limits: Limits) -> list[Move]:
    return [move(99, Goal.COLD)]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (raising, "ZeroDivisionError: division by zero"),
        (answering_nothing, "TypeError"),
        (naming_strangers, "inode 99 was not shown"),
    ],
)
def test_the_built_in_policy_stands_in_for_one_that_fails(
    policy: Callable[[TierView, Limits], list[Move]],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No round is lost, and the log says so once and not every second."""
    planner = GuardedPlanner("mine", policy)
    with caplog.at_level(logging.WARNING):
        for _ in range(FAILURES_MAX - 1):
            assert planner.plan(VIEW, LIMITS) == plan(VIEW, LIMITS)
    assert len(caplog.records) == 1
    assert reason in str(planner.note)


def test_a_policy_that_fails_again_and_again_is_asked_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until the next mount; that is said as well."""
    asked = []

    def policy(_view: TierView, _limits: Limits) -> list[Move]:
        asked.append(1)
        raise RuntimeError("no")

    planner = GuardedPlanner("mine", policy)
    with caplog.at_level(logging.WARNING):
        for _ in range(FAILURES_MAX + 5):
            planner.plan(VIEW, LIMITS)
    assert len(asked) == FAILURES_MAX
    assert len(caplog.records) == 2
    assert "off until the next mount" in str(planner.note)
