"""The answers to questions to all files: on the control socket, and on the socket of users.

Invariant: root and the user who mounted may see all, and nobody else reaches the control socket
(`control.server`). Other users see what the kernel says that they may, and one cannot keep the
others waiting: each has one question at a time.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, cast

import trio

from memfs.errors import NotADirectoryInodeError, NotPermittedError
from memfs.filesystem.querying import Question
from memfs.jobs.paths import find_path
from memfs.keyed_lock import KeyedLock
from memfs.namespace.permissions import Credentials
from memfs.types import ROOT_INODE
from memfs_daemon.status import field_reports, index_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.config import QueryConfig
    from memfs.control.methods.queries import NamesReport, QueryReport, TreeOrder, TreeReport
    from memfs.control.server import Handler
    from memfs.filesystem.door import Door
    from memfs.filesystem.querying import Answer, Querying
    from memfs.linux.peers import Peer
    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.reader_process import ReaderProcess
    from memfs_daemon.indexing import FieldIndexer


NAMES_MAX = 1000
"""Names of a directory in one answer; a page shows some hundred."""


class QueryMethods:
    """Answers `query`, `tree`, `publish_tables` and what is asked of the indexes."""

    def __init__(
        self,
        engine: Engine,
        querying: Querying,
        reader: ReaderProcess,
        indexer: FieldIndexer,
        config: QueryConfig,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._querying = querying
        self._indexer = indexer
        self._config = config

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "query": self.query,
            "tree": self.tree,
            "query_index": self.index,
            "index_add": self.add_index,
            "index_drop": self.drop_index,
            "publish_tables": self.publish,
        }

    async def query(
        self,
        filter: str,
        sort: str | None = None,
        token: str | None = None,
        limit: int = 1000,
        names: bool = True,
        attributes: bool = False,
        at: str | None = None,
    ) -> QueryReport:
        """Return a page of the files that a filter finds; see `client.Mount.query`."""
        question = Question(filter, sort, token, limit, names, attributes, at)
        return _report(await self._querying.ask(question))

    async def tree(self, path: str, order: TreeOrder = "bytes", limit: int = 200) -> TreeReport:
        """Return what a directory holds; see `client.Mount.tree`."""
        directory = await find_path(self._engine, os.fsencode(path))
        if not stat.S_ISDIR(directory.mode):
            raise NotADirectoryInodeError(f"/{path.strip('/')} is no directory")
        limit = min(max(limit, 0), NAMES_MAX)
        answer = await self._reader.read_totals(directory.ino, order, limit)
        return cast("TreeReport", answer)

    async def publish(self) -> None:
        """Bring all changes so far into the tables, where `memfs catalog` reads them."""
        await self._reader.publish()

    async def index(self) -> NamesReport:
        """Return how complete the indexes are, and the names in that of xattrs."""
        await trio.lowlevel.checkpoint()
        return {
            "fields": list(field_reports(self._engine)),
            "index": index_report(self._engine, self._config),
            "names": sorted(map(os.fsdecode, self._engine.indexed_names())),
        }

    async def add_index(self, field: str) -> None:
        """Begin an index; see `Queries.add_index`."""
        await self._indexer.add(field)

    async def drop_index(self, field: str) -> None:
        """Give an index up; see `Queries.drop_index`."""
        await self._indexer.drop(field)


class UserQueryMethods:
    """Answers `query_as_user` on the socket of users.

    Args:
        querying: Answers questions.
        door: Takes tickets.
    """

    def __init__(self, querying: Querying, door: Door) -> None:
        self._querying = querying
        self._door = door
        self._turns: KeyedLock[int] = KeyedLock()

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the socket of users by name."""
        return {"query_as_user": self.query}

    async def query(
        self,
        peer: Peer,
        ticket: str,
        filter: str,
        sort: str | None = None,
        token: str | None = None,
        limit: int = 1000,
        names: bool = True,
        attributes: bool = False,
        at: str | None = None,
    ) -> QueryReport:
        """Return a page of what a user finds; see `client.Mount.query`."""
        if self._door.admit(ticket, peer.uid) != ROOT_INODE:
            raise NotPermittedError("only a token of the root of the mount is for queries")
        caller = Credentials(peer.uid, peer.gid, peer.groups)
        question = Question(filter, sort, token, limit, names, attributes, at, caller)
        async with self._turns.hold(peer.uid):
            return _report(await self._querying.ask(question))


def _report(answer: Answer) -> QueryReport:
    return {
        "files": [
            {
                "ino": file.ino,
                "path": file.path,
                "size": file.size,
                "mtime_ns": file.mtime_ns,
                "attributes": file.attributes,
            }
            for file in answer.files
        ],
        "count": answer.file_count,
        "token": answer.token,
        "driver": answer.driver,
        "place": answer.place,
        "is_exact": answer.is_exact,
        "duration_s": answer.duration_s,
        "notes": list(answer.notes),
    }
