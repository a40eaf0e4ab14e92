"""Matching: whether a file is what a filter asks for, by the values of its fields.

Invariant: every way to answer a query gives what `matches` gives; it is the oracle of the tests.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from memfs.query.fields import SYSTEM_FIELDS
from memfs.query.filters import And, Condition, Node, Not, Operator, Or
from memfs.query.globs import glob_pattern
from memfs.query.values import Value, elements_of, equal_values

if TYPE_CHECKING:
    from collections.abc import Callable

Values = tuple[Value, ...] | None
"""What a file has in one field: None if it lacks the field, nothing if its value is compared with
nothing, several values where a file has several paths."""


def matches(node: Node, values_of: Callable[[str], Values]) -> bool:
    """Tell whether a filter finds a file.

    Args:
        values_of: The file's values of a field.
    """
    if isinstance(node, Condition):
        return _passes(node, values_of(node.field))
    if isinstance(node, Not):
        return not matches(node.part, values_of)
    if isinstance(node, And):
        return all(matches(part, values_of) for part in node.parts)
    if isinstance(node, Or):
        return any(matches(part, values_of) for part in node.parts)
    assert_never(node)


def _passes(condition: Condition, values: Values) -> bool:
    if values is None:
        return False
    if condition.operator is Operator.EXISTS:
        return True
    return any(value_passes(condition, value) for value in values)


def value_passes(condition: Condition, value: Value) -> bool:
    """Tell whether one value passes a condition that is not `EXISTS`.

    A JSON array passes if one of its elements does, and contains a text that is an element.
    """
    if isinstance(value, str) and value.startswith("[") and condition.field not in SYSTEM_FIELDS:
        elements = elements_of(value)
        if elements is not None:
            if condition.operator is Operator.CONTAINS:
                wanted = equal_values(condition.operands[0])
                return any(element in wanted for element in elements)
            return any(scalar_passes(condition, element) for element in elements)
    return scalar_passes(condition, value)


def scalar_passes(condition: Condition, value: Value) -> bool:
    """Tell whether a value that is no array passes a condition that is not `EXISTS`."""
    operator, operands = condition.operator, condition.operands
    is_text = isinstance(value, str)
    if operator is Operator.IN:
        # Python has 1 == 1.0, as the engine has; a text never equals a number.
        return value in operands
    if operator is Operator.GLOB:
        return is_text and any(_glob_matches(str(each), str(value)) for each in operands)
    (operand,) = operands
    if is_text != isinstance(operand, str):
        return False
    if operator is Operator.REGEX:
        return pattern_of(str(operand)).search(str(value)) is not None
    if operator is Operator.CONTAINS:
        return str(operand) in str(value)
    if operator is Operator.TEXT:
        return has_words(str(operand), str(value))
    if operator is Operator.GREATER:
        return value > operand  # type: ignore[operator]  # both are texts, or both numbers
    if operator is Operator.GREATER_EQUAL:
        return value >= operand  # type: ignore[operator]  # likewise
    if operator is Operator.LESS:
        return value < operand  # type: ignore[operator]  # likewise
    return value <= operand  # type: ignore[operator]  # likewise


def has_words(words: str, text: str) -> bool:
    """Tell whether each word is a part of a text, in upper or lower case."""
    folded = text.casefold()
    return all(word in folded for word in words.casefold().split())


def _glob_matches(glob: str, path: str) -> bool:
    return glob_pattern(glob).fullmatch(path) is not None


@lru_cache(maxsize=256)
def pattern_of(text: str) -> re.Pattern[str]:
    """Return a pattern that the parser has accepted."""
    return re.compile(text)
