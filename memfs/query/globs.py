"""Globs: patterns of paths.

Invariant: a glob without a special character matches exactly the path that it spells, and all below
it if it ends with a slash.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SPECIAL = frozenset("*?[")


@lru_cache(maxsize=256)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """Return the pattern that a whole path, `a/b` from the root on, has to match.

    `*`, `?` and `[...]` match within one name, `**` any number of directories. A glob without a
    slash is a name in any directory, and one that ends with a slash is all below.

    Raises:
        ValueError: A `[` is not closed, or its range runs backwards.
    """
    anchored = "/" in glob.rstrip("/") or glob.startswith("/")
    parts = glob.strip("/").split("/")
    if not anchored:
        parts.insert(0, "**")
    if glob.endswith("/"):
        parts.append("**")
    text, between = "", ""
    for index, part in enumerate(parts):
        if part == "**":
            last = index == len(parts) - 1
            text += between + (".+" if last else "(?:.+/)?")
            between = ""
        else:
            text += between + _name_pattern(part)
            between = "/"
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{error.msg} in {glob!r}") from None


def _name_pattern(part: str) -> str:
    text, at = "", 0
    while at < len(part):
        letter = part[at]
        at += 1
        if letter == "*":
            text += "[^/]*"
        elif letter == "?":
            text += "[^/]"
        elif letter == "[":
            # The first of the set may be a bracket: POSIX has no other way to write it.
            end = part.find("]", at + 1 + part.startswith("!", at))
            if end < 0:
                raise ValueError(f"a [ is not closed in {part!r}")
            inner = part[at:end]
            negated = inner.startswith("!")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[negated:])
            text += f"(?!/)[{'^' if negated else ''}{escaped}]"
            at = end + 1
        else:
            text += re.escape(letter)
    return text


def literal_path(glob: str) -> str | None:
    """Return the one path that a glob can match; None if it has special characters."""
    if glob.endswith("/") or "/" not in glob or _SPECIAL & set(glob):
        return None
    return glob.strip("/")


def escaped_glob(path: str) -> str:
    """Return a glob that matches exactly a path."""
    return re.sub(r"([*?\[])", r"[\1]", path)
