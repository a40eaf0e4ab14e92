"""Filters as SQL: one boolean expression for the row of a file. All values are bound.

Invariant: for every file the expression is 0 or 1, never null, so that `not` is the negation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.sqlite.element_index import MAY_BE_ARRAY, NO_ARRAY
from memfs.metadata.sqlite.field_schema import NAME_FIELD, NUMBERS, match_of
from memfs.metadata.sqlite.spans import SYMBOLS, TEXTS, UPWARDS, span_of
from memfs.metadata.sqlite.text_index import table_of
from memfs.query.fields import LIVE_FIELDS, SYSTEM_FIELDS
from memfs.query.filters import RANGES, And, Condition, Node, Not, Operator, conjuncts
from memfs.query.globs import ends_of_name, fixed_name
from memfs.query.values import equal_values
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from memfs.metadata.sqlite.statements import SqlValue

SCALARS = {
    "$size": "{0}.size",
    "$mtime": "{0}.mtime_ns",
    "$digest": "(select lower(hex(digest)) from blob where blob.blob = {0}.blob)",
}
"""By the alias of the inode."""
_GLOB_COUNT = 8
"""With more globs the ends of names are not looked at before all of the path."""

NAMES_BY_TEXT = "name_text t cross join name_entry f on f.cookie = t.rowid"
_IS_TEXT = "{0} >= '' and {0} < x''"
"""Between the classes of SQLite's order: null, numbers, texts, blobs."""


class TextLead(NamedTuple):
    """What an index of texts is asked for."""

    slot: int
    match: str
    """In the language of FTS5."""


def condition_text(condition: Condition) -> str:
    """Return a condition as functions of `finding` read it."""
    return json.dumps([condition.field, condition.operator.value, *condition.operands])


def words_of_names(condition: Condition) -> str | None:
    """Return what the index of names is asked for, of a condition on names."""
    operator, operands = condition.operator, condition.operands
    if operator is Operator.TEXT:
        return match_of(str(operands[0]).casefold().split())
    if operator is Operator.CONTAINS or (operator is Operator.IN and len(operands) == 1):
        return match_of([str(operands[0]).casefold()])
    return None


def entries_for(condition: Condition) -> tuple[SqlValue, ...]:
    """Return single entries of arrays that may meet a condition; all but the mark do."""
    if condition.operator is Operator.CONTAINS:
        return (NO_ARRAY, *equal_values(condition.operands[0]))
    return condition.operands if condition.operator is Operator.IN else (NO_ARRAY,)


def outside_arrays_of(condition: Condition) -> list[tuple[str, tuple[SqlValue, ...]]]:
    """Return ranges of values that have no entry, and what is bound in them.

    For equality they are wider: an array is no element of itself.
    """
    if condition.operator is Operator.IN:
        return [(f"f.typed in ({', '.join('?' * len(condition.operands))})", condition.operands)]
    # A part of a text can be anywhere in it.
    span = span_of(condition) or TEXTS
    return [(each.text("f.typed"), each.arguments) for each in span.outside_arrays]


def _closes(one: Condition, other: Condition) -> bool:
    """Tell whether one range has the end, in the same class, that another one leaves open."""
    same_class = isinstance(one.operands[0], str) == isinstance(other.operands[0], str)
    return same_class and (one.operator in UPWARDS) != (other.operator in UPWARDS)


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
            self.source = NAMES_BY_TEXT
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
            match = self.bind(words_of_names(self._led_name))
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
        marks = ", ".join(map(self.bind, entries_for(condition)))
        parts = [f"select ino from element where key = {key} and value in ({marks})"]
        if (span := span_of(condition)) is not None:
            parts.append(f"select ino from element where key = {key} and {span.text('value')}")
            self.arguments += span.arguments
        for text, values in outside_arrays_of(condition):
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
