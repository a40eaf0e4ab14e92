"""Changes: the mutations of one step, committed together at its end.

Invariant: a step that raises leaves nothing of its own behind, and all that was uncommitted before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from memfs.metadata.sqlite.database import Database, Savepoint


class Change:
    """The block of `Engine.change`; one object serves all blocks of its kind, as no block suspends.

    Args:
        database: What the mutations are written to.
        savepoints: Where the blocks under way began, the outermost first; of all kinds of blocks.
        commits: The end of the outermost block commits, and does not leave it to the replies.
    """

    def __init__(self, database: Database, savepoints: list[Savepoint], *, commits: bool) -> None:
        self._database = database
        self._savepoints = savepoints
        self._commits = commits

    async def __aenter__(self) -> None:
        """Begin a step, or a part of one."""
        self._savepoints.append(self._database.savepoint())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit the step, or take back what there is of it."""
        savepoint = self._savepoints.pop()
        if error is not None:
            self._database.take_back(savepoint)
        elif self._commits and not self._savepoints:
            self._database.commit_nowait()
