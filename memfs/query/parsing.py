"""Parsing: from a filter as users write it to its tree.

Invariant: everything that can be wrong with a filter is found here, with its place, before a file
is looked at; what comes back needs no check.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError
from memfs.query.fields import (
    ATTRIBUTE_PREFIX,
    CONTROL_PREFIX,
    SYSTEM_FIELDS,
    FieldKind,
    SystemField,
    attribute_name,
)
from memfs.query.filters import And, Condition, Node, Not, Operator, Or
from memfs.query.globs import glob_pattern
from memfs.query.values import Value, equal_values, instant
from memfs.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable

DEPTH_MAX = 20
CONDITION_COUNT_MAX = 200
OPERAND_COUNT_MAX = 10_000
"""Limit of all lists together: SQLite binds up to 32,766 values (SQLITE_MAX_VARIABLE_NUMBER), and
one that looks like a number is bound twice."""
PATTERN_LENGTH_MAX = 1000
"""Limit of all patterns together, and of a glob: to compile such a pattern takes up to a second
(140 classes of letters in either case, measured)."""
GLOB_COUNT_MAX = 200
"""Limit of all conditions on `$path` together: so many patterns are kept compiled
(`query.globs`)."""

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a part of a filter."""

_COMPARISONS = {
    "$gt": Operator.GREATER,
    "$gte": Operator.GREATER_EQUAL,
    "$lt": Operator.LESS,
    "$lte": Operator.LESS_EQUAL,
}
_OPERATORS = (
    *(
        "$eq",
        "$ne",
        *_COMPARISONS,
        "$in",
        "$nin",
        "$exists",
        "$regex",
        "$contains",
        "$text",
        "$not",
    ),
)
_CONNECTIVES = ("$and", "$or", "$not")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_NS = 10**9
_INTEGER_MAX = 1 << 63
_DIGIT_COUNT_MAX = 400


class FilterError(InvalidValueError):
    """A filter that means nothing, and where.

    Args:
        place: The part of the filter.
        fault: What is wrong with it, and what to write instead.
        text_place: Line and column of it in the JSON text, from 1; None: there is no text.
    """

    def __init__(self, place: Place, fault: str, text_place: tuple[int, int] | None = None) -> None:
        where = f"at {format_place(place)}" if place else "filter"
        if text_place is not None:
            where += f" (line {text_place[0]}, column {text_place[1]})"
        super().__init__(f"{where}: {fault}")
        self.place = place
        self.fault = fault
        self.text_place = text_place


def format_place(place: Place) -> str:
    """Return a place as it is written in messages: `$or[1].b.$regex`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse_text(text: str) -> Node:
    """Return the tree of a filter in JSON.

    Raises:
        FilterError: It is no JSON, or as for `parse`; with line and column.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg}"
        if not text.lstrip().startswith("{"):
            fault += '; a filter looks like {"name": "value"}, in single quotes for the shell'
        raise FilterError((), fault, (error.lineno, error.colno)) from None
    except RecursionError:
        raise FilterError((), f"deeper than {DEPTH_MAX} levels") from None
    try:
        return parse(content)
    except FilterError as error:
        raise FilterError(error.place, error.fault, _find(text, error.place)) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise FilterError((), f"{double!r} is there twice: write both conditions in one object")
    return found


def _integer(digits: str) -> float:
    # Python refuses to read more than 4300 digits; no float has more than 309.
    return int(digits) if len(digits) <= _DIGIT_COUNT_MAX else float(digits)


def parse(content: object) -> Node:
    """Return the tree of a filter that was read from JSON, or written in Python.

    Raises:
        FilterError: It means nothing; with the place.
    """
    return _Parser().filter(content, ())


