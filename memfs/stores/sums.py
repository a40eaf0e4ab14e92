"""Checksums of whole objects: what a store tells of one, and whether its bytes have it.

Invariant: a checksum that is not known here, or makes no sense, says nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import zlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP_BYTES = 4 << 20

_SIZES = {"crc32c": 4, "crc32": 4, "sha1": 20, "sha256": 32, "md5": 16, "sha512": 64}
"""Bytes of each kind, the ones that cost least first."""


class Sum(NamedTuple):
    """A checksum of all bytes of an object."""

    kind: str
    """As Python's hashlib names it, or `crc32`, or `crc32c`."""
    digest: bytes
    is_certain: bool = True
    """False: the store may mean something else by it, as by an ETag that looks like an MD5."""


class Hasher(Protocol):
    """Takes a checksum, as those of hashlib."""

    def update(self, data: bytes, /) -> object:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the checksum of all bytes so far."""
        ...


class _Crc32:
    """CRC-32 as of gzip, four bytes with the highest first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def decoded(told: Iterable[tuple[str, str]]) -> tuple[Sum, ...]:
    """Return checksums of kinds and of texts in base64; those that make no sense are left out."""
    found = []
    for kind, text in told:
        try:
            digest = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
        if len(digest) == _SIZES.get(kind):
            found.append(Sum(kind, digest))
    return tuple(found)


def best_of(sums: Iterable[Sum]) -> Sum | None:
    """Return the checksum that is to be compared: a certain one, at the least cost."""
    kinds = [*_SIZES]
    known = [each for each in sums if each.kind != "crc32c" or _crc32c() is not None]
    return min(known, key=lambda each: (not each.is_certain, kinds.index(each.kind)), default=None)


def sum_of(kind: str, data: bytes) -> bytes:
    """Return the checksum of some bytes."""
    hasher = hasher_of(kind)
    hasher.update(data)
    return hasher.digest()


def update_from(hasher: Hasher, fd: int, start: int, end: int) -> None:
    """Add bytes of a file to a checksum; blocks.

    Raises:
        OSError: They cannot be read.
    """
    while start < end and (data := os.pread(fd, min(_STEP_BYTES, end - start), start)):
        hasher.update(data)
        start += len(data)


def hasher_of(kind: str) -> Hasher:
    """Return what takes a checksum of a kind."""
    if kind == "crc32":
        return _Crc32()
    if kind == "crc32c":
        made = _crc32c()
        assert made is not None
        return made
    return hashlib.new(kind, usedforsecurity=False)


def _crc32c() -> Hasher | None:
    """Return a hasher of CRC-32C; None: the library that gcsfs brings along cannot make one."""
    try:
        import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":
        # Without its extension in C it takes a second for a megabyte.
        return None
    made: Hasher = google_crc32c.Checksum()  # type: ignore[no-untyped-call]  # it has no types
    return made
