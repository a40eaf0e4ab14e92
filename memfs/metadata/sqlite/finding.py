"""Finding: pages of the files that a filter finds, on any connection to the tables.

Invariant: nothing is written, and nothing is kept from one page to the next: a position says all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from memfs.errors import NotFoundError
from memfs.metadata.records import EVERYTHING, FileOrder, FilePage, FilePosition, Scope
from memfs.metadata.sqlite import path_walk
from memfs.metadata.sqlite.element_index import entries_of
from memfs.metadata.sqlite.filter_sql import condition_text
from memfs.metadata.sqlite.query_plans import Planner
from memfs.metadata.sqlite.scoped_sql import ScopedStatement, writer_in
from memfs.metadata.sqlite.view import View
from memfs.query.filters import Condition, Node, Operator, operators_of
from memfs.query.globs import glob_pattern
from memfs.query.matching import has_words, pattern_of, scalar_passes, value_passes
from memfs.query.values import stored_value
from memfs.types import NOW, InodeNo, SnapshotId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from memfs.metadata.sqlite.field_index import Indexes
    from memfs.metadata.sqlite.filter_sql import Writer
    from memfs.metadata.sqlite.statements import Parameters, Row, SqlValue
    from memfs.query.values import Value

Search = Callable[[str, "Sequence[SqlValue]"], "list[Row] | None"]
"""Runs a select; None: it took too long."""

Rows = Callable[[str, "list[SqlValue]"], "list[Row]"]
"""Runs a select, or raises."""

SCAN_COUNT = 200_000
"""Numbers of inodes that are looked at in one turn; others have theirs in between. Some 0.5 s."""

_PLACES = "select cookie, name, parent from dentry where ino = ? order by cookie"
_COOKIES = "select cookie, name from dentry where ino = ? order by cookie"
_SELECT_SNAPSHOT = "select 1 from snapshot where snap = ? and state = 'live'"


class _TooLongError(Exception):
    """The budget is spent."""


class Finder:
    """Answers filters on one connection.

    Args:
        connection: To the tables; gets the functions that filters need.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._view = View(self._fetch)
        """That of the page that is being found."""
        connection.create_function("pattern_found", 2, _pattern_found, deterministic=True)
        connection.create_function("text_found", 2, _text_found, deterministic=True)
        connection.create_function("array_passes", 2, _array_passes, deterministic=True)
        connection.create_function("leads_here", 3, _leads_here, deterministic=True)
        connection.create_function("value_of", 1, stored_value, deterministic=True)
        connection.create_function("path_passes", 2, self._path_passes)
        connection.create_function("name_passes", 2, self._name_passes)
        connection.create_function("one_path_passes", 3, self._one_path_passes)
        connection.create_function("one_name_passes", 3, self._one_name_passes)
        connection.create_function("first_name", 2, self._first_name)
        connection.create_function("first_passing", 2, self._first_passing)
        connection.create_function("has_path", 1, lambda ino: bool(self._view.paths(ino)))
        connection.create_function("is_open", 1, lambda ino: bool(self._view.open_paths(ino)))
        connection.create_function("may_read", 1, lambda ino: self._view.may_read(ino))
        connection.create_function(
            "permits_reading", 4, lambda *ids: self._view.permits_reading(*ids)
        )

    def _fetch(self, text: str, parameters: Parameters) -> list[Row]:
        return self._connection.execute(text, parameters).fetchall()

    def view(self, scope: Scope) -> View:
        """Return a view for one transaction.

        Raises:
            NotFoundError: The snapshot is gone.
        """
        self._check_snapshot(scope.snap)
        return View(self._fetch, scope)

    def _check_snapshot(self, snap: SnapshotId) -> None:
        if snap != NOW and not self._fetch(_SELECT_SNAPSHOT, (snap,)):
            raise NotFoundError(f"there is no snapshot of number {snap} any more")

    def page(
        self,
        node: Node,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        indexes: Indexes,
        search: Search,
        scope: Scope = EVERYTHING,
    ) -> FilePage | None:
        """Return a page, as `Queries.find_files`.

        Args:
            order: How files are sorted.
            after: Where to go on.
            limit: At most so many.
            indexes: What can lead.
            search: Runs a select.
            scope: Which instant, and for whom.
        """

        def rows(text: str, arguments: list[SqlValue]) -> list[Row]:
            found = search(text, arguments)
            if found is None:
                raise _TooLongError
            return found

        def count(text: str, arguments: list[SqlValue]) -> int:
            return int(rows(f"select count(*) from ({text})", arguments)[0][0])

        self._check_snapshot(scope.snap)
        self._view = View(self._fetch, scope)
        try:
            led = path_walk.led_by(node) if scope.snap == NOW and order is None else None
            driver = None if after is None else after.driver
            if scope.is_everything:
                planner = Planner(node, order, indexes, count)
                driver = planner.choose() if driver is None else driver
                if after is None and not driver and led is not None:
                    driver = path_walk.DRIVER
                if led is not None and driver == path_walk.DRIVER:
                    return self._walk(led, node, planner.writer_of_inodes(), after, limit, rows)
                return _page(planner, driver, after, limit, rows)
            if led is not None:
                return self._walk(led, node, writer_in(scope, node), after, limit, rows)
            statement = ScopedStatement(node, order, scope, indexes, count, driver)
            if statement.is_scan:
                return self._scan(statement, after, limit, rows, scope)
            return _scoped_page(statement, after, limit, rows)
        except _TooLongError:
            return None
        finally:
            self._view = View(self._fetch)

    def _walk(
        self,
        led: path_walk.Led,
        node: Node,
        writer: Writer,
        after: FilePosition | None,
        limit: int,
        rows: Rows,
    ) -> FilePage:
        """Return what a walk through directories finds."""
        told = condition_text(led.condition)
        walk = path_walk.PathWalk(led, node, self._view, writer, told, rows)
        return walk.page(after, limit)

    def _scan(
        self,
        statement: ScopedStatement,
        after: FilePosition | None,
        limit: int,
        rows: Rows,
        scope: Scope,
    ) -> FilePage:
        """Return what one turn through the inodes finds."""
        begin = 0 if after is None else after.ino
        last = scope.snap
        if last == NOW:
            last = self._fetch("select coalesce(max(ino), 0) from inode", ())[0][0]
        through = begin + SCAN_COUNT
        found = [row[0] for row in rows(*statement.page(0, after, through, limit))]
        position = None
        if len(found) == limit:
            position = FilePosition("", 0, None, found[-1])
        elif through < last:
            position = FilePosition("", 0, None, InodeNo(through))
        return FilePage(found, position, statement.is_exact, "")

    def _path_passes(self, ino: int, text: str) -> bool:
        """Tell whether a path of an inode passes a condition on `$path`."""
        passes = _test(text)
        return any(passes(os.fsdecode(path)) for path in self._view.paths(ino))

    def _one_path_passes(self, parent: int, name: bytes, text: str) -> bool:
        """Tell whether a path that ends in a name passes a condition on `$path`."""
        passes = _test(text)
        for above in self._view.open_paths(parent):
            if passes(os.fsdecode(above + b"/" + name if above else name)):
                return True
        return False

    def _name_passes(self, ino: int, text: str) -> bool:
        """Tell whether a name of an inode passes a condition on `$name`."""
        passes = _test(text)
        return any(passes(os.fsdecode(name)) for name in self._view.names(ino))

    def _one_name_passes(self, parent: int, name: bytes, text: str) -> bool:
        """Tell whether a name that the caller can see passes a condition on `$name`."""
        return _test(text)(os.fsdecode(name)) and self._view.shows(parent)

    def _first_passing(self, ino: int, text: str) -> int | None:
        """Return the cookie of the first name of an inode that the caller sees, and that passes."""
        passes = _test(text)
        is_path = _condition(text).field == "$path"
        for cookie, name, parent in self._fetch(_PLACES, (ino,)):
            for above in self._view.open_paths(parent):
                path = above + b"/" + name if is_path and above else name
                if passes(os.fsdecode(path)):
                    return int(cookie)
        return None

    def _first_name(self, ino: int, text: str) -> int | None:
        """Return the cookie of the first name of an inode that passes a condition on `$name`."""
        passes = _test(text)
        for cookie, name in self._fetch(_COOKIES, (ino,)):
            if passes(os.fsdecode(name)):
                return int(cookie)
        return None


