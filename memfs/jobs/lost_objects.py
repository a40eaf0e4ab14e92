"""Lost objects: once a day each store is asked whether it still has all objects of files.

A listing of each store is compared with the places of all forms. What is not listed with its size
is asked for by itself. Files that have a sound local form get a new object; the others are named by
`memfs why`, as after a scrub.

Invariant: nothing is concluded from a store that cannot be listed. Where more than a tenth of a
store's objects are missing it is told, and nothing is stored again: its URL may be another one.
"""

from __future__ import annotations

import json
import logging
import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.addresses import address_of, store_of, told_store
from memfs.control.report import LostObjectsReport
from memfs.defects import as_failure
from memfs.errors import (
    MemfsError,
    ObjectMissingError,
    StaleInodeError,
    StoreError,
)
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.moves.uploading import upload
from memfs.placement.quotas import cost_of_upload, stored_bytes_max
from memfs.sizes import format_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.records import PlacedObject
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.types import BlobId, InodeNo

log = logging.getLogger(__name__)

SETTING = "stores.lost"
"""What the last look has found, as JSON."""

LOOK_S = 86_400.0
"""Between two looks: a request for each 1000 objects."""

MOUNT_PAUSE_S = 600.0
"""A mount that looks begins so much later at the earliest: it may end soon. Guess."""

AGAIN_S = 3600.0
"""Pause after a look that not all stores have answered. Guess."""

OBJECTS_A_SLICE = 1000
"""Rows that the engine is asked for at once: some milliseconds."""

MEND_MAX = 10_000
"""Objects that are seen to after one look; the next one sees to more."""

LOST_SHARE_MAX = 10
LOST_COUNT_MIN = 20
"""Up to so many objects, and one in ten, are stored again without a question."""

PREFIXES = ("blobs/", "batches/")


class Loss(NamedTuple):
    """What one store has lost."""

    store: str
    object_count: int
    """Objects of files in it."""
    lost_count: int
    mended_count: int
    """Those whose files have another object now."""
    example: str
    """Address of the first one that is left, and why it counts as lost; empty: no one is left."""


