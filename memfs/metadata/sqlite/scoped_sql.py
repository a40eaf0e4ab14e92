"""Filters as SQL where a scope limits them: to a caller, or to the instant of a snapshot.

For a caller all inodes are looked at in order of number, permissions before conditions, so that no
answer takes longer for what is hidden. A snapshot is led by the index of now, and by what has
changed since; each file is looked at as it was.

Invariant: for every file the expression is 0 or 1, never null, as in `filter_sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.sqlite.field_schema import FIELDS, NAME_FIELD
from memfs.metadata.sqlite.filter_sql import SCALARS, Writer
from memfs.metadata.sqlite.query_plans import COLUMN_FIELDS, Planner, led_field
from memfs.namespace.acl import ACCESS_XATTR
from memfs.query.fields import LIVE_FIELDS, SYSTEM_FIELDS
from memfs.query.filters import Operator, fields_of
from memfs.types import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.records import FileOrder, FilePosition, Scope
    from memfs.metadata.sqlite.field_index import Indexes
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.query.filters import Condition, Node

OPEN_FIELDS = frozenset({"$path", "$name", "$size", "$mtime"})
"""What stat(2) and find(1) tell of a file without reading it."""

ACL_LITERAL = f"x'{ACCESS_XATTR.hex()}'"

_COLUMNS = "ino, size, mtime_ns, blob, mode, uid, gid"
_AS_IT_IS = """
    select ino, size, mtime_ns, blob from inode as i
    where i.ino < ? and not exists (
        select 1 from inode_was as w where w.ino = i.ino and w.snap >= ?) and {0}
"""
_AS_IT_WAS = """
    select ino, size, mtime_ns, coalesce(
        (select k.blob from kept as k where k.ino = i.ino and k.generation = i.generation),
        (select l.blob from inode as l where l.ino = i.ino and l.generation = i.generation), 0)
    from inode_was as i
    where i.snap >= ? and i.mode <> 0 and not exists (
        select 1 from inode_was as w
        where w.ino = i.ino and w.snap >= ? and w.snap < i.snap) and {0}
