"""Observations: rows of what was measured, and events, in rings of fixed length.

Invariant: a row lies in the slot of its time, so that a ring never has more rows than it has slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, TooBigError
from memfs.escaping import escape_text
from memfs.metadata.records import Event, MetricRow
from memfs.metadata.sqlite.settings import Settings
from memfs.metadata.sqlite.statements import PUT_EVENT, PUT_METRIC
from memfs.metrics.rings import BY_RESOLUTION, EVENT_COUNT, slot_of
from memfs.types import METRIC_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBJECT_LENGTH_MAX = 1024
DETAIL_LENGTH_MAX = 1024
"""Characters of an event's texts; what is beyond is cut off."""

_LIST_METRICS = """
    select at_s, numbers from metric
    where resolution = ? and at_s > ? order by at_s limit ?
"""
_LIST_EVENTS = """
    select number, at_ns, kind, subject, detail from event
    where number < ? order by number desc limit ?
"""
_NUMBER_END = 1 << 62


def _storable(text: str) -> str:
    """Return a text as UTF-8 has it: names of files hold bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(escape_text(each) if "\ud800" <= each <= "\udfff" else each for each in text)
    return text


class Observations(Settings):
    """The engine methods about what was measured."""

    async def put_metrics(self, rows: Sequence[MetricRow]) -> None:
        for resolution_s, at_s, numbers in rows:
            if resolution_s not in BY_RESOLUTION or at_s < 0 or at_s % resolution_s:
                raise InvalidValueError(f"no ring has a row of {resolution_s} s from {at_s} on")
            if len(numbers) > METRIC_BYTES_MAX:
                raise TooBigError(f"a row of {len(numbers)} bytes; {METRIC_BYTES_MAX} are allowed")
        if not rows:
            return
        self._begin_change()
        for resolution_s, at_s, numbers in rows:
            self._write(PUT_METRIC, (resolution_s, slot_of(resolution_s, at_s), at_s, numbers))

    async def list_metrics(self, resolution_s: int, after_s: int, limit: int) -> list[MetricRow]:
        rows = self._rows(_LIST_METRICS, (resolution_s, after_s, limit))
        return [MetricRow(resolution_s, *row) for row in rows]

    async def add_events(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._begin_change()
        row = self._row("select max(number) from event")
        last = row[0] if row is not None and row[0] is not None else 0
        for number, (_, at_ns, kind, subject, detail) in enumerate(events, last + 1):
            texts = subject[:SUBJECT_LENGTH_MAX], detail[:DETAIL_LENGTH_MAX]
            row = (number % EVENT_COUNT, number, at_ns, kind, *map(_storable, texts))
            self._write(PUT_EVENT, row)

    async def list_events(self, before: int | None, limit: int) -> list[Event]:
        rows = self._rows(_LIST_EVENTS, (_NUMBER_END if before is None else before, limit))
        return [Event._make(row) for row in rows]
