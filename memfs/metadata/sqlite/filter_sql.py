"""Filters as SQL: one boolean expression, and the walk through an index that leads to the files.

A walk has segments, one after the other, each of them sorted and read from a position on: the
values of one name in the index of attributes, those of an indexed field of memfs, or all inodes by
number. All values are bound.

Invariant: for every file the expression is 0 or 1, never null, so that `not` is the negation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError
from memfs.metadata.sqlite.element_index import MAY_BE_ARRAY, NO_ARRAY
from memfs.metadata.sqlite.field_schema import FIELDS, NAME_FIELD, NUMBERS, match_of
from memfs.metadata.sqlite.spans import SYMBOLS, TEXTS, UPWARDS, span_of
from memfs.metadata.sqlite.text_index import table_of, text_match
from memfs.query.fields import LIVE_FIELDS, SYSTEM_FIELDS
from memfs.query.filters import RANGES, And, Condition, Node, Not, Operator, conjuncts, fields_of
from memfs.query.globs import ends_of_name, fixed_name
from memfs.query.values import equal_values
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from memfs.metadata.records import FileOrder
    from memfs.metadata.sqlite.field_index import Indexes
    from memfs.metadata.sqlite.spans import Span
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.query.values import Value

SCALARS = {
    "$size": "{0}.size",
    "$mtime": "{0}.mtime_ns",
    "$digest": "(select lower(hex(digest)) from blob where blob.blob = {0}.blob)",
}
"""By the alias of the inode."""
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

_GLOB_COUNT = 8
"""With more globs the ends of names are not looked at before all of the path."""

_NAMES = "name_text t cross join name_entry f on f.cookie = t.rowid"
_IS_TEXT = "{0} >= '' and {0} < x''"
"""Between the classes of SQLite's order: null, numbers, texts, blobs."""


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


class TextLead(NamedTuple):
    """What an index of texts is asked for."""

    slot: int
    match: str
    """In the language of FTS5."""


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
            return condition.field in self._fields and _match_of(condition) is not None
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
            match = _match_of(self._led_name())
            return f"select f.ino from {_NAMES} where t.name_text match ?", [match]
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
            if isinstance(part, Condition) and part.field == NAME_FIELD and _match_of(part)
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
        for text, values in _outside_arrays(led):
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
        for entry in _entries_for(led):
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


def condition_text(condition: Condition) -> str:
    """Return a condition as functions of `finding` read it."""
    return json.dumps([condition.field, condition.operator.value, *condition.operands])


def _match_of(condition: Condition) -> str | None:
    """Return what the index of names is asked for, of a condition on names."""
    operator, operands = condition.operator, condition.operands
    if operator is Operator.TEXT:
        return match_of(str(operands[0]).casefold().split())
    if operator is Operator.CONTAINS or (operator is Operator.IN and len(operands) == 1):
        return match_of([str(operands[0]).casefold()])
    return None


def _entries_for(condition: Condition) -> tuple[SqlValue, ...]:
    """Return single entries of arrays that may meet a condition; all but the mark do."""
    if condition.operator is Operator.CONTAINS:
        return (NO_ARRAY, *equal_values(condition.operands[0]))
    return condition.operands if condition.operator is Operator.IN else (NO_ARRAY,)


def _outside_arrays(condition: Condition) -> list[tuple[str, tuple[SqlValue, ...]]]:
    """Return ranges of values that have no entry, and what is bound in them.

    For equality they are wider: an array is no element of itself.
    """
    if condition.operator is Operator.IN:
        return [(f"f.typed in ({', '.join('?' * len(condition.operands))})", condition.operands)]
    # A part of a text can be anywhere in it.
    span = span_of(condition) or TEXTS
    return [(each.text("f.typed"), each.arguments) for each in span.outside_arrays]


def _rank(condition: Condition) -> int:
    if condition.operator is Operator.IN:
        return 0
    return 1 if span_of(condition) is not None else 2


def _closes(one: Condition, other: Condition) -> bool:
    """Tell whether one range has the end, in the same class, that another one leaves open."""
    same_class = isinstance(one.operands[0], str) == isinstance(other.operands[0], str)
    return same_class and (one.operator in UPWARDS) != (other.operator in UPWARDS)


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


