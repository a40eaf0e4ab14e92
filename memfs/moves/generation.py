"""The generation of a state directory: its store knows which mount of it was the last.

A copy of a state directory that is mounted after the original went on names objects that are gone,
overwrites those of the original under the same keys, and takes others for rubbish. So each mount
leaves a mark in the store, under the identity of the state directory: how often that was mounted,
and a random number, which the state directory knows before the store does.

1. The mark is noted in the state and synced. *Killed from here on*: the store has an earlier mark,
   which the state knows as well; the next mount makes another one.
2. A file with the mark is written, below `tmp/`. *Killed*: the next start removes it.
3. The file is stored. *Killed*: both have the same mark.

A state that was imported (`exports.importing`) has the identity of another one that may live. Until
it takes the store over it makes no mark and changes nothing there.

Invariant: the mark in the store is one that the state directory knows which was mounted last.
Nothing in the store is changed, and nothing here is dropped for what is in the store, before the
store has shown such a mark. A store that does not answer holds up no mount.
"""

from __future__ import annotations

import logging
import math
import secrets
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    MemfsError,
    NotSupportedError,
    ObjectMissingError,
    StaleStateError,
    UsageError,
)
from memfs.exit_codes import ExitCode
from memfs.moves.faults import FaultPoints
from memfs.stores.disk import disk_errors
from memfs.stores.health import StoreHealth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.local import Local
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

SETTING = "generation"
SOURCE_SETTING = "source"
"""`glacier.url` of the store that this state was imported from and has not taken over.

With a name of a store behind it (`source_setting`) the URL of one that was left at a take-over."""

PREFIX = "states/"
"""That of the keys of marks; no container has such a key."""

PATIENCE_S = 5.0
"""A mount waits so long for the store to tell the mark. Guess: a slow store answers in 1 s."""

RETRY_S = 60.0
KNOWN_COUNT_MAX = 16
"""Marks that a state directory remembers while the store tells it nothing, a mount each."""

FRESH_S = 60.0
"""Who removes objects knows for so long that no other mount has come."""

_TOKEN_BYTES = 8
_MARK_BYTES_MAX = 64
_MAGIC = b"memfs state generation "


def source_setting(store: str) -> str:
    """Return the setting which says that a store is not taken over; the default's name is empty."""
    return f"{SOURCE_SETTING}.{store}" if store else SOURCE_SETTING


class Mark(NamedTuple):
    """What the store has of a state directory."""

    number: int
    """That of mounts."""
    token: str
    """Tells it from the mark of a copy that was mounted as often; empty: of an older memfs."""


