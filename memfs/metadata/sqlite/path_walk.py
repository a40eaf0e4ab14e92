"""The walk through directories: what leads where a filter asks for paths or names.

It looks at the names in a directory, then at those in the directories there, and so on: only where
the caller may list, and only below what all paths that are asked for begin with. So what is hidden
takes no time, and permissions are looked at once a directory.

Invariant: a file is found at the first of its names that passes. A position has the cookies that
lead to a name from where the walk begins; what is gone meanwhile is passed over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError
from memfs.metadata.records import FilePage, FilePosition
from memfs.query.filters import And, Condition, Node, Operator, conjuncts
from memfs.query.globs import fixed_directories, has_any_depth, part_count
from memfs.types import ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.sqlite.filter_sql import Writer
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from memfs.metadata.sqlite.view import View

    Rows = Callable[[str, list[SqlValue]], list[Row]]

DRIVER = "$path"
"""Where positions and pages tell what led."""

NAME_COUNT = 200_000
"""Names that are looked at in one turn; others have theirs in between. Some 0.2 s."""

CHUNK_COUNT = 10_000
"""Names that one statement looks at."""

_INTEGER_MAX = (1 << 63) - 1

_CHUNK = """
    select max(cookie), count(*) from (
        select cookie from dentry where parent = ? and cookie > ? order by cookie limit ?)
"""
_NEXT_CHILD = """
    select d.cookie, d.ino from dentry d cross join inode i on i.ino = d.ino
    where d.parent = ? and d.cookie > ? and i.mode >> 12 = 4 order by d.cookie limit 1
"""
_HAS_CHILD = "select nlink > 2 from inode where ino = ?"
_CHILD_AT = """
    select d.ino from dentry d join inode i on i.ino = d.ino
    where d.parent = ? and d.cookie = ? and i.mode >> 12 = 4
"""
_CHILD_NAMED = """
    select d.ino from dentry d join inode i on i.ino = d.ino
    where d.parent = ? and d.name = ? and i.mode >> 12 = 4
