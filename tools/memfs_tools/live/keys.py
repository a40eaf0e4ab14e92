"""Keys of a terminal: bytes as they come, and the words for them.

Invariant: a key is one printable character or one of the words here; what no key sends is left out.
"""

from __future__ import annotations

import re

_WORDS = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}
_KEY = re.compile(
    rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|\x1b|[\x00-\x7f]|[\xc2-\xf4][\x80-\xbf]+|.", re.DOTALL
)
"""A sequence of ECMA-48, one of VT100's application mode, or a character of UTF-8."""


def read_keys(data: bytes) -> list[str]:
    """Return the keys that some bytes of a terminal are, in order."""
    keys = []
    for sequence in _KEY.findall(data):
        word = _WORDS.get(sequence) or sequence.decode("utf-8", "ignore")
        if word and word.isprintable():
            keys.append(word)
    return keys