class Writer:
    """Writes one statement; arguments come in the order of its text.

    `f` is the row that leads: of the driver's name in `xattr`, of its field in `field_value`, or an
    inode.
    """

    def __init__(
        self,
        keys: Mapping[bytes, int],
        driver: str,
        inode: str = "i",
        arrays: Container[str] = (),
        led_name: Condition | None = None,
        led_element: Condition | None = None,
        led_text: TextLead | None = None,
    ) -> None:
        self._keys = keys
        self._led_name = led_name
        """Where the driver is `$name`, what its index is asked for."""
        self._led_element = led_element
        """Where elements lead, what their index is asked for."""
        self._led_text = led_text
        """Where texts lead, what their index is asked for."""
        self._arrays = arrays
        """Fields that may have JSON arrays."""
        self._driver = driver
        self._inode = inode
        self._is_now = True
        """Names are those of `dentry`."""
        self.source = "field_value f" if driver in NUMBERS else "xattr f"
        if led_name is not None:
            self.source = _NAMES
        """What the driver leads through."""
        self.entry = "f.value" if driver in NUMBERS else "f.typed"
        """What it has for each file."""
        self.arguments: list[SqlValue] = []
        self.is_exact = True

    def bind(self, value: SqlValue) -> str:
        """Add an argument; returns its mark."""
        self.arguments.append(value)
        return "?"

    def cut(self) -> tuple[SqlValue, ...]:
        """Return the arguments so far; those to come are of another text."""
        arguments = tuple(self.arguments)
        self.arguments.clear()
        return arguments

    def key(self) -> str:
        """Return the condition that the row that leads is of the driver's name."""
        if self._driver in NUMBERS:
            return f"f.field = {NUMBERS[self._driver]}"
        if self._led_name is not None:
            match = self.bind(_match_of(self._led_name))
            # The first of several names of a file stands for it.
            first = f"first_name(f.ino, {self.bind(condition_text(self._led_name))})"
            return f"t.name_text match {match} and {first} = f.cookie"
        if self._led_element is not None:
            name = self.bind(self._driver.encode())
            return f"f.name = {name} and f.ino in ({self.by_elements()})"
        if self._led_text is not None:
            name = self.bind(self._driver.encode())
            return f"f.name = {name} and f.ino in ({self.by_texts()})"
        # The partial index is used only where its own condition stands literally.
        return f"f.key <> 0 and f.key = {self.bind(self._keys[self._driver.encode()])}"

    def by_elements(self) -> str:
        """Return a select of the inodes whose xattr may meet the condition that leads."""
        condition = self._led_element
        assert condition is not None, "elements lead"
        key = self._keys[self._driver.encode()]
        marks = ", ".join(map(self.bind, _entries_for(condition)))
        parts = [f"select ino from element where key = {key} and value in ({marks})"]
        if (span := span_of(condition)) is not None:
            parts.append(f"select ino from element where key = {key} and {span.text('value')}")
            self.arguments += span.arguments
        for text, values in _outside_arrays(condition):
            parts.append(f"select f.ino from xattr f where f.key <> 0 and f.key = {key} and {text}")
            self.arguments += values
        return " union all ".join(parts)

    def by_texts(self) -> str:
        """Return a select of the inodes whose text may meet the conditions that lead."""
        assert self._led_text is not None, "texts lead"
        slot, match = self._led_text
        table = table_of(slot)
        return f"select t.rowid from {table} t where t.{table} match {self.bind(match)}"

    def walk(self, conditions: list[Condition]) -> str:
        """Return what the driver's conditions make of its rows."""
        parts = ["1"]
        if self._led_name is not None:
            others = [each for each in conditions if each is not self._led_name]
            return " and ".join([*parts, *map(self._name, others)])
        ranges = [each for each in conditions if each.operator in RANGES]
        for condition in conditions:
            if condition.operator in RANGES and condition.field not in self._arrays:
                # SQLite takes one bound of each kind, the first: it must be the user's.
                closed = any(_closes(other, condition) for other in ranges)
                parts.append(self._range(condition, self.entry, is_closed=closed))
            elif condition.operator is not Operator.EXISTS:
                parts.append(self._scalar(condition, self.entry))
        return " and ".join(parts)

    def rest(self, node: Node) -> str:
        """Return the expression of a filter whose walk sees to the conditions of the driver."""
        parts = [
            part
            for part in conjuncts(node)
            if not (isinstance(part, Condition) and part.field == self._driver and self._driver)
        ]
        return self.whole(And(tuple(parts)))

    def whole(self, node: Node) -> str:
        """Return the expression of a filter."""
        return self._expression(node, finds_more=True)

    def _expression(self, node: Node, *, finds_more: bool) -> str:
        """Return an expression; what is not decided is 1 where that finds more files."""
        if isinstance(node, Condition):
            return self._condition(node, finds_more=finds_more)
        if isinstance(node, Not):
            return f"not ({self._expression(node.part, finds_more=not finds_more)})"
        if not node.parts:
            return "1"
        word = " and " if isinstance(node, And) else " or "
        parts = [self._expression(part, finds_more=finds_more) for part in node.parts]
        return f"({word.join(parts)})"

    def _condition(self, condition: Condition, *, finds_more: bool) -> str:
        field, operator = condition.field, condition.operator
        if field in LIVE_FIELDS:
            self.is_exact = False
            return "1" if finds_more else "0"
        if field == "$path":
            return self._path(condition)
        if field == NAME_FIELD:
            return self._name(condition)
        if field in SYSTEM_FIELDS:
            is_led = field == self._driver
            scalar = self.entry if is_led else SCALARS[field].format(self._inode)
            if operator is Operator.EXISTS:
                return f"{scalar} is not null"
            return f"ifnull({self._scalar(condition, scalar)}, 0)"
        name = field.encode()
        if name not in self._keys:
            return "0"
        if field == self._driver:
            # The row at hand is the one that is asked for.
            if operator is Operator.EXISTS:
                return "1"
            return f"ifnull({self._scalar(condition, 'f.typed')}, 0)"
        head = f"exists (select 1 from xattr b where b.ino = f.ino and b.name = {self.bind(name)}"
        if operator is Operator.EXISTS:
            return f"{head})"
        return f"{head} and {self._scalar(condition, 'b.typed')})"

    def _path(self, condition: Condition) -> str:
        if condition.operator is Operator.EXISTS:
            return "has_path(f.ino)"
        return self._by_names("path", condition)

    def _name(self, condition: Condition) -> str:
        if condition.operator is Operator.EXISTS:
            return "has_path(f.ino)"
        return self._by_names("name", condition)

    def may_pass(self, condition: Condition, name: str) -> str:
        """Return what a name needs to pass a condition on names or paths; SQLite itself sees to it.

        Args:
            name: The column.
        """
        operands = [str(operand) for operand in condition.operands]
        if condition.operator is Operator.GLOB and 0 < len(operands) <= _GLOB_COUNT:
            return f"({' or '.join(self._may_match(glob, name) for glob in operands)})"
        if condition.field == NAME_FIELD and condition.operator is Operator.IN:
            return f"{name} in ({', '.join(self.bind(each.encode()) for each in operands)})"
        if condition.field == NAME_FIELD and condition.operator is Operator.CONTAINS:
            return f"instr({name}, {self.bind(operands[0].encode())}) > 0"
        return "1"

    def _may_match(self, glob: str, name: str) -> str:
        """Return what a name needs to be the last one of a path that matches."""
        if (fixed := fixed_name(glob)) is not None:
            # The index of names leads to it.
            return f"{name} = {self.bind(fixed.encode())}"
        begin, end = ends_of_name(glob)
        parts = ["1"]
        if begin:
            letters = begin.encode()
            parts.append(f"substr({name}, 1, {len(letters)}) = {self.bind(letters)}")
        if end:
            letters = end.encode()
            parts.append(f"substr({name}, -{len(letters)}) = {self.bind(letters)}")
        return " and ".join(parts)

    def _by_names(self, kind: str, condition: Condition) -> str:
        """Return a condition on the names of an inode, or on the paths that end in them."""
        told = condition_text(condition)
        if not self._is_now:
            return f"{kind}_passes(f.ino, {self.bind(told)})"
        # A function that looks the names up itself takes twice the time. The root has no name.
        return (
            f"case when f.ino = {ROOT_INODE} then {kind}_passes(f.ino, {self.bind(told)})"
            " else exists (select 1 from dentry as n where n.ino = f.ino"
            f" and {self.may_pass(condition, 'n.name')}"
            f" and one_{kind}_passes(n.parent, n.name, {self.bind(told)})) end"
        )

    def _scalar(self, condition: Condition, value: str) -> str:
        """Return a condition on a value that may be null."""
        if condition.field not in self._arrays:
            return self._plain(condition, value)
        passes = f"array_passes({value}, {self.bind(condition_text(condition))})"
        plain = self._plain(condition, value)
        return f"case when {MAY_BE_ARRAY.format(value)} then {passes} else {plain} end"

    def _plain(self, condition: Condition, value: str) -> str:
        """Return a condition on a value that is no array."""
        operator, operands = condition.operator, condition.operands
        if operator is Operator.IN:
            return f"{value} in ({', '.join(self.bind(operand) for operand in operands)})"
        (operand,) = operands
        if operator is Operator.REGEX:
            span = span_of(condition) or TEXTS
            self.arguments += span.arguments
            return f"{span.text(value)} and pattern_found({self.bind(operand)}, {value})"
        if operator is Operator.TEXT:
            return f"{_IS_TEXT.format(value)} and text_found({self.bind(operand)}, {value})"
        if operator is Operator.CONTAINS:
            return f"{_IS_TEXT.format(value)} and instr({value}, {self.bind(operand)}) > 0"
        return self._range(condition, value)

    def _range(self, condition: Condition, value: str, *, is_closed: bool = False) -> str:
        """Return a range; `is_closed`: another one has its other end."""
        operator, (operand,) = condition.operator, condition.operands
        text = f"{value} {SYMBOLS[operator]} {self.bind(operand)}"
        if is_closed:
            return text
        # Both ends of the class, so that the walk does not leave it.
        if isinstance(operand, str):
            upwards = operator in UPWARDS
            return f"{text} and {value} < x''" if upwards else f"{text} and {value} >= ''"
        if operator in UPWARDS:
            return f"{text} and {value} < ''"
        return text
