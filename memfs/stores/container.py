"""The packed container: independent frames, then the table that finds them.

Invariant: every byte of a container is covered by a checksum or compared with the one value that
it may have, so a changed byte is found before anything made from it is returned.

A container is `frames | description | seek table`. The seek table has the payload of the public
zstd seekable format (zstd_seekable_compression_format.md) whatever the codec, with checksums; the
description is the last entry of it, of decompressed size 0. Both are wrapped so that the codec's
own tools pass over them: in skippable frames (RFC 8878 section 3.1.2, which LZ4 frames share), for
snappy in skippable chunks (framing_format.txt section 4.6). All numbers are little-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, NoReturn, Self

import blake3
import xxhash

from memfs.codecs.registry import parse_codec
from memfs.codecs.shuffle import ITEM_BYTES, unshuffle
from memfs.codecs.snappy import STREAM_IDENTIFIER
from memfs.errors import CodecMissingError, CorruptDataError, InvalidValueError, MemfsError
from memfs.types import ByteRange, CodecSpec, FormCoding

if TYPE_CHECKING:
    from memfs.codecs.codec import Codec
    from memfs.encryption.cipher import ContainerCipher

FORMAT_VERSION = 1
FORMAT_VERSION_SHUFFLED = 2
"""That of containers with the byte-shuffle filter, which readers of format 1 would not undo."""

FRAME_COUNT_MAX = 1 << 20
"""Keeps a table under 16 MiB in memory, and in one snappy chunk; larger files get larger frames."""

FRAME_BYTES_MAX = 1 << 30
"""Sizes of frames are 32 bits in the seekable format, and some encoders need slack."""

FINGERPRINT_BYTES = 8
"""Bytes of a table; the engine keeps one for each form."""

TAIL_BYTES = 256 << 10
"""First read from the end: covers the tables of files up to 16 GiB at 1 MiB frames (16 B each)."""

_DESCRIPTION = struct.Struct("<8sHBBIQQ32s")
_SIGNATURE = b"memfspak"
_CHECKSUM = struct.Struct("<Q")
_FOOTER = struct.Struct("<IBI")
_ENTRY_BYTES = 12
_DESCRIPTOR_CHECKSUMS = 0x80
_SEEKABLE_MAGIC = 0x8F92EAB1
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_TABLE, _SKIPPABLE_DESCRIPTION = 0x184D2A5E, 0x184D2A5D
_CHUNK_TABLE, _CHUNK_DESCRIPTION = 0x9E, 0x9D
_CHUNK_CODECS = frozenset({"snappy"})
FOOTER_BYTES = _FOOTER.size
"""Length of what the end of every container must have."""


def checksum(data: bytes | bytearray | memoryview) -> int:
    """Return the low 32 bits of XXH64 with seed 0, as the zstd seekable format has them."""
    return xxhash.xxh64_intdigest(data) & 0xFFFFFFFF


def choose_frame_bytes(size: int, wanted_bytes: int) -> int:
    """Return the frame size for a file: the wanted one, doubled until the table stays small.

    Args:
        size: Bytes of the file.
        wanted_bytes: 1 to `FRAME_BYTES_MAX`.
    """
    if not 1 <= wanted_bytes <= FRAME_BYTES_MAX:
        raise InvalidValueError(
            f"frames of {wanted_bytes} bytes are not possible; use 1 to {FRAME_BYTES_MAX}"
        )
    frame_bytes = wanted_bytes
    while frame_bytes * FRAME_COUNT_MAX < size:
        frame_bytes *= 2
    return frame_bytes


@dataclass(frozen=True, slots=True)
class SeekTable:
    """All that is known of a container without its frames; immutable, 16 bytes a frame."""

    codec: CodecSpec
    frame_bytes: int
    """Uncompressed bytes of every frame but the last, which has the rest."""
    size: int
    """Uncompressed bytes of all."""
    digest: bytes
    """BLAKE3-256 of the uncompressed bytes; 32 bytes."""
    stored_offsets: array[int]
    """Where each frame begins, and at last where all end: `frame_count + 1` of 64 bits."""
    stored_checksums: array[int]
    """`checksum` of each frame as stored."""
    content_checksums: array[int]
    """`checksum` of each frame uncompressed."""
    shuffle_bytes: int = 1
    """Item size of the byte-shuffle filter (`codecs.shuffle`); 1: no filter."""
    key_id: bytes = b""
    """That of the key that encrypts the container (`envelope`); empty: it is not encrypted."""
    cipher: ContainerCipher | None = field(default=None, compare=False, repr=False)
    """Decrypts the frames of an encrypted container."""

    @classmethod
    def build(
        cls,
        codec: CodecSpec,
        frame_bytes: int,
        size: int,
        digest: bytes,
        frames: tuple[array[int], array[int], array[int]],
        shuffle_bytes: int = 1,
    ) -> Self:
        """Make the table of a container whose frames are written.

        Args:
            codec: What encoded them.
            frame_bytes: Uncompressed bytes of every frame but the last.
            size: Uncompressed bytes of all.
            digest: BLAKE3-256 of the uncompressed bytes.
            frames: Stored sizes, checksums of the stored and of the uncompressed bytes, by frame.
            shuffle_bytes: Item size of the filter; 1: no filter.
        """
        stored_sizes, stored_checksums, content_checksums = frames
        offsets = array("Q", accumulate(stored_sizes, initial=0))
        return cls(
            codec,
            frame_bytes,
            size,
            digest,
            offsets,
            stored_checksums,
            content_checksums,
            shuffle_bytes,
        )

    def encrypted(self, cipher: ContainerCipher, key_id: bytes) -> SeekTable:
        """Return the table of the encrypted container whose frames decrypt to those of this one.

        The checksums of stored bytes stay those of the frames before encryption.
        """
        longer = cipher.overhead_bytes
        offsets = array("Q", (at + longer * count for count, at in enumerate(self.stored_offsets)))
        return replace(self, stored_offsets=offsets, key_id=key_id, cipher=cipher)

    @property
    def coding(self) -> FormCoding:
        """How the container is encoded, as the engine keeps it."""
        # A key binds table and frames to their place by itself.
        table_id = "" if self.key_id else self.fingerprint
        return FormCoding(str(self.codec), self.shuffle_bytes, self.key_id.hex(), table_id)

    @property
    def fingerprint(self) -> str:
        """A digest of where each frame is and of its checksums, as hexadecimal digits.

        Who knows it can trust single frames: their checksums are those of the content's digest.
        """
        hasher = blake3.blake3()
        for numbers in (self.stored_offsets, self.stored_checksums, self.content_checksums):
            hasher.update(_to_bytes(numbers))
        return hasher.hexdigest(FINGERPRINT_BYTES)

    @property
    def frame_count(self) -> int:
        """Number of frames; 0 for an empty file."""
        return len(self.stored_checksums)

    @property
    def memory_bytes(self) -> int:
        """What the table costs in memory, for caches."""
        return 16 * self.frame_count + 512

    def frame_size(self, index: int) -> int:
        """Return the uncompressed bytes of one frame."""
        return min(self.frame_bytes, self.size - index * self.frame_bytes)

    def frames_of(self, offset: int, size: int) -> range:
        """Return the frames that hold uncompressed bytes `[offset, offset + size)`."""
        end = min(offset + size, self.size)
        if end <= offset:
            return range(0)
        return range(offset // self.frame_bytes, (end - 1) // self.frame_bytes + 1)

    def stored_range(self, frames: range) -> ByteRange:
        """Return the stored bytes of consecutive frames; `frames` is not empty."""
        return ByteRange(self.stored_offsets[frames[0]], self.stored_offsets[frames[-1] + 1])

    def decode_frame(self, codec: Codec, index: int, stored: memoryview, name: str) -> bytes:
        """Return one frame's uncompressed bytes, checked before and after decoding.

        Args:
            codec: The codec of `self.codec`.
            index: 0-based.
            stored: The frame's stored bytes, exactly.
            name: The file or object, for the message.

        Raises:
            CorruptDataError: Names file and frame.
        """
        try:
            stored = self.decrypt_frame(index, stored)
            content = codec.decode(stored, self.frame_size(index))
        except CorruptDataError as error:
            raise CorruptDataError(f"{name}: frame {index}: {error}") from error
        if self.shuffle_bytes > 1:
            content = unshuffle(content, self.shuffle_bytes)
        if checksum(content) != self.content_checksums[index]:
            raise CorruptDataError(f"{name}: frame {index}: decoded bytes fail their checksum")
        return content

    def decrypt_frame(self, index: int, stored: memoryview) -> memoryview:
        """Return one frame's encoded bytes, decrypted where they are encrypted, and checked.

        Raises:
            CorruptDataError: They do not decrypt, or fail their checksum.
        """
        if self.cipher is not None:
            stored = memoryview(self.cipher.decrypt_frame(index, stored))
        if checksum(stored) != self.stored_checksums[index]:
            raise CorruptDataError("stored bytes fail their checksum")
        return stored

    def serialise(self) -> bytes:
        """Return what follows the frames before encryption: description and seek table."""
        assert self.cipher is None, "its offsets are those of the encrypted container"
        chunked = self.codec.name in _CHUNK_CODECS
        codec_text = str(self.codec).encode()
        payload_bytes = _description_bytes(len(codec_text), self.frame_count)
        header = _description_header(chunked, payload_bytes)
        table = self._seek_table_payload(len(header) + payload_bytes)
        description = b"".join(
            (
                _DESCRIPTION.pack(
                    _SIGNATURE,
                    FORMAT_VERSION_SHUFFLED if self.shuffle_bytes > 1 else FORMAT_VERSION,
                    len(codec_text),
                    self.shuffle_bytes if self.shuffle_bytes > 1 else 0,
                    self.frame_bytes,
                    self.size,
                    xxhash.xxh64_intdigest(table),
                    self.digest,
                ),
                codec_text,
                _to_bytes(self.stored_checksums),
            )
        )
        description += _CHECKSUM.pack(xxhash.xxh64_intdigest(description))
        return b"".join((header, description, _table_header(chunked, len(table)), table))

    def _seek_table_payload(self, description_stored_bytes: int) -> bytes:
        count = self.frame_count
        entries = array("I", bytes(_ENTRY_BYTES * (count + 1)))
        offsets = self.stored_offsets
        entries[0:-3:3] = array("I", map(int.__sub__, offsets[1:], offsets[:-1]))
        entries[1::3] = self._content_sizes()
        entries[2:-3:3] = self.content_checksums
        entries[-3] = description_stored_bytes
        entries[-1] = checksum(b"")
        return _to_bytes(entries) + _FOOTER.pack(count + 1, _DESCRIPTOR_CHECKSUMS, _SEEKABLE_MAGIC)

    def _content_sizes(self) -> array[int]:
        """Return each entry's decompressed size, the description's 0 included."""
        sizes = array("I", [self.frame_bytes]) * self.frame_count
        if sizes:
            sizes[-1] = self.frame_size(self.frame_count - 1)
        sizes.append(0)
        return sizes


def tail_bytes_needed(tail: bytes, stored_bytes: int, name: str) -> int:
    """Return how many bytes from the end of a container hold all of its table.

    Args:
        tail: Its last bytes; `FOOTER_BYTES + 12` or more, or all that there are.
        stored_bytes: Length of the container.
        name: The file or object, for the message.

    Raises:
        CorruptDataError: It does not end as a container does.
    """
    if len(tail) < min(stored_bytes, FOOTER_BYTES + _ENTRY_BYTES):
        _refuse(name, f"ends {stored_bytes - len(tail)} bytes early")
    if len(tail) < FOOTER_BYTES + _ENTRY_BYTES:
        _refuse(name, f"{stored_bytes} bytes are too few for a packed file")
    entry_count, descriptor, magic = _FOOTER.unpack_from(tail, len(tail) - FOOTER_BYTES)
    if magic != _SEEKABLE_MAGIC or descriptor != _DESCRIPTOR_CHECKSUMS:
        _refuse(name, "does not end with a seek table: truncated, damaged or not a packed file")
    if not 1 <= entry_count <= FRAME_COUNT_MAX + 1:
        _refuse(name, f"its seek table claims {entry_count} entries")
    (description_bytes,) = struct.unpack_from("<I", tail, len(tail) - FOOTER_BYTES - _ENTRY_BYTES)
    # Whether the wrapper is a skippable frame (8 bytes) or a chunk (4) shows only when it is read.
    needed = _SKIPPABLE.size + _ENTRY_BYTES * entry_count + FOOTER_BYTES + description_bytes
    if needed - _SKIPPABLE.size > stored_bytes:
        _refuse(name, f"its seek table claims {needed} bytes of {stored_bytes}")
    return min(int(needed), stored_bytes)


def parse_tail(tail: bytes, stored_bytes: int, name: str) -> SeekTable:
    """Read the table of a container.

    Args:
        tail: Its last bytes, at least `tail_bytes_needed`.
        stored_bytes: Length of the container.
        name: The file or object, for the message.

    Raises:
        CorruptDataError: The table fails a checksum, or does not fit the container.
        CodecMissingError: The codec is not installed here.
    """
    table_bytes = _ENTRY_BYTES * _FOOTER.unpack_from(tail, len(tail) - FOOTER_BYTES)[0]
    table_bytes += FOOTER_BYTES
    table = tail[-table_bytes:]
    entries = _from_bytes(table[:-FOOTER_BYTES])
    head = tail[:-table_bytes]
    chunked = not head.endswith(_table_header(False, table_bytes))
    header = _table_header(chunked, table_bytes)
    if not head.endswith(header):
        _refuse(name, "the head of its seek table is damaged")
    end = len(head) - len(header)
    wrapped = head[max(0, end - entries[-3]) : end]
    description = wrapped[len(_description_header(chunked, 0)) :]
    if len(wrapped) != entries[-3] or not wrapped.startswith(
        _description_header(chunked, len(description))
    ):
        _refuse(name, "the head of its description is damaged")
    table_start = stored_bytes - table_bytes - len(header) - len(wrapped)
    return _parse_description(description, table, entries, table_start, name, chunked)


def _parse_description(
    description: bytes, table: bytes, entries: array[int], frames_end: int, name: str, chunked: bool
) -> SeekTable:
    frame_count = len(entries) // 3 - 1
    body = description[: -_CHECKSUM.size]
    if len(body) < _DESCRIPTION.size or description[len(body) :] != _CHECKSUM.pack(
        xxhash.xxh64_intdigest(body)
    ):
        _refuse(name, "its description fails its checksum")
    signature, version, codec_bytes, filter_bytes, frame_bytes, size, table_checksum, digest = (
        _DESCRIPTION.unpack_from(body)
    )
    filters = {FORMAT_VERSION: (0,), FORMAT_VERSION_SHUFFLED: ITEM_BYTES}
    if signature != _SIGNATURE or filter_bytes not in filters.get(version, ()):
        _refuse(name, f"format {version} of packed files is unknown; a newer memfs may read it")
    if len(description) != _description_bytes(codec_bytes, frame_count):
        _refuse(name, "its description does not fit its seek table")
    if xxhash.xxh64_intdigest(table) != table_checksum:
        _refuse(name, "its seek table fails its checksum")
    codec_end = _DESCRIPTION.size + codec_bytes
    codec_text = body[_DESCRIPTION.size : codec_end]
    try:
        codec = parse_codec(codec_text.decode())
    except UnicodeDecodeError:
        _refuse(name, "its codec's name is no text")
    except MemfsError as error:
        raise CodecMissingError(f"{name}: {error}") from error
    seek_table = SeekTable.build(
        codec,
        frame_bytes,
        size,
        digest,
        (entries[0:-3:3], _from_bytes(body[codec_end:]), entries[2:-3:3]),
        max(1, filter_bytes),
    )
    if (
        chunked != (codec.name in _CHUNK_CODECS)
        or not 1 <= frame_bytes <= FRAME_BYTES_MAX
        or frame_count != -(-size // frame_bytes)
        or entries[1::3] != seek_table._content_sizes()
        or seek_table.stored_offsets[-1] != frames_end
    ):
        _refuse(name, "its seek table contradicts itself or the file's length")
    return seek_table


def _description_bytes(codec_bytes: int, frame_count: int) -> int:
    return _DESCRIPTION.size + codec_bytes + 4 * frame_count + _CHECKSUM.size


def _table_header(chunked: bool, size: int) -> bytes:
    if chunked:
        return struct.pack("<I", _CHUNK_TABLE | size << 8)
    return _SKIPPABLE.pack(_SKIPPABLE_TABLE, size)


def _description_header(chunked: bool, size: int) -> bytes:
    if chunked:
        # The identifier may recur at any place, and an empty file must have it at the start.
        return STREAM_IDENTIFIER + struct.pack("<I", _CHUNK_DESCRIPTION | size << 8)
    return _SKIPPABLE.pack(_SKIPPABLE_DESCRIPTION, size)


def _to_bytes(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(data: bytes) -> array[int]:
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _refuse(name: str, why: str) -> NoReturn:
    raise CorruptDataError(f"{name}: {why}")
