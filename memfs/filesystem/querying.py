"""Querying: which files a filter finds, with the fields that only a mounted file system knows.

Invariant: the event loop never stands still for a question: the engine has a budget, what exceeds
it goes to another process, and what is done file by file here gives way every `SLICE_S`.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import os
import stat
import time
import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import trio

from memfs.errors import InvalidValueError, StaleInodeError
from memfs.filesystem.control import Control
from memfs.metadata.records import FileOrder, FilePage, FilePosition
from memfs.policy.marks import POOL_XATTR
from memfs.query.fields import (
    ATTRIBUTE_PREFIX,
    LIVE_FIELDS,
    SYSTEM_FIELDS,
    attribute_name,
    is_queryable,
)
from memfs.query.filters import And, Operator, conjuncts, fields_of, operators_of
from memfs.query.matching import matches
from memfs.query.parsing import parse_text
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.filesystem.shared import Parts
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.query.filters import Node
    from memfs.query.matching import Values
    from memfs.types import InodeNo

BUDGET_S = 0.002
"""That of the engine, for one page in the event loop; guess: a request waits no longer for it."""

SLICE_S = 0.002
"""Between two turns of others while files are described."""

COUNTED_A_SLICE = 1000
"""Files that are counted between two turns of others: 1 ms."""

PAGE_COUNT_MAX = 10_000
SORTABLE = ("$size", "$mtime")


class FarFinder(Protocol):
    """Answers what takes long, elsewhere."""

    async def find_files(
        self, text: str, order: FileOrder | None, after: FilePosition | None, limit: int
    ) -> FilePage:
        """Return a page, as `Queries.find_files` does, of a filter in JSON."""
        ...


class Question(NamedTuple):
    """What is asked for."""

    text: str
    """The filter, in JSON."""
    sort: str | None = None
    """A field; with `-` before it, descending."""
    token: str | None = None
    """That of the page before."""
    limit: int = 1000
    names: bool = True
    """False: files are only counted."""
    attributes: bool = False
    """Tell the user xattrs of each file."""


class FoundFile(NamedTuple):
    """A file that was found."""

    ino: InodeNo
    path: str
    """From the root of the mount; of several the first one. Bytes that are no text as `os.fsdecode`
    has them."""
    size: int
    mtime_ns: int
    attributes: dict[str, str] | None
    """By name without `user.`."""


class Answer(NamedTuple):
    """One page."""

    files: list[FoundFile]
    file_count: int
    """Files of this page."""
    token: str | None
    """For the next page; None: this was the last."""
    driver: str
    """The field whose index led to the files; empty: all files were looked at."""
    place: Literal["loop", "reader"]
    """Who found them: the event loop, or the reader process."""
    is_exact: bool
    """False: each file was looked at again, for what the engine does not know."""
    duration_s: float
    notes: tuple[str, ...]
    """For people."""


class Querying:
    """Answers questions.

    Args:
        parts: Those of the file system.
        far: Answers what takes long.
    """

    def __init__(self, parts: Parts, far: FarFinder) -> None:
        self._engine = parts.engine
        self._access_stats = parts.access_stats
        self._control = Control(parts)
        self._far = far

    async def ask(self, question: Question) -> Answer:
        """Return a page of what a question finds.

        Raises:
            FilterError: The filter means nothing.
            InvalidValueError: Another part of the question does.
            NotSupportedError: The index is off, not complete, or lacks a name.
            QueryTimeoutError: It takes too long.
        """
        begun_s = time.perf_counter()
        node, order = parse_text(question.text), parse_order(question.sort)
        after = _read_token(question)
        live = live_part(node)
        if not 0 < question.limit <= PAGE_COUNT_MAX:
            raise InvalidValueError(f"a page has 1 to {PAGE_COUNT_MAX} files")
        page = await self._engine.find_files(node, order, after, question.limit, BUDGET_S)
        place: Literal["loop", "reader"] = "loop" if page is not None else "reader"
        if page is None:
            page = await self._far.find_files(question.text, order, after, question.limit)
        files, count = await self._files(page, live, question)
        return Answer(
            files,
            count,
            _token(question, page.after),
            page.driver,
            place,
            page.is_exact,
            time.perf_counter() - begun_s,
            self._notes(node, order),
        )

    async def _files(
        self, page: FilePage, live: Node, question: Question
    ) -> tuple[list[FoundFile], int]:
        if page.is_exact and not question.names:
            return [], await self._count_named(page.inos)
        files: list[FoundFile] = []
        count = 0
        paths = _Paths(self._engine)
        until_s = time.perf_counter() + SLICE_S
        for ino in page.inos:
            if time.perf_counter() > until_s:
                await trio.lowlevel.checkpoint()
                # Directories may have got other names meanwhile.
                paths = _Paths(self._engine)
                until_s = time.perf_counter() + SLICE_S
            try:
                if not page.is_exact and not await self._matches(live, ino):
                    continue
                found = await paths.of(ino)
                if not found:
                    continue
                count += 1
                if question.names:
                    files.append(await self._describe(ino, found[0], question))
            except StaleInodeError:
                # It was removed since.
                continue
        return files, count

    async def _count_named(self, inos: Sequence[InodeNo]) -> int:
        """Return how many of the inodes have a name."""
        count = 0
        for begin in range(0, len(inos), COUNTED_A_SLICE):
            count += await self._engine.count_named(inos[begin : begin + COUNTED_A_SLICE])
            await trio.lowlevel.checkpoint()
        return count

    async def _describe(self, ino: InodeNo, path: bytes, question: Question) -> FoundFile:
        inode = await self._engine.get_inode(ino)
        attributes = None
        if question.attributes:
            names = [each for each in await self._engine.list_xattrs(ino) if is_queryable(each)]
            attributes = {
                os.fsdecode(name).removeprefix(ATTRIBUTE_PREFIX): os.fsdecode(
                    await self._engine.get_xattr(ino, name)
                )
                for name in names
            }
        return FoundFile(ino, os.fsdecode(path), inode.size, inode.mtime_ns, attributes)

    def _notes(self, node: Node, order: FileOrder | None) -> tuple[str, ...]:
        """Return what is odd about a question that can be answered: no file has a name."""
        asked = fields_of(node) | ({order.field} if order is not None else set())
        known = [os.fsdecode(name) for name in self._engine.indexed_names()]
        notes = []
        for name in sorted(asked - set(known) - SYSTEM_FIELDS.keys()):
            near = difflib.get_close_matches(name, known, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            notes.append(f"no file has the xattr {name}{hint}")
        return tuple(notes)

    # --- what the engine does not decide ---------------------------------------------------------
    async def _matches(self, node: Node, ino: InodeNo) -> bool:
        inode = await self._engine.get_inode(ino)
        values = {field: await self._values(inode, field) for field in fields_of(node)}
        return matches(node, values.__getitem__)

    async def _values(self, inode: Inode, field: str) -> Values:
        """Return what a file has in a field."""
        if field not in SYSTEM_FIELDS:
            name = field.encode()
            if name not in await self._engine.list_xattrs(inode.ino):
                return None
            value = stored_value(await self._engine.get_xattr(inode.ino, name))
            return () if value is None else (value,)
        if field == "$path":
            found = await _Paths(self._engine).of(inode.ino)
            return tuple(os.fsdecode(path) for path in found) or None
        if field == "$size":
            return (inode.size,)
        if field == "$mtime":
            return (inode.mtime_ns,)
        if field == "$pool":
            pool = await self._engine.effective_xattr(inode.ino, POOL_XATTR)
            return None if pool is None else (os.fsdecode(pool),)
        if field == "$pin":
            pin = (await self._engine.effective_pin(inode.ino)).tier
            return ("auto" if pin is None else pin.label,)
        if field == "$digest":
            if not inode.blob:
                return None
            return ((await self._engine.get_blob(inode.blob)).digest.hex(),)
        return await self._values_of_file(inode, field) if stat.S_ISREG(inode.mode) else None

    async def _values_of_file(self, inode: Inode, field: str) -> Values:
        """Return what only regular files have."""
        if field == "$tier":
            return ((await self._control.tier_of(inode)).label,)
        if field == "$state":
            return ((await self._control.durability_of(inode)).value,)
        assert field == "$uses", field
        pool = await self._engine.effective_xattr(inode.ino, POOL_XATTR)
        queue = self._access_stats.pools.pool((pool or b"").decode()).queue
        return (queue.uses(inode.ino),)


class _Paths:
    """Paths, with those of directories kept for a moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._directories: dict[InodeNo, bytes | None] = {ROOT_INODE: b""}

    async def of(self, ino: InodeNo) -> list[bytes]:
        """Return all paths of an inode, without the first slash; no path of an orphan."""
        if ino == ROOT_INODE:
            return [b""]
        found = []
        for parent, name in await self._engine.list_names(ino):
            above = await self._directory(parent)
            if above is not None:
                found.append(above + b"/" + name if above else name)
        return found

    async def _directory(self, ino: InodeNo) -> bytes | None:
        """Return the path of a directory; None if it was removed."""
        if ino not in self._directories:
            found = await self.of(ino)
            self._directories[ino] = found[0] if found else None
        return self._directories[ino]


