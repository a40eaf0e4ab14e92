"""Recognition: what the first bytes of a file tell of how well it will compress.

Invariant: a wrong guess costs time or space, and nothing else; whatever the bytes are, looking at
them is bounded work and raises nothing.
"""

from __future__ import annotations

import re
from collections import Counter

HEAD_BYTES = 64 << 10
"""As many first bytes as are of use."""

_COMPRESSED_MAGICS: tuple[tuple[int, bytes], ...] = (
    (0, b"\x1f\x8b"),  # gzip (RFC 1952)
    (0, b"\x28\xb5\x2f\xfd"),  # zstd (RFC 8878)
    (0, b"\x04\x22\x4d\x18"),  # LZ4 frame
    (0, b"\xfd7zXZ\x00"),
    (0, b"BZh"),
    (0, b"7z\xbc\xaf\x27\x1c"),
    (0, b"Rar!\x1a\x07"),
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"GIF8"),
    (8, b"WEBP"),
    (4, b"ftyp"),  # MP4, MOV, HEIC, AVIF (ISO/IEC 14496-12)
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"OggS"),
    (0, b"fLaC"),
    (0, b"ID3"),
    (0, b"\xff\xfb"),  # MPEG audio without tag
)
"""Offset and bytes; formats whose payload is compressed no matter who wrote it. Parquet is not
among them, for its codec is a choice of the writer: a sample tells."""

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_METHOD_OFFSET = 8
_ZIP_STORED = b"\x00\x00"

_NPY_MAGIC = b"\x93NUMPY"
_NPY_DESCRIPTION = re.compile(rb"'descr':\s*'[<>|=]?([a-zA-Z])(\d{1,3})'")
_SAFETENSORS_DTYPE = re.compile(rb'"dtype"\s*:\s*"([A-Z]{1,4}\d{1,2})"')
_SAFETENSORS_HEADER_BYTES_MAX = 100_000_000
"""Longest header that its own library reads."""

_SAFETENSORS_ITEM_BYTES = {
    b"F64": 8,
    b"F32": 4,
    b"F16": 2,
    b"BF16": 2,
    b"I64": 8,
    b"U64": 8,
    b"I32": 4,
    b"U32": 4,
    b"I16": 2,
    b"U16": 2,
}
_NPY_ITEM_BYTES = {b"f": (2, 4, 8), b"i": (2, 4, 8), b"u": (2, 4, 8), b"c": (8, 16)}


def is_compressed(head: bytes) -> bool:
    """Return whether a file is of a format that is compressed already.

    Args:
        head: Its first bytes.
    """
    if head.startswith(_ZIP_MAGIC):
        # Archives of torch and numpy hold their tensors as they are (method 0).
        return head[_ZIP_METHOD_OFFSET : _ZIP_METHOD_OFFSET + 2] != _ZIP_STORED
    return any(head.startswith(magic, at) for at, magic in _COMPRESSED_MAGICS)


def tensor_item_bytes(head: bytes) -> int:
    """Return the size of a number in a file of tensors (.npy, .safetensors): 2, 4, 8; else 1.

    Args:
        head: Its first bytes; of a longer header the part that is in them decides.

    Source: numpy.lib.format; the safetensors format of its README.
    """
    if head.startswith(_NPY_MAGIC):
        return _npy_item_bytes(head)
    return _safetensors_item_bytes(head)


def _npy_item_bytes(head: bytes) -> int:
    found = _NPY_DESCRIPTION.search(head, 0, 4096)
    if found is None:
        return 1
    kind, size = found[1], int(found[2])
    if size not in _NPY_ITEM_BYTES.get(kind, ()):
        return 1
    # A complex number is two floats.
    return size // 2 if kind == b"c" else size


def _safetensors_item_bytes(head: bytes) -> int:
    header_bytes = int.from_bytes(head[:8], "little")
    if not 2 <= header_bytes <= _SAFETENSORS_HEADER_BYTES_MAX or head[8:9] != b"{":
        return 1
    names = _SAFETENSORS_DTYPE.findall(head, 8, 8 + header_bytes)
    if not names:
        return 1
    (commonest, _), *_ = Counter(names).most_common(1)
    return _SAFETENSORS_ITEM_BYTES.get(commonest, 1)