class _Parser:
    """Counts along what a filter may have only so much of."""

    def __init__(self) -> None:
        self._condition_count = 0
        self._operand_count = 0
        self._glob_count = 0
        self._pattern_length = 0

    def filter(self, content: object, place: Place, depth: int = 0) -> Node:
        """Return the tree of an object of conditions, all of which have to hold."""
        if depth > DEPTH_MAX:
            raise FilterError(place, f"deeper than {DEPTH_MAX} levels")
        if not isinstance(content, dict):
            raise FilterError(place, f"expected an object, found {_kind(content)}")
        parts: list[Node] = []
        for key, operand in content.items():
            here = (*place, str(key))
            if not isinstance(key, str):
                raise FilterError(here, f"expected the name of a field, found {_kind(key)}")
            if key in ("$and", "$or"):
                parts.append(self._connect(key, operand, here, depth))
            elif key == "$not":
                parts.append(Not(self.filter(operand, here, depth + 1)))
            else:
                parts.append(self._field(key, operand, here, depth))
        return _all_of(parts)

    def _connect(self, key: str, operand: object, place: Place, depth: int) -> Node:
        if not isinstance(operand, list | tuple) or not operand:
            raise FilterError(place, "expected a list with at least one filter")
        parts = tuple(
            self.filter(part, (*place, index), depth + 1) for index, part in enumerate(operand)
        )
        return And(parts) if key == "$and" else Or(parts)

    def _field(self, key: str, operand: object, place: Place, depth: int) -> Node:
        name, field = _resolve(key, place)
        return self._conditions(name, field, operand, place, depth + 1)

    def _conditions(
        self, name: str, field: SystemField | None, operand: object, place: Place, depth: int
    ) -> Node:
        if depth > DEPTH_MAX:
            raise FilterError(place, f"deeper than {DEPTH_MAX} levels")
        if not isinstance(operand, dict):
            return self._test("$eq", name, field, operand, place)
        if not operand:
            raise FilterError(place, "expected operators, found {}")
        parts: list[Node] = []
        for key, value in operand.items():
            here = (*place, str(key))
            if key == "$not":
                parts.append(Not(self._conditions(name, field, value, here, depth + 1)))
            elif key in _OPERATORS:
                parts.append(self._test(key, name, field, value, here))
            else:
                raise FilterError(here, f"unknown operator {key}{_nearest(str(key), _OPERATORS)}")
        return _all_of(parts)

    def _test(
        self, key: str, name: str, field: SystemField | None, value: object, place: Place
    ) -> Node:
        self._condition_count += 1
        if self._condition_count > CONDITION_COUNT_MAX:
            raise FilterError(place, f"more than {CONDITION_COUNT_MAX} conditions")
        if key in ("$ne", "$nin"):
            return Not(self._positive("$eq" if key == "$ne" else "$in", name, field, value, place))
        return self._positive(key, name, field, value, place)

    def _positive(
        self, key: str, name: str, field: SystemField | None, value: object, place: Place
    ) -> Node:
        if key == "$exists":
            if not isinstance(value, bool):
                raise FilterError(place, f"expected true or false, found {_kind(value)}")
            test = Condition(name, Operator.EXISTS, ())
            return test if value else Not(test)
        if key in ("$eq", "$in"):
            return self._equality(key, name, field, value, place)
        if key == "$regex" and isinstance(value, str):
            self._pattern_length += len(value)
            if self._pattern_length > PATTERN_LENGTH_MAX:
                raise FilterError(place, f"more than {PATTERN_LENGTH_MAX} characters in patterns")
        if key in ("$regex", "$contains", "$text"):
            return _text_test(key, name, field, value, place)
        if field is not None and field.kind in (FieldKind.PATH, FieldKind.WORD):
            raise FilterError(place, f"{name} has no order: use $eq, $ne, $in or $nin")
        return Condition(name, _COMPARISONS[key], (_operand(value, name, field, place),))

    def _equality(
        self, key: str, name: str, field: SystemField | None, value: object, place: Place
    ) -> Condition:
        if key == "$eq":
            operands = [_operand(value, name, field, place)]
        elif isinstance(value, list | tuple):
            self._operand_count += len(value)
            if self._operand_count > OPERAND_COUNT_MAX:
                raise FilterError(place, f"more than {OPERAND_COUNT_MAX} values in lists")
            operands = [
                _operand(each, name, field, (*place, index)) for index, each in enumerate(value)
            ]
        else:
            raise FilterError(place, f"expected a list, found {_kind(value)}")
        if field is not None:
            glob = field.kind is FieldKind.PATH
            self._glob_count += len(operands) if glob else 0
            if self._glob_count > GLOB_COUNT_MAX:
                raise FilterError(place, f"more than {GLOB_COUNT_MAX} globs")
            return Condition(name, Operator.GLOB if glob else Operator.IN, tuple(operands))
        found = dict.fromkeys(each for operand in operands for each in equal_values(operand))
        return Condition(name, Operator.IN, tuple(found))


