"""Querying: which files a filter finds, with the fields that only a mounted file system knows.

Invariant: the event loop never stands still for a question: the engine has a budget, what exceeds
it goes to another process, and what is done file by file here gives way every `SLICE_S`.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import logging
import os
import stat
import time
import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import trio

from memfs.content.sealing import SEALS_A_STEP_MAX
from memfs.content.sources import unlisted_notes
from memfs.errors import InvalidValueError, MemfsError, NotPermittedError, StaleInodeError
from memfs.filesystem.control import Control
from memfs.linux.processes import ids_of
from memfs.metadata.records import FileOrder, FilePage, FilePosition, Scope
from memfs.namespace.permissions import Credentials
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
from memfs.types import NOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.metadata.records import FoundInode, Inode
    from memfs.query.filters import Node
    from memfs.query.matching import Values
    from memfs.types import InodeNo, SnapshotId

log = logging.getLogger(__name__)

BUDGET_S = 0.002
"""That of the engine, for one page in the event loop; guess: a request waits no longer for it."""

SLICE_S = 0.002
"""Between two turns of others while files are described."""

COUNTED_A_SLICE = 1000
"""Files that are counted between two turns of others: 1 ms."""

REST_S = 0.0005
"""Others have so long after a slice: a request takes several passes of the loop, and would wait for
a slice in each of them."""

DESCRIBED_A_CALL = 20
"""Files that are described by one call of the engine: some 0.5 ms. Where the tables are to be read
from the disk it is longer (0.5 ms a file, measured beside other load), and the next call has
fewer."""

GATHER_S = 15.0
"""A page that is found in turns ends then, with what it has. A client waits for 60 s."""

HINT_COUNT_MAX = 3
"""Names of a filter, that no file has, for which the nearest one is looked for: each takes a thread
up to 0.1 s."""

SEAL_STEPS_MAX = 4
"""Each takes some 5 ms where there are `SEALS_A_STEP_MAX` files; more were closed within a fraction
of a second, and have the size of their last seal."""

PAGE_COUNT_MAX = 10_000

PAGE_BYTES_MAX = 16 << 20
"""Bytes of names and xattrs of a page as it is sent; the page ends before, and has fewer files than
were asked for. Guess: three times what 10,000 files with some metadata have."""
SORTABLE = ("$size", "$mtime")


class FarFinder(Protocol):
    """Answers what takes long, elsewhere."""

    async def find_files(
        self,
        text: str,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        scope: Scope,
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
    at: str | None = None
    """Name of a snapshot, which is asked instead of the state of now."""
    caller: Credentials | None = None
    """Who asks, and finds only what `find` and `getfattr` would; None: may see all."""


class FoundFile(NamedTuple):
    """A file that was found."""

    ino: InodeNo
    path: str
    """From the root of the mount; of several the first one. Bytes that are no text as `os.fsdecode`
    has them."""
    size: int
    mtime_ns: int
    attributes: dict[str, str] | None
    """By name without `user.`; None: not asked for, not to be read by the caller, or longer than
    `XATTR_BYTES_DESCRIBED_MAX`."""


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
        self._sealer = parts.sealer
        self._access_stats = parts.access_stats
        self._control = Control(parts)
        self._far = far

    async def ask(self, question: Question) -> Answer:
        """Return a page of what a question finds.

        Raises:
            FilterError: The filter means nothing.
            InvalidValueError: Another part of the question does.
            NotFoundError: There is no such snapshot.
            NotSupportedError: The index is off, not complete, or lacks a name.
            QueryTimeoutError: It takes too long.
        """
        begun_s = time.perf_counter()
        node, order = await parse_aside(question.text), parse_order(question.sort)
        live = live_part(node)
        if not 0 < question.limit <= PAGE_COUNT_MAX:
            raise InvalidValueError(f"a page has 1 to {PAGE_COUNT_MAX} files")
        if question.at is not None and fields_of(node) & LIVE_FIELDS:
            fields = ", ".join(sorted(fields_of(node) & LIVE_FIELDS))
            raise InvalidValueError(f"a snapshot does not know {fields}: it keeps no placement")
        snap = NOW
        if question.at is not None:
            snap = (await self._engine.get_snapshot(question.at)).snap
        elif question.token is None:
            await self._seal_closed()
        scope = Scope(snap, question.caller)
        while True:
            page, place = await self._page(question, node, order, scope)
            files, count, fitting_count = await self._files(page, live, question, scope)
            if fitting_count == len(page.inos):
                break
            # Once more, so that the token is that of the last one that fits.
            question = question._replace(limit=fitting_count)
        return Answer(
            files,
            count,
            _token(question, snap, page.after),
            page.driver,
            place,
            page.is_exact,
            time.perf_counter() - begun_s,
            # Which names there are is not for everybody.
            await self._all_notes(question, node, order) if question.caller is None else (),
        )

    async def _seal_closed(self) -> None:
        """Seal files that were closed just now: the engine knows their sizes from then on.

        Else what a program has stored a moment ago would be found with a size of 0.
        """
        for _ in range(min(self._sealer.candidate_count // SEALS_A_STEP_MAX + 1, SEAL_STEPS_MAX)):
            try:
                await self._sealer.seal_all()
            except (MemfsError, OSError) as error:
                # A full disk, which keeps nobody from asking.
                log.info("nothing was sealed before a question: %s", error)
                return
            await trio.sleep(REST_S)

    async def _all_notes(
        self, question: Question, node: Node, order: FileOrder | None
    ) -> tuple[str, ...]:
        notes = await self._notes(node, order)
        if question.token is not None:
            return notes
        # Told with the first page alone: there may be a million of them to count.
        return notes + await unlisted_notes(self._engine, "what is there is not found")

    async def _page(
        self, question: Question, node: Node, order: FileOrder | None, scope: Scope
    ) -> tuple[FilePage, Literal["loop", "reader"]]:
        """Return a page, from where it was found; what goes on in turns is gathered."""
        after, limit = _read_token(question, scope.snap), question.limit
        place: Literal["loop", "reader"] = "loop"
        inos: list[InodeNo] = []
        until_s = time.monotonic() + GATHER_S
        while True:
            wanted = limit - len(inos)
            page = None
            if place == "loop":
                page = await self._engine.find_files(node, order, after, wanted, BUDGET_S, scope)
            if page is None:
                place = "reader"
                page = await self._far.find_files(question.text, order, after, wanted, scope)
            inos += page.inos
            after = page.after
            if after is None or len(inos) == limit or time.monotonic() > until_s:
                return page._replace(inos=inos), place

    async def _files(
        self, page: FilePage, live: Node, question: Question, scope: Scope
    ) -> tuple[list[FoundFile], int, int]:
        """Return the files of a page, their count, and how many inodes of the page fit."""
        if page.is_exact and not question.names:
            if not scope.is_everything:
                return [], len(page.inos), len(page.inos)
            return [], await self._count_named(page.inos), len(page.inos)
        files: list[FoundFile] = []
        count = byte_count = 0
        until_s = time.perf_counter() + SLICE_S
        begin, size = 0, DESCRIBED_A_CALL
        while begin < len(page.inos):
            until_s = await _give_way(until_s)
            begun_s = time.perf_counter()
            # Once more as of now: permissions may have changed since the page was found.
            found = await self._engine.describe_files(
                page.inos[begin : begin + size], scope, with_xattrs=question.attributes
            )
            begin += size
            size = next_size(size, time.perf_counter() - begun_s)
            for file in found:
                if not page.is_exact:
                    until_s = await _give_way(until_s)
                    if not await self._matches(live, file):
                        continue
                count += 1
                if question.names:
                    files.append(_found_file(file))
                    byte_count += _bytes_sent(files[-1])
                    if byte_count > PAGE_BYTES_MAX and len(files) > 1:
                        return [], 0, page.inos.index(file.ino)
        return files, count, len(page.inos)

    async def _count_named(self, inos: Sequence[InodeNo]) -> int:
        """Return how many of the inodes have a name."""
        count = 0
        for begin in range(0, len(inos), COUNTED_A_SLICE):
            count += await self._engine.count_named(inos[begin : begin + COUNTED_A_SLICE])
            await trio.sleep(REST_S)
        return count

    async def _notes(self, node: Node, order: FileOrder | None) -> tuple[str, ...]:
        """Return what is odd about a question that can be answered: no file has a name."""
        asked = fields_of(node) | ({order.field} if order is not None else set())
        known = [os.fsdecode(name) for name in self._engine.indexed_names()]
        unknown = sorted(asked - set(known) - SYSTEM_FIELDS.keys())
        if not unknown:
            return ()
        # The nearest one of 10,000 names takes 0.1 s.
        return await trio.to_thread.run_sync(_tell_unknown, unknown, known)

    # --- what the engine does not decide ---------------------------------------------------------
    async def _matches(self, node: Node, file: FoundInode) -> bool:
        try:
            inode = await self._engine.get_inode(file.ino)
            values = {field: await self._values(inode, file, field) for field in fields_of(node)}
        except StaleInodeError:
            # It was removed since.
            return False
        return matches(node, values.__getitem__)

    async def _values(self, inode: Inode, file: FoundInode, field: str) -> Values:
        """Return what a file has in a field."""
        if field not in SYSTEM_FIELDS:
            name = field.encode()
            if name not in await self._engine.list_xattrs(inode.ino):
                return None
            value = stored_value(await self._engine.get_xattr(inode.ino, name))
            return () if value is None else (value,)
        if field == "$path":
            return tuple(os.fsdecode(path) for path in file.paths)
        if field == "$name":
            return tuple(os.fsdecode(path.rpartition(b"/")[2]) for path in file.paths)
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


def next_size(size: int, spent_s: float) -> int:
    """Return how many files the next call describes.

    Args:
        size: That of the last call.
        spent_s: What it took.
    """
    return min(DESCRIBED_A_CALL, max(1, int(size * SLICE_S / max(spent_s, SLICE_S / 2))))


async def _give_way(until_s: float) -> float:
    """Let others have their turn if a slice has ended; returns when the present one ends."""
    if time.perf_counter() <= until_s:
        return until_s
    await trio.sleep(REST_S)
    return time.perf_counter() + SLICE_S


def _tell_unknown(unknown: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return a note for each name that no file has, the first ones with the nearest known one."""
    notes = []
    # What all names begin with would make any two of them alike.
    short = [name.removeprefix(ATTRIBUTE_PREFIX) for name in known]
    for index, name in enumerate(unknown):
        word = name.removeprefix(ATTRIBUTE_PREFIX)
        near = difflib.get_close_matches(word, short, 1) if index < HINT_COUNT_MAX else ()
        hint = f": did you mean {ATTRIBUTE_PREFIX}{near[0]}?" if near else ""
        notes.append(f"no file has the xattr {name}{hint}")
    return tuple(notes)


