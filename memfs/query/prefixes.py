"""Prefixes: the letters that each text begins with in which a pattern is found.

Invariant: a text in which a pattern is found begins with its prefix; the prefix may be shorter than
what all these texts have in common.
"""

from __future__ import annotations

_SPECIAL = frozenset(".^$*+?{}[]\\|()")
_MAY_BE_NONE = frozenset("*?{")
"""What says of the letter before that it may be missing."""

_SURROGATES = range(0xD800, 0xE000)
_LAST = 0x10FFFF


def literal_prefix(pattern: str) -> str:
    r"""Return the prefix of a pattern that is tied to the beginning of a text, by `^` or `\A`."""
    at = next((len(tie) for tie in ("^", "\\A") if pattern.startswith(tie)), 0)
    if not at or "|" in pattern:
        # One of the alternatives may begin otherwise.
        return ""
    letters: list[str] = []
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\" and at + 1 < len(pattern) and not pattern[at + 1].isalnum():
            at += 1
            letter = pattern[at]
        elif letter in _SPECIAL:
            break
        letters.append(letter)
        at += 1
    if at < len(pattern) and pattern[at] in _MAY_BE_NONE:
        del letters[-1:]
    return "".join(letters)


def end_of_prefix(prefix: str) -> str | None:
    """Return the least text beyond all that have a prefix; None: nothing is beyond them."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if code in _SURROGATES:
            code = _SURROGATES.stop
        prefix = prefix[:-1]
        if code <= _LAST:
            return prefix + chr(code)
    return None
