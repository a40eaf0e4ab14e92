"""Filters: the tree that a filter becomes once it is understood.

Invariant: a tree is valid as it is. Each value has the type that it is compared as, `$ne` and
`$nin` are negations of an equality, and equality has all the values that it finds.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.query.values import Value


class Operator(enum.Enum):
    """How a condition looks at the values of its field."""

    EXISTS = "$exists"
    """There is a value, whatever it is."""
    IN = "$in"
    """A value is one of the operands."""
    GREATER = "$gt"
    GREATER_EQUAL = "$gte"
    LESS = "$lt"
    LESS_EQUAL = "$lte"
    REGEX = "$regex"
    """The pattern is found in a text."""
    CONTAINS = "$contains"
    """The operand is a part of a text."""
    TEXT = "$text"
    """Each word of the operand is a part of a text, in upper or lower case."""
    GLOB = "glob"
    """A path matches one of the globs."""


RANGES = frozenset({Operator.GREATER, Operator.GREATER_EQUAL, Operator.LESS, Operator.LESS_EQUAL})


class Condition(NamedTuple):
    """A question to one field."""

    field: str
    """The name of an xattr with its prefix, or one of `SYSTEM_FIELDS`."""
    operator: Operator
    operands: tuple[Value, ...]
    """`EXISTS` has no operand, `IN` and `GLOB` have any number, and all others one."""


class And(NamedTuple):
    """All of the parts; without any, every file."""

    parts: tuple[Node, ...]


class Or(NamedTuple):
    """One of the parts."""

    parts: tuple[Node, ...]


class Not(NamedTuple):
    """Exactly the files that a part does not find."""

    part: Node


Node = Condition | And | Or | Not


def conjuncts(node: Node) -> list[Node]:
    """Return the parts of a filter that all have to hold."""
    if isinstance(node, And):
        return [each for part in node.parts for each in conjuncts(part)]
    return [node]


def fields_of(node: Node) -> set[str]:
    """Return the fields that a filter asks for."""
    if isinstance(node, Condition):
        return {node.field}
    if isinstance(node, Not):
        return fields_of(node.part)
    return {field for part in node.parts for field in fields_of(part)}


def operators_of(node: Node) -> set[Operator]:
    """Return the operators that a filter uses."""
    if isinstance(node, Condition):
        return {node.operator}
    if isinstance(node, Not):
        return operators_of(node.part)
    return {operator for part in node.parts for operator in operators_of(part)}
