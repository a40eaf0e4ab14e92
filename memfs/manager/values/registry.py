"""All kinds of values: memfs's own, and those of other packages by entry points.

Invariant: a name or a MIME type stands for one kind; memfs's own come first.
"""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING, Any

from memfs.manager.errors import ValueFormatError
from memfs.manager.values.arrays import Arrays
from memfs.manager.values.plain import Bytes, Json, MessagePack, Pickle, Text
from memfs.manager.values.tables import Tables
from memfs.manager.values.tensors import Tensors

if TYPE_CHECKING:
    from memfs.manager.values.value import Content, ValueFormat

GROUP = "memfs.formats"
"""The group of entry points."""

RECOGNISED_BYTES = 64
"""Bytes of a file without a type that the kinds are shown."""

PICKLE = Pickle.name
JSON = Json.name
TENSORS = (Arrays.name, Tensors.name)
"""What a device can hold."""

_OWN: tuple[ValueFormat, ...] = (
    Bytes(),
    Text(),
    Arrays(),
    Tensors(),
    Tables(),
    Json(),
    MessagePack(),
    Pickle(),
)


@functools.cache
def formats() -> tuple[ValueFormat, ...]:
    """Return all kinds, in the order in which they are asked."""
    from importlib.metadata import entry_points

    others = tuple(point.load() for point in entry_points(group=GROUP))
    return (*_OWN, *(each() if isinstance(each, type) else each for each in others))


def by_name(name: str) -> ValueFormat:
    """Return a kind by the name that users choose it by.

    Raises:
        ValueFormatError: There is no such kind.
    """
    names = {each.name: each for each in formats()}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, list(names), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise ValueFormatError(f"there is no format {name!r}; {hint}")


def for_value(value: Any) -> ValueFormat:  # noqa: ANN401
    """Return the kind that stores a value.

    Raises:
        ValueFormatError: No kind does without being named.
    """
    for each in formats():
        if each.accepts(value):
            return each
    raise ValueFormatError(
        f"{type(value).__module__}.{type(value).__qualname__} has no file format of its own; store "
        "it with format='pickle' if you trust all who can write there, or turn it into bytes, "
        "text, JSON, an array, tensors or a table first"
    )


def for_content(content: Content) -> ValueFormat:
    """Return the kind that reads a file: by its type, else by its first bytes and its name."""
    if content.mime.type:
        for each in formats():
            if content.mime.type in each.types:
                return each
    begin = content.read(0, RECOGNISED_BYTES)
    name = content.name.rpartition("/")[2].lower()
    for each in formats():
        if each.recognises(begin, name):
            return each
    return _OWN[0]
