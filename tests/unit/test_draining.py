"""Unit tests of the end of a daemon: what is left to be done has a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio

from memfs_daemon.lifecycle import seal_written

if TYPE_CHECKING:
    from memfs_daemon.assembly import Assembly


@dataclass
class Parts:
    """As much of an assembly as sealing takes: files, of which each round seals one."""

    candidate_count: int
    rounds: int = 0

    @property
    def filesystem(self) -> Parts:
        """Itself."""
        return self

    @property
    def sealer(self) -> Parts:
        """Itself."""
        return self

    async def reap_left_over(self) -> None:
        """Nothing."""

    async def finish_requests(self) -> bool:
        """One round; like the local engine's, it never suspends."""
        self.rounds += 1
        self.candidate_count -= 1
        return self.candidate_count > 0


def _as_assembly(parts: Parts) -> Assembly:
    return cast("Assembly", parts)


async def test_files_are_sealed_until_none_is_left() -> None:
    """All of them, while there is time."""
    parts = Parts(candidate_count=5)
    await seal_written(_as_assembly(parts))
    assert parts.candidate_count == 0


async def test_the_time_for_the_end_ends_the_sealing_of_many_files() -> None:
    """A million files took longer than `memfs umount` waits; the next mount goes on with them."""
    parts = Parts(candidate_count=900)
    with trio.move_on_after(0) as scope:
        await seal_written(_as_assembly(parts))
    assert scope.cancelled_caught
    assert parts.rounds == 0
