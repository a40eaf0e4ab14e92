"""Moves: the changes of form that the file system and the mover ask for.

Invariant: every move follows one protocol: record the intent, write under a name of its own, make
it durable, read it back against the digest, publish in one engine call that checks generation and
writers again; only a later move of its own drops the source form.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from memfs.moves.batching import compact, upload_batch
from memfs.moves.damage import replace_damaged
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.garbage import GarbageCollector
from memfs.moves.hydrating import Hydrations
from memfs.moves.packing import pack
from memfs.moves.rechecking import Recheck
from memfs.moves.recovery import Sweep, roll_back
from memfs.moves.rekeying import list_keyed, rekey
from memfs.moves.uploading import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.codecs.codec import Codec
    from memfs.metadata.records import Batch, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.outcome import MoveResult
    from memfs.moves.progress import ProgressTable
    from memfs.moves.rekeying import KeyedForm
    from memfs.types import FormKind, InodeNo


class Moves:
    """All moves of one state directory.

    Args:
        parts: What moves work with.
        rng: Jitter of pauses; seeded by tests.
    """

    def __init__(self, parts: MoveParts, rng: random.Random | None = None) -> None:
        self._parts = parts
        self._hydrations = Hydrations(parts)
        self._garbage = GarbageCollector(parts, rng or random.Random())
        self._sweep = Sweep(parts)
        self._recheck = Recheck(parts)

    # --- moves -----------------------------------------------------------------------------------
    async def pack(self, ino: InodeNo, codec: Codec | None = None) -> MoveResult:
        """Give a sealed raw file its packed form; see `moves.packing`."""
        return await pack(self._parts, ino, codec)

    async def upload(self, ino: InodeNo) -> MoveResult:
        """Give a sealed file its remote form; see `moves.uploading`."""
        return await upload(self._parts, ino)

    async def upload_batch(self, inos: Sequence[InodeNo]) -> dict[InodeNo, MoveResult]:
        """Give small sealed files their remote forms in one object; see `moves.batching`."""
        return await upload_batch(self._parts, inos)

    async def compact(self, batch: Batch) -> int:
        """Copy what is alive of a batch into a new object; returns the bytes that frees."""
        return await compact(self._parts, batch)

    async def hydrate(self, ino: InodeNo) -> Inode:
        """Return the inode once it has a raw file; see `moves.hydrating`."""
        return await self._hydrations.hydrate(ino)

    async def replace_damaged(self, ino: InodeNo) -> Inode:
        """Return the inode without a raw file that is known to be damaged; see `moves.damage`."""
        return await replace_damaged(self._parts, ino)

    async def rekey(self, ino: InodeNo) -> MoveResult:
        """Bring a file's forms under the key that new ones have; see `moves.rekeying`."""
        return await rekey(self._parts, self._hydrations, ino)

    async def list_keyed(self, ino: InodeNo) -> list[KeyedForm]:
        """Return the packed and remote forms of a file with their keys."""
        return await list_keyed(self._parts, ino)

    async def drop_raw(self, ino: InodeNo, *, seen_within_s: float = 0.0) -> MoveResult:
        """Detach the raw file of a file that is neither open nor mapped; see `moves.dropping`."""
        return await drop_raw(self._parts, ino, seen_within_s=seen_within_s)

    async def drop_form(
        self, ino: InodeNo, kind: FormKind, *, seen_within_s: float = 0.0
    ) -> MoveResult:
        """Detach the packed or remote form of a file that has another one."""
        return await drop_form(self._parts, ino, kind, seen_within_s=seen_within_s)

    # --- upkeep ----------------------------------------------------------------------------------
    async def recover(self) -> int:
        """Roll back the moves of a daemon that died; returns how many. Once, before any move."""
        count = await roll_back(self._parts)
        await self._recheck.begin()
        return count

    async def collect_garbage(self, limit: int) -> int:
        """Remove up to `limit` files and objects that nothing refers to; returns how many."""
        return await self._garbage.collect(limit)

    async def collect_local_garbage(self, limit: int) -> int:
        """Remove up to `limit` local files that nothing refers to; the store cannot hold it up."""
        return await self._garbage.collect_local(limit)

    async def sweep_step(self) -> int:
        """Look a little for what an earlier daemon left; `sweep_done` tells when that is over.

        Returns:
            Raw files that were removed or adopted.
        """
        return await self._recheck.compare_slice() + await self._sweep.sweep_slice()

    @property
    def sweep_done(self) -> bool:
        """True when nothing can be left to find from an earlier daemon."""
        return self._sweep.done and self._recheck.proven

    @property
    def rechecked(self) -> bool:
        """True when no write is left that the engine has forgotten with power."""
        return self._recheck.done

    def doubt(self) -> None:
        """Changes of the engine were undone: raw files may differ from it until the next mount."""
        self._recheck.doubt()

    async def note_drained(self) -> None:
        """All is on stable storage, and this daemon writes no more: the next need not look."""
        await self._recheck.note_drained()

    def take_hydrated(self) -> list[InodeNo]:
        """Return and forget the files hydrated since the last call."""
        return self._hydrations.take_done()

    @property
    def progress(self) -> ProgressTable:
        """The moves under way, and those that wait for their turn."""
        return self._parts.progress

    def status(self) -> dict[str, object]:
        """Return the moves under way, for `memfs status`."""
        return {
            "in_progress": self._parts.progress.describe(),
            "swept": self.sweep_done,
        }
