"""Results of a query: entries that are fetched as they are looked at.

Invariant: a page is asked for when its first entry is; what was fetched is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memfs.manager.entries import Entry
    from memfs.manager.paths import MemPath


class Page(NamedTuple):
    """Some entries, and what the next ones are asked for by."""

    entries: list[Entry]
    token: str | None
    """None: these are the last ones."""
    explain: Mapping[str, Any] = {}
    """How they were found."""


class Results(Sequence["Entry"]):
    """Entries that a filter finds, in order.

    Iterating fetches page by page; `len` and negative indexes fetch all.

    Args:
        fetch: Returns the page after a token.
        limit: Entries at the most; None: all.
        cursor: That of earlier results, to go on behind them.
    """

    def __init__(
        self, fetch: Callable[[str | None], Page], limit: int | None, cursor: str | None = None
    ) -> None:
        self._fetch = fetch
        self._limit = limit
        self._entries: list[Entry] = []
        self.cursor = cursor
        """Where the next page begins; None once all is fetched."""
        self.explain: Mapping[str, Any] = {}
        """How the last page was found: `driver`, the field whose index led to it (empty: all files
        were looked at), `duration_s`, `notes`."""
        self._is_complete = limit == 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries, fetching them page by page."""
        at = 0
        while self._has(at + 1):
            yield self._entries[at]
            at += 1

    def __len__(self) -> int:
        """Count all entries, which fetches them."""
        while self._more():
            pass
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """Return an entry, or some of them."""
        if isinstance(index, slice) or index < 0:
            len(self)
        else:
            self._has(index + 1)
        return self._entries[index]

    def __bool__(self) -> bool:
        """Return whether the filter finds anything; fetches one page."""
        return self._has(1)

    def __repr__(self) -> str:
        """Tell how many are fetched."""
        rest = "" if self._is_complete else ", more to fetch"
        return f"Results({len(self._entries)} fetched{rest})"

    def keys(self) -> list[str]:
        """Return the keys of all entries."""
        return [entry.key for entry in self]

    def paths(self) -> list[MemPath]:
        """Return the files of all entries."""
        return [entry.path for entry in self]

    def rows(self) -> list[dict[str, Any]]:
        """Return all entries as rows: key, path, size, time, and the metadata by name."""
        return [
            {
                "key": entry.key,
                "path": str(entry.path),
                "size_bytes": entry.size_bytes,
                "mtime": entry.mtime,
                **entry.metadata,
            }
            for entry in self
        ]

    def arrow(self) -> Any:  # noqa: ANN401 - pyarrow.Table
        """Return all entries as a table of pyarrow; a name that is missing is null."""
        import pyarrow

        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: _column([row.get(name) for row in rows]) for name in names}
        return pyarrow.table(columns)

    def pandas(self) -> Any:  # noqa: ANN401 - pandas.DataFrame
        """Return all entries as a frame of pandas."""
        return self.arrow().to_pandas()

    def _has(self, count: int) -> bool:
        while len(self._entries) < count and self._more():
            pass
        return len(self._entries) >= count

    def _more(self) -> bool:
        """Fetch a page; False if there is no other one."""
        if self._is_complete:
            return False
        page = self._fetch(self.cursor)
        self._entries += page.entries
        self.cursor = page.token
        self.explain = page.explain
        if self._limit is not None and len(self._entries) >= self._limit:
            del self._entries[self._limit :]
            self._is_complete = True
        self._is_complete = self._is_complete or page.token is None
        return True


def plain_filter(condition: Any) -> Any:  # noqa: ANN401 - as JSON has it
    """Return a filter that JSON has: dates and times are texts of ISO 8601, as in metadata."""
    if isinstance(condition, dict):
        return {name: plain_filter(value) for name, value in condition.items()}
    if isinstance(condition, list | tuple):
        return [plain_filter(each) for each in condition]
    if isinstance(condition, date):
        return condition.isoformat()
    return condition


def _column(values: list[Any]) -> list[Any]:
    """Return values of one type: texts, where an attribute is of several."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return values
    return [None if value is None else str(value) for value in values]
