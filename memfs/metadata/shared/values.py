"""Values on their way to PostgreSQL and back, in its binary format.

Source: the `typsend` and `typreceive` functions of each type, and `pg_type.dat` for the numbers of
types, of PostgreSQL 13 to 18.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

SqlValue = int | float | bytes | str | None
Row = tuple[Any, ...]
Encoder = Callable[[Any], bytes] | None
"""None: the parameter is always NULL."""
Decoder = Callable[[bytes], Any]

_BIGINT, _BYTEA, _TEXT, _DOUBLE = 20, 17, 25, 701
_UNKNOWN = 0
"""The server infers the type."""
_CAST_OIDS = {"bigint": _BIGINT, "bytea": _BYTEA, "text": _TEXT, "double precision": _DOUBLE}
_PARAMETER = re.compile(r"\$(\d+)")
_CAST = re.compile(rf"\$(\d+)::({'|'.join(_CAST_OIDS)})\b(?!\[)")
_TIMES_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)


def _unpacker(form: str) -> Decoder:
    unpack = struct.Struct(form).unpack
    return lambda data: unpack(data)[0]


def _text(data: bytes) -> str:
    return data.decode()


def _time(data: bytes) -> datetime:
    return _TIMES_BEGIN + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


_DECODERS: dict[int, Decoder] = {
    16: lambda data: data != b"\0",  # bool
    _BYTEA: bytes,
    19: _text,  # name
    _BIGINT: _unpacker(">q"),
    21: _unpacker(">h"),  # smallint
    23: _unpacker(">i"),  # int
    _TEXT: _text,
    26: _unpacker(">I"),  # oid
    700: _unpacker(">f"),  # real
    _DOUBLE: _unpacker(">d"),
    1043: _text,  # varchar
    1184: _time,  # timestamptz
    2278: lambda _: None,  # void
}

_pack_integer = struct.Struct(">q").pack
_pack_float = struct.Struct(">d").pack


def encoders(text: str, params: Sequence[SqlValue]) -> tuple[tuple[int, ...], tuple[Encoder, ...]]:
    """Return the types of a statement's parameters, and what turns such values into bytes.

    Args:
        text: The statement.
        params: Values whose Python types are those of all values that the encoders are used for.

    Raises:
        TypeError: A value is of another type than `SqlValue` has.
    """
    used = {int(number) for number in _PARAMETER.findall(text)}
    casts = {int(number): name for number, name in _CAST.findall(text)}
    found: list[tuple[int, Encoder]] = []
    for number, value in enumerate(params, 1):
        if number not in used:
            # With a type, which the server could infer from nothing.
            found.append((_BIGINT, None))
        elif value is None:
            found.append((_CAST_OIDS[casts[number]] if number in casts else _UNKNOWN, None))
        else:
            found.append(_encoder(value))
    return tuple(oid for oid, _ in found), tuple(encode for _, encode in found)


def _encoder(value: SqlValue) -> tuple[int, Encoder]:
    match value:
        case int():
            return _BIGINT, _pack_integer
        case bytes():
            return _BYTEA, bytes
        case str():
            return _TEXT, str.encode
        case float():
            return _DOUBLE, _pack_float
    raise TypeError(f"a parameter is {type(value).__name__}, which is no value of SQL")


def decoders(result: PGresult) -> tuple[Decoder, ...]:
    """Return what turns the columns of a result into values.

    Raises:
        TypeError: A column has another type; its statement is to cast it.
    """
    found = []
    for column in range(result.nfields):
        oid = result.ftype(column)
        if oid not in _DECODERS:
            name = (result.fname(column) or b"").decode()
            raise TypeError(f"column {name} has type {oid}: cast it, as in sum(size)::bigint")
        found.append(_DECODERS[oid])
    return tuple(found)


def rows(result: PGresult, columns: tuple[Decoder, ...]) -> list[Row]:
    """Return the rows of a result."""
    get, numbered = result.get_value, tuple(enumerate(columns))
    found: list[Row] = []
    for number in range(result.ntuples):
        cells = ((get(number, column), decode) for column, decode in numbered)
        found.append(tuple(None if data is None else decode(data) for data, decode in cells))
    return found
