"""The answers of the control socket to questions to all files.

Invariant: only root and the user who mounted are served (`control.server`), and both may see all.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from memfs.filesystem.querying import Question
from memfs_daemon.status import index_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.config import QueryConfig
    from memfs.control.methods import NamesReport, QueryReport
    from memfs.control.server import Handler
    from memfs.filesystem.querying import Querying
    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.reader_process import ReaderProcess


class QueryMethods:
    """Answers `query`, `query_index` and `publish`."""

    def __init__(
        self, engine: Engine, querying: Querying, reader: ReaderProcess, config: QueryConfig
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._querying = querying
        self._config = config

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"query": self.query, "query_index": self.index, "publish": self.publish}

    async def query(
        self,
        filter: str,
        sort: str | None = None,
        token: str | None = None,
        limit: int = 1000,
        names: bool = True,
        attributes: bool = False,
    ) -> QueryReport:
        """Return a page of the files that a filter finds; see `client.Mount.query`."""
        answer = await self._querying.ask(Question(filter, sort, token, limit, names, attributes))
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

    async def publish(self) -> None:
        """Bring all changes so far into the tables, where `memfs catalog` reads them."""
        await self._reader.publish()

    async def index(self) -> NamesReport:
        """Return how complete the index of xattrs is, and the names in it."""
        await trio.lowlevel.checkpoint()
        return {
            "index": index_report(self._engine, self._config),
            "names": sorted(map(os.fsdecode, self._engine.indexed_names())),
        }
