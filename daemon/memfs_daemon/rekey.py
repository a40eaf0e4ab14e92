"""The answer of the control socket to `rekey`: files whose forms get the key of new ones.

Invariant: a call keeps no state: who asks again for the same files finds those done as unneeded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import trio

from memfs.errors import InvalidValueError, MemfsError, StaleInodeError
from memfs.moves.outcome import MoveOutcome
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memfs.control.protocol import JsonValue
    from memfs.control.server import Method
    from memfs.moves.moves import Moves

FILES_A_CALL_MAX = 1000

SLICE_S = 2.0
"""No file is begun in a call after so long, so that its caller can show how far it is."""

CONCURRENT_COUNT_MAX = 4
"""Files at a time: hides the store's round trips; guess."""


@dataclass(slots=True)
class _Answer:
    taken_count: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    moved_bytes: int = 0
    keys: dict[str, list[int]] = field(default_factory=dict)
    """Forms and stored bytes by key id as they were found; empty id: in clear."""
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by decimal inode number."""


class RekeyMethods:
    """Answers `rekey`."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves

    def methods(self) -> Mapping[str, Method]:
        """Return the methods of the control socket by name."""
        return {"rekey": self.rekey}

    async def rekey(self, inos: list[int], dry_run: bool = False) -> JsonValue:
        """Bring files under the key that new forms have, as many as are begun in `SLICE_S`.

        Args:
            inos: Inode numbers, at most `FILES_A_CALL_MAX`; those of other things are passed over.
            dry_run: Only count their forms by key.

        Returns:
            `taken_count`: how many of the numbers, from the first, are done; `outcomes`: counts by
            `MoveOutcome` and `failed`; `moved_bytes`; `keys`: forms and stored bytes by the key id
            that they had; `failures`: reasons by inode number.
        """
        if len(inos) > FILES_A_CALL_MAX or not all(type(ino) is int for ino in inos):
            raise InvalidValueError(f"inos are at most {FILES_A_CALL_MAX} inode numbers")
        answer = _Answer()
        waiting = self._begin(inos, answer)
        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENT_COUNT_MAX):
                nursery.start_soon(self._work, waiting, answer, dry_run)
        return cast("JsonValue", _to_json(answer))

    def _begin(self, inos: list[int], answer: _Answer) -> Iterator[InodeNo]:
        end_s = time.monotonic() + SLICE_S
        for ino in inos:
            if time.monotonic() > end_s and answer.taken_count:
                return
            answer.taken_count += 1
            yield InodeNo(ino)

    async def _work(self, waiting: Iterator[InodeNo], answer: _Answer, dry_run: bool) -> None:
        for ino in waiting:
            await trio.lowlevel.checkpoint()
            try:
                outcome = await self._rekey(ino, answer, dry_run)
            except StaleInodeError:
                outcome = MoveOutcome.SUPERSEDED.value
            except (MemfsError, OSError) as error:
                outcome = "failed"
                answer.failures[str(ino)] = str(error)
            answer.outcomes[outcome] = answer.outcomes.get(outcome, 0) + 1

    async def _rekey(self, ino: InodeNo, answer: _Answer, dry_run: bool) -> str:
        forms = await self._moves.list_keyed(ino)
        for form in forms:
            counts = answer.keys.setdefault(form.key_id, [0, 0])
            counts[0] += 1
            counts[1] += form.stored_bytes
        if all(form.current for form in forms):
            return MoveOutcome.UNNEEDED.value
        if dry_run:
            return "due"
        result = await self._moves.rekey(ino)
        answer.moved_bytes += result.moved_bytes
        return result.outcome.value


def _to_json(answer: _Answer) -> dict[str, Any]:
    return {
        "taken_count": answer.taken_count,
        "outcomes": answer.outcomes,
        "moved_bytes": answer.moved_bytes,
        "keys": answer.keys,
        "failures": answer.failures,
    }
