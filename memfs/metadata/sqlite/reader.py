"""`python -m memfs.metadata.sqlite.reader STATE_DIR`: filters, sums and exports from the tables.

Invariant: nothing is written but the parts of an export, where the daemon says; and no request
outlives its deadline by more than `GRACE_S`. SQLite is interrupted; `re` cannot be, and then the
kernel ends this process.

The daemon is at standard input and output, a line of JSON for a request and for an answer; the end
of the input is the end of this process. What it sees is what the daemon has committed to SQLite.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any

from memfs.errors import MemfsError, NotFoundError
from memfs.metadata.records import FileOrder, FilePosition, Scope
from memfs.metadata.sqlite.database import PROGRESS_COUNT
from memfs.metadata.sqlite.element_index import SELECT_ELEMENT_NOTE, decode_position
from memfs.metadata.sqlite.field_index import SELECT_WHOLE, Indexes
from memfs.metadata.sqlite.finding import Finder
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.text_index import SELECT_WHOLE_TEXTS
from memfs.namespace.permissions import Credentials
from memfs.query.parsing import parse_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.sqlite.statements import Row, SqlValue

GRACE_S = 0.5
"""Between the deadline and the end of a process that does not keep it."""

MEMORY_BYTES = 1 << 30
"""Bytes of address space (RLIMIT_AS); guess: a page of 10,000 files takes some MB."""

CACHE_KIB = 16 << 10
NICENESS = 5
"""Programs that use the mount come first."""


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    # The daemon is protected from the OOM killer, which its children inherit.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    path = os.path.join(os.path.abspath(sys.argv[1]), FILE_NAME)
    connection = sqlite3.connect(f"file:{_quote(path)}?mode=ro", uri=True, isolation_level=None)
    connection.execute(f"pragma cache_size = -{CACHE_KIB}")
    connection.execute("pragma temp_store = memory")
    reader = _Reader(connection)
    for line in sys.stdin.buffer:
        answer = reader.answer(json.loads(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _quote(path: str) -> str:
    """Return a path as a URI has it (https://www.sqlite.org/uri.html)."""
    from urllib.parse import quote

    return quote(os.fsencode(path))


class _Reader:
    """One connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._finder = Finder(connection)

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        """Return a page, `late`, or an error."""
        budget_s = float(request["budget_s"])
        # Its default action ends the process, whatever that is doing.
        signal.setitimer(signal.ITIMER_REAL, budget_s + GRACE_S)
        try:
            if "export" in request:
                return self._export(request)
            if "tree" in request:
                return self._tree(request, budget_s)
            return self._page(request, time.perf_counter() + budget_s)
        except NotFoundError as error:
            return {"gone": str(error)}
        except (MemfsError, sqlite3.Error, OSError, MemoryError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _export(self, request: dict[str, Any]) -> dict[str, object]:
        """Write the next parts of an export into files; the alarm ends what takes too long."""
        # Imported here: most readers never do this.
        from memfs.metadata.sqlite.exporting import read_page, write_part

        self._connection.execute("begin")
        # Rows are in no cycle, and looking for one takes a sixth of the time.
        gc.disable()
        try:
            page = read_page(
                self._connection, request["export"], request["snap"], tuple(request["after"])
            )
        finally:
            gc.enable()
            self._connection.execute("rollback")
        told = page._asdict()
        told["parts"] = [
            {"kind": part.kind, "row_count": part.row_count, "size": len(part.data)}
            for part in page.parts
        ]
        for part, path in zip(page.parts, request["paths"], strict=False):
            write_part(path, part.data)
        return told

    def _tree(self, request: dict[str, Any], budget_s: float) -> dict[str, object]:
        # Imported here: most readers never do this.
        from memfs.metadata.sqlite.tree_totals import read_totals

        order, limit = request["order"], request["limit"]
        return read_totals(self._connection, request["tree"], order, limit, budget_s)

    def _page(self, request: dict[str, Any], until_s: float) -> dict[str, object]:
        connection = self._connection
        connection.set_progress_handler(lambda: time.perf_counter() > until_s, PROGRESS_COUNT)

        def search(text: str, arguments: Sequence[SqlValue]) -> list[Row] | None:
            if time.perf_counter() > until_s:
                return None
            try:
                return connection.execute(text, arguments).fetchall()
            except sqlite3.OperationalError:
                if time.perf_counter() > until_s:
                    return None
                raise

        order, after = request["order"], request["after"]
        snap, caller = request["scope"]
        who = None
        if caller is not None:
            uid, gid, groups = caller
            who = Credentials(uid, gid, frozenset(groups))
        # One instant for all statements of a page.
        connection.execute("begin")
        try:
            keys = dict(connection.execute("select name, key from attribute_name").fetchall())
            fields = connection.execute(SELECT_WHOLE).fetchall()
            note = connection.execute(SELECT_ELEMENT_NOTE).fetchone()
            has_elements = decode_position(None if note is None else note[0]) is None
            texts = connection.execute(SELECT_WHOLE_TEXTS).fetchall()
            indexes = Indexes(
                keys,
                frozenset(field for (field,) in fields),
                has_elements,
                {name.decode(): slot for name, slot in texts},
            )
            page = self._finder.page(
                parse_text(request["filter"]),
                None if order is None else FileOrder(*order),
                None if after is None else FilePosition(*after),
                request["limit"],
                indexes,
                search,
                Scope(snap, who),
            )
        finally:
            connection.set_progress_handler(None, 0)
            connection.execute("rollback")
        return {"late": True} if page is None else page._asdict()


if __name__ == "__main__":
    main()
