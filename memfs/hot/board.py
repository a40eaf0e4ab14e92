"""The board: what the daemon knows of the hot tier, between requests, mover and server.

Invariant: `devices` names a device only for a generation that the server has published and not
reported as gone; without a server nothing is resident and no ticket is given.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memfs.bounded import BoundedDict
from memfs.errors import NoXattrError
from memfs.signals import Signal

if TYPE_CHECKING:
    from memfs.hot.tokens import TokenSigner
    from memfs.types import Generation, InodeNo

WANTED_COUNT_MAX = 65_536
"""Pinned files that wait to be looked at, and files that programs wait for, each; more of the first
are found again by the next survey of pins, and the others by the next program that asks."""

REFUSALS_KEPT_MAX = 4096
"""Files of which it is remembered why they cannot be hot; the oldest are forgotten."""


class HotDevice(NamedTuple):
    """A device of the running server."""

    uuid: str
    name: str
    kind: str
    """`cuda` or `cpu`."""
    capacity_bytes: int


class HotServerInfo(NamedTuple):
    """The running server."""

    address: str
    """Abstract unix socket, without the leading NUL."""
    uid: int
    signer: TokenSigner
    devices: tuple[HotDevice, ...]


class Want(NamedTuple):
    """A file that may have to be loaded."""

    ino: InodeNo
    generation: Generation | None = None
    """That a program waits for; None: nobody waits, and only a pin counts."""
    device: str | None = None
    """UUID that the program asks for."""


class ResidentFile(NamedTuple):
    """A file that is in the hot tier: its slab was published."""

    generation: Generation
    device: str
    size_bytes: int
    pinned: bool


class HotBoard:
    """The hot tier as the daemon's thread sees it."""

    def __init__(self) -> None:
        self.server: HotServerInfo | None = None
        self.note: str | None = "the hot server has not started yet"
        """Why the tier does not serve at present, for `memfs status`; None while it does."""
        self.is_starting = True
        """The first server since the mount neither runs nor has ended."""
        self.residents: dict[InodeNo, ResidentFile] = {}
        self._refusals: BoundedDict[InodeNo, tuple[Generation, str]] = BoundedDict(
            REFUSALS_KEPT_MAX
        )
        self._full: BoundedDict[InodeNo, Generation] = BoundedDict(REFUSALS_KEPT_MAX)
        self._demanded: dict[tuple[InodeNo, Generation | None], Want] = {}
        self._pinned: dict[InodeNo, Want] = {}
        self._wanted = Signal()

    # --- the server ------------------------------------------------------------------------------
    def begin(self, server: HotServerInfo) -> None:
        """A server runs; nothing is in it."""
        self.residents.clear()
        self.server = server
        self.note = None
        self.is_starting = False

    def end(self, note: str) -> None:
        """The server is gone, and with it all that it held."""
        self.server = None
        self.note = note
        self.is_starting = False
        self.residents.clear()
        self._full.clear()
        self._demanded.clear()
        self._pinned.clear()

    def note_gone(self, ino: InodeNo, generation: Generation) -> None:
        """A slab has left the server."""
        known = self.residents.get(ino)
        if known is not None and known.generation == generation:
            del self.residents[ino]

    def note_refusal(self, ino: InodeNo, generation: Generation, reason: str) -> None:
        """A generation of a file holds no tensors."""
        self._refusals[ino] = (generation, reason)

    def clear_refusals(self, ino: InodeNo | None = None) -> None:
        """What is known of a file, or of any of them (None), may not hold any more."""
        if ino is None:
            self._refusals.clear()
        else:
            self._refusals.pop(ino, None)

    def note_full(self, ino: InodeNo, generation: Generation) -> None:
        """A generation of a file had no room on any device."""
        self._full[ino] = generation

    def clear_full(self, ino: InodeNo) -> None:
        """A file was tried again and met with something else than a lack of room."""
        self._full.pop(ino, None)

    # --- questions -------------------------------------------------------------------------------
    def devices(self, ino: InodeNo, generation: Generation) -> list[str]:
        """Return where a generation of a file is resident; empty: nowhere."""
        known = self.residents.get(ino)
        return [known.device] if known is not None and known.generation == generation else []

    def refusal(self, ino: InodeNo, generation: Generation) -> str | None:
        """Return why a generation of a file cannot be hot, if that was tried."""
        known = self._refusals.get(ino)
        return known[1] if known is not None and known[0] == generation else None

    def is_full_for(self, ino: InodeNo, generation: Generation) -> bool:
        """Return whether a generation of a file had no room when it was last tried."""
        return self._full.get(ino) == generation

    def ticket(self, ino: InodeNo, generation: Generation, uid: int) -> str:
        """Return what a program needs to attach to a file, as JSON.

        Raises:
            NoXattrError: No server runs.
        """
        server = self.server
        if server is None:
            raise NoXattrError(f"the hot tier does not serve: {self.note}")
        return json.dumps(
            {
                "address": server.address,
                "uid": server.uid,
                "token": server.signer.sign(ino, generation, uid),
                "generation": generation,
                "resident": bool(self.devices(ino, generation)),
                "kind": server.devices[0].kind,
                "uuids": [device.uuid for device in server.devices],
            }
        )

    # --- wants -----------------------------------------------------------------------------------
    def want(self, want: Want) -> None:
        """Have a file looked at, and loaded if it is pinned hot or a program waits for it."""
        if self.server is None:
            return
        # Each by itself: no number of pins turns a program away that waits.
        if want.generation is None and len(self._pinned) < WANTED_COUNT_MAX:
            self._pinned[want.ino] = want
        elif want.generation is not None and len(self._demanded) < WANTED_COUNT_MAX:
            self._demanded[want.ino, want.generation] = want
        self._wanted.set()

    def take_wanted(self) -> Want | None:
        """Return the next file to look at, awaited ones first; None: no file waits."""
        if self._demanded:
            return self._demanded.pop(next(iter(self._demanded)))
        return self._pinned.pop(next(iter(self._pinned))) if self._pinned else None

    async def wait(self) -> None:
        """Wait for the next wanted file, where `take_wanted` had nothing. Checkpoint: always."""
        await self._wanted.wait(self._wanted.count)
