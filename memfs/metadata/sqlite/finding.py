"""Finding: pages of the files that a filter finds, on any connection to the tables.

Invariant: nothing is written, and nothing is kept from one page to the next: a position says all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from memfs.metadata.records import FileOrder, FilePage, FilePosition
from memfs.metadata.sqlite.filter_sql import Planner
from memfs.query.filters import Condition, Node, Operator, operators_of
from memfs.query.matching import pattern_of, value_passes
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from memfs.metadata.sqlite.database import Row
    from memfs.metadata.sqlite.statements import SqlValue

Search = Callable[[str, "Sequence[SqlValue]"], "list[Row] | None"]
"""Runs a select; None: it took too long."""


class _TooLongError(Exception):
    """The budget is spent."""


class Finder:
    """Answers filters on one connection.

    Args:
        connection: To the tables; gets the functions that filters need.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._paths: dict[int, list[str]] = {}
        """Those of directories, while one page is found."""
        connection.create_function("pattern_found", 2, _pattern_found, deterministic=True)
        connection.create_function("path_passes", 2, self._path_passes)

    def page(
        self,
        node: Node,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        keys: Mapping[bytes, int],
        search: Search,
    ) -> FilePage | None:
        """Return a page, as `Queries.find_files`.

        Args:
            order: How files are sorted.
            after: Where to go on.
            limit: At most so many.
            keys: Those of the names in the index.
            search: Runs a select.
        """

        def rows(text: str, arguments: list[SqlValue]) -> list[Row]:
            found = search(text, arguments)
            if found is None:
                raise _TooLongError
            return found

        def count(text: str, arguments: list[SqlValue]) -> int:
            return int(rows(f"select count(*) from ({text})", arguments)[0][0])

        self._paths.clear()
        try:
            planner = Planner(node, order, keys, count)
            plan = planner.plan(None if after is None else after.driver)
            found: list[Row] = []
            first = 0 if after is None else after.segment
            for index in range(first, len(plan.segments)):
                behind = (
                    (after.value, after.ino)
                    if after is not None and index == after.segment
                    else None
                )
                wanted = limit - len(found)
                part = rows(*plan.segments[index].statement(behind, wanted))
                found += part
                if len(part) == wanted:
                    position = FilePosition(plan.driver, index, part[-1][1], part[-1][0])
                    return FilePage([row[0] for row in found], position, plan.is_exact, plan.driver)
        except _TooLongError:
            return None
        finally:
            self._paths.clear()
        return FilePage([row[0] for row in found], None, plan.is_exact, plan.driver)

    def _path_passes(self, ino: int, text: str) -> bool:
        """Tell whether a path of an inode passes a condition on `$path`."""
        condition = _path_condition(text)
        return any(value_passes(condition, path) for path in self._paths_of(ino))

    def _paths_of(self, ino: int) -> list[str]:
        """Return all paths of an inode, without the first slash; empty for an orphan."""
        if ino == ROOT_INODE:
            return [""]
        found = []
        for parent, name in self._connection.execute(
            "select parent, name from dentry where ino = ?", (ino,)
        ).fetchall():
            above = self._paths.get(parent)
            if above is None:
                above = self._paths[parent] = self._paths_of(parent)
            found += [f"{path}/{os.fsdecode(name)}".lstrip("/") for path in above]
        return found


@lru_cache(maxsize=16)
def _path_condition(text: str) -> Condition:
    """Return a condition on `$path` as `filter_sql` has written it."""
    operator, *operands = json.loads(text)
    return Condition("$path", Operator(operator), tuple(operands))


def _pattern_found(pattern: str, text: object) -> bool:
    return isinstance(text, str) and pattern_of(pattern).search(text) is not None


def has_steps_without_end(node: Node) -> bool:
    """Tell whether one step of a filter can take longer than any budget: `re` cannot be ended."""
    return Operator.REGEX in operators_of(node)
