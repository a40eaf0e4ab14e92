"""Successors: which file a user's programs opened after another one, the last four times.

Invariant: a fixed table of `KEY_COUNT` keys; the one that was used longest ago makes room within
its set.

Source: two of the last four agree, Kroeger and Long's last successor made cautious.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 4
"""Successors of a key."""
AGREEING = 2
"""Equal ones among them that make a guess."""

WAYS = 4
"""Keys of a set."""
SETS_A_PAGE = 256
PAGE_COUNT = 64
KEY_COUNT = WAYS * SETS_A_PAGE * PAGE_COUNT

_SET_COUNT = SETS_A_PAGE * PAGE_COUNT
_SET_SHIFT = 64 - (_SET_COUNT - 1).bit_length()
_WORDS = 1 + KEPT
"""That of a key: itself, then its successors, the latest first; 0: no successor."""
_SET_WORDS = WAYS * _WORDS
_PAGE_WORDS = SETS_A_PAGE * _SET_WORDS
PAGE_BYTES = 8 * _PAGE_WORDS

_ODD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class SuccessorTable:
    """Which file followed which: 65,536 keys in 2.5 MiB."""

    def __init__(self) -> None:
        self._words = array("Q", bytes(8 * _SET_COUNT * _SET_WORDS))
        self._changed: set[int] = set()

    def learn(self, uid: int, ino: InodeNo, successor: InodeNo) -> None:
        """A user's program opened `successor` after `ino`."""
        key, begin = _place(uid, ino)
        entries = self._set(begin)
        found = next((entry for entry in entries if entry[0] == key), None)
        if found is None:
            found = entries[-1]
            found[:] = array("Q", [key, *[0] * KEPT])
        entries.remove(found)
        found[2:] = found[1:-1]
        found[1] = successor
        entries.insert(0, found)
        self._words[begin : begin + _SET_WORDS] = sum(entries[1:], entries[0])
        self._changed.add(begin // _PAGE_WORDS)

    def predict(self, uid: int, ino: InodeNo) -> InodeNo | None:
        """Return the file that followed at least twice, the latest of them; None if no file did."""
        key, begin = _place(uid, ino)
        for at in range(begin, begin + _SET_WORDS, _WORDS):
            if self._words[at] == key:
                successors = self._words[at + 1 : at + _WORDS]
                for successor in successors:
                    if successor and successors.count(successor) >= AGREEING:
                        return InodeNo(successor)
        return None

    # --- pages -----------------------------------------------------------------------------------
    def take_changed(self) -> Iterator[tuple[int, bytes]]:
        """Yield the pages that changed since the last call: number, and bytes for `load_page`."""
        while self._changed:
            page = self._changed.pop()
            yield page, self._words[page * _PAGE_WORDS : (page + 1) * _PAGE_WORDS].tobytes()

    def load_page(self, page: int, content: bytes) -> None:
        """Put back a page.

        Args:
            page: 0 to `PAGE_COUNT` - 1.
            content: `PAGE_BYTES` of this machine's byte order.
        """
        assert len(content) == PAGE_BYTES
        self._words[page * _PAGE_WORDS : (page + 1) * _PAGE_WORDS] = array("Q", content)

    def _set(self, begin: int) -> list[array[int]]:
        ends = range(begin, begin + _SET_WORDS, _WORDS)
        return [self._words[at : at + _WORDS] for at in ends]


def _place(uid: int, ino: InodeNo) -> tuple[int, int]:
    """Return a key, not 0, and where its set begins."""
    # An odd factor maps inode numbers one to one; its high bits are well spread (Knuth 6.4).
    key = ((ino + 1) * _ODD ^ uid * 0xC2B2AE3D27D4EB4F) & _MASK or 1
    return key, (key >> _SET_SHIFT) * _SET_WORDS
