"""Mutations of an engine that belong together; `engine` has the rules that all of them keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class Changes(Protocol):
    """Mutations that belong together; every part of an engine has it."""

    def change(self, *, deferred: bool = False) -> AbstractAsyncContextManager[None]:
        """Collect the mutations of one step: all or nothing happens at the end of the block.

        What is read within the block has its mutations, and stays as it is until its end. The block
        awaits nothing but the engine. If it raises, nothing of it happens. A block within another
        one is a part of it.

        Args:
            deferred: Its commit may wait for the replies of the batch (`commit`), as that of a
                single mutation does.

        Raises:
            NoSpaceError, MetadataError: At the end; as `commit`, but no UnconfirmedError: nothing
                of the step may be undone for that, so only who answers somebody hears of it.
        """
        ...

    @property
    def uncommitted(self) -> bool:
        """True if a mutation that was answered awaits its commit: replies to programs wait too."""
        ...

    async def commit(self) -> None:
        """Make all mutations that were answered so far survive the death of this process.

        Several may wait for one commit. Not within a block of `change`.

        Raises:
            NoSpaceError: The disk is full. All mutations since the last commit are undone, and
                each who waits for the commit of one is told.
            UnconfirmedError: Nothing is undone: they are safe here, and the database of a shared
                mount, which did not answer in time, will have them.
            MetadataError: Any other failure; undone likewise.
        """
        ...
