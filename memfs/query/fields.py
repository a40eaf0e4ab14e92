"""Fields: the names that a filter may ask for, and the words that each of them understands.

Invariant: a field that begins with `$` is one of `SYSTEM_FIELDS`; any other one is the name of a
user xattr, with or without its prefix `user.`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from memfs.types import NAME_BYTES_MAX, Durability, Tier

ATTRIBUTE_PREFIX = "user."
CONTROL_PREFIX = "user.memfs."


class FieldKind(enum.Enum):
    """What the values of a system field are."""

    PATH = "path"
    """Equality is a match of a glob."""
    SIZE = "size"
    """Bytes, or as users write them."""
    TIME = "time"
    """Nanoseconds since the epoch; users write dates, date-times or seconds."""
    COUNT = "count"
    WORD = "word"
    """One of a few words."""
    TEXT = "text"


class SystemField(NamedTuple):
    """A field that memfs itself fills."""

    kind: FieldKind
    meaning: str
    """In Markdown, for docs/guide/query.md."""
    words: tuple[str, ...] = ()
    """All values of a `WORD`."""


_TIERS = tuple(tier.label for tier in sorted(Tier, reverse=True))

SYSTEM_FIELDS: dict[str, SystemField] = {
    "$path": SystemField(
        FieldKind.PATH,
        "The path from the root of the mount. Equality is a glob: `*` is any part of a name, `**` "
        "any number of directories; `*.tif` without a slash is a name anywhere, `data/` all below "
        "directories of that name anywhere, and `/data/` all below the one in the root.",
    ),
    "$name": SystemField(
        FieldKind.TEXT,
        "The last part of the path. `$text` finds words in it, `$contains` a part of it; "
        "`memfs index add` makes an index for both.",
    ),
    "$tier": SystemField(FieldKind.WORD, "The tier now, as `user.memfs.tier`.", _TIERS),
    "$size": SystemField(FieldKind.SIZE, "Bytes, as a number or as `64MiB`."),
    "$mtime": SystemField(
        FieldKind.TIME,
        "When the content changed: seconds since 1970, a date (`2025-01-01`, midnight in UTC), or "
        "a date-time with its zone.",
    ),
    "$state": SystemField(
        FieldKind.WORD,
        "How safe the file is, as `user.memfs.state`.",
        tuple(durability.value for durability in Durability),
    ),
    "$pin": SystemField(
        FieldKind.WORD, "The pin in force, as `user.memfs.pin`.", (*_TIERS, "auto")
    ),
    "$pool": SystemField(FieldKind.TEXT, "The pool in force, as `user.memfs.pool`."),
    "$digest": SystemField(FieldKind.TEXT, "BLAKE3 of the content, where it is known."),
    "$uses": SystemField(
        FieldKind.COUNT, "How often the file was used of late, 0 to 3, as the policy counts."
    ),
}


LIVE_FIELDS = frozenset({"$tier", "$state", "$pin", "$pool", "$uses"})
"""Those that only a mounted file system knows, or that are inherited: no index has them."""


def attribute_name(field: str) -> bytes | None:
    """Return the name of the xattr that a field asks for; None if no xattr can have that name."""
    if not field:
        return None
    try:
        name = (field if field.startswith(ATTRIBUTE_PREFIX) else ATTRIBUTE_PREFIX + field).encode()
    except UnicodeEncodeError:
        return None
    return None if len(name) > NAME_BYTES_MAX or b"\0" in name else name


def is_queryable(name: bytes) -> bool:
    """Tell whether filters can ask for an xattr: those of users, and not memfs's own."""
    return name.startswith(b"user.") and not name.startswith(b"user.memfs.") and len(name) > 5