def live_part(node: Node) -> Node:
    """Return the conditions of a filter that no index decides: they are looked at file by file.

    Raises:
        InvalidValueError: A pattern is tied to them, which must not run in the event loop.
    """
    parts = [part for part in conjuncts(node) if fields_of(part) & LIVE_FIELDS]
    found = And(tuple(parts))
    if Operator.REGEX in operators_of(found):
        fields = ", ".join(sorted(fields_of(found) & LIVE_FIELDS))
        raise InvalidValueError(
            f"$regex cannot be in one $or or $not with {fields}: ask in two queries, or use "
            "$contains"
        )
    return found


def parse_order(sort: str | None) -> FileOrder | None:
    """Return what files are to be sorted by; `-` before a field: descending.

    Raises:
        InvalidValueError: Nothing can be sorted by it.
    """
    if sort is None:
        return None
    descending = sort.startswith("-")
    field = sort[1:] if descending else sort
    if field.startswith("$"):
        if field not in SORTABLE:
            raise InvalidValueError(f"{field!r} cannot be sorted by: use an xattr, $size or $mtime")
        return FileOrder(field, descending)
    name = attribute_name(field)
    if name is None or not is_queryable(name):
        raise InvalidValueError(f"{field!r} cannot be sorted by: it is no xattr of a user")
    return FileOrder(name.decode(), descending)


# --- tokens --------------------------------------------------------------------------------------
def _print_of(question: Question) -> int:
    return zlib.crc32(json.dumps([question.text, question.sort]).encode())


def _token(question: Question, position: FilePosition | None) -> str | None:
    if position is None:
        return None
    return base64.urlsafe_b64encode(json.dumps([_print_of(question), *position]).encode()).decode()


def _read_token(question: Question) -> FilePosition | None:
    """Return where a token goes on.

    Raises:
        InvalidValueError: It is not of this question.
    """
    if question.token is None:
        return None
    try:
        mark, driver, segment, value, ino = json.loads(base64.urlsafe_b64decode(question.token))
    except (binascii.Error, ValueError, TypeError):
        mark = None
    if mark is None or mark != _print_of(question):
        raise InvalidValueError("the token is of another query: give filter and order as before")
    valid = (
        isinstance(driver, str)
        and type(segment) is int
        and type(ino) is int
        and segment >= 0
        and isinstance(value, int | float | str | None)
    )
    if not valid:
        raise InvalidValueError("the token is damaged: begin with the first page")
    return FilePosition(driver, segment, value, ino)
