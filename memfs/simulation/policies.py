"""The policies that a replay can drive, by name.

Invariant: `s3fifo` is what the daemon runs; the others are there to be compared with.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError
from memfs.policy.s3fifo import S3Fifo
from memfs.simulation.baselines import Fifo, Lru, NoEvict

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.policy.queues import EvictionQueue


class Policy(NamedTuple):
    """How the queues of a machine are made, from their capacities in bytes."""

    name: str
    make_warm: Callable[[int], EvictionQueue]
    make_cold: Callable[[int], EvictionQueue]


def _s3fifo_for_disk(capacity_bytes: int) -> EvictionQueue:
    return S3Fifo(capacity_bytes, proof=True)


_POLICIES = {
    policy.name: policy
    for policy in (
        Policy("s3fifo", S3Fifo, _s3fifo_for_disk),
        Policy("lru", Lru, Lru),
        Policy("fifo", Fifo, Fifo),
        Policy("no-evict", NoEvict, NoEvict),
    )
}

BUILT_IN = "s3fifo"
"""What a mount uses unless it is told otherwise."""


def policy_names() -> list[str]:
    """Return the names of all policies."""
    return list(_POLICIES)


def find_policy(name: str) -> Policy:
    """Return a policy.

    Raises:
        InvalidValueError: Nothing has that name.
    """
    if (found := _POLICIES.get(name)) is not None:
        return found
    near = difflib.get_close_matches(name, _POLICIES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_POLICIES)}"
    raise InvalidValueError(f"no policy {name!r}; {hint}")
