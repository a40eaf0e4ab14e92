"""Published: the engine methods for the records of published objects.

Invariant: the rows refer to files and are not kept by them: what is published outlives its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.metadata.sqlite.observations import Observations
from memfs.metadata.sqlite.statements import DELETE_PUBLISHED, PUT_PUBLISHED, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.types import InodeNo

_COLUMNS = ", ".join(PublishedObject._fields)
_SELECT = f"select {_COLUMNS} from published where url = ?"
_LIST = f"select {_COLUMNS} from published where target = ? and url > ? order by url limit ?"

_LIST_OF = f"select {_COLUMNS} from published where ino = ? order by url"

_PROBLEMS = {problem.value: problem for problem in PublishProblem}


def _published(row: Row) -> PublishedObject:
    # A problem that a later version knows is met anew.
    problem = _PROBLEMS.get(row[-1], PublishProblem.NONE)
    return PublishedObject._make((*row[:-1], problem))


class PublishedRows(Observations):
    """The records of published objects."""

    async def put_published(self, published: PublishedObject) -> None:
        self._begin_change()
        self._write(PUT_PUBLISHED, (*published[:-1], published.problem.value))

    async def get_published(self, url: str) -> PublishedObject | None:
        row = self._row(_SELECT, (url,))
        return None if row is None else _published(row)

    async def list_published(self, target: str, after: str, limit: int) -> list[PublishedObject]:
        return [_published(row) for row in self._rows(_LIST, (target, after, limit))]

    async def list_published_of(self, ino: InodeNo) -> list[PublishedObject]:
        return [_published(row) for row in self._rows(_LIST_OF, (ino,))]

    async def forget_published(self, urls: Sequence[str]) -> None:
        self._begin_change()
        for url in urls:
            self._write(DELETE_PUBLISHED, (url,))