"""


class Led(NamedTuple):
    """The condition on paths or names that a walk goes by."""

    condition: Condition
    start: tuple[bytes, ...]
    """Names of the directories that all paths are in, from the root on."""
    depth: int | None
    """So many levels below are looked at; None: all are."""


def led_by(node: Node) -> Led | None:
    """Return the condition of a filter that leads a walk best; None: no condition can."""
    found = []
    for part in conjuncts(node):
        if not isinstance(part, Condition) or part.field not in ("$path", "$name"):
            continue
        if part.operator is Operator.GLOB and part.operands:
            found.append(_led_by_globs(part, [str(glob) for glob in part.operands]))
        elif part.operator is not Operator.EXISTS:
            found.append(Led(part, (), None))
    return max(found, key=lambda led: len(led.start), default=None)


def _led_by_globs(condition: Condition, globs: list[str]) -> Led:
    fixed = [fixed_directories(glob) for glob in globs]
    count = 0
    # The least and the greatest differ where any two do.
    for one, other in zip(min(fixed), max(fixed), strict=False):
        if one != other:
            break
        count += 1
    start = tuple(os.fsencode(name) for name in fixed[0][:count])
    if any(map(has_any_depth, globs)):
        return Led(condition, start, None)
    return Led(condition, start, max(map(part_count, globs)) - count)


class PathWalk:
    """One page of a walk.

    Args:
        led: What it goes by.
        node: The filter.
        view: What the caller sees now.
        writer: Writes conditions on the inode `f`.
        told: The condition of `led`, for functions of `finding`.
        rows: Runs a select.
    """

    def __init__(
        self, led: Led, node: Node, view: View, writer: Writer, told: str, rows: Rows
    ) -> None:
        self._led = led
        self._view = view
        self._rows = rows
        kind = led.condition.field.removeprefix("$")
        self._root_text = f"select f.ino from inode f where f.ino = {ROOT_INODE}"
        self._root_text += f" and {kind}_passes(f.ino, ?)"
        others = And(tuple(part for part in conjuncts(node) if part is not led.condition))
        self._text = (
            "select d.cookie, f.ino from dentry d cross join inode f on f.ino = d.ino"
            " where d.parent = ? and d.cookie > ? and d.cookie <= ?"
            f" and {writer.may_pass(led.condition, 'd.name')}"
            f" and one_{kind}_passes(d.parent, d.name, {writer.bind(told)})"
            " and (f.nlink = 1 or f.mode >> 12 = 4"
            f" or first_passing(f.ino, {writer.bind(told)}) = d.cookie)"
        )
        self._arguments = writer.cut()
        rest = writer.whole(others)
        self._root_text += f" and {rest}"
        self._root_arguments = [told, *writer.arguments]
        self._text += f" and {rest} order by d.cookie limit ?"
        self._arguments += tuple(writer.arguments)
        self._is_exact = writer.is_exact

    def page(self, after: FilePosition | None, limit: int) -> FilePage:
        """Return up to so many files, and where to go on.

        Raises:
            InvalidValueError: The position is of no walk.
        """
        start = self._start()
        found: list[InodeNo] = []
        if after is None and not self._led.start:
            # It may be found by who may not list it.
            found += [row[0] for row in self._rows(self._root_text, self._root_arguments)]
        if start is None:
            return self._page(found, None)
        directories, cookies = [start], list[int]()
        begin = child_after = 0
        is_listed = False
        if after is not None:
            *above, begin = _cookies_of(after)
            for cookie in above:
                child = self._child_at(directories[-1], cookie)
                if child is None:
                    is_listed, child_after = True, cookie
                    break
                directories.append(child)
                cookies.append(cookie)
        elif len(found) == limit:
            return self._page(found, [begin])
        looked_count = 0
        while True:
            if not is_listed:
                begin, count = self._list(directories[-1], begin, found, limit)
                # An empty directory takes its time, too.
                looked_count += 1 + count
                is_listed = count < CHUNK_COUNT and len(found) < limit
                if len(found) == limit or looked_count >= NAME_COUNT:
                    return self._page(found, [*cookies, begin])
                continue
            child_row = self._next_child(directories, child_after)
            if child_row is not None:
                cookie, child = child_row
                directories.append(child)
                cookies.append(cookie)
                begin = child_after = 0
                is_listed = False
            elif not cookies:
                return self._page(found, None)
            else:
                directories.pop()
                child_after = cookies.pop()

    def _page(self, found: list[InodeNo], cookies: list[int] | None) -> FilePage:
        position = None
        if cookies is not None:
            position = FilePosition(DRIVER, 0, ",".join(map(str, cookies)), ROOT_INODE)
        return FilePage(found, position, self._is_exact, DRIVER)

    def _start(self) -> InodeNo | None:
        """Return where it begins; None: there is no such directory for the caller."""
        directory = ROOT_INODE
        for name in self._led.start:
            # Not even whether there is such a name is looked at where the caller may not list.
            is_open = self._view.open_paths(directory)
            found = self._rows(_CHILD_NAMED, [directory, name]) if is_open else []
            if not found:
                return None
            directory = InodeNo(found[0][0])
        return directory if self._view.open_paths(directory) else None

    def _list(
        self, directory: InodeNo, begin: int, found: list[InodeNo], limit: int
    ) -> tuple[int, int]:
        """Look at the next names in a directory; returns where it ended, and how many there are."""
        ((end, count),) = self._rows(_CHUNK, [directory, begin, CHUNK_COUNT])
        if not count:
            return begin, 0
        wanted = limit - len(found)
        passing = self._rows(self._text, [directory, begin, end, *self._arguments, wanted])
        found += [row[1] for row in passing]
        return (passing[-1][0] if len(passing) == wanted else end), count

    def _next_child(self, directories: list[InodeNo], begin: int) -> tuple[int, InodeNo] | None:
        """Return the next directory in the last one that the caller may list, and its cookie."""
        depth = self._led.depth
        if depth is not None and len(directories) >= depth:
            return None
        if not begin and not self._rows(_HAS_CHILD, [directories[-1]])[0][0]:
            return None
        while found := self._rows(_NEXT_CHILD, [directories[-1], begin]):
            begin, child = found[0]
            if self._view.open_paths(child):
                return begin, InodeNo(child)
        return None

    def _child_at(self, directory: InodeNo, cookie: int) -> InodeNo | None:
        """Return the directory that a position leads through, if it is there and open."""
        found = self._rows(_CHILD_AT, [directory, cookie])
        return InodeNo(found[0][0]) if found and self._view.open_paths(found[0][0]) else None


def _cookies_of(position: FilePosition) -> list[int]:
    parts = str(position.value).split(",")
    if position.driver == DRIVER and all(part.isdecimal() and part.isascii() for part in parts):
        cookies = [int(part) for part in parts if len(part) < 20]
        if len(cookies) == len(parts) and max(cookies) <= _INTEGER_MAX:
            return cookies
    raise InvalidValueError("the token is damaged: begin with the first page")
