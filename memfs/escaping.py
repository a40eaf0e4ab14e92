"""Escaping: text that may hold anything becomes one line that does nothing to who shows it.

Names of files, and whatever programs, stores and packets say, are anybody's: a terminal acts on
control characters in them, and a newline forges a line of a log.

Invariant: what leaves here holds printable characters and spaces only.
"""

from __future__ import annotations

_SPELLED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BYTE_BASE = 0xDC00
"""`os.fsdecode` makes U+DC80 to U+DCFF of bytes that are no UTF-8."""


def escape_text(text: str) -> str:
    r"""Return text with everything unprintable as Python writes it: `\n`, `\x1b`, `\u202e`.

    Unprintable are control and format characters (also those that turn the direction of writing),
    separators other than the space, and what is not assigned (`str.isprintable`). A byte that is no
    UTF-8 becomes `\xff`. A backslash stays as it is: this is for reading, and not for parsing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    code = ord(character)
    if _BYTE_BASE + 0x80 <= code <= _BYTE_BASE + 0xFF:
        return f"\\x{code - _BYTE_BASE:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
