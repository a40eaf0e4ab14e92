"""Requests: what programs may ask of the hot server, checked field by field.

Invariant: a request that is returned has only values of the right type and of bounded size, so that
whatever is made of them, messages to the daemon and replies included, fits a packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.pool import LAYOUTS
from memfs.hot.protocol import ProtocolError
from memfs.hot.slabs import Layout
from memfs.hot.tensors import PRECISIONS
from memfs.hot.tokens import TOKEN_CHARS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_BYTES_MAX = 255
"""Limit of a snapshot's name and a label, as of a file's name: labels are names of files."""

DEVICE_CHARS_MAX = 64
"""Limit of a device's UUID; NVIDIA's have 40."""

NUMBER_MAX = (1 << 53) - 1
"""Limit of a call or a lease: all JSON readers agree up to here (RFC 8259, section 6)."""

WAIT_S_MAX = 3600.0
"""A program waits for a file to be loaded at most so long."""

_SHOWN_CHARS_MAX = 40
"""Limit of a value that is refused, in the message."""


class Attach(NamedTuple):
    """Lease the slab of a file."""

    token: str
    layout: Layout
    demand: bool
    """Have it loaded if it is not there."""
    device: str | None
    """Where it is to be loaded; None: anywhere."""
    timeout_s: float
    """0 to `WAIT_S_MAX`."""


class AttachSnapshot(NamedTuple):
    """Lease a slab that a snapshot keeps."""

    name: str
    label: str
    layout: Layout


class TakeSnapshot(NamedTuple):
    """Keep slabs as they are."""

    name: str
    tokens: Mapping[str, str]
    """By label."""


def read_call(message: Mapping[str, object]) -> str:
    """Return which call a message is of."""
    return _text(message, "op", _SHOWN_CHARS_MAX)


def read_id(message: Mapping[str, object]) -> int | None:
    """Return the number of a message, which its answer bears as well; None if it has no number."""
    value = message.get("id")
    return None if value is None else _number(value, "id")


def read_attach(message: Mapping[str, object]) -> Attach:
    """Return a lease that is asked for; `ProtocolError` if a field is wrong."""
    demand = message.get("demand", False)
    if not isinstance(demand, bool):
        raise ProtocolError("demand: neither true nor false")
    device = message.get("device")
    return Attach(
        token=_text(message, "token", TOKEN_CHARS_MAX),
        layout=_layout(message),
        demand=demand,
        device=None if device is None else _text(message, "device", DEVICE_CHARS_MAX),
        timeout_s=_seconds(message, "timeout_s"),
    )


def read_attach_snapshot(message: Mapping[str, object]) -> AttachSnapshot:
    """Return a lease of what a snapshot keeps; `ProtocolError` if a field is wrong."""
    label = _name(message.get("label"), "label")
    return AttachSnapshot(read_snapshot_name(message), label, _layout(message))


def read_snapshot(message: Mapping[str, object]) -> TakeSnapshot:
    """Return a snapshot that is to be taken; `ProtocolError` if a field is wrong."""
    tokens = message.get("tokens")
    if not isinstance(tokens, dict):
        raise ProtocolError("tokens: not tokens by labels")
    checked = {
        _name(label, "label"): _text({"token": token}, "token", TOKEN_CHARS_MAX)
        for label, token in tokens.items()
    }
    return TakeSnapshot(read_snapshot_name(message), checked)


def read_snapshot_name(message: Mapping[str, object]) -> str:
    """Return the name of a snapshot; `ProtocolError` if it cannot be one."""
    return _name(message.get("name"), "name")


def read_lease(message: Mapping[str, object]) -> int:
    """Return the number of a lease; `ProtocolError` if it is not one."""
    return _number(message.get("lease"), "lease")


def _number(value: object, field: str) -> int:
    # True is an int to Python.
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:
        raise ProtocolError(f"{field}: not a whole number from 0 to 2**53 - 1")
    return value


def _seconds(message: Mapping[str, object], field: str) -> float:
    value = message.get(field)
    # True is an int to Python, and JSON as Python reads it has NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ProtocolError(f"{field}: not a number of seconds from 0 on")
    return min(WAIT_S_MAX, value)


def _text(message: Mapping[str, object], field: str, characters_max: int) -> str:
    value = message.get(field)
    if not isinstance(value, str) or len(value) > characters_max or not value.isascii():
        raise ProtocolError(f"{field}: not a text of at most {characters_max} ASCII characters")
    return value


def _name(value: object, field: str) -> str:
    """Return a name: encodable as those of files are, without characters that steer terminals."""
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        size_bytes = len(value.encode("utf-8", "surrogateescape"))
    except ValueError:
        raise ProtocolError(f"{field}: not a name") from None
    if size_bytes > NAME_BYTES_MAX:
        raise ProtocolError(f"{field}: {size_bytes} bytes; {NAME_BYTES_MAX} are allowed")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        raise ProtocolError(f"{field}: a control character in a name")
    return value


def _layout(message: Mapping[str, object]) -> Layout:
    dtype, layout = _choice(message, "dtype"), _choice(message, "layout")
    if dtype and dtype not in PRECISIONS:
        raise ProtocolError(f"dtype {dtype!r} is not one of {', '.join(PRECISIONS)}")
    if layout not in LAYOUTS:
        raise ProtocolError(f"layout {layout!r} is not known")
    return Layout(dtype, layout)


def _choice(message: Mapping[str, object], field: str) -> str:
    return "" if message.get(field) is None else _text(message, field, _SHOWN_CHARS_MAX)
