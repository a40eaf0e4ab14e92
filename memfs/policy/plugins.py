"""Plug-ins: policies of users, by entry point, and the guard that runs them.

Invariant: whatever a plug-in does, a round gets a plan that keeps to pins and capacities.

A package gives its policy to memfs in its `pyproject.toml`:

    [project.entry-points."memfs.policies"]
    frugal = "frugal_policy:plan"

and `[policy] name = "frugal"` puts it in charge. It is a function from a view to moves:

    from memfs.policy.goals import next_step
    from memfs.policy.plan import plan as built_in
    from memfs.policy.view import Goal, Limits, Move, TierView

    def plan(view: TierView, limits: Limits) -> list[Move]:
        '''Pack what nobody used today; leave the rest to the built-in policy.'''
        moves = {move.ino: move for move in built_in(view, limits)}
        for file in view.candidates:
            idle_ns = view.now_ns - file.accessed_ns
            may_move = file.pin is None and not file.waiting and not file.open
            if may_move and idle_ns > 86400 * 10**9 and next_step(file, Goal.PACKED) is not None:
                moves[file.ino] = Move(
                    file.ino, Goal.PACKED, "frugal", "not used for a day", file.local_bytes
                )
        return list(moves.values())
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

from memfs.errors import InvalidValueError
from memfs.policy.goals import goal_of_pin
from memfs.policy.plan import plan
from memfs.policy.view import Candidate, Goal, Limits, Move, TierView

log = logging.getLogger(__name__)

Planner = Callable[[TierView, Limits], Sequence[Move]]
"""A policy: no I/O, no clock; it is called several times a second, so milliseconds count."""

ENTRY_POINT_GROUP = "memfs.policies"

BUILT_IN = "s3fifo"
"""Name of the policy of memfs itself."""

FAILURES_MAX = 10
"""A policy that failed so often is not asked again until the daemon starts anew."""

_RULE_CHARACTERS_MAX = 64
_DETAIL_CHARACTERS_MAX = 1000


def load_planner(name: str) -> Planner:
    """Return the policy of a name.

    Raises:
        InvalidValueError: There is nothing of the kind, or it cannot be loaded.
    """
    if name == BUILT_IN:
        return plan
    # Imported here: 20 ms, for which only those who use another policy should wait.
    from importlib.metadata import entry_points

    points = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not points:
        known = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})
        raise InvalidValueError(
            f"no policy is named {name!r}; there are {', '.join([BUILT_IN, *known])}"
        )
    point = next(iter(points))
    try:
        planner = point.load()
    except Exception as error:
        raise InvalidValueError(
            f"policy {name!r} cannot be loaded from its entry point {point.value!r}: "
            f"{type(error).__name__}: {error}; repair or remove the package that provides it"
        ) from error
    if not callable(planner):
        raise InvalidValueError(f"policy {name!r}: {point.value} is not a function")
    return cast("Planner", planner)


class GuardedPlanner:
    """Runs a policy, and the built-in one in its place where it fails.

    Args:
        name: As configured.
        planner: From `load_planner`.
    """

    def __init__(self, name: str = BUILT_IN, planner: Planner = plan) -> None:
        self.name = name
        self.failure: str | None = None
        """What the policy did wrong last; None: nothing so far."""
        self._planner = planner
        self._failure_count = 0

    @property
    def note(self) -> str | None:
        """One sentence for the status; None while the configured policy works."""
        if self.failure is None:
            return None
        if self._failure_count >= FAILURES_MAX:
            return (
                f"policy {self.name} failed {self._failure_count} times and is off until the "
                f"next mount; the built-in one is in charge: {self.failure}"
            )
        return f"policy {self.name} failed, and the built-in one stood in: {self.failure}"

    def plan(self, view: TierView, limits: Limits) -> list[Move]:
        """Return the moves of the policy, or of the built-in one where it failed."""
        if self._planner is plan or self._failure_count >= FAILURES_MAX:
            return plan(view, limits)
        try:
            moves = list(self._planner(view, limits))
            check_moves(moves, view, limits)
        except Exception as error:
            self._fail(error)
            return plan(view, limits)
        return moves

    def _fail(self, error: Exception) -> None:
        kind = "" if isinstance(error, InvalidValueError) else f"{type(error).__name__}: "
        first = self.failure is None
        self._failure_count += 1
        self.failure = f"{kind}{error}"[:_DETAIL_CHARACTERS_MAX]
        if first or self._failure_count == FAILURES_MAX:
            log.warning("%s", self.note)


def check_moves(moves: Sequence[Move], view: TierView, limits: Limits) -> None:
    """Check what a policy answered.

    Raises:
        InvalidValueError: It is no list of moves, names files that were not shown, twice or while
            they are being moved, contradicts a pin, or asks for more than there is.
    """
    if len(moves) > limits.move_count_max:
        raise InvalidValueError(f"{len(moves)} moves are more than {limits.move_count_max}")
    shown = {candidate.ino: candidate for candidate in view.candidates}
    seen = set()
    added_bytes: dict[str, int] = {}
    for move in moves:
        _check_shape(move)
        candidate = shown.get(move.ino)
        if candidate is None or move.ino in seen:
            how = "was not shown" if candidate is None else "is named twice"
            raise InvalidValueError(f"inode {move.ino} {how}")
        seen.add(move.ino)
        _check_goal(move, candidate, limits)
        if move.goal == Goal.WARM and not candidate.held and candidate.pin is None:
            pool_name = candidate.pool if candidate.pool in view.pools else ""
            added_bytes[pool_name] = added_bytes.get(pool_name, 0) + candidate.ram_bytes
    for pool_name, added in added_bytes.items():
        pool = view.pools.get(pool_name)
        capacity = pool.capacity if pool is not None else limits.warm
        used_bytes = pool.used_bytes if pool is not None else view.warm_used_bytes
        if used_bytes + added > capacity.size_bytes:
            raise InvalidValueError(
                f"{added} bytes more than the {used_bytes} in RAM exceed {capacity.size_bytes}"
            )


def _check_shape(move: object) -> None:
    if not isinstance(move, Move):
        raise InvalidValueError(f"{type(move).__name__} is not a Move")
    if not isinstance(move.goal, Goal):
        raise InvalidValueError(f"{move.goal!r} is not a Goal")
    texts = ((move.rule, _RULE_CHARACTERS_MAX), (move.detail, _DETAIL_CHARACTERS_MAX))
    for text, characters_max in texts:
        if not isinstance(text, str) or not 0 < len(text) <= characters_max:
            raise InvalidValueError(f"rule and detail are texts of up to {characters_max}")
    if not all(isinstance(number, int) for number in (move.ino, move.bytes, move.priority)):
        raise InvalidValueError("ino, bytes and priority are whole numbers")


def _check_goal(move: Move, candidate: Candidate, limits: Limits) -> None:
    if candidate.waiting:
        raise InvalidValueError(f"inode {move.ino} is being moved, or waits for its next attempt")
    if candidate.pin is not None and move.goal != goal_of_pin(candidate.pin, limits):
        raise InvalidValueError(f"inode {move.ino} is pinned to {candidate.pin.label}")
    if move.goal in (Goal.GLACIER, Goal.STORED) and not limits.glacier:
        raise InvalidValueError(f"inode {move.ino}: there is no object store")
