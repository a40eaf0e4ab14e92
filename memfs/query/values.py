"""Values: what the text of an attribute is compared as.

Invariant: stored text has no type of its own, and the same text is always the same value. What only
looks like a number (`007`, `1.0.3`, ` 1`, `NaN`) stays text.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime

Value = int | float | str
"""Numbers compare with numbers, texts with texts, and neither with the other."""

VALUE_BYTES_MAX = 4096
"""A longer attribute exists, and is compared with nothing. Guess: what is longer is content."""

ELEMENT_COUNT_MAX = 64
"""A longer JSON array is a text."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)  # RFC 8259
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.([0-9]{1,9}))?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_INTEGER_MAX = 1 << 63
_NOT_PLAIN = frozenset([b"", *(b"%c" % byte for byte in b"-0123456789")])


def typed(text: str) -> Value:
    """Return what a text is compared as.

    A JSON number is a number: an integer where 64 bits hold it, else a float. An ISO 8601 date-time
    with a zone is text in UTC, with all nine digits of its fraction, so that instants sort by time.
    """
    if (number := _NUMBER.fullmatch(text)) is not None:
        if number[1] is None and number[2] is None and len(text) < 20:
            integer = int(text)
            if -_INTEGER_MAX <= integer < _INTEGER_MAX:
                return integer
        value = float(text)
        return text if value in (float("inf"), float("-inf")) else value
    if len(text) >= 17 and text[4] == "-":
        return instant(text) or text
    return text


def instant(text: str) -> str | None:
    """Return an ISO 8601 date-time with a zone in UTC; None if the text is not one."""
    matched = _TIME.fullmatch(text)
    if matched is None:
        return None
    minute, second, fraction, zone = matched.groups()
    if fraction is not None and second is None:
        return None
    try:
        moment = datetime.fromisoformat(minute + (second or ":00") + zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{moment.replace(tzinfo=None).isoformat()}.{(fraction or '').ljust(9, '0')}Z"


def elements_of(text: str) -> tuple[Value, ...] | None:
    """Return what the elements of a JSON array are compared as; None if a text is no such array.

    It has up to `ELEMENT_COUNT_MAX` texts, numbers, `true` and `false`. A text in it has its type
    already: `"7"` is no number. JSON can name half a letter, which is no text: such an element is
    compared with nothing, like an attribute that is no UTF-8.
    """
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) > ELEMENT_COUNT_MAX:
        return None
    values = [_element(each) for each in found]
    if None in values:
        return None
    return tuple(value for value in values if value is not None and not _has_half_letter(value))


def _element(found: object) -> Value | None:
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int):
        return found if -_INTEGER_MAX <= found < _INTEGER_MAX else None
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    return (instant(found) or found) if isinstance(found, str) else None


def _has_half_letter(value: Value) -> bool:
    if not isinstance(value, str) or value.isascii():
        return False
    return any("\ud800" <= letter <= "\udfff" for letter in value)


def stored_value(stored: bytes) -> Value | None:
    """Return what the bytes of an attribute are compared as; None: with nothing."""
    if len(stored) > VALUE_BYTES_MAX:
        return None
    try:
        return typed(stored.decode())
    except UnicodeDecodeError:
        return None


def is_plain_text(stored: bytes) -> bool:
    """Tell quickly that bytes are compared as the text that they are; False: perhaps."""
    # Numbers and times begin with a digit or a minus.
    if len(stored) > VALUE_BYTES_MAX or stored[:1] in _NOT_PLAIN:
        return False
    if stored.isascii():
        return True
    try:
        stored.decode()
    except UnicodeDecodeError:
        return False
    return True


def equal_values(operand: Value) -> tuple[Value, ...]:
    """Return the values that equality with an operand finds.

    A text that looks like a number finds the number too: nobody declares types.
    """
    if isinstance(operand, str):
        number = typed(operand)
        if not isinstance(number, str):
            return (number, operand)
    return (operand,)