async def parse_aside(text: str) -> Node:
    """Return the tree of a filter, as `parse_text`; patterns are compiled in a thread.

    That takes up to a second, and requests are served meanwhile.
    """
    # A field is called `$regex` in these letters, or with an escape.
    if "$regex" in text or "\\" in text:
        return await trio.to_thread.run_sync(parse_text, text)
    return parse_text(text)


def _found_file(file: FoundInode) -> FoundFile:
    attributes = None
    if file.xattrs is not None:
        attributes = {
            os.fsdecode(name).removeprefix(ATTRIBUTE_PREFIX): os.fsdecode(value)
            for name, value in file.xattrs
            if is_queryable(name)
        }
    return FoundFile(file.ino, os.fsdecode(file.paths[0]), file.size, file.mtime_ns, attributes)


def _bytes_sent(file: FoundFile) -> int:
    """Return about how many bytes a file is of an answer."""
    texts = [file.path]
    for name, value in (file.attributes or {}).items():
        texts += (name, value)
    # What is no ASCII is `\\u1234` for each letter.
    return sum(len(text) if text.isascii() else 6 * len(text) for text in texts)


def caller_of(caller: Caller) -> Credentials | None:
    """Return who is behind a request, for `Question.caller`; None: root, or the user who mounted.

    A process that waits for the answer of its request cannot change its groups meanwhile.

    Raises:
        NotPermittedError: Its groups are not known: it is in a pid namespace above ours, or gone.
    """
    if caller.uid in (0, os.geteuid()):
        return None
    ids = ids_of(caller.pid)
    if ids is None or ids[:2] != (caller.uid, caller.gid):
        raise NotPermittedError(f"the groups of process {caller.pid} are not known")
    return Credentials(*ids)


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
def _print_of(question: Question, snap: SnapshotId) -> int:
    return zlib.crc32(json.dumps([question.text, question.sort, snap]).encode())


def _token(question: Question, snap: SnapshotId, position: FilePosition | None) -> str | None:
    if position is None:
        return None
    return base64.urlsafe_b64encode(
        json.dumps([_print_of(question, snap), *position]).encode()
    ).decode()


def _is_storable(value: object) -> bool:
    """Tell whether SQLite takes a value: an integer of 64 bits, and text in UTF-8."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _read_token(question: Question, snap: SnapshotId) -> FilePosition | None:
    """Return where a token goes on.

    Raises:
        InvalidValueError: It is not of this question.
    """
    if question.token is None:
        return None
    try:
        mark, driver, segment, value, ino = json.loads(base64.urlsafe_b64decode(question.token))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        mark = None
    if mark is None or mark != _print_of(question, snap):
        raise InvalidValueError("the token is of another query: give filter and order as before")
    valid = (
        isinstance(driver, str)
        and type(segment) is int
        and type(ino) is int
        and segment >= 0
        and isinstance(value, int | float | str | None)
        and all(_is_storable(part) for part in (driver, value, ino))
    )
    if not valid:
        raise InvalidValueError("the token is damaged: begin with the first page")
    return FilePosition(driver, segment, value, ino)
