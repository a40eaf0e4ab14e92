"""Query plans: the walk through an index that leads to the files of a filter.

A walk has segments, one after the other, each of them sorted and read from a position on: the
values of one name in the index of attributes, those of an indexed field of memfs, or all inodes by
number. All values are bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError
from memfs.metadata.sqlite.element_index import MAY_BE_ARRAY, NO_ARRAY
from memfs.metadata.sqlite.field_schema import FIELDS, NAME_FIELD
from memfs.metadata.sqlite.filter_sql import (
    NAMES_BY_TEXT,
    SCALARS,
    TextLead,
    Writer,
    condition_text,
    entries_for,
    outside_arrays_of,
    words_of_names,
)
from memfs.metadata.sqlite.spans import span_of
from memfs.metadata.sqlite.text_index import table_of, text_match
from memfs.query.fields import SYSTEM_FIELDS
from memfs.query.filters import And, Condition, Node, Operator, conjuncts, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.records import FileOrder
    from memfs.metadata.sqlite.field_index import Indexes
    from memfs.metadata.sqlite.spans import Span
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.query.values import Value

COLUMN_FIELDS = frozenset({"$size", "$mtime"})
"""Those of memfs that files can be sorted by."""

PROBE_COUNT = 1000
"""Entries of an index that are counted at most before one is chosen."""

SORT_COUNT = 30_000
"""Files that are sorted for a page rather than looked for in the order of another index: of 20,000
of a million files 60 ms and 580 (measured, 2 vCPU, first 1000). Counting takes up to 1.5 ms."""

_VALUE_WALK_COUNT = 8
"""Equality with so many values is walked through value by value, each in order of inode."""

_ELEMENT_WALK_COUNT = 64
"""More values are looked for in each array: one that has several is found by the first of them, and
each further one costs a look at all those before."""

_FEW_COUNT, _SPAN_COUNT = 30_000, 100_000
_ARRAYS_AN_ENTRY = 3
"""A range of elements with more entries than the first leads only if it has less than the second,
and spares a look at so many arrays for each: it takes a look at the array as well, which is to be
found once, and 15 us for the 6 that an array takes without it (2 vCPU)."""

_ELEMENTS = "elements of "
"""Before the name of an xattr whose arrays lead, by the index of elements."""

_WORDS = "texts of "
"""Before the name of an xattr whose index of texts leads."""


def led_field(driver: str) -> str:
    """Return the field that a driver has entries of."""
    return driver.removeprefix(_ELEMENTS).removeprefix(_WORDS)


_NAMED = "f.ino not in (select ino from inode where nlink = 0)"
"""A program may have a file open that has no name any more; the index of orphans has those few."""


class Segment(NamedTuple):
    """One part of a walk: `select ino, value from ... where ...`, then position and order."""

    head: str
    """The statement up to the position, which stands before all ranges: of several lower bounds
    SQLite takes the first one, and would begin each page at that of the filter."""
    head_arguments: tuple[SqlValue, ...]
    tail: str
    """Conditions behind the position."""
    tail_arguments: tuple[SqlValue, ...]
    value: str = ""
    """What it is sorted by before the inode; empty: by the inode alone."""
    descending: bool = False
    is_unique: bool = False
    """No two files have the same value."""

    def statement(
        self, after: tuple[Value | None, int] | None, limit: int
    ) -> tuple[str, list[SqlValue]]:
        """Return text and arguments of a page."""
        text, arguments = self.head, list(self.head_arguments)
        sign, way = ("<", " desc") if self.descending else (">", "")
        if after is not None and self.is_unique:
            text += f" and {self.value} > ?"
            arguments.append(after[0])
        elif after is not None and self.value:
            text += f" and ({self.value}, f.ino) {sign} (?, ?)"
            arguments += after
        elif after is not None:
            text += " and f.ino > ?"
            arguments.append(after[1])
        keys = f"{self.value}{way}, f.ino{way}" if self.value else "f.ino"
        if self.is_unique:
            keys = self.value
        text += f" and {self.tail} and {_NAMED} order by {keys} limit ?"
        return text, [*arguments, *self.tail_arguments, limit]


class Plan(NamedTuple):
    """How a filter is answered."""

    segments: tuple[Segment, ...]
    is_exact: bool
    driver: str
    """The field of the index that leads; empty: all inodes are looked at."""


class Planner:
    """Makes plans for one filter.

    Args:
        order: How its files are sorted.
        indexes: What can lead; a name of an xattr that is missing is no file's.
        count: Counts the rows of a select.
    """

    def __init__(
        self,
        node: Node,
        order: FileOrder | None,
        indexes: Indexes,
        count: Callable[[str, list[SqlValue]], int],
    ) -> None:
        self._node = node
        self._order = order
        self._keys, self._fields, self._has_elements, self._texts = indexes
        self._count = count
        self._parts = conjuncts(node)
        self._arrays = frozenset(field for field in fields_of(node) if self._has_arrays(field))

    def plan(self, driver: str | None = None) -> Plan:
        """Return a plan.

        Args:
            driver: The one that an earlier page took; None: the best one.
        """
        order = self._order
        if driver is None:
            driver = self.choose()
        elif self._is_gone(driver) and order is not None and order.field == driver:
            # Without the index the order is the same.
            driver = ""
        self.check(driver)
        if order is None:
            return self._plain(driver, "", ())
        if order.field in COLUMN_FIELDS:
            return self._by_column(driver, order)
        return self._by_attribute(driver, order)

    def _has_arrays(self, field: str) -> bool:
        """Tell whether a field may have JSON arrays, which their own text does not lead to."""
        return field.encode() in self._keys and bool(self._array_count(field, 1))

    def _array_count(self, field: str, limit: int) -> int:
        writer = Writer(self._keys, field)
        text = f"{writer.key()} and {MAY_BE_ARRAY.format('f.typed')}"
        return self._count(f"select 1 from xattr f where {text} limit {limit}", writer.arguments)

    def writer_of_inodes(self) -> Writer:
        """Return what writes conditions on the inode `f`."""
        return self._writer("", "f")

    def _writer(self, driver: str, inode: str = "i") -> Writer:
        field = led_field(driver)
        by_name = self._led_name() if driver == NAME_FIELD else None
        by_element = self._led_element(field) if driver.startswith(_ELEMENTS) else None
        by_text = self._led_text(field) if driver.startswith(_WORDS) else None
        return Writer(self._keys, field, inode, self._arrays, by_name, by_element, by_text)

    # --- which index leads -----------------------------------------------------------------------
    def choose(self) -> str:
        """Return the driver that leads to the fewest files; empty: no index leads."""
        ranks: dict[str, int] = {}
        for part in self._parts:
            if isinstance(part, Condition) and self._can_lead(part):
                rank = _rank(part)
                if rank > 1 and self._led_text(part.field) is not None:
                    rank = 1
                ranks[part.field] = min(rank, ranks.get(part.field, rank))
        if (missing := next(filter(self._is_missing, ranks), None)) is not None:
            # No file has it, so the shortest of all walks.
            return missing
        fields = sorted(ranks, key=lambda field: ranks[field])
        if len(fields) <= 1 or (ranks[fields[0]] == 0 and ranks[fields[1]] > 1):
            return self._driver_of(fields[0]) if fields else ""
        drivers = [(self._driver_of(field), ranks[field]) for field in fields[:4]]
        counted = [(self._entries(driver), rank, driver) for driver, rank in drivers]
        return min(counted)[2]

    def _driver_of(self, field: str) -> str:
        """Return the best index that a field has."""
        usual, by_text = self._usual_driver_of(field), _WORDS + field
        if self._led_text(field) is None:
            return usual
        spans = [span for each in self._on(field) if (span := span_of(each)) is not None]
        if not spans or self._span_count(field, spans[0]) > self._entries(by_text):
            # Where all of 200,000 values have the text, pages of 1000 take 195 ms instead of 77.
            return by_text
        return usual

    def _span_count(self, field: str, span: Span) -> int:
        """Return how many values of an xattr are in a span, up to `PROBE_COUNT`."""
        writer = Writer(self._keys, field)
        text = f"{writer.key()} and {span.text('f.typed')} limit {PROBE_COUNT}"
        arguments = [*writer.arguments, *span.arguments]
        return self._count(f"select 1 from xattr f where {text}", arguments)

    def _led_text(self, field: str) -> TextLead | None:
        """Return what the index of the texts of an xattr is asked for; None: it leads nowhere."""
        slot = self._texts.get(field)
        conditions = self._on(field)
        if slot is None or any(each.operator is Operator.IN for each in conditions):
            return None
        match = text_match(conditions)
        return None if match is None else TextLead(slot, match)

    def _usual_driver_of(self, field: str) -> str:
        """Return the best index of a field without that of its texts."""
        led = self._led_element(field) if self._has_elements and field in self._arrays else None
        if led is None:
            return field
        driver = _ELEMENTS + field
        if span_of(led) is None or (count := self._entries(driver, _SPAN_COUNT)) < _FEW_COUNT:
            return driver
        wanted = count * _ARRAYS_AN_ENTRY
        spares = count < _SPAN_COUNT and self._array_count(field, wanted) == wanted
        return driver if spares else field

    def _led_element(self, field: str) -> Condition | None:
        """Return the condition on an xattr that the index of elements is asked for."""
        conditions = self._on(field)
        for each in conditions:
            if each.operator is Operator.IN and len(each.operands) <= _ELEMENT_WALK_COUNT:
                return each
        # Both ends of a range may be met by different elements, so that only one of them leads.
        leading = [each for each in conditions if each.operator is Operator.CONTAINS]
        spans = [(span_of(each), each) for each in conditions]
        leading += [each for span, each in spans if span is not None and None not in span[1:]]
        leading += [each for span, each in spans if span is not None]
        return next(iter(leading), None)

    def check(self, driver: str) -> None:
        """See that an index that led to an earlier page is still there.

        Raises:
            InvalidValueError: It is not.
        """
        if self._is_gone(driver):
            raise InvalidValueError(f"the index of {driver} has gone meanwhile: ask anew")

    def _is_gone(self, driver: str) -> bool:
        if driver.startswith(_ELEMENTS):
            return not self._has_elements or self._led_element(led_field(driver)) is None
        if driver.startswith(_WORDS):
            return self._led_text(led_field(driver)) is None
        return driver in FIELDS and driver not in self._fields

    def _can_lead(self, condition: Condition) -> bool:
        if condition.field not in SYSTEM_FIELDS:
            return True
        if condition.field == NAME_FIELD:
            return condition.field in self._fields and words_of_names(condition) is not None
        # Each file has a size.
        return condition.field in self._fields and condition.operator is not Operator.EXISTS

    def _is_missing(self, driver: str) -> bool:
        """Tell whether no file has an xattr of that name."""
        return (
            bool(driver) and driver not in FIELDS and led_field(driver).encode() not in self._keys
        )

    def _entries(self, driver: str, limit: int = PROBE_COUNT) -> int:
        if driver == NAME_FIELD or driver.startswith((_ELEMENTS, _WORDS)):
            text, arguments = self.candidates(driver)
            return self._count(f"{text} limit {limit}", arguments)
        writer = self._writer(driver)
        text = f"{writer.key()} and {writer.walk(self._on(driver))}"
        return self._count(
            f"select 1 from {writer.source} where {text} limit {limit}", writer.arguments
        )

    def candidates(self, driver: str) -> tuple[str, list[SqlValue]]:
        """Return a select of the inodes that may meet the conditions on the field of an index."""
        if driver == NAME_FIELD:
            match = words_of_names(self._led_name())
            return f"select f.ino from {NAMES_BY_TEXT} where t.name_text match ?", [match]
        writer = self._writer(driver)
        if driver.startswith(_ELEMENTS):
            return writer.by_elements(), writer.arguments
        if driver.startswith(_WORDS):
            return writer.by_texts(), writer.arguments
        text = f"{writer.key()} and {writer.walk(self._on(driver))}"
        return f"select f.ino from {writer.source} where {text}", writer.arguments

    def _on(self, driver: str) -> list[Condition]:
        """Return the conditions that every file must meet on the field of a driver."""
        field = led_field(driver)
        return [p for p in self._parts if isinstance(p, Condition) and p.field == field]

    def _led_name(self) -> Condition:
        """Return the condition on names that the index of names is asked for."""
        return next(
            part
            for part in self._parts
            if isinstance(part, Condition) and part.field == NAME_FIELD and words_of_names(part)
        )

    # --- walks -----------------------------------------------------------------------------------
    def _plain(self, driver: str, extra: str, extra_arguments: tuple[SqlValue, ...]) -> Plan:
        """Return a walk in the order of its driver, through files that meet one more condition."""
        if not driver:
            writer = self._writer("", "f")
            tail = writer.whole(self._node) + extra
            arguments = (*writer.arguments, *extra_arguments)
            segment = Segment("select f.ino, null from inode f where 1", (), tail, arguments)
            return Plan((segment,), writer.is_exact, "")
        if self._is_missing(driver):
            return Plan((), True, driver)
        if driver == NAME_FIELD:
            writer = self._writer(driver)
            join = _join(self._node, driver)
            head = f"select f.ino, t.rowid from {writer.source}{join} where {writer.key()}"
            head_arguments = writer.cut()
            tail = f"{writer.walk(self._on(driver))} and {writer.rest(self._node)}{extra}"
            arguments = (*writer.arguments, *extra_arguments)
            segment = Segment(head, head_arguments, tail, arguments, "t.rowid", is_unique=True)
            return Plan((segment,), writer.is_exact, driver)
        if driver.startswith(_ELEMENTS):
            return self._by_elements(driver, extra, extra_arguments)
        if driver.startswith(_WORDS):
            return self._by_texts(driver, extra, extra_arguments)
        segments: list[Segment] = []
        is_exact = True
        for walked, also, is_sorted in _stretches(self._on(driver), driver in self._arrays):
            writer = self._writer(driver)
            what = "null" if is_sorted else writer.entry
            join = _join(self._node, driver)
            head = f"select f.ino, {what} from {writer.source}{join} where {writer.key()}"
            head_arguments = writer.cut()
            tail = f"{writer.walk(walked)}{also} and {writer.rest(self._node)}{extra}"
            arguments = (*writer.arguments, *extra_arguments)
            value = "" if is_sorted else writer.entry
            segments.append(Segment(head, head_arguments, tail, arguments, value))
            is_exact = writer.is_exact
        return Plan(tuple(segments), is_exact, driver)

    def _by_elements(self, driver: str, extra: str, extra_arguments: tuple[SqlValue, ...]) -> Plan:
        """Return a walk through what is no array, then through the arrays with each element."""
        field = led_field(driver)
        led, conditions = self._led_element(field), self._on(field)
        assert led is not None, "checked"
        others = And(tuple(part for part in self._parts if part is not led))
        key = self._keys[field.encode()]
        join = _join(self._node, field)
        segments: list[Segment] = []
        is_exact = True
        for text, values in outside_arrays_of(led):
            writer = Writer(self._keys, field, arrays=self._arrays)
            head = f"select f.ino, f.typed from xattr f{join} where {writer.key()}"
            head_arguments = writer.cut()
            writer.arguments += values
            tail = f"{text} and {writer.walk(conditions)} and {writer.rest(self._node)}{extra}"
            arguments = (*writer.arguments, *extra_arguments)
            segments.append(Segment(head, head_arguments, tail, arguments, "f.typed"))
            is_exact = writer.is_exact
        if (span := span_of(led)) is not None:
            writer = Writer(self._keys, "", arrays=self._arrays)
            head = (
                "select f.ino, f.value from element f"
                f" cross join xattr e on e.ino = f.ino and e.name = ?{join} where f.key = ?"
            )
            writer.arguments += (*span.arguments, condition_text(led))
            # The least of the elements that pass leads to their array.
            tail = f"{span.text('f.value')} and leads_here(e.typed, f.value, ?)"
            tail += f" and {writer.whole(others)}{extra}"
            arguments = (*writer.arguments, *extra_arguments)
            segments.append(Segment(head, (field.encode(), key), tail, arguments, "f.value"))
        before: list[SqlValue] = []
        for entry in entries_for(led):
            # Each of its columns is bound, so that its rows are in order of inode.
            writer = Writer(self._keys, "", arrays=self._arrays)
            head = f"select f.ino, null from element f{join} where f.key = ? and f.value = ?"
            tail = "1"
            if before:
                marks = ", ".join(map(writer.bind, before))
                tail = (
                    f"not exists (select 1 from element d where d.key = {key}"
                    f" and d.value in ({marks}) and d.ino = f.ino)"
                )
            # What only looks like an array is still to be compared.
            tail += f" and {writer.whole(self._node if entry == NO_ARRAY else others)}{extra}"
            arguments = (*writer.arguments, *extra_arguments)
            segments.append(Segment(head, (key, entry), tail, arguments))
            before.append(entry)
            is_exact = writer.is_exact
        return Plan(tuple(segments), is_exact, driver)

    def _by_texts(self, driver: str, extra: str, extra_arguments: tuple[SqlValue, ...]) -> Plan:
        """Return a walk through what an index of texts finds, in order of inode."""
        field = led_field(driver)
        lead = self._led_text(field)
        assert lead is not None, "checked"
        table = table_of(lead.slot)
        writer = Writer(self._keys, field, arrays=self._arrays)
        head = (
            f"select f.ino, t.rowid from {table} t cross join xattr f on f.ino = t.rowid"
            f"{_join(self._node, field)} where t.{table} match ? and f.name = ?"
        )
        tail = f"{writer.walk(self._on(driver))} and {writer.rest(self._node)}{extra}"
        arguments = (*writer.arguments, *extra_arguments)
        head_arguments = (lead.match, field.encode())
        segment = Segment(head, head_arguments, tail, arguments, "t.rowid", is_unique=True)
        return Plan((segment,), writer.is_exact, driver)

    def _by_column(self, driver: str, order: FileOrder) -> Plan:
        if self._is_missing(driver):
            return Plan((), True, driver)
        is_led = order.field in self._fields and self._leads(order.field, driver)
        if is_led:
            driver = order.field
        inode = "i" if driver else "f"
        column = SCALARS[order.field].format(inode)
        writer = self._writer(driver, inode)
        source = "inode f where 1"
        if is_led:
            column = writer.entry
            source = f"{writer.source}{_join(self._node, driver)} where {writer.key()}"
        elif driver:
            source = f"{writer.source} cross join inode i on i.ino = f.ino where {writer.key()}"
        head_arguments = writer.cut()
        tail = f"{writer.walk(self._on(driver)) if driver else 1} and {writer.rest(self._node)}"
        head = f"select f.ino, {column} from {source}"
        arguments = tuple(writer.arguments)
        segment = Segment(head, head_arguments, tail, arguments, column, order.descending)
        return Plan((segment,), writer.is_exact, driver)

    def _leads(self, field: str, driver: str) -> bool:
        """Tell whether to go through the index of the order rather than sort what another finds."""
        return not driver or driver == field or self._entries(driver, SORT_COUNT) >= SORT_COUNT

    def _by_attribute(self, driver: str, order: FileOrder) -> Plan:
        name = order.field.encode()
        lacking = (
            " and not exists (select 1 from xattr m where m.ino = f.ino and m.name = ?"
            " and m.typed is not null)"
        )
        last = self._plain(driver, lacking, (name,))
        if self._is_missing(driver):
            return last
        if name not in self._keys:
            # Segments keep their numbers, whatever names there are when a later page is read.
            nothing = Segment("select f.ino, null from inode f where 0", (), "0", ())
            return Plan((nothing, *last.segments), last.is_exact, driver)
        leads = self._leads(order.field, driver)
        led = order.field if leads else driver
        writer = self._writer(led)
        # What leads to few files is not the order: all of them are sorted.
        value, join = "f.typed", ""
        if not leads:
            value = "s.typed"
            join = f" cross join xattr s on s.ino = f.ino and s.name = {writer.bind(name)}"
        join += _join(self._node, led)
        head = f"select f.ino, {value} from {writer.source}{join} where {writer.key()}"
        head_arguments = writer.cut()
        walk = writer.walk(self._on(led))
        tail = f"{walk} and {value} is not null and {writer.rest(self._node)}"
        arguments = tuple(writer.arguments)
        first = Segment(head, head_arguments, tail, arguments, value, order.descending)
        return Plan((first, *last.segments), last.is_exact, driver)


def _rank(condition: Condition) -> int:
    if condition.operator is Operator.IN:
        return 0
    return 1 if span_of(condition) is not None else 2


def _stretches(
    conditions: list[Condition], has_arrays: bool
) -> list[tuple[list[Condition], str, bool]]:
    """Return the parts of a walk: conditions, what to add, and whether it is in order of inode."""
    equal = next((each for each in conditions if each.operator is Operator.IN), None)
    # An array can have several of the values, and would be found several times.
    if equal is not None and len(equal.operands) <= _VALUE_WALK_COUNT and not has_arrays:
        others = [each for each in conditions if each is not equal]
        return [
            ([equal._replace(operands=(value,)), *others], "", True)
            for value in sorted(equal.operands, key=lambda value: (isinstance(value, str), value))
        ]
    if any(each.operator is not Operator.EXISTS for each in conditions):
        return [(conditions, "", False)]
    # What nothing compares with has no value to go on behind.
    return [
        (conditions, " and f.typed is null", True),
        (conditions, " and f.typed is not null", False),
    ]


def _join(node: Node, driver: str) -> str:
    """Return the join of the inode where a filter asks for columns that its driver lacks."""
    asked = fields_of(node) & (SCALARS.keys() - {driver})
    return " cross join inode i on i.ino = f.ino" if asked else ""
