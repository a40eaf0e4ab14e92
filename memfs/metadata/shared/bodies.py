"""Bodies of the change log: an entry of the journal as the database of the mount keeps it.

Invariant: what is decoded is of a known vocabulary, and of the types that a journal has; a database
is not trusted to hold what this process will run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgpack

from memfs.errors import CorruptDataError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.records import Usage
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.schema import stored_totals, totals_of
from memfs.metadata.sqlite.statements import UNDERSTOOD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.sqlite.tables import Record

_VALUES = (int, float, bytes, str, type(None))


class Body(NamedTuple):
    """What an entry does."""

    records: tuple[Record, ...]
    """Statements of the present vocabulary, which has those of older ones at the same numbers."""
    totals: tuple[int, ...]
    """Those after it."""


def encode(fingerprint: int, records: Sequence[Record], totals: Sequence[int]) -> bytes:
    """Return the body of an entry.

    Args:
        fingerprint: That of the vocabulary which its statements are of.
        records: Its statements.
        totals: Those after it.
    """
    body: bytes = msgpack.packb((fingerprint, records, stored_totals(totals)), use_bin_type=True)
    return body


def decode(body: bytes) -> Body:
    """Return what `encode` was given.

    Raises:
        UsageError: Another version of memfs wrote it.
        CorruptDataError: It is no body.
    """
    try:
        fingerprint, records, totals = msgpack.unpackb(body, raw=False, use_list=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise CorruptDataError(f"a body of the change log cannot be read: {error}") from error
    known = UNDERSTOOD.get(fingerprint) if type(fingerprint) is int else None
    if known is None or known.format != FORMAT_NUMBER or known.has_triggers:
        raise UsageError(
            "the change log has entries of another version of memfs: mount and unmount once with "
            "that version",
            ExitCode.STATE_UNUSABLE,
        )
    sound = (
        type(records) is tuple
        and all(_is_record(record, len(known.texts)) for record in records)
        and type(totals) is tuple
        and len(totals) == len(Usage._fields)
        and all(type(total) is int for total in totals)
    )
    if not sound:
        raise CorruptDataError("a body of the change log is damaged")
    return Body(records, tuple(totals_of(totals)))


def _is_record(record: object, count: int) -> bool:
    if type(record) is not tuple or len(record) != 2:
        return False
    number, parameters = record
    return (
        type(number) is int
        and 0 <= number < count
        and type(parameters) is tuple
        and all(type(value) in _VALUES for value in parameters)
    )
