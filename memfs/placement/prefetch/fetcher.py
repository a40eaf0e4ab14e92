"""Fetching: one file is brought near before it is used, where that costs nobody anything.

Invariant: only into free room, below the high watermarks: nothing is evicted for it; and programs
that wait for the store come first.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.addresses import store_of
from memfs.content.residency import LockOutcome, page_bytes
from memfs.content.space import measure_cold_space
from memfs.errors import (
    NoSpaceError,
    ObjectMissingError,
    QuotaSpentError,
    StaleInodeError,
    StoreError,
)
from memfs.metadata.records import Decision, InodeFlags
from memfs.moves.hydrating import hydrate
from memfs.placement.breakers import StoreBreakers
from memfs.placement.quotas import cost_of_fetch, stored_bytes_max
from memfs.policy import rules
from memfs.policy.quotas import Spent
from memfs.types import FormKind, Tier

if TYPE_CHECKING:
    from memfs.metadata.records import Inode
    from memfs.placement.context import Context
    from memfs.placement.prefetch.done_files import DoneFiles
    from memfs.policy.quotas import Cost
    from memfs.types import InodeNo

GARBAGE_A_DROP = 100
"""Files removed at a time when room on the disk is needed; each time syncs the journal once."""

GIVE_WAY_S = 0.05
"""Pause of a fetch while programs wait for as many of their own. Guess."""


class StalledError(Exception):
    """There is no room, or no store, for the time being; the message is for users."""


class Fetched(NamedTuple):
    """How bringing a file near ended."""

    fetched_bytes: int = 0
    """0: it had a raw form."""
    warm: bool = False
    """It is held in RAM."""
    held: bool = False
    """It was not before."""
    accessed_before_ns: int = 0
    accessed_ns: int = 0
    """Its last use, as it is noted now."""


class Fetcher:
    """Brings files near.

    Args:
        context: That of the mount; what a pool has reserved of the RAM tier is no free room.
        done: Files that make room.
    """

    def __init__(self, context: Context, done: DoneFiles) -> None:
        self._context = context
        self._parts = context.parts
        self._engine = context.engine
        self._done = done
        # Not that of the moves, whose pauses are those of files that nobody waits for.
        self._breakers = StoreBreakers(context.config, context.rng)
        self._hydrating_count = 0
        self._reserved_bytes = 0
        """Bytes of the disk, for the files that are being fetched."""
        self.fetched_count = 0
        self.fetched_bytes = 0
        self.held_count = 0
        """Files that were brought into RAM."""

    def is_held(self, ino: InodeNo) -> bool:
        """Return whether a file is in RAM already, so that nothing has to be brought."""
        return self._parts.residency.is_held(ino)

    async def bring(self, ino: InodeNo, *, warm: bool, why: str, heed_pins: bool) -> Fetched:
        """Give a file its raw form, and hold it in RAM if that has room.

        Checkpoint: not if it is near. Cancel: safe; the file stays as it was.

        Args:
            ino: A file; what is being written, or is no file, is left alone.
            warm: Hold it in RAM too. A file that is pinned to a slower tier never is.
            why: One sentence for users.
            heed_pins: Leave files alone that are pinned to a slower tier. Else they are fetched,
                and go again by their pin when they were not used for a minute.

        Raises:
            StaleInodeError: The file is gone.
            StalledError: No room, or no store, for the time being.
            MemfsError: It cannot be fetched.
        """
        inode = await self._engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED or not inode.nlink:
            return Fetched()
        pin = (await self._engine.effective_pin(ino)).tier
        slower = pin is not None and pin < Tier.WARM
        if slower and heed_pins:
            return Fetched()
        before_ns, fetched_bytes = inode.accessed_ns, 0
        if not inode.raw and inode.size:
            inode = await self._hydrate(inode)
            fetched_bytes = inode.size
        held = warm and not slower and await self._hold(inode)
        if not fetched_bytes and not held:
            return Fetched(warm=self._parts.residency.is_held(ino))
        now_ns = self._context.clock()
        try:
            async with self._engine.change():
                await self._engine.record_decision(
                    ino, Decision(rules.PREFETCH, why, fetched_bytes, now_ns)
                )
                if not slower:
                    # Else its age would take it away again before it is used.
                    await self._engine.record_access([(ino, now_ns)])
        except StaleInodeError:
            # Deleted while it was locked, after its own release: nobody else would.
            self._parts.residency.release(ino, drop_pages=False)
            raise
        warm_now = self._parts.residency.is_held(ino)
        return Fetched(fetched_bytes, warm_now, held, before_ns, now_ns)

    async def undo(self, ino: InodeNo, fetched: Fetched) -> None:
        """Make a file that nobody used as old as it was, and give its pages back."""
        try:
            inode = await self._engine.get_inode(ino)
            pin = (await self._engine.effective_pin(ino)).tier
        except StaleInodeError:
            return
        used = inode.accessed_ns != fetched.accessed_ns or self._parts.open_table.is_open(ino)
        if used or pin is not None:
            return
        async with self._engine.change():
            await self._engine.record_access([(ino, fetched.accessed_before_ns)])
        if fetched.held:
            self._parts.residency.release(ino, drop_pages=False)

    async def _hydrate(self, inode: Inode) -> Inode:
        forms = await self._engine.list_all_forms(inode)
        asks_store = all(form.kind != FormKind.PACKED for form in forms)
        stores = [store_of(form.place.key) for form in forms if form.kind == FormKind.REMOTE]
        breaker = self._breakers.of(stores[0] if stores else "")
        if asks_store and breaker.wait_s:
            raise StalledError(breaker.reason or "the store is down")
        await self._check_room(inode.size)
        self._reserved_bytes += inode.size
        try:
            await self._give_way()
            self._hydrating_count += 1
            try:
                with self._context.quotas.reserved(_cost(inode, asks_store=asks_store)):
                    hydrated = await hydrate(self._parts, inode.ino)
            finally:
                self._hydrating_count -= 1
        except NoSpaceError as error:
            raise StalledError(str(error)) from error
        except QuotaSpentError as error:
            if math.isinf(error.wait_s):
                raise
            raise StalledError(str(error)) from error
        except StoreError as error:
            if asks_store and error.transient and not isinstance(error, ObjectMissingError):
                breaker.fail(str(error))
                raise StalledError(str(error)) from error
            raise
        finally:
            self._reserved_bytes -= inode.size
        if asks_store:
            breaker.succeed()
        self.fetched_count += 1
        self.fetched_bytes += hydrated.size
        return hydrated

    async def _check_room(self, size: int) -> None:
        room_bytes, free_bytes, disk_bounds = await self._disk_room()
        if size > room_bytes:
            raise NoSpaceError(f"{size} bytes are more than the disk tier takes ({room_bytes})")
        while size > free_bytes and await self._done.drop_next():
            if disk_bounds:
                # What was detached takes room there until it is removed.
                collect = self._context.garbage.collect_local
                while await collect(GARBAGE_A_DROP) == GARBAGE_A_DROP:
                    pass
            _, free_bytes, disk_bounds = await self._disk_room()
        if size > free_bytes:
            open_count = self._done.open_count
            raise StalledError(
                f"the disk tier has no room for {size} bytes more; raise cold.size, or wait until "
                + (
                    f"programs close {open_count} files that they are done with"
                    if open_count
                    else "files that are not used have left it"
                )
            )

    async def _disk_room(self) -> tuple[int, int, bool]:
        """Return what the disk tier takes without draining, and what is free of that, in bytes.

        And whether it is the disk that bounds it, rather than `cold.size`.
        """
        cold = self._parts.config.cold
        space = measure_cold_space(self._context.state_dir, cold, await self._engine.usage())
        room_bytes = int(space.capacity_bytes * cold.high_watermark)
        free_bytes = room_bytes - space.used_bytes - self._reserved_bytes
        return room_bytes, free_bytes, space.capacity_bytes == space.available_bytes

    async def _give_way(self) -> None:
        """Leave the store to programs that wait for it, but for one fetch."""
        while self._hydrating_count:
            moves = self._parts.progress.describe()
            foreign_count = sum(move["kind"] == "hydrate" for move in moves) - self._hydrating_count
            left_count = self._parts.config.glacier.transfer_count_max - foreign_count
            if self._hydrating_count < max(1, left_count):
                return
            await trio.sleep(GIVE_WAY_S)

    async def _hold(self, inode: Inode) -> bool:
        """Hold a raw file in RAM if there is free room; True if it was not held and now is."""
        residency = self._parts.residency
        if not inode.raw or residency.is_held(inode.ino):
            return False
        while page_bytes(inode.size) > self._ram_room_bytes():
            if not await self._done.unlock_next():
                return False
        outcome = await residency.lock(inode.ino, inode.raw, inode.size)
        held = outcome in (LockOutcome.LOCKED, LockOutcome.CACHED)
        self.held_count += held
        return held

    def _ram_room_bytes(self) -> int:
        """Return what is free of the RAM tier and reserved by no pool, without draining."""
        residency = self._parts.residency
        room_bytes = int(residency.capacity_bytes * self._parts.config.warm.high_watermark)
        room_bytes -= residency.used_bytes
        for name, size_bytes in self._context.pools.sizes.items():
            room_bytes -= max(0, size_bytes - self._context.pools.named[name].used_bytes)
        return room_bytes


def _cost(inode: Inode, *, asks_store: bool) -> Cost:
    written: Cost = {Spent.DISK_WRITES: inode.size}
    return written | cost_of_fetch(stored_bytes_max(inode.size)) if asks_store else written