class StateGeneration:
    """The mark of one state directory.

    Args:
        remote: Its object store.
        temporary_path: Returns an unused path for a file with a name like this.
        faults: Told of the points that a mount reaches.
        store: Name of the store; empty: the default one. Each store has marks of its own.
        health: That of the store; told when the state directory has proved to be an older copy.
            None: nobody wants to know.
    """

    def __init__(
        self,
        engine: Local,
        remote: RemoteStore,
        temporary_path: Callable[[str], Path],
        faults: FaultPoints | None = None,
        health: StoreHealth | None = None,
        store: str = "",
    ) -> None:
        self._setting = f"{SETTING}.{store}" if store else SETTING
        self._store = store
        self._faults = faults or FaultPoints()
        self._engine = engine
        self._remote = remote
        self._temporary_path = temporary_path
        self._health = health or StoreHealth()
        self._number = 0
        self._known: list[str] = []
        """Tokens of marks that are this state directory's, that of this mount first."""
        self._asking = trio.Lock()
        self._confirmed = False
        self._confirmed_s = -math.inf
        self.source: str | None = None
        """Why nothing in the store may be changed; None: it is this state's own."""
        self._failure: MemfsError | None = None
        self.refusal: str | None = None
        """Why this mount must not go on; None as long as nothing speaks against it."""
        self.noted = False
        """True once the store has the mark of this mount."""

    @property
    def key(self) -> str:
        """That of the mark in the store."""
        return f"{PREFIX}{self._engine.state_id.hex()}"

    async def begin(self, *, take_stale: bool = False) -> None:
        """Make the mark of a mount. Before the first request.

        Args:
            take_stale: Go on with an older copy as well.

        Raises:
            UsageError: The store has seen a later mount of this state directory.
            MemfsError: The state directory cannot be written.
        """
        for setting in dict.fromkeys((SOURCE_SETTING, source_setting(self._store))):
            source = await self._engine.get_setting(setting)
            if source is not None:
                self.source = (
                    f"this state was imported from {source.decode()}, where nothing is changed "
                    "before it takes the store over: unmount, then `memfs snapshot import "
                    "--take-over`"
                )
                return
        await self._begin(take_stale=take_stale)

    async def take_over(self) -> None:
        """Make the mark of a mount, whichever state has made the one in the store.

        Raises:
            StoreError: The store does not answer.
        """
        await self._read()
        await self._begin(take_stale=True)
        await self.confirm()
        await self._write()
        self.noted = True

    async def _begin(self, *, take_stale: bool) -> None:
        stored = (await self._engine.get_setting(self._setting) or b"0").decode().split()
        self._number, self._known = int(stored[0]), stored[1:]
        seen: Mark | None = None
        with trio.move_on_after(PATIENCE_S):
            try:
                seen = await self._read()
                self._note_confirmed()
            except MemfsError as error:
                log.info("the store does not tell the generation of this state: %s", error)
        if seen is not None and not self._is_own(seen):
            if not take_stale:
                raise UsageError(self._refuse(seen), ExitCode.STATE_UNUSABLE)
            log.info("taking an older copy: %s", self._refuse(seen))
        known = self._known if seen is None else [seen.token] if seen.token else []
        self._number = max(self._number, seen.number if seen is not None else 0) + 1
        self._known = [secrets.token_hex(_TOKEN_BYTES), *known][:KNOWN_COUNT_MAX]
        setting = " ".join((str(self._number), *self._known)).encode()
        async with self._engine.change():
            await self._engine.put_setting(self._setting, setting)
        await trio.to_thread.run_sync(self._engine.sync)
        self._faults.reach("generation.raised")

    async def confirm(self) -> None:
        """Return once the store has shown that no other mount of this state came in between.

        Before anything in the store is changed, or dropped here for what is there.

        Raises:
            StaleStateError: This state directory is an older copy.
            StoreError: The store does not tell.
            NotSupportedError: This state has not taken the store over.
        """
        if self.source is not None:
            raise NotSupportedError(self.source)
        if self._confirmed:
            return
        failure = self._failure
        async with self._asking:
            if self._failure is not None and self._failure is not failure:
                # It was asked in vain while this call waited: not again for each of many.
                raise self._failure
            if self.refusal is None and not self._confirmed:
                try:
                    seen = await self._read()
                except MemfsError as error:
                    self._failure = error
                    raise
                if seen is None or self._is_own(seen):
                    self._note_confirmed()
                    return
                self.refusal = (
                    f"{self._refuse(seen)}; the store told that after the mount had begun, and "
                    "nothing is moved or removed until it ends"
                )
                log.error("%s", self.refusal)
                self._health.condemn(self.refusal)
        if self.refusal is not None:
            raise StaleStateError(self.refusal)

    async def confirm_copies(self) -> None:
        """Do as `confirm`, before local copies go for what is in the store.

        A state that has not taken it over may: nothing but what it has fetched from there goes.
        """
        if self.source is None:
            await self.confirm()

    async def confirm_anew(self) -> None:
        """Do as `confirm`, where the store has not shown it just now: before objects go.

        Another state may have taken the store over while this mount was there.
        """
        if trio.current_time() - self._confirmed_s > FRESH_S:
            self._confirmed = False
        await self.confirm()

    async def confirm_now(self) -> None:
        """Do as `confirm`, whatever the store has shown before: where a request more is little."""
        self._confirmed = False
        await self.confirm()

    def _note_confirmed(self) -> None:
        self._confirmed, self._confirmed_s = True, trio.current_time()

    async def run(self) -> None:
        """Note the mark in the store, as soon as that takes it."""
        while self.source is None:
            if await self.try_to_mark():
                return
            await trio.sleep(RETRY_S)

    async def try_to_mark(self) -> bool:
        """Try once to note the mark; returns whether there is nothing left to do."""
        try:
            await self.confirm()
            await self._write()
        except StaleStateError:
            return True
        except MemfsError as error:
            log.info("the generation of this state is noted later: %s", error)
            return False
        self.noted = True
        return True

    def _is_own(self, seen: Mark) -> bool:
        # Older versions of memfs knew the number alone.
        return seen.token in self._known if seen.token else seen.number <= self._number

    def _refuse(self, seen: Mark) -> str:
        return (
            f"this state directory is an older copy: {self._remote.url} has seen mount "
            f"{seen.number} of another copy of it, and this is mount {self._number} of this one; "
            "mount the one that was used last, or take this one with all that changed since then "
            "lost: -o take_stale_state"
        )

    async def _read(self) -> Mark | None:
        """Return the mark in the store; None if no mark can be read."""
        try:
            content = await self._remote.get_range(self.key, 0, _MARK_BYTES_MAX)
        except ObjectMissingError:
            return None
        number, _, token = content.removeprefix(_MAGIC).decode("ascii", "replace").partition(" ")
        if not content.startswith(_MAGIC) or not number.strip().isdigit():
            log.warning("%s/%s is no generation mark: written anew", self._remote.url, self.key)
            return None
        return Mark(int(number), token.strip())

    async def _write(self) -> None:
        path = self._temporary_path("generation")
        mark = _MAGIC + f"{self._number} {self._known[0]}\n".encode()
        try:
            with disk_errors(str(path)):
                await trio.to_thread.run_sync(path.write_bytes, mark)
            self._faults.reach("generation.written")
            await self._remote.put_file(self.key, path)
            self._faults.reach("generation.stored")
        finally:
            path.unlink(missing_ok=True)
