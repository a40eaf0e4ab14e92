"""Numbers in names: what varies in `img_0041.jpg`, and the members of `x-00001-of-00009`.

Invariant: pure text; a name that is made here has the padding of the one that it was made from.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from memfs.types import NAME_BYTES_MAX

NUMBER_COUNT_MAX = 6
"""A name with more numbers is a digest or the like: nothing in it counts up."""

SHARD_COUNT_MAX = 1024
"""Sets with more members are left to the other sources. Guess: the largest models have about 200
shards, the largest common data sets 1024."""

_NUMBER = re.compile(rb"[0-9]{1,18}")
_SHARD = re.compile(rb"(.*?)([0-9]{1,9})-of-([0-9]{1,9})(?![0-9])(.*)", re.DOTALL)
_ZERO = ord("0")


class NumberedName(NamedTuple):
    """A name as fixed text with numbers in it."""

    template: bytes
    """The name with NUL, which no name has, in the place of each number."""
    digits: tuple[bytes, ...]
    """The numbers as they are written."""

    def replaced(self, index: int, value: int) -> bytes | None:
        """Return the name with another number at `index`; None if there is no such name.

        A number that was written with leading zeros keeps its width.
        """
        if value < 0:
            return None
        old = self.digits[index]
        new = b"%d" % value
        if old[0] == _ZERO:
            new = new.zfill(len(old))
        fixed = self.template.split(b"\0")
        numbers = (*self.digits[:index], new, *self.digits[index + 1 :], b"")
        name = b"".join(text + number for text, number in zip(fixed, numbers, strict=True))
        return name if len(name) <= NAME_BYTES_MAX else None


def find_numbers(name: bytes) -> NumberedName | None:
    """Return a name's numbers; None if it has no number, or too many to be counting."""
    digits = _NUMBER.findall(name)
    if not 0 < len(digits) <= NUMBER_COUNT_MAX:
        return None
    return NumberedName(_NUMBER.sub(b"\0", name), tuple(digits))


class ShardSet(NamedTuple):
    """A file that was written in several parts, by one part's name."""

    key: bytes
    """Names the set within its directory."""
    names: tuple[bytes, ...]
    """The other members, those that follow first; counted from 0 and from 1, so one more than
    there are."""


def find_shards(name: bytes) -> ShardSet | None:
    """Return the set that a name is a member of; None if it is of no set, or of a huge one."""
    matched = _SHARD.fullmatch(name)
    if matched is None:
        return None
    before, digits, total, after = matched.groups()
    index, count = int(digits), int(total)
    if not 2 <= count <= SHARD_COUNT_MAX or index > count:
        return None
    # The total is padded as all the numbers are.
    others = [*range(index + 1, count + 1), *range(index)]
    names = (
        b"%b%b-of-%b%b" % (before, (b"%d" % other).zfill(len(digits)), total, after)
        for other in others
    )
    return ShardSet(b"%b\0%b\0%b" % (before, total, after), tuple(names))
