"""JSON values as typed ones: what a socket brings is what its annotations say, or is refused.

Invariant: `decode` returns a value of the type that was asked for, or raises `InvalidValueError`,
which names the field; `decode(kind, encode(value)) == value`.

msgspec does this too, but importing it takes longer than all of the client (32 ms of CPU and 19,
best of 12), and a command like `memfs status` takes 60 ms.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from memfs.control.protocol import JsonValue

Kind = Any
"""A type as annotations have it; Python has no type for those."""

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    type(None): "null",
}

_PLAIN = frozenset((bool, int, float, str, type(None)))
"""JSON values as they are. A subclass is not among them: it may have fields."""

_SHOWN_MAX = 60
"""Characters of a wrong value that a message repeats; guess."""


def decode(kind: Kind, value: JsonValue, place: str = "") -> Any:  # noqa: ANN401 - as `kind` says
    """Return a JSON value as one of a type.

    Args:
        kind: `bool`, `int`, `float`, `str`, `list[T]`, `tuple[T, ...]`, `tuple[A, B]`,
            `dict[str, T]`, a `TypedDict`, a `NamedTuple`, a `StrEnum`, unions and
            literals of them, `object`.
        value: From JSON.
        place: Its name, for messages: `paths[3]`; empty: it is all there is.

    Raises:
        InvalidValueError: The value is of another type; a field is missing or unknown.
    """
    if kind is object or kind is Any:
        return value
    origin: Kind = get_origin(kind)
    if origin is Union or origin is types.UnionType:
        return _decode_union(kind, value, place)
    if origin is Literal:
        return _decode_literal(kind, value, place)
    if origin is list or origin is tuple:
        return _decode_list(kind, value, place)
    if origin is dict:
        _require(dict, value, place)
        item = get_args(kind)[1]
        return {name: decode(item, each, _join(place, name)) for name, each in value.items()}  # type: ignore[union-attr]  # required above
    if typing.is_typeddict(kind) or hasattr(kind, "_fields"):
        return _decode_fields(kind, value, place)
    if isinstance(kind, enum.EnumType):
        return _decode_word(kind, value, place)
    _require(kind, value, place)
    if isinstance(value, str):
        _require_text(value, place)
    return value


def encode(value: Any) -> Any:  # noqa: ANN401 - any value that `decode` returns
    """Return a value as JSON values."""
    if hasattr(value, "_fields"):
        return {name: encode(getattr(value, name)) for name in value._fields}
    if isinstance(value, dict):
        return {name: encode(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        if _PLAIN.issuperset(map(type, value)):
            return [*value]
        return [encode(each) for each in value]
    return value


def _decode_union(kind: Kind, value: JsonValue, place: str) -> object:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    wanted = [option for option in options if option is not type(None)]
    if len(wanted) == 1:
        return decode(wanted[0], value, place)
    for option in wanted:
        try:
            return decode(option, value, place)
        except InvalidValueError:
            continue
    words = " or ".join(_word(option) for option in wanted)
    raise InvalidValueError(_message(place, f"{words} is wanted, not {_show(value)}"))


def _decode_literal(kind: Kind, value: JsonValue, place: str) -> JsonValue:
    known = get_args(kind)
    if isinstance(value, str) and value in known:
        return value
    raise InvalidValueError(_message(place, f"{_show(value)} is not one of {', '.join(known)}"))


def _decode_word(kind: Kind, value: JsonValue, place: str) -> object:
    known = [each.value for each in kind]
    if value in known:
        return kind(value)
    raise InvalidValueError(_message(place, f"{_show(value)} is not one of {', '.join(known)}"))


def _decode_list(kind: Kind, value: JsonValue, place: str) -> object:
    _require(list, value, place)
    assert isinstance(value, list)
    items = get_args(kind)
    made: Kind = get_origin(kind)
    if made is tuple and items[-1] is not ...:
        if len(items) != len(value):
            raise InvalidValueError(_message(place, f"{len(items)} values are wanted"))
        pairs = enumerate(zip(items, value, strict=True))
        return tuple(decode(item, each, f"{place}[{at}]") for at, (item, each) in pairs)
    item = items[0]
    if not (item in (int, str) and set(map(type, value)) <= {item}):
        value = [decode(item, each, f"{place}[{at}]") for at, each in enumerate(value)]
    elif item is str and not _is_text("".join(map(str, value))):
        for at, each in enumerate(value):
            _require_text(str(each), f"{place}[{at}]")
    return value if made is list else tuple(value)


def _decode_fields(kind: Kind, value: JsonValue, place: str) -> object:
    _require(dict, value, place)
    assert isinstance(value, dict)
    hints, required = _fields_of(kind)
    for name in value:
        if name not in hints:
            raise InvalidValueError(_message(place, f"there is no field {name!r}"))
    for name in required:
        if name not in value:
            raise InvalidValueError(_message(place, f"the field {name!r} is missing"))
    found = {name: decode(hints[name], each, _join(place, name)) for name, each in value.items()}
    return found if typing.is_typeddict(kind) else kind(**found)


@functools.cache
def _fields_of(kind: Kind) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the types of all fields, and the names of those without a default, in order."""
    hints = typing.get_type_hints(kind)
    if typing.is_typeddict(kind):
        # `__required_keys__` does not see NotRequired in annotations that are texts.
        marked = typing.get_type_hints(kind, include_extras=True)
        optional = {name for name, hint in marked.items() if get_origin(hint) is typing.NotRequired}
        if not kind.__total__:
            optional = {*hints}
    else:
        optional = set(kind._field_defaults)
    return hints, tuple(name for name in hints if name not in optional)


def _require(kind: Kind, value: JsonValue, place: str) -> None:
    # `type`, since True is an int to isinstance.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InvalidValueError(_message(place, f"{_word(kind)} is wanted, not {_show(value)}"))


def _require_text(value: str, place: str) -> None:
    """Refuse half surrogates, but for those that stand for bytes of a path (`os.fsdecode`)."""
    if not _is_text(value):
        raise InvalidValueError(_message(place, f"{_show(value)} is no text"))


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _word(kind: Kind) -> str:
    known: Kind = get_origin(kind) or kind
    return _WORDS.get(known, "an object")


def _show(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _message(place: str, what: str) -> str:
    return f"{place}: {what}" if place else what
