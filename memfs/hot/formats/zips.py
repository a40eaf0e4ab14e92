"""Zip files as .npz and .pt are: members that are stored as they are, at known places.

Invariant: a member's bytes lie behind its local header and before the directory; no two members
overlap, nor does one lie in another's header.

Source: PKWARE's APPNOTE.TXT, sections 4.3.7 and 4.3.12.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.formats.npy import read_array
from memfs.hot.tensors import HEADER_BYTES_MAX, TENSOR_COUNT_MAX, FormatError, TensorIndex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.hot.formats.source import Source

MAGIC = b"PK\x03\x04"
_DIRECTORY_MAGIC = b"PK\x01\x02"

NPZ_FORMAT = "npz"

_LOCAL = struct.Struct("<4s2xHH16xHH")
"""Magic, flags, compression, length of the name, length of the extra field."""

_ENCRYPTED = 1
_UTF8 = 0x800
"""Flag of a name that is not of code page 437."""


class Member(NamedTuple):
    """One member of a zip file."""

    header: int
    """Offset of its local header."""
    offset: int
    """That of its first byte in the file."""
    size_bytes: int

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + self.size_bytes


class _File(io.RawIOBase):
    """A source as `zipfile` reads it."""

    def __init__(self, source: Source, member_count_max: int) -> None:
        self._source = source
        self._member_count_max = member_count_max
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._source.size_bytes)
        if base + offset < 0:
            raise OSError("its directory points before the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._source.size_bytes - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count > HEADER_BYTES_MAX:
            raise FormatError(f"{self._source.name}: the zip's directory has {count} bytes")
        data = self._source.read(self._position, count)
        # Counted before zipfile makes 0.3 KiB of each 46 bytes, at 20 us.
        if data.count(_DIRECTORY_MAGIC) > self._member_count_max:
            raise FormatError(
                f"{self._source.name} has more than {self._member_count_max} members, which are "
                "not taken"
            )
        self._position += count
        return data


def read_members(source: Source, member_count_max: int = TENSOR_COUNT_MAX) -> dict[str, Member]:
    """Return the members of a zip file by name.

    Raises:
        FormatError: It is not one, or its members are compressed, encrypted or overlap.
    """
    try:
        with zipfile.ZipFile(_File(source, member_count_max)) as archive:
            listed, directory = archive.infolist(), archive.start_dir
    except FormatError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError) as error:
        raise FormatError(f"{source.name} is no sound zip file: {error}") from None
    if len({entry.header_offset for entry in listed}) < len(listed):
        raise FormatError(f"{source.name}: two members overlap from their beginning on")
    members: dict[str, Member] = {}
    for entry in listed:
        if entry.filename in members:
            raise FormatError(f"{source.name}: member {entry.filename[:200]!r} is there twice")
        members[entry.filename] = _locate(source, entry, directory)
    end, last = 0, ""
    for name, member in sorted(members.items(), key=lambda item: item[1]):
        if member.header < end:
            raise FormatError(f"{source.name}: members {last[:200]!r} and {name[:200]!r} overlap")
        end, last = member.end, name
    return members


def _locate(source: Source, entry: zipfile.ZipInfo, directory: int) -> Member:
    place = f"{source.name}: member {entry.filename[:200]!r}"
    if entry.compress_type != zipfile.ZIP_STORED:
        raise FormatError(
            f"{place} is compressed, so that it cannot be used in place; save it with numpy.savez "
            "(not savez_compressed), or torch.save"
        )
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
    begin = entry.header_offset + _LOCAL.size + len(name)
    # A directory that lies of its own place makes offsets negative (zipfile adds the difference).
    if entry.header_offset < 0 or begin > directory:
        raise FormatError(f"{place} lies outside of the file")
    header = source.read(entry.header_offset, _LOCAL.size + len(name))
    magic, flags, method, name_bytes, extra_bytes = _LOCAL.unpack_from(header)
    if magic != MAGIC or method != zipfile.ZIP_STORED or flags & _ENCRYPTED:
        raise FormatError(f"{place} is not where the directory says, or is encrypted")
    if name_bytes != len(name) or header[_LOCAL.size :] != name:
        raise FormatError(f"{place} has another name where it lies")
    offset = begin + extra_bytes
    if entry.file_size != entry.compress_size or offset + entry.file_size > directory:
        raise FormatError(f"{place} lies outside of the file")
    return Member(entry.header_offset, offset, entry.file_size)


def read_npz(source: Source, members: Mapping[str, Member]) -> TensorIndex:
    """Return the arrays of a .npz file.

    Raises:
        FormatError: A member is no array.
    """
    tensors = []
    for name, member in members.items():
        if not name.endswith(".npy"):
            raise FormatError(f"{source.name}: member {name[:200]!r} is no array")
        tensors.append(read_array(source, member.offset, member.end, name.removesuffix(".npy")))
    return TensorIndex(NPZ_FORMAT, tuple(tensors), {})
