"""Questions as directories: `.memfs/query/FILTER` has a symlink for each file that a filter finds.

Invariant: the directory of a question belongs to one caller: it shows what `find` and `getfattr`,
run by this one, would have found, and nobody else but root may enter it.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from memfs.errors import InvalidValueError, StaleInodeError, TooBigError
from memfs.filesystem.inside.own import DIRECTORY_MODE, OWN_ROOT, QUERY
from memfs.filesystem.inside.tree import FIRST_COOKIE, Plain, own_inode
from memfs.filesystem.nodes import number_of, own_node
from memfs.filesystem.querying import Question, caller_of, parse_aside
from memfs.metadata.records import DirectoryEntry
from memfs.namespace.permissions import Credentials
from memfs.types import NAME_BYTES_MAX
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.filesystem.operations import Caller
    from memfs.filesystem.querying import Answer
    from memfs.metadata.records import Inode
    from memfs.types import InodeNo

    Ask = Callable[[Question], Awaitable[Answer]]

FIRST_QUESTION, FIRST_LINK = 1 << 45, 1 << 46
"""Own numbers from here on: a question; an answer, and `_LINK_BITS` for the links in it."""
_LINK_BITS = 17
_LINK_MASK = (1 << _LINK_BITS) - 1
_SERIAL_MASK = (1 << 28) - 1

QUESTION_COUNT_MAX = 64
"""Questions remembered; the kernel looks the name of a forgotten one up again."""
FOUND_COUNT_MAX = 100_000
"""Files that a question may find. Each takes some 150 bytes here while the question is remembered,
and a directory of many more serves nobody: `memfs query` tells them page by page."""
REMEMBERED_COUNT_MAX = 200_000
"""Files of all questions together."""
PAGE_COUNT = 1000


class _Asker(NamedTuple):
    """Who asks what."""

    text: str
    who: Credentials


class _Asked:
    """A question of one caller, and what it has found.

    Args:
        asker: The question.
        serial: That of the question.
    """

    def __init__(self, asker: _Asker, serial: int) -> None:
        self.asker = asker
        self.serial = serial
        self.paths: list[bytes] | None = None
        """From the root of the mount, in order; None: not asked yet."""
        self.answer = -1
        """That of `paths`. Another answer has other links: the kernel keeps their targets."""

    @property
    def node(self) -> InodeNo:
        """That of the directory."""
        return own_node(FIRST_QUESTION | self.serial)


class FoundTree(Plain):
    """`.memfs/query` and all below it.

    Args:
        ask: Answers a question.
        now_ns: The clock.
    """

    def __init__(self, ask: Ask, now_ns: Callable[[], int]) -> None:
        self._ask = ask
        self._now_ns = now_ns
        self._begun_ns = now_ns()
        self._by_asker: OrderedDict[_Asker, _Asked] = OrderedDict()
        self._by_serial: dict[int, _Asked] = {}
        self._by_answer: dict[int, _Asked] = {}
        self._serials = itertools.count(1)

    async def directory(self) -> Inode:
        """Return `.memfs/query`, which lists nothing."""
        return own_inode(QUERY, DIRECTORY_MODE, self._begun_ns)

    async def lookup(self, parent: InodeNo, name: bytes, caller: Caller | None) -> Inode | None:
        if parent == QUERY:
            return None if caller is None else self._directory_of(await self._note(name, caller))
        if number_of(parent) >= FIRST_LINK:
            return await super().lookup(parent, name, caller)
        asked = self._asked(parent)
        digits, _, _ = name.partition(b"-")
        paths = await self._find(asked) if asked.paths is None else asked.paths
        index = int(digits) - 1 if digits.isdigit() and len(digits) < 10 else -1
        if not 0 <= index < len(paths) or _name_of(index, paths[index]) != name:
            return None
        return self._link(asked, index)

    async def _note(self, name: bytes, caller: Caller) -> _Asked:
        """Remember a question that may be asked soon."""
        try:
            text = unquote_to_bytes(name).decode()
        except UnicodeDecodeError:
            raise InvalidValueError("the name of a question is a filter in JSON") from None
        await leave()
        await parse_aside(text)
        who = caller_of(caller) or Credentials(caller.uid, caller.gid, frozenset())
        asker = _Asker(text, who)
        asked = self._by_asker.get(asker)
        if asked is None:
            asked = _Asked(asker, next(self._serials) & _SERIAL_MASK)
            self._by_asker[asker] = self._by_serial[asked.serial] = asked
        self._by_asker.move_to_end(asker)
        self._forget(QUESTION_COUNT_MAX, asked)
        return asked

    def _forget(self, count_max: int, but: _Asked) -> None:
        """Forget the questions that were asked for least recently."""
        while len(self._by_asker) > count_max:
            asker, asked = next(iter(self._by_asker.items()))
            if asked is but:
                return
            del self._by_asker[asker], self._by_serial[asked.serial]
            self._by_answer.pop(asked.answer, None)

    def _asked(self, node: InodeNo) -> _Asked:
        """Return the question of a directory."""
        asked = self._by_serial.get(number_of(node) - FIRST_QUESTION)
        if asked is None:
            raise StaleInodeError(f"node {node:#x}: the question is not remembered")
        return asked

    def _linked(self, node: InodeNo) -> tuple[_Asked, int]:
        """Return the question of a link, and which path it leads to."""
        number = number_of(node) - FIRST_LINK
        asked = self._by_answer.get(number >> _LINK_BITS)
        if asked is None or number & _LINK_MASK >= len(asked.paths or ()):
            raise StaleInodeError(f"node {node:#x}: the question has another answer by now")
        return asked, number & _LINK_MASK

    async def list_directory(
        self, node: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """See `Tree`; a listing from the start asks anew."""
        if node == QUERY:
            return []
        if number_of(node) >= FIRST_LINK:
            return await super().list_directory(node, after_cookie, limit)
        asked = self._asked(node)
        paths = asked.paths
        if paths is None or after_cookie < FIRST_COOKIE:
            paths = await self._find(asked)
        begin = max(0, after_cookie + 1 - FIRST_COOKIE)
        return [
            DirectoryEntry(FIRST_COOKIE + index, _name_of(index, path), self._link(asked, index))
            for index, path in enumerate(paths[begin : begin + limit], begin)
        ]

    async def _find(self, asked: _Asked) -> list[bytes]:
        """Ask a question, page by page."""
        text, who = asked.asker
        # As the control socket: root, and the user who mounted, may see all.
        caller = None if who.uid in (0, os.geteuid()) else who
        paths: list[bytes] = []
        token: str | None = None
        await leave()
        while True:
            answer = await self._ask(Question(text, token=token, limit=PAGE_COUNT, caller=caller))
            paths += [os.fsencode(file.path) for file in answer.files]
            token = answer.token
            if len(paths) > FOUND_COUNT_MAX:
                raise TooBigError(
                    f"the question finds more than {FOUND_COUNT_MAX} files: ask by `memfs query`"
                )
            if token is None:
                break
        paths.sort()
        if paths != asked.paths:
            self._by_answer.pop(asked.answer, None)
            asked.paths, asked.answer = paths, next(self._serials) & _SERIAL_MASK
            if asked.serial in self._by_serial:
                self._by_answer[asked.answer] = asked
        while sum(len(each.paths or ()) for each in self._by_asker.values()) > REMEMBERED_COUNT_MAX:
            count = len(self._by_asker)
            self._forget(count - 1, asked)
            if len(self._by_asker) == count:
                break
        return paths

    async def get_parent(self, node: InodeNo) -> InodeNo:
        if node == QUERY:
            return OWN_ROOT
        return self._linked(node)[0].node if number_of(node) >= FIRST_LINK else QUERY

    async def get_inode(self, node: InodeNo) -> Inode:
        if node == QUERY:
            return await self.directory()
        if number_of(node) >= FIRST_LINK:
            return self._link(*self._linked(node))
        return self._directory_of(self._asked(node))

    async def read_link(self, node: InodeNo) -> bytes:
        if number_of(node) < FIRST_LINK:
            return await super().read_link(node)
        asked, index = self._linked(node)
        assert asked.paths is not None
        return _target_of(asked.paths[index])

    def _directory_of(self, asked: _Asked) -> Inode:
        # With a time of its own each time: the kernel keeps the listing of a directory that has not
        # changed.
        who = asked.asker.who
        mode = stat.S_IFDIR | 0o500
        return own_inode(asked.node, mode, self._now_ns(), uid=who.uid, gid=who.gid)

    def _link(self, asked: _Asked, index: int) -> Inode:
        assert asked.paths is not None
        who = asked.asker.who
        return own_inode(
            own_node(FIRST_LINK + (asked.answer << _LINK_BITS | index)),
            stat.S_IFLNK | 0o777,
            self._begun_ns,
            len(_target_of(asked.paths[index])),
            uid=who.uid,
            gid=who.gid,
        )


def _name_of(index: int, path: bytes) -> bytes:
    """Return the name of a link: a number, and that of the file."""
    name = path.rpartition(b"/")[2] or b"root"
    return (b"%04d-%s" % (index + 1, name))[:NAME_BYTES_MAX]


def _target_of(path: bytes) -> bytes:
    """Return where a link leads to, from the directory of its question."""
    return b"../../../" + path
