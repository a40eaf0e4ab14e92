"""The policy as a pure function: tables of cases, and properties over all views."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.policy.goals import Step, goal_of_pin, next_step
from memfs.policy.plan import eviction_order, is_draining, make_room, plan
from memfs.policy.view import Candidate, Capacity, Goal, Limits, TierView
from memfs.types import InodeNo, Tier

NOW_NS = 10**18
DAY_NS = 86_400 * 10**9
LIMITS = Limits(
    warm=Capacity(1000, 900, 500),
    cold=Capacity(10_000, 9000, 5000),
    warm_to_cold_ns=3 * DAY_NS,
    pack_after_ns=7 * DAY_NS,
    cold_to_glacier_ns=30 * DAY_NS,
    glacier=True,
)
NO_GLACIER = LIMITS._replace(glacier=False)


def candidate(ino: int = 1, /, **changes: object) -> Candidate:
    """A raw file of 100 bytes that was used just now, with changes."""
    plain = Candidate(
        ino=InodeNo(ino),
        accessed_ns=NOW_NS,
        pin=None,
        raw=True,
        packed=False,
        remote=False,
        held=False,
        ram_bytes=100,
        local_bytes=100,
    )
    return Candidate(**(plain._asdict() | changes))


def view(*candidates: Candidate, warm: int = 0, cold: int = 0, **draining: bool) -> TierView:
    return TierView(
        NOW_NS,
        warm,
        cold,
        draining.get("warm_draining", False),
        draining.get("cold_draining", False),
        candidates,
    )


def goals(tier_view: TierView, limits: Limits = LIMITS) -> dict[int, Goal]:
    return {int(move.ino): move.goal for move in plan(tier_view, limits)}


@pytest.mark.parametrize(
    ("changes", "goal", "step"),
    [
        ({}, Goal.GLACIER, Step.UPLOAD),
        ({"remote": True}, Goal.GLACIER, Step.DROP_RAW),
        ({"remote": True, "raw": False, "packed": True}, Goal.GLACIER, Step.DROP_PACKED),
        ({"remote": True, "raw": False}, Goal.GLACIER, None),
        ({"held": True}, Goal.STORED, Step.UPLOAD),
        ({"remote": True, "held": True}, Goal.STORED, None),
        ({"held": True}, Goal.PACKED, Step.UNLOCK),
        ({}, Goal.PACKED, Step.PACK),
        ({"packable": False}, Goal.PACKED, None),
        ({"packed": True}, Goal.PACKED, Step.DROP_RAW),
        ({"packed": True, "raw": False}, Goal.PACKED, None),
        ({"remote": True, "raw": False}, Goal.PACKED, Step.HYDRATE),
        ({"held": True}, Goal.COLD, Step.UNLOCK),
        ({}, Goal.COLD, None),
        ({"remote": True, "raw": False}, Goal.LOCAL, Step.HYDRATE),
        ({}, Goal.LOCAL, None),
        ({"packed": True, "raw": False}, Goal.WARM, Step.HYDRATE),
        ({}, Goal.WARM, Step.LOCK),
        ({"held": True}, Goal.WARM, None),
    ],
)
def test_the_next_step_leads_to_the_goal(
    changes: dict[str, object], goal: Goal, step: Step | None
) -> None:
    """A source form is dropped only when the wanted one is there."""
    assert next_step(candidate(**changes), goal) == step


@pytest.mark.parametrize(
    ("idle_days", "changes", "limits", "goal"),
    [
        (1, {"held": True}, LIMITS, None),
        (4, {"held": True}, LIMITS, Goal.COLD),
        (4, {}, LIMITS, None),
        (8, {}, LIMITS, Goal.PACKED),
        (8, {"packable": False}, LIMITS, None),
        (31, {}, LIMITS, Goal.GLACIER),
        (31, {}, NO_GLACIER, Goal.PACKED),
        (31, {"raw": False, "remote": True}, LIMITS, None),
        (31, {"open": True}, LIMITS, None),
        (31, {"waiting": True}, LIMITS, None),
        (31, {"store_waits": True}, LIMITS, Goal.PACKED),
        (31, {"pin": Tier.WARM, "held": True}, LIMITS, None),
        (31, {"pin": Tier.COLD, "packed": True, "raw": False}, LIMITS, None),
    ],
)
def test_unused_files_move_by_age(
    idle_days: int, changes: dict[str, object], limits: Limits, goal: Goal | None
) -> None:
    """The age limits, and what is above them."""
    idle = candidate(accessed_ns=NOW_NS - idle_days * DAY_NS, **changes)
    assert goals(view(idle), limits).get(1) == goal


@pytest.mark.parametrize(
    ("pin", "changes", "goal"),
    [
        (Tier.WARM, {}, Goal.WARM),
        (Tier.WARM, {"held": True}, None),
        (Tier.COLD, {"held": True}, Goal.PACKED),
        (Tier.GLACIER, {}, Goal.GLACIER),
        (Tier.GLACIER, {"raw": False, "remote": True}, None),
        (Tier.GLACIER, {"waiting": True}, None),
        (Tier.GLACIER, {"store_waits": True}, None),
        (Tier.WARM, {"store_waits": True}, Goal.WARM),
        (Tier.GLACIER, {"open": True}, Goal.GLACIER),
    ],
)
def test_a_pinned_file_goes_where_its_pin_says(
    pin: Tier, changes: dict[str, object], goal: Goal | None
) -> None:
    """An open one is tried, so that its reader is named as the reason."""
    assert goals(view(candidate(pin=pin, **changes))).get(1) == goal


def test_a_pin_to_a_tier_that_is_not_there_asks_for_the_next_one() -> None:
    """A configuration that lost a tier leaves the files on the disk."""
    assert goal_of_pin(Tier.GLACIER, NO_GLACIER) == Goal.PACKED
    assert goal_of_pin(Tier.WARM, LIMITS._replace(ram=False)) == Goal.LOCAL


def test_fresh_files_are_admitted_as_far_as_the_capacity_reaches() -> None:
    """New data is warm while there is room."""
    fresh = [candidate(ino, fresh=True) for ino in range(1, 5)]
    assert list(goals(view(*fresh, warm=750))) == [1, 2]


def test_the_longest_unused_leave_ram_first() -> None:
    """Down to the low watermark and no further."""
    held = [candidate(ino, held=True, accessed_ns=NOW_NS - ino) for ino in range(1, 10)]
    planned = goals(view(*held, warm=900, warm_draining=True))
    assert planned == dict.fromkeys([9, 8, 7, 6], Goal.COLD)


def test_a_tier_between_its_watermarks_is_left_alone() -> None:
    """Hysteresis: what was not filled beyond high is not emptied."""
    held = [candidate(ino, held=True) for ino in range(1, 9)]
    assert goals(view(*held, warm=800)) == {}


@pytest.mark.parametrize(("limits", "goal"), [(LIMITS, Goal.GLACIER), (NO_GLACIER, Goal.PACKED)])
def test_a_full_disk_sends_files_away(limits: Limits, goal: Goal) -> None:
    """To the next tier that there is; never open or pinned files."""
    local_bytes = 2000
    files = [
        candidate(1, local_bytes=local_bytes, accessed_ns=NOW_NS - 5),
        candidate(2, local_bytes=local_bytes, accessed_ns=NOW_NS - 4, open=True),
        candidate(3, local_bytes=local_bytes, accessed_ns=NOW_NS - 3, pin=Tier.WARM, held=True),
        candidate(4, local_bytes=local_bytes, accessed_ns=NOW_NS - 2, held=True),
        candidate(5, local_bytes=local_bytes, accessed_ns=NOW_NS - 1),
    ]
    planned = goals(view(*files, cold=9000, cold_draining=True), limits)
    assert planned == {1: goal, 4: goal}


def test_a_full_disk_packs_what_the_store_does_not_take_now() -> None:
    """Its upload has failed, and is tried again later."""
    files = [candidate(1, local_bytes=5000, store_waits=True), candidate(2, local_bytes=100)]
    assert goals(view(*files, cold=9000, cold_draining=True))[1] == Goal.PACKED


@pytest.mark.parametrize(
    ("draining", "used_bytes", "expected"),
    [
        (False, 900, False),
        (False, 901, True),
        (True, 501, True),
        (True, 500, False),
        (False, 501, False),
    ],
)
def test_draining_begins_above_high_and_ends_at_low(
    draining: bool, used_bytes: int, expected: bool
) -> None:
    """Hysteresis."""
    assert is_draining(draining, used_bytes, LIMITS.warm) is expected


def test_watermarks_in_the_wrong_order_do_not_drain_for_ever() -> None:
    """A low watermark above the high one counts as the high one."""
    assert Capacity.of(100, 0.5, 0.9) == Capacity(100, 50, 50)


def test_room_is_made_by_the_longest_unused_unpinned_files() -> None:
    """And not at all if they are not enough."""
    held = [candidate(ino, held=True, accessed_ns=NOW_NS - ino) for ino in (1, 2, 3)]
    held.append(candidate(4, held=True, accessed_ns=0, pin=Tier.WARM))
    assert [c.ino for c in make_room(held, 150, {""})] == [3, 2]
    assert make_room(held, 301, {""}) == []
    assert make_room(held, 1, {"team"}) == []


tiers = st.sampled_from([None, None, Tier.GLACIER, Tier.COLD, Tier.WARM])
sizes = st.integers(0, 400)


@st.composite
def candidates(draw: st.DrawFn, ino: int) -> Candidate:
    raw, packed, remote = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    raw = raw or not (packed or remote)
    return Candidate(
        ino=InodeNo(ino),
        accessed_ns=NOW_NS - draw(st.integers(0, 40)) * DAY_NS,
        pin=draw(tiers),
        raw=raw,
        packed=packed,
        remote=remote,
        held=raw and draw(st.booleans()),
        ram_bytes=draw(sizes),
        local_bytes=draw(sizes) if raw or packed else 0,
        packable=draw(st.booleans()),
        fresh=draw(st.booleans()),
        open=draw(st.booleans()),
        waiting=draw(st.booleans()),
    )


@st.composite
def views(draw: st.DrawFn) -> TierView:
    count = draw(st.integers(0, 12))
    found = [draw(candidates(ino)) for ino in range(1, count + 1)]
    return TierView(
        NOW_NS,
        draw(st.integers(0, 1000)),
        draw(st.integers(0, 12_000)),
        draw(st.booleans()),
        draw(st.booleans()),
        found,
    )


@given(views())
def test_admissions_never_exceed_the_capacity(tier_view: TierView) -> None:
    """What is not pinned is admitted within the bytes that are free."""
    moves = [move for move in plan(tier_view, LIMITS) if move.rule == "seal"]
    planned_bytes = sum(move.bytes for move in moves)
    assert not moves or tier_view.warm_used_bytes + planned_bytes <= LIMITS.warm.size_bytes


@given(views())
def test_the_plan_is_the_same_for_the_same_view(tier_view: TierView) -> None:
    """Deterministic; the order of the candidates decides nothing about demotion."""
    assert plan(tier_view, LIMITS) == plan(tier_view, LIMITS)
    backwards = tier_view._replace(candidates=list(reversed(tier_view.candidates)))
    demotions = {m for m in plan(tier_view, LIMITS) if m.rule in ("age", "watermark", "pin")}
    assert demotions == {
        m for m in plan(backwards, LIMITS) if m.rule in ("age", "watermark", "pin")
    } or any(c.fresh for c in tier_view.candidates)


@given(views())
def test_pins_and_waiting_files_are_respected(tier_view: TierView) -> None:
    """Pinned and open files move by their pin only, waiting ones not at all."""
    by_ino = {c.ino: c for c in tier_view.candidates}
    moves = plan(tier_view, LIMITS)
    assert len({move.ino for move in moves}) == len(moves)
    for move in moves:
        found = by_ino[move.ino]
        assert not found.waiting
        assert next_step(found, move.goal) is not None
        assert (move.rule == "pin") == (found.pin is not None)
        if found.pin is not None:
            assert move.goal == goal_of_pin(found.pin, LIMITS)
        elif found.open:
            assert move.goal in (Goal.WARM, Goal.COLD)


@given(views())
def test_draining_goes_to_the_low_watermark_and_no_further(tier_view: TierView) -> None:
    """One victim less would not be enough."""
    moves = plan(tier_view, LIMITS)
    victims = [m for m in moves if m.rule == "watermark" and m.goal == Goal.COLD]
    if victims:
        left_bytes = tier_view.warm_used_bytes - sum(m.bytes for m in victims[:-1])
        assert tier_view.warm_draining
        assert left_bytes > LIMITS.warm.low_bytes


@given(views())
def test_a_tier_that_is_not_draining_is_not_drained(tier_view: TierView) -> None:
    """Below the high watermark nothing is moved for the sake of room."""
    calm = tier_view._replace(warm_draining=False, cold_draining=False)
    assert all(move.rule != "watermark" for move in plan(calm, LIMITS))


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 10)), unique_by=lambda pair: pair[0]))
def test_the_order_is_oldest_access_first(pairs: list[tuple[int, int]]) -> None:
    """Equal times go by number, so that the order is one."""
    ordered = eviction_order(candidate(ino, accessed_ns=at) for ino, at in pairs)
    assert [(c.accessed_ns, c.ino) for c in ordered] == sorted((at, ino) for ino, at in pairs)
