"""The methods that make and read small files, many at a time, on the socket of users.

Invariant: a user does here what the kernel would let it do by requests; what the kernel has seen of
that, a token shows (`filesystem.door`), and the rest the ids of the process that has connected.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING

from memfs.control.methods.small_files import AGAIN, LEFT
from memfs.errors import InvalidValueError, NotSupportedError
from memfs.filesystem.small_files import Client, SmallFile
from memfs.filesystem.xattrs import parse_xattrs
from memfs.types import NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods.small_files import GetSmallReport, PutSmallReport
    from memfs.control.server import Handler
    from memfs.filesystem.door import Door
    from memfs.filesystem.shared import Features
    from memfs.filesystem.small_files import SmallFiles
    from memfs.linux.peers import Peer

FILES_A_CALL_MAX = 4096
"""A request line has 1 MiB, so that few calls have as many."""


class SmallFileMethods:
    """Answers `put_small_as_user` and `get_small_as_user`.

    Args:
        files: Makes and reads them.
        door: Takes tickets.
        features: Tells which tiers there are.
    """

    def __init__(self, files: SmallFiles, door: Door, features: Features) -> None:
        self._files = files
        self._door = door
        self._features = features

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the socket of users by name."""
        return {"put_small_as_user": self.put, "get_small_as_user": self.get}

    async def put(
        self,
        peer: Peer,
        ticket: str,
        paths: list[str],
        sizes: list[int],
        contents: str,
        xattrs: list[str],
        umask: int,
        replace: bool,
        tier: str | None,
        durable: bool = False,
    ) -> PutSmallReport:
        """Make files; see `client.small_files`."""
        directory = self._door.admit(ticket, peer.uid, changes=True)
        if not len(paths) == len(sizes) == len(xattrs) <= FILES_A_CALL_MAX:
            raise InvalidValueError("there is not one size and one object of xattrs for each path")
        parsed = {text: _parse_xattrs(text) for text in set(xattrs)}
        pieces = _split(contents, sizes)
        files = [
            SmallFile(names, piece, parsed[text])
            for names, piece, text in zip(_names_of(paths), pieces, xattrs, strict=True)
        ]
        mtimes_ns = await self._files.put_small(
            _client(peer, umask),
            directory,
            files,
            replace=replace,
            pin=self._pin(tier),
            durable=durable,
        )
        return {"mtimes_ns": mtimes_ns}

    async def get(self, peer: Peer, ticket: str, paths: list[str], xattr: str) -> GetSmallReport:
        """Read files; see `client.small_files`."""
        directory = self._door.admit(ticket, peer.uid)
        if len(paths) > FILES_A_CALL_MAX:
            raise InvalidValueError(f"{len(paths)} paths; {FILES_A_CALL_MAX} are taken")
        found = await self._files.get_small(
            _client(peer, 0), directory, _names_of(paths), _encoded(xattr)
        )
        contents = b"".join([each.content for each in found if each is not None])
        # Most files have the same one.
        texts = {each.xattr: os.fsdecode(each.xattr) for each in found if each is not None}
        return {
            "sizes": [
                *(LEFT if each is None else len(each.content) for each in found),
                *(AGAIN for _ in paths[len(found) :]),
            ],
            "contents": base64.b64encode(contents).decode(),
            "xattrs": [
                *("" if each is None else texts[each.xattr] for each in found),
                *("" for _ in paths[len(found) :]),
            ],
        }

    def _pin(self, tier: str | None) -> Tier | None:
        if tier is None:
            return None
        there = {
            "warm": self._features.warm,
            "cold": True,
            "glacier": self._features.glacier,
        }
        if not there.get(tier):
            raise NotSupportedError(f"files cannot be pinned to {tier!r} as they are made")
        return Tier[tier.upper()]


def _client(peer: Peer, umask: int) -> Client:
    return Client(peer.uid, peer.gid, peer.groups, peer.pid, umask & 0o777)


def _split(contents: str, sizes: list[int]) -> list[memoryview]:
    try:
        whole = memoryview(base64.b64decode(contents, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidValueError(f"the contents are no base64: {error}") from None
    if any(size < 0 for size in sizes) or sum(sizes) != len(whole):
        raise InvalidValueError(f"the contents have {len(whole)} bytes, not those of the sizes")
    pieces, begin = [], 0
    for size in sizes:
        pieces.append(whole[begin : begin + size])
        begin += size
    return pieces


def _names_of(paths: list[str]) -> list[tuple[bytes, ...]]:
    """Return the names of each path; all are encoded together, in a third of the time."""
    try:
        encoded = os.fsencode("\0".join(paths)).split(b"\0") if paths else []
    except UnicodeEncodeError:
        encoded = []
    if len(encoded) != len(paths):
        # Says which one it is.
        encoded = [_encoded(path) for path in paths]
    return [tuple(path.split(b"/")) for path in encoded]


def _encoded(text: str) -> bytes:
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"{text[:80]!r}: {error}") from None
    if b"\0" in encoded:
        raise InvalidValueError(f"{text[:80]!r} has NUL in it")
    return encoded


def _parse_xattrs(text: str) -> tuple[tuple[bytes, bytes], ...]:
    found = tuple(
        (name, value) for name, value in parse_xattrs(_encoded(text)) if value is not None
    )
    for name, value in found:
        if len(name) > NAME_BYTES_MAX or b"\0" in name or len(value) > XATTR_VALUE_BYTES_MAX:
            raise InvalidValueError(f"xattr {name[:80]!r} is longer than xattr(7) has it")
    return found
