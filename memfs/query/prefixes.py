"""Prefixes and parts: the letters that are in each text in which a pattern is found.

Invariant: a text in which a pattern is found begins with its prefix, and has each of its parts.
Both may be shorter than what all these texts have in common.
"""

from __future__ import annotations

import re

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


_FLAGS = re.compile(r"\(\?[a-zA-Z-]+[:)]")
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_REPEATED = re.compile(r"\{[0-9]*,?[0-9]*\}")
_ESCAPED = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|[0-9]+|.)", re.DOTALL
)
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def literal_parts(pattern: str) -> list[str]:
    """Return texts that are, letter by letter, in each text in which a valid pattern is found.

    What is in parentheses is passed over, and a pattern with alternatives or flags has no parts.
    """
    if _FLAGS.search(pattern):
        # Letters may be of another case, and blanks may mean nothing.
        return []
    parts: list[str] = [""]
    depth = at = 0
    while at < len(pattern):
        letter, begin = pattern[at], at
        skipped = _skip(pattern, at)
        at = skipped or at + 1
        if _COMMENT.match(pattern, begin):
            # What repeats means the letter before it.
            continue
        if letter == "\\" and at == begin + 2 and not pattern[at - 1].isalnum():
            letter = pattern[at - 1]
        elif letter in _SPECIAL:
            if letter == "|" and not depth:
                return []
            if not skipped and letter in "()":
                depth += 1 if letter == "(" else -1
            if letter in _MAY_BE_NONE:
                parts[-1] = parts[-1][:-1]
            parts.append("")
            continue
        if not depth:
            parts[-1] += letter
    return [part for part in parts if part]


def _skip(pattern: str, at: int) -> int:
    """Return the end of an escaped letter, a class, a comment or a repetition; 0: it is no such."""
    for kind in (_ESCAPED, _CLASS, _COMMENT, _REPEATED):
        if (matched := kind.match(pattern, at)) is not None:
            return matched.end()
    return 0


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