"""
_VALUE_THEN = """(
    select value_of(w.value) as typed from (
        select value from xattr_was
        where ino = f.ino and name = ? and snap >= ? order by snap limit 1) as w
    where w.value is not null
    union all
    select x.typed from xattr as x where x.ino = f.ino and x.name = ? and not exists (
        select 1 from xattr_was as w
        where w.ino = x.ino and w.name = x.name and w.snap >= ?))"""


class ScopedStatement:
    """Writes the pages of one question in a scope that is not everything.

    Args:
        node: The filter.
        order: How files are sorted.
        scope: Which instant, and for whom.
        indexes: What can lead.
        count: Counts the rows of a select.
        driver: The field whose index leads, that an earlier page took; None: the best one.
    """

    def __init__(
        self,
        node: Node,
        order: FileOrder | None,
        scope: Scope,
        indexes: Indexes,
        count: Callable[[str, list[SqlValue]], int],
        driver: str | None,
    ) -> None:
        self._node = node
        self._order = order
        self._scope = scope
        self._keys = indexes.keys
        # Not even a look into the index for a caller.
        self._planner = Planner(node, None, indexes, count) if scope.caller is None else None
        self.driver = ""
        if self._planner is not None:
            self.driver = self._planner.choose() if driver is None else driver
            self._planner.check(self.driver)
        self.is_exact = True

    @property
    def is_scan(self) -> bool:
        """True if it goes through all inodes in order, in turns."""
        return not self.driver and self._order is None

    @property
    def segment_count(self) -> int:
        """How many parts it has: files without a value to sort by come last."""
        return 1 if self._order is None or self._order.field in COLUMN_FIELDS else 2

    def page(
        self, segment: int, after: FilePosition | None, through: int | None, limit: int
    ) -> tuple[str, list[SqlValue]]:
        """Return text and arguments of a page: inode and value.

        Args:
            segment: Which part.
            after: Where to go on in it.
            through: The last number that is looked at; None: all are.
            limit: At most so many.
        """
        arrays = fields_of(self._node) - SYSTEM_FIELDS.keys()
        writer = _ScopedWriter(self._scope, arrays)
        by_number = self._order is None or segment == 1
        begin = after.ino if after is not None and by_number else 0
        value = "null" if self._order is None else writer.value(self._order.field)
        source = self._source(writer, begin, through)
        text = f"select f.ino as ino, {value} as value from ({source}) as f where "
        text += self._where(writer)
        if self._order is None:
            text += f" order by f.ino limit {writer.bind(limit)}"
        elif segment == 1:
            text = f"select ino, null from ({text}) where value is null order by ino"
            text += f" limit {writer.bind(limit)}"
        else:
            sign, way = ("<", " desc") if self._order.descending else (">", "")
            text = f"select ino, value from ({text}) where value is not null"
            if after is not None:
                marks = f"{writer.bind(after.value)}, {writer.bind(after.ino)}"
                text += f" and (value, ino) {sign} ({marks})"
            text += f" order by value{way}, ino{way} limit {writer.bind(limit)}"
        self.is_exact = writer.is_exact
        return text, writer.arguments

    def _where(self, writer: _ScopedWriter) -> str:
        if self._scope.caller is None:
            return f"{writer.whole(self._node)} and has_path(f.ino)"
        seen = "has_path(f.ino)"
        if self._scope.snap == NOW:
            seen = (
                "(f.ino = 1 or exists ("
                "select 1 from dentry as p where p.ino = f.ino and is_open(p.parent)))"
            )
        # A case, since SQLite does not promise the order of an `and`.
        return f"case when {seen} then {writer.whole(self._node)} else 0 end"

    def _source(self, writer: _ScopedWriter, begin: int, through: int | None) -> str:
        """Return the inodes that are looked at, as they are in the scope."""
        snap = self._scope.snap
        if snap == NOW:
            return f"select {_COLUMNS} from inode as i where {self._range(writer, begin, through)}"
        parts = []
        for text in (_AS_IT_IS, _AS_IT_WAS):
            writer.arguments += [snap, snap]
            parts.append(text.format(self._range(writer, begin, through)))
        return " union all ".join(parts)

    def _range(self, writer: _ScopedWriter, begin: int, through: int | None) -> str:
        text = f"i.ino > {writer.bind(begin)}"
        if through is not None:
            text += f" and i.ino <= {writer.bind(through)}"
        if not self.driver:
            return text
        if self.driver in FIELDS and self._planner is not None:
            walk, arguments = self._planner.candidates(self.driver)
            writer.arguments += arguments
            table = "dentry_was" if self.driver == NAME_FIELD else "inode_was"
            changed = f"select ino from {table} where snap >= {writer.bind(self._scope.snap)}"
            return f"{text} and i.ino in ({walk} union {changed})"
        changed = "select ino from xattr_was where name = {0} and snap >= {1}"
        found = ""
        name = led_field(self.driver).encode()
        if name in self._keys and self._planner is not None:
            walk, arguments = self._planner.candidates(self.driver)
            writer.arguments += arguments
            found = f"{walk} union "
        found += changed.format(writer.bind(name), writer.bind(self._scope.snap))
        return f"{text} and i.ino in ({found})"


def writer_in(scope: Scope, node: Node) -> Writer:
    """Return what writes conditions of a filter on the inode `f`, for the caller of a scope."""
    return _ScopedWriter(scope, fields_of(node) - SYSTEM_FIELDS.keys())


class _ScopedWriter(Writer):
    """Writes conditions on `f`, an inode of the scope."""

    def __init__(self, scope: Scope, arrays: set[str]) -> None:
        super().__init__({}, "", "f", arrays)
        self._scope = scope
        self._is_now = scope.snap == NOW

    def value(self, field: str) -> str:
        """Return what files are sorted by; null where a file has nothing."""
        if field in COLUMN_FIELDS:
            return SCALARS[field].format("f")
        text = f"(select b.typed from {self._values(field)} as b where b.typed is not null)"
        if self._scope.caller is None:
            return text
        return f"case when {self._may_read()} then {text} end"

    def _may_read(self) -> str:
        """Return whether the caller may read a file."""
        if self._scope.snap != NOW:
            return "may_read(f.ino)"
        # Twenty times as fast as a function that looks the inode up.
        return (
            "permits_reading(f.mode, f.uid, f.gid, (select a.value from xattr as a"
            f" where a.ino = f.ino and a.name = {ACL_LITERAL}))"
        )

    def _condition(self, condition: Condition, *, finds_more: bool) -> str:
        field = condition.field
        if field in LIVE_FIELDS:
            self.is_exact = False
            text = "1" if finds_more else "0"
        elif field in SCALARS or field in ("$path", "$name"):
            text = super()._condition(condition, finds_more=finds_more)
        else:
            text = f"exists (select 1 from {self._values(field)} as b"
            if condition.operator is not Operator.EXISTS:
                text += f" where {self._scalar(condition, 'b.typed')}"
            text += ")"
        if self._scope.caller is None or field in OPEN_FIELDS:
            return text
        # What cannot be read is found by no condition, and by no negation.
        may = self._may_read()
        return f"({may} and {text})" if finds_more else f"(not {may} or {text})"

    def _values(self, field: str) -> str:
        """Return the value of an xattr as a table of one row at most."""
        name = field.encode()
        if self._scope.snap == NOW:
            return f"(select typed from xattr where ino = f.ino and name = {self.bind(name)})"
        self.arguments += [name, self._scope.snap] * 2
        return _VALUE_THEN