class LostObjects:
    """Looks for objects that a store has lost, and has them stored again.

    Args:
        parts: What moves work with.
        quotas: Those of the day.
        clock: Nanoseconds since the epoch.
    """

    def __init__(
        self, parts: MoveParts, quotas: Quotas, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._parts = parts
        self._quotas = quotas
        self._engine = parts.engine
        self._clock = clock
        self._looked_ns = 0
        """When all stores have been listed last; 0: never."""
        self._losses: tuple[Loss, ...] = ()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What is not made good, of all stores."""
        return tuple(loss for loss in self._losses if loss.lost_count > loss.mended_count)

    async def begin(self) -> None:
        """Take what earlier mounts have found."""
        if (setting := await self._engine.get_setting(SETTING)) is not None:
            told = json.loads(setting)
            self._looked_ns = told["looked_ns"]
            self._losses = tuple(Loss(*fields) for fields in told["losses"])

    async def run(self) -> None:
        """Look each day; a task of the mount."""
        await self.begin()
        pause_s = MOUNT_PAUSE_S
        while True:
            age_s = (self._clock() - self._looked_ns) / 1e9
            await trio.sleep(max(pause_s, LOOK_S - max(0.0, age_s)))
            pause_s = AGAIN_S
            if self._parts.source is not None:
                continue
            try:
                await self.look()
            except Exception as error:
                log.warning("objects of files: %s", as_failure(error, "a look for lost objects"))

    async def look(self) -> tuple[Loss, ...]:
        """Ask all stores, and have what is lost stored again.

        Checkpoint: always. Cancel: safe.

        Returns:
            What was lost, with how much of it is made good.

        Raises:
            StoreError: A store cannot be listed; the others were looked at.
        """
        failures: list[str] = []
        answered: set[str] = set()
        listed = array("q")
        for store in ("", *self._parts.config.stores):
            try:
                listed.extend(await self._list(store))
            except StoreError as error:
                failures.append(f"{told_store(store)}: {error}")
            else:
                answered.add(store)
        known = array("q", await trio.to_thread.run_sync(sorted, listed))
        counts, suspects = await self._compare(answered, known)
        losses = [
            await self._see_to(store, counts[store], suspects[store])
            for store in sorted(answered)
            if suspects[store]
        ]
        kept = [loss for loss in self._losses if loss.store not in answered]
        await self._note((*kept, *(loss for loss in losses if loss.lost_count)), failures)
        if failures:
            raise StoreError(f"not all stores were looked at: {'; '.join(failures)}")
        return self._losses

    async def _list(self, store: str) -> array[int]:
        """Return hashes of all objects of a store, with their sizes."""
        remote = self._parts.remote
        assert remote is not None
        found = array("q")
        for prefix in PREFIXES:
            async for stat in remote.list(address_of(store, prefix)):
                found.append(hash((stat.key, stat.size)))
        return found

    async def _compare(
        self, answered: set[str], listed: array[int]
    ) -> tuple[dict[str, int], dict[str, list[PlacedObject]]]:
        """Return how many objects files have, by store, and those that were not listed."""
        counts = dict.fromkeys(answered, 0)
        suspects: dict[str, list[PlacedObject]] = {store: [] for store in answered}
        after = ""
        while placed := await self._engine.list_placed(after, OBJECTS_A_SLICE):
            for each in placed:
                if (store := store_of(each.key)) not in answered:
                    continue
                counts[store] += 1
                wanted = hash((each.key, each.size_bytes))
                at = bisect_left(listed, wanted)
                if at == len(listed) or listed[at] != wanted:
                    suspects[store].append(each)
            after = placed[-1].key
            await trio.lowlevel.checkpoint()
        return counts, suspects

    async def _see_to(self, store: str, total: int, suspects: list[PlacedObject]) -> Loss:
        """Ask for objects that were not listed, and have their files stored again."""
        lost = [
            (each, reason)
            for each in suspects[:MEND_MAX]
            if (reason := await self._reason(each)) is not None
        ]
        many = len(lost) > LOST_COUNT_MIN and len(lost) * LOST_SHARE_MAX > total
        left: list[str] = []
        for each, reason in lost:
            if many or not await self._mend(each):
                left.append(f"{each.key}: {reason}")
        if lost:
            log.warning(
                "store %s has lost %s that files need, such as %s: %s; %d were stored again%s",
                told_store(store),
                format_count(len(lost), "object"),
                lost[0][0].key,
                lost[0][1],
                len(lost) - len(left),
                ": more than a tenth of all is missing, look at its url; then memfs scrub"
                if many
                else "",
            )
        return Loss(store, total, len(lost), len(lost) - len(left), left[0] if left else "")

    async def _reason(self, placed: PlacedObject) -> str | None:
        """Return why an object counts as lost; None: it does not, or nobody knows."""
        remote = self._parts.remote
        assert remote is not None
        try:
            found = await remote.stat(placed.key)
        except ObjectMissingError:
            reason = "it is gone"
        except MemfsError as error:
            log.info("%s: cannot be looked at: %s", placed.key, error)
            return None
        else:
            if found.size == placed.size_bytes:
                return None
            reason = f"it has {found.size} bytes, not {placed.size_bytes}"
        # It may have been given up meanwhile.
        return reason if await self._engine.list_blobs_at(placed.key) else None

    async def _mend(self, placed: PlacedObject) -> bool:
        """Have all files of an object get another one; returns whether they have."""
        done = True
        for blob in await self._engine.list_blobs_at(placed.key):
            done &= await self._mend_blob(blob)
        return done

    async def _mend_blob(self, blob: BlobId) -> bool:
        sharers = [inode for inode in await self._engine.list_sharers(blob, 1) if inode.nlink]
        if not sharers:
            # Only snapshots show it: a scrub tells what they have.
            return False
        try:
            return await self._store_again(sharers[0].ino)
        except StaleInodeError:
            return True
        except MemfsError as error:
            log.info("inode %d is not stored again: %s", sharers[0].ino, error)
            return False

    async def _store_again(self, ino: InodeNo) -> bool:
        size = (await self._engine.get_inode(ino)).size
        # Before the form goes: what there is no room for today is looked at again tomorrow.
        with self._quotas.reserved(cost_of_upload(stored_bytes_max(size), copied=True)):
            scrubbed = await scrub_file(self._parts, ino)
            if scrubbed.outcome is not ScrubOutcome.REPAIRED:
                log.info("inode %d: %s: %s", ino, scrubbed.outcome, scrubbed.detail)
                return False
            await upload(self._parts, ino)
        return True

    async def _note(self, losses: tuple[Loss, ...], failures: list[str]) -> None:
        if not failures:
            self._looked_ns = self._clock()
        self._losses = losses
        told = {"looked_ns": self._looked_ns, "losses": [[*loss] for loss in losses]}
        async with self._engine.change():
            await self._engine.put_setting(SETTING, json.dumps(told).encode())

    def report(self) -> tuple[LostObjectsReport, ...]:
        """Return what is not made good, for the control socket."""
        return tuple(
            LostObjectsReport(
                store=told_store(loss.store),
                lost_count=loss.lost_count,
                mended_count=loss.mended_count,
                example=loss.example,
            )
            for loss in self.losses
        )
