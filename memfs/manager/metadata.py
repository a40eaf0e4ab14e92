"""Metadata of a key: scalars as extended attributes that any program can read and query.

Invariant: what is read is what was stored, types included. An attribute is the text of its value;
where the text alone would come back as another type, `user.memory.types` tells which it was.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import TYPE_CHECKING

from memfs.manager.errors import ValueFormatError
from memfs.namespace.xattrs import XATTRS_BYTES_MAX, users_bytes
from memfs.query.values import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Scalar = str | int | float | bool | date | datetime

_USER = "user."
_OWN = "user.memory."
TYPES_XATTR = "user.memory.types"
KEY_XATTR = "user.memory.key"
"""The whole key, where the path has only the beginning of it (`keys.is_cut`)."""
MIME_XATTR = "user.mime_type"
"""What the file holds, as other programs know it (freedesktop.org, Common Extended Attributes)."""

_RESERVED = ("user.memfs.", _OWN, MIME_XATTR)

NAME_BYTES_MAX = 250
VALUE_BYTES_MAX = 65_536
"""Limits of xattr(7), less the prefix."""

_FROM_TEXT: dict[str, Callable[[str], Scalar]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "true",
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
}


def attributes_of(metadata: Mapping[str, Scalar]) -> dict[str, bytes]:
    """Return metadata as extended attributes.

    Raises:
        ValueFormatError: A name is reserved, empty or too long; a value is no scalar or too long;
            all together are more than one file can have.
    """
    found: dict[str, bytes] = {}
    types: dict[str, str] = {}
    for name, value in metadata.items():
        attribute = _attribute_of(name)
        kind, text = _text_of(name, value)
        found[attribute] = _encoded(name, text)
        if len(found[attribute]) > VALUE_BYTES_MAX:
            raise ValueFormatError(
                f"metadata {name!r} has {len(found[attribute])} bytes; {VALUE_BYTES_MAX} are taken"
            )
        if kind != _kind_of_text(text):
            types[name] = kind
    if types:
        found[TYPES_XATTR] = json.dumps(types).encode()
    size = users_bytes((name.encode(), value) for name, value in found.items())
    if size > XATTRS_BYTES_MAX:
        raise ValueFormatError(
            f"metadata has {size} bytes, names included; {XATTRS_BYTES_MAX} are taken of one key: "
            "store what is long as a value of its own"
        )
    return found


def metadata_of(attributes: Mapping[str, bytes]) -> dict[str, Scalar]:
    """Return metadata by the extended attributes of a file; other programs may have set some."""
    types = _types_of(attributes.get(TYPES_XATTR))
    found: dict[str, Scalar] = {}
    for attribute, value in attributes.items():
        if not attribute.startswith(_USER) or attribute.startswith(_RESERVED):
            continue
        name = attribute.removeprefix(_USER)
        text = value.decode("utf-8", "replace")
        kind = types.get(name) or _kind_of_text(text)
        try:
            found[name] = _FROM_TEXT[kind](text)
        except (ValueError, KeyError):
            # Another program has changed the attribute since.
            found[name] = text
    return found


def is_metadata(attribute: str) -> bool:
    """Return whether an extended attribute is metadata of users."""
    return attribute.startswith(_USER) and not attribute.startswith(_RESERVED)


def check_names(names: Iterable[str]) -> None:
    """See that names can be those of metadata; raises as `attributes_of`."""
    for name in names:
        _attribute_of(name)


def _attribute_of(name: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueFormatError(f"metadata {name!r}: a name is a text without NUL")
    attribute = _USER + name
    if attribute.startswith(_RESERVED):
        raise ValueFormatError(f"metadata {name!r}: this name is memfs's own; take another one")
    if len(_encoded(name, attribute)) > NAME_BYTES_MAX:
        raise ValueFormatError(f"metadata {name[:80]!r}...: a name has up to 245 bytes")
    return attribute


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueFormatError(f"metadata {name!r} holds half of a surrogate pair") from None


def _text_of(name: str, value: object) -> tuple[str, str]:
    """Return the type and the text of a value."""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    if isinstance(value, int):
        return "int", str(int(value))
    if isinstance(value, float):
        return "float", repr(float(value))
    if isinstance(value, str):
        return "str", str(value)
    if isinstance(value, datetime):
        return "datetime", value.isoformat()
    if isinstance(value, date):
        return "date", value.isoformat()
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        # A scalar of numpy or torch.
        return _text_of(name, value.item())
    raise ValueFormatError(
        f"metadata {name!r} is {type(value).__name__}; it can be a text, a number, true or false, "
        "a date or a time; store anything else as a value of its own"
    )


def _kind_of_text(text: str) -> str:
    """Return what a text comes back as where nothing else is known."""
    value = typed(text)
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float" if repr(value) == text else "str"
    return "str"


def _types_of(stored: bytes | None) -> dict[str, str]:
    if stored is None:
        return {}
    try:
        types = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(types, dict):
        return {}
    return {name: kind for name, kind in types.items() if isinstance(kind, str)}
