"""Columns: rows of tables as bytes, column by column, for exports.

Invariant: `decode(encode(tables))` are the same rows; whatever else is decoded raises
`CorruptDataError`, and nothing of it is run.

The bytes are `magic | length of the header | header in JSON | columns`. The header names the tables
and their columns with kind and length, so that a reader takes what it knows and passes over what a
later version has added. A column that has one value for all rows has it once. Whole numbers are 64
bits, each as its difference to the one before, and then the first bytes of all, the second ones,
and so on: most of them are zeros then. Bytes and texts are their lengths, as such numbers, and then
all of them in a row. A column that may have null begins with a byte for each row.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from itertools import accumulate, chain, islice
from operator import sub
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple

from memfs.codecs.shuffle import shuffle, unshuffle
from memfs.errors import CorruptDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAGIC = b"memfs rows 1\n"
HEADER_BYTES_MAX = 64 << 10
ROW_COUNT_MAX = 1 << 24
"""Rows of a table; bounds what a hostile header can ask for."""

_LENGTH = struct.Struct("<I")
_NUMBER_BYTES = 8

Row = tuple[Any, ...]
Columns = dict[str, "Sequence[Any]"]


class Alike(list[Any]):
    """A column that has one value for all rows, in the bytes as well."""


class Shape(NamedTuple):
    """A table that is written: names of its columns, and what they hold."""

    name: str
    kinds: Mapping[str, str]
    """By column: `int`, `bytes` or `text`; with `?` behind it where it may be null."""


def encode(tables: Iterable[tuple[Shape, Sequence[Row]]]) -> bytes:
    """Return the bytes of some tables.

    Args:
        tables: Each with its rows, whose values are in the order of the columns.
    """
    return encode_columns((shape, columns_of(shape, rows)) for shape, rows in tables)


def columns_of(shape: Shape, rows: Iterable[Row]) -> Sequence[Sequence[Any]]:
    """Return rows as columns."""
    return [*zip(*rows, strict=True)] or ((),) * len(shape.kinds)


def encode_columns(tables: Iterable[tuple[Shape, Sequence[Sequence[Any]]]]) -> bytes:
    """Return the bytes of some tables.

    Args:
        tables: Each with its columns, in their order.
    """
    header: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for shape, columns in tables:
        told = []
        for (name, kind), values in zip(shape.kinds.items(), columns, strict=True):
            # Most columns of most tables: one value for all.
            is_alike = len(values) > 1 and values.count(values[0]) == len(values)
            data = _encode(kind, values[:1] if is_alike else values)
            told.append([name, kind, len(data), is_alike])
            parts.append(data)
        header.append({"name": shape.name, "rows": len(columns[0]), "columns": told})
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((MAGIC, _LENGTH.pack(len(text)), text, *parts))


_FAULTS = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError),
    struct.error,
)
"""What data that anybody may have made can lead to."""


def decode(data: bytes, name: str) -> dict[str, Columns]:
    """Return the columns of each table by name.

    Args:
        data: As of `encode`.
        name: Where they come from, for messages.

    Raises:
        CorruptDataError: They are not that.
    """
    try:
        return _decode(data)
    except _FAULTS as error:
        raise CorruptDataError(f"{name}: no rows of memfs: {error}") from None


def pick(columns: Columns, names: Sequence[str], name: str) -> list[Sequence[Any]]:
    """Return the columns of a table that are named, in that order.

    Raises:
        CorruptDataError: One is missing.
    """
    missing = [each for each in names if each not in columns]
    if missing:
        raise CorruptDataError(f"{name}: the column {missing[0]} is missing")
    return [columns[each] for each in names]


def _decode(data: bytes) -> dict[str, Columns]:
    if not data.startswith(MAGIC):
        raise ValueError("another beginning")
    (header_bytes,) = _LENGTH.unpack_from(data, len(MAGIC))
    start = len(MAGIC) + _LENGTH.size
    if header_bytes > HEADER_BYTES_MAX:
        raise ValueError("a header that is too long")
    tables: dict[str, Columns] = {}
    at = start + header_bytes
    for table in json.loads(data[start:at]):
        count = table["rows"]
        if type(count) is not int or not 0 <= count <= ROW_COUNT_MAX:
            raise ValueError(f"{count!r} rows")
        columns: Columns = {}
        for column, kind, size, is_alike in table["columns"]:
            if type(size) is not int or not 0 <= size <= len(data) - at:
                raise ValueError(f"column {column} of {size!r} bytes")
            values = _decode_column(kind, data[at : at + size], 1 if is_alike else count)
            columns[str(column)] = Alike([values[0]] * count) if is_alike else values
            at += size
        tables[str(table["name"])] = columns
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes too many")
    return tables


def _encode(kind: str, values: Sequence[Any]) -> bytes:
    head = b""
    if kind.endswith("?"):
        head = bytes([value is None for value in values])
        empty: Any = {"int": 0, "bytes": b"", "text": ""}[kind[:-1]]
        values = [empty if value is None else value for value in values]
    match kind.rstrip("?"):
        case "int":
            return head + _encode_numbers(values)
        case "bytes":
            return head + _encode_numbers([*map(len, values)]) + b"".join(values)
        case "text":
            letters = "".join(values).encode("utf-8", "surrogateescape")
            return head + _encode_numbers([*map(len, values)]) + letters
    raise ValueError(kind)


def _decode_column(kind: str, data: bytes, count: int) -> Sequence[Any]:
    nulls = b""
    if kind.endswith("?"):
        nulls, data = data[:count], data[count:]
        if len(nulls) != count:
            raise ValueError("too short")
    found: Sequence[Any]
    if kind.rstrip("?") == "int":
        if len(data) != count * _NUMBER_BYTES + 1:
            raise ValueError("numbers of another length")
        found = _decode_numbers(data)
    elif kind.rstrip("?") in ("bytes", "text"):
        head = count * _NUMBER_BYTES + 1
        if len(data) < head:
            raise ValueError("too short")
        values = data[head:]
        is_text = kind.startswith("text")
        whole = values.decode("utf-8", "surrogateescape") if is_text else values
        found = _split(whole, _decode_numbers(data[:head]))
    else:
        raise ValueError(f"a column of the kind {kind!r}")
    if any(nulls):
        return [None if null else value for null, value in zip(nulls, found, strict=True)]
    return found


def _split(whole: AnyStr, lengths: array[int]) -> list[AnyStr]:
    if lengths and min(lengths) < 0:
        raise ValueError("a length below 0")
    ends = array("q", accumulate(lengths, initial=0))
    if ends[-1] != len(whole):
        raise ValueError("another length than that of its values")
    return [whole[start:end] for start, end in zip(ends, islice(ends, 1, None), strict=False)]


def _encode_numbers(values: Sequence[int]) -> bytes:
    try:
        numbers, differs = array("q", map(sub, values, chain((0,), values))), b"\1"
    except OverflowError:
        # Times may be as far apart as 64 bits are.
        numbers, differs = array("q", values), b"\0"
    if sys.byteorder == "big":
        numbers.byteswap()
    return differs + shuffle(memoryview(numbers.tobytes()), _NUMBER_BYTES)


def _decode_numbers(data: bytes) -> array[int]:
    numbers = array("q")
    numbers.frombytes(unshuffle(data[1:], _NUMBER_BYTES))
    if sys.byteorder == "big":
        numbers.byteswap()
    if data[0] not in (0, 1):
        raise ValueError("an unknown coding of numbers")
    return array("q", accumulate(numbers)) if data[0] else numbers
