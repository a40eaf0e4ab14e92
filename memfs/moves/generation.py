"""The generation of a state directory: its store knows how often it was mounted.

A copy of a state directory that is mounted after the original went on names objects that are gone,
and takes objects that it does not know for rubbish. So each mount raises a counter, in the state
first and then in the store, under the identity of the state directory.

1. The counter is raised in the state and synced. *Killed from here on*: the store has a lower one,
   which refuses nobody; the next mount raises it again.
2. A file with the counter is written, below `tmp/`. *Killed*: the next start removes it.
3. The file is stored. *Killed*: both have the same counter.

Invariant: the counter in the store is never ahead of the state directory that raised it last: it is
written only once the same number is on stable storage here. A store that does not answer holds up
no mount.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, ObjectMissingError, UsageError
from memfs.exit_codes import ExitCode
from memfs.moves.faults import FaultPoints
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.engine import Local
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

SETTING = "generation"
PREFIX = "states/"
"""Of the keys of marks; no container has such a key."""

PATIENCE_S = 5.0
"""A mount waits so long for the store to tell the mark. Guess: a slow store answers in 1 s."""

RETRY_S = 60.0
_MARK_BYTES_MAX = 64
_MAGIC = b"memfs state generation "


class StateGeneration:
    """The counter of one state directory.

    Args:
        engine: Of the state directory.
        remote: Its object store.
        temporary_path: Returns an unused path for a file with a name like this.
        faults: Told of the points that a mount reaches.
    """

    def __init__(
        self,
        engine: Local,
        remote: RemoteStore,
        temporary_path: Callable[[str], Path],
        faults: FaultPoints | None = None,
    ) -> None:
        self._faults = faults or FaultPoints()
        self._engine = engine
        self._remote = remote
        self._temporary_path = temporary_path
        self._number = 0
        self.noted = False
        """True once the store has the counter of this mount."""

    @property
    def key(self) -> str:
        """Of the mark in the store."""
        return f"{PREFIX}{self._engine.state_id.hex()}"

    async def begin(self, *, take_stale: bool = False) -> None:
        """Raise the counter for a mount. Before the first request.

        Args:
            take_stale: Go on with an older copy as well.

        Raises:
            UsageError: The store has seen a later mount of this state directory.
            MemfsError: The state directory cannot be written.
        """
        stored = await self._engine.get_setting(SETTING)
        own = int(stored) if stored is not None else 0
        seen: int | None = None
        with trio.move_on_after(PATIENCE_S):
            try:
                seen = await self._read()
            except MemfsError as error:
                log.info("the store does not tell the generation of this state: %s", error)
        if seen is not None and seen > own:
            if not take_stale:
                raise UsageError(self._refusal(own, seen), ExitCode.STATE_UNUSABLE)
            log.info("taking an older copy: mount %d, and the store has seen %d", own, seen)
        self._number = max(own, seen or 0) + 1
        async with self._engine.change():
            await self._engine.put_setting(SETTING, str(self._number).encode())
        await trio.to_thread.run_sync(self._engine.sync)
        self._faults.reach("generation.raised")

    def _refusal(self, own: int, seen: int) -> str:
        return (
            f"this state directory is an older copy: it was mounted {own} times, and "
            f"{self._remote.url} has seen {seen} mounts of it; mount the one that was used last, "
            "or take this one with all that changed since then lost: -o take_stale_state"
        )

    async def run(self) -> None:
        """Note the counter in the store, as soon as that takes it."""
        while True:
            if await self.step():
                return
            await trio.sleep(RETRY_S)

    async def step(self) -> bool:
        """Try once to note the counter; returns whether there is nothing left to do."""
        try:
            seen = await self._read()
            if seen > self._number:
                log.error(
                    "%s; it was mounted since the store did not answer",
                    self._refusal(self._number, seen),
                )
                return True
            await self._write()
        except MemfsError as error:
            log.info("the generation of this state is noted later: %s", error)
            return False
        self.noted = True
        return True

    async def _read(self) -> int:
        """Return the counter in the store; 0 if there is none that can be read."""
        try:
            content = await self._remote.get_range(self.key, 0, _MARK_BYTES_MAX)
        except ObjectMissingError:
            return 0
        number = content.removeprefix(_MAGIC).strip()
        if not content.startswith(_MAGIC) or not number.isdigit():
            log.warning("%s/%s is no generation mark: written anew", self._remote.url, self.key)
            return 0
        return int(number)

    async def _write(self) -> None:
        path = self._temporary_path("generation")
        try:
            with disk_errors(str(path)):
                await trio.to_thread.run_sync(path.write_bytes, _MAGIC + b"%d\n" % self._number)
            self._faults.reach("generation.written")
            await self._remote.put_file(self.key, path)
            self._faults.reach("generation.stored")
        finally:
            path.unlink(missing_ok=True)
