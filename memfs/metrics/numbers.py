"""The numbers of one row of a ring, by name, and as bytes.

Invariant: a number keeps its key for ever, since rows live for years: new ones are appended, and
what is no longer measured keeps its place. A key that is not known, of a later version, is passed
over.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping

from memfs.errors import InvalidValueError
from memfs.metrics.latency import BUCKET_COUNT
from memfs.metrics.traffic import Level
from memfs.types import PendingCode

Numbers = Mapping[str, int]
"""By name; what is left out is 0. No number is negative."""


class Combine(enum.Enum):
    """What many rows come to in one."""

    SUM = "sum"
    """Events add up."""
    LAST = "last"
    """The state at the end counts."""
    MOST = "most"
    """The highest state counts."""


KINDS = ("name", "change", "open", "read", "write", "sync")
"""Kinds of requests whose durations are kept apart."""

TIERS = ("hot", "warm", "cold", "glacier")

_GAUGES = (
    "inodes",
    "logical_bytes",
    "raw_bytes",
    "packed_bytes",
    "remote_bytes",
    "kept_bytes",
    "snapshots",
    "pending",
    "queued",
    "not_durable",
)
_COUNTERS = (
    "starts",
    "requests",
    "store_requests",
    "store_errors",
    "store_sent_bytes",
    "store_received_bytes",
    "prefetch_hits",
    "prefetch_wasted",
    "prefetched_bytes",
    "codec_content_bytes",
    "codec_stored_bytes",
    "stalls",
    "stalled_ms",
    "user_writes",
)
_MOST = ("memory_bytes", "store_down")


def _places() -> dict[str, tuple[int, Combine]]:
    """Return key and kind of each number; each block has room to grow."""
    blocks: tuple[tuple[int, Combine, Iterable[str]], ...] = (
        (0, Combine.LAST, _GAUGES),
        (32, Combine.SUM, _COUNTERS),
        (64, Combine.MOST, _MOST),
        (80, Combine.LAST, (f"pending.{code}" for code in PendingCode)),
        (
            100,
            Combine.LAST,
            (f"{what}.{tier}" for tier in TIERS for what in ("used", "files", "capacity")),
        ),
        (
            120,
            Combine.SUM,
            (f"{what}.{level}" for level in Level for what in ("opens", "opened_bytes")),
        ),
        (
            140,
            Combine.SUM,
            (
                f"{what}.{source}.{target}"
                for source, target in itertools.permutations(Level, 2)
                for what in ("moves", "moved_bytes")
            ),
        ),
        (
            256,
            Combine.SUM,
            (f"took.{kind}.{bucket}" for kind in KINDS for bucket in range(BUCKET_COUNT)),
        ),
    )
    return {
        name: (key, combine)
        for begin, combine, names in blocks
        for key, name in enumerate(names, begin)
    }


PLACES = _places()
"""Key and kind of each number by its name."""
_NAMES = {key: name for name, (key, _) in PLACES.items()}


_KINDS_OF = {
    **dict.fromkeys(
        (
            *("lookup", "getattr", "statx", "readlink", "getxattr", "listxattr", "statfs"),
            *("readdir", "readdirplus", "opendir"),
        ),
        "name",
    ),
    **dict.fromkeys(
        (
            *("setattr", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "rename2"),
            *("link", "setxattr", "removexattr"),
        ),
        "change",
    ),
    **dict.fromkeys(("open", "create", "tmpfile"), "open"),
    **dict.fromkeys(("read", "lseek"), "read"),
    **dict.fromkeys(("write", "fallocate", "copy_file_range", "copy_file_range_64"), "write"),
    **dict.fromkeys(("fsync", "fsyncdir", "syncfs"), "sync"),
}


def kind_of(operation: str) -> str | None:
    """Return the kind of an operation of `Latencies`; None: no program waits for it."""
    return _KINDS_OF.get(operation)


def lasting(numbers: Numbers) -> dict[str, int]:
    """Return what lasts when nothing more happens."""
    return {name: value for name, value in numbers.items() if PLACES[name][1] != Combine.SUM}


_STEPPED = b"\0\0"
"""Begins rows whose keys are told by their distance from the one before: half of the keys are two
bytes long else. Earlier rows told the keys themselves, and a number that is 0 was in no row."""


def encode(numbers: Numbers) -> bytes:
    """Return a row as bytes: key and value of each number that is not 0, seven bits a byte.

    Raises:
        KeyError: A name is not known.
    """
    parts = bytearray(_STEPPED)
    before = 0
    for key, value in sorted((PLACES[name][0], value) for name, value in numbers.items() if value):
        _append(parts, key - before)
        _append(parts, value)
        before = key
    return bytes(parts)


def decode(row: bytes) -> dict[str, int]:
    """Return the numbers of a row; those of a later version are left out.

    Raises:
        InvalidValueError: It ends within a number.
    """
    is_stepped = row.startswith(_STEPPED)
    values: list[int] = []
    value = shift = 0
    for byte in row[len(_STEPPED) if is_stepped else 0 :]:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            values.append(value)
            value = shift = 0
    if shift or len(values) % 2:
        raise InvalidValueError("a row of metrics ends too early")
    keys = itertools.accumulate(values[::2]) if is_stepped else values[::2]
    pairs = zip(keys, values[1::2], strict=True)
    return {_NAMES[key]: value for key, value in pairs if key in _NAMES}


def combine(rows: Iterable[Numbers]) -> dict[str, int]:
    """Return what rows come to in one, the earliest first."""
    total: dict[str, int] = {}
    for row in rows:
        for name, (_, how) in PLACES.items():
            value = row.get(name, 0)
            if how == Combine.SUM:
                value += total.get(name, 0)
            elif how == Combine.MOST:
                value = max(value, total.get(name, 0))
            if value or name in total:
                total[name] = value
    return {name: value for name, value in total.items() if value}


def _append(parts: bytearray, value: int) -> None:
    assert value >= 0, "a row has no negative numbers"
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