def _all_of(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _resolve(key: str, place: Place) -> tuple[str, SystemField | None]:
    """Return the full name of a field, and what it is if it is one of memfs's own."""
    if key.startswith("$"):
        if key not in SYSTEM_FIELDS:
            if key in _OPERATORS:
                fault = f'{key} belongs to a field: write {{"field": {{"{key}": ...}}}}'
                raise FilterError(place, fault)
            known = (*_CONNECTIVES, *SYSTEM_FIELDS, *_OPERATORS)
            raise FilterError(place, f"unknown operator {key}{_nearest(key, known)}")
        return key, SYSTEM_FIELDS[key]
    name = attribute_name(key)
    if name is None or name == ATTRIBUTE_PREFIX.encode():
        raise FilterError(place, f"{key!r} cannot be the name of an xattr")
    text = name.decode()
    if text.startswith(CONTROL_PREFIX):
        instead = "$" + text.removeprefix(CONTROL_PREFIX)
        remedy = f": use {instead}" if instead in SYSTEM_FIELDS else ""
        raise FilterError(place, f"{text} is not stored with the file{remedy}")
    return text, None


def _operand(value: object, name: str, field: SystemField | None, place: Place) -> Value:
    """Return the value that a field is compared with."""
    if isinstance(value, datetime):
        value = value.isoformat()
    if value is None:
        raise FilterError(place, 'null is no value of an xattr: use {"$exists": false}')
    if isinstance(value, float) and not math.isfinite(value):
        raise FilterError(place, f"{value} cannot be compared")
    if not isinstance(value, bool | int | float | str):
        fault = f"{_kind(value)} cannot be compared: use a text, a number, true or false"
        raise FilterError(place, fault)
    if isinstance(value, str):
        _check_text(value, place)
    if field is not None:
        return _system_operand(value, name, field, place)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # It is found in whichever zone it was written.
        return instant(value) or value
    return _number(value, place)


def _number(value: float, place: Place) -> float:
    """Return a number as the engine can compare it, which has integers of 64 bits."""
    try:
        number = value if -_INTEGER_MAX <= value < _INTEGER_MAX else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FilterError(place, "the number is too large to be compared")
    return number


def _system_operand(value: float | str, name: str, field: SystemField, place: Place) -> Value:
    if field.kind is FieldKind.WORD:
        if value not in field.words:
            expected = ", ".join(field.words)
            near = _nearest(str(value), field.words)
            raise FilterError(place, f"{name} is one of {expected}{near}")
        return value
    if field.kind is FieldKind.TIME:
        return _time_operand(value, place)
    if field.kind is FieldKind.SIZE and isinstance(value, str):
        try:
            return _number(parse_size(value), place)
        except InvalidValueError as error:
            raise FilterError(place, str(error)) from None
    if field.kind in (FieldKind.SIZE, FieldKind.COUNT):
        if isinstance(value, bool | str):
            raise FilterError(place, f"{name} is a number, and not {_kind(value)}")
        return _number(value, place)
    if not isinstance(value, str):
        raise FilterError(place, f"{name} is a text, and not {_kind(value)}")
    if field.kind is FieldKind.PATH:
        if len(value) > PATTERN_LENGTH_MAX:
            raise FilterError(place, f"a glob of more than {PATTERN_LENGTH_MAX} characters")
        try:
            glob_pattern(value)
        except ValueError as error:
            raise FilterError(place, f"bad glob: {error}") from None
    return value


def _time_operand(value: float | str, place: Place) -> float:
    """Return nanoseconds since the epoch."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        moment_ns = _number(_number(value, place) * _NS, place)
        return _number(round(moment_ns), place)
    text = str(value)
    if _DATE.fullmatch(text):
        text += "T00:00Z"
    moment = instant(text)
    if moment is None:
        raise FilterError(
            place, "a time is a date (2025-01-01), a date-time with its zone, or seconds since 1970"
        )
    whole = datetime.fromisoformat(moment[:19]).replace(tzinfo=UTC)
    return _number(int(whole.timestamp()) * _NS + int(moment[20:29]), place)


def _text_test(
    key: str, name: str, field: SystemField | None, value: object, place: Place
) -> Condition:
    if not isinstance(value, str):
        raise FilterError(place, f"expected a text, found {_kind(value)}")
    if field is not None and field.kind not in (FieldKind.PATH, FieldKind.TEXT):
        raise FilterError(place, f"{name} is no text")
    _check_text(value, place)
    if key == "$contains":
        return Condition(name, Operator.CONTAINS, (value,))
    if key == "$text":
        if not value.split():
            raise FilterError(place, "expected a word at least")
        return Condition(name, Operator.TEXT, (value,))
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        at = f", character {error.pos}" if isinstance(error, re.error) else ""
        what = error.msg if isinstance(error, re.error) else "too deep or too large"
        raise FilterError(place, f"bad pattern{at}: {what}") from None
    return Condition(name, Operator.REGEX, (value,))


def _check_text(text: str, place: Place) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FilterError(place, "half a surrogate pair is no text") from None


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean {found[0]}?" if found else ""


def _kind(value: object) -> str:
    """Return the kind of a value in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = ((int | float, "a number"), (str, "a text"), (dict, "an object"), (list, "a list"))
    for kind, name in names:
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


# --- places in a text ----------------------------------------------------------------------------
_BLANK = re.compile(r"[ \t\r\n]*")


def _find(text: str, place: Place) -> tuple[int, int]:
    """Return line and column of a part of a valid JSON text: of its key, or of its list element."""
    at = _BLANK.match(text).end()  # type: ignore[union-attr]  # it matches everywhere
    decoder = json.JSONDecoder(parse_int=_integer)
    shown = at
    for step in place:
        if at >= len(text) or text[at] not in "{[":
            break
        is_object = text[at] == "{"
        at, index = _skip(text, at + 1), 0
        while True:
            key, shown = step if not is_object else "", at
            if is_object:
                key, at = decoder.raw_decode(text, at)
                at = _skip(text, _skip(text, at) + 1)
            if (key == step) if is_object else (index == step):
                break
            _value, at = decoder.raw_decode(text, at)
            at, index = _skip(text, _skip(text, at) + 1), index + 1
    before = text[:shown]
    return before.count("\n") + 1, shown - (before.rfind("\n") + 1) + 1


def _skip(text: str, at: int) -> int:
    matched = _BLANK.match(text, at)
    assert matched is not None
    return matched.end()