def _page(
    planner: Planner, driver: str, after: FilePosition | None, limit: int, rows: Rows
) -> FilePage:
    plan = planner.plan(driver)
    found: list[Row] = []
    first = 0 if after is None else after.segment
    for index in range(first, len(plan.segments)):
        is_begun = after is not None and index == after.segment
        behind = (after.value, after.ino) if after is not None and is_begun else None
        wanted = limit - len(found)
        part = rows(*plan.segments[index].statement(behind, wanted))
        found += part
        if len(part) == wanted:
            position = FilePosition(plan.driver, index, part[-1][1], part[-1][0])
            return FilePage([row[0] for row in found], position, plan.is_exact, plan.driver)
    return FilePage([row[0] for row in found], None, plan.is_exact, plan.driver)


def _scoped_page(
    statement: ScopedStatement, after: FilePosition | None, limit: int, rows: Rows
) -> FilePage:
    found: list[Row] = []
    first = 0 if after is None else after.segment
    for index in range(first, statement.segment_count):
        behind = after if after is not None and index == after.segment else None
        wanted = limit - len(found)
        part = rows(*statement.page(index, behind, None, wanted))
        found += part
        if len(part) == wanted:
            position = FilePosition(statement.driver, index, part[-1][1], part[-1][0])
            return FilePage(
                [row[0] for row in found], position, statement.is_exact, statement.driver
            )
    return FilePage([row[0] for row in found], None, statement.is_exact, statement.driver)


@lru_cache(maxsize=256)
def _condition(text: str) -> Condition:
    """Return a condition as `filter_sql` has written it, with its field."""
    field, operator, *operands = json.loads(text)
    return Condition(field, Operator(operator), tuple(operands))


def _array_passes(value: str, text: str) -> bool:
    return value_passes(_condition(text), value)


def _leads_here(array: str, value: Value, text: str) -> bool:
    """Tell whether a value is the least entry of an array that passes a condition."""
    condition = _condition(text)
    # Those that pass a range or a pattern are all numbers, or all texts.
    entries = [each for each in entries_of(array) if isinstance(each, int | float | str)]
    passing = [each for each in entries if scalar_passes(condition, each)]
    return bool(passing) and min(passing) == value


@lru_cache(maxsize=256)
def _test(text: str) -> Callable[[str], bool]:
    """Return what tells whether a path or a name passes a condition."""
    condition = _condition(text)
    if condition.operator is Operator.GLOB:
        patterns = [glob_pattern(str(glob)) for glob in condition.operands]
        return lambda value: any(pattern.fullmatch(value) for pattern in patterns)
    return partial(value_passes, condition)


def _pattern_found(pattern: str, text: object) -> bool:
    return isinstance(text, str) and pattern_of(pattern).search(text) is not None


def _text_found(words: str, text: object) -> bool:
    return isinstance(text, str) and has_words(words, text)


def has_steps_without_end(node: Node) -> bool:
    """Tell whether one step of a filter can take longer than any budget: `re` cannot be ended."""
    return Operator.REGEX in operators_of(node)
