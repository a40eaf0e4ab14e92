"""Goals: the moves that lead a file to where it is to be.

Invariant: a step that drops a form comes only when the wanted one is there.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from memfs.policy.view import Goal
from memfs.types import Tier

if TYPE_CHECKING:
    from memfs.policy.view import Candidate, Limits


class Step(enum.Enum):
    """One move on the way to a goal."""

    HYDRATE = "hydrate"
    LOCK = "lock"
    UNLOCK = "unlock"
    PACK = "pack"
    UPLOAD = "upload"
    DROP_RAW = "drop_raw"
    DROP_PACKED = "drop_packed"


def goal_of_pin(pin: Tier, limits: Limits) -> Goal:
    """Return what a pin asks for, within the configured tiers.

    The hot tier loads from the raw file by itself, and takes no RAM for that.
    """
    if pin == Tier.HOT:
        return Goal.LOCAL
    if pin >= Tier.WARM:
        return Goal.WARM if limits.ram else Goal.LOCAL
    if pin == Tier.GLACIER and limits.glacier:
        return Goal.GLACIER
    return Goal.PACKED


def drops_last_copy(step: Step, candidate: Candidate) -> bool:
    """Return whether a step lets the last local copy of a file go: the store is asked first."""
    if step == Step.DROP_RAW:
        return not candidate.packed
    return step == Step.DROP_PACKED and not candidate.raw


def next_step(candidate: Candidate, goal: Goal) -> Step | None:
    """Return the next move towards a goal; None if it is reached."""
    local = candidate.raw or candidate.packed
    if goal == Goal.WARM or goal == Goal.LOCAL:
        if not candidate.raw:
            return Step.HYDRATE
        return Step.LOCK if goal == Goal.WARM and not candidate.held else None
    if goal == Goal.STORED:
        return None if candidate.remote else Step.UPLOAD
    if goal == Goal.GLACIER:
        if not candidate.remote:
            return Step.UPLOAD
        if candidate.raw:
            return Step.DROP_RAW
        return Step.DROP_PACKED if candidate.packed else None
    if candidate.held:
        return Step.UNLOCK
    if goal == Goal.COLD:
        return None
    if not local:
        return Step.HYDRATE
    if not candidate.packed:
        return Step.PACK if candidate.packable else None
    return Step.DROP_RAW if candidate.raw else None


def after_step(candidate: Candidate, step: Step) -> Candidate:
    """Return a file as a step leaves it that has succeeded."""
    match step:
        case Step.HYDRATE:
            return candidate._replace(raw=True)
        case Step.LOCK:
            return candidate._replace(held=True)
        case Step.UNLOCK:
            return candidate._replace(held=False)
        case Step.PACK:
            return candidate._replace(packed=True)
        case Step.UPLOAD:
            return candidate._replace(remote=True)
        case Step.DROP_RAW:
            return candidate._replace(raw=False, held=False)
        case Step.DROP_PACKED:
            return candidate._replace(packed=False)
