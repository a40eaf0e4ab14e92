"""The part of an engine that answers questions to all files at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.metadata.changes import Changes
from memfs.metadata.records import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import (
        ElementProgress,
        FieldIndex,
        FileOrder,
        FilePage,
        FilePosition,
        FoundInode,
        IndexProgress,
        Scope,
    )
    from memfs.query.filters import Node
    from memfs.types import InodeNo


class Queries(Changes, Protocol):
    """Questions to all files at once."""

    async def find_files(
        self,
        node: Node,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        budget_s: float | None,
        scope: Scope = EVERYTHING,
    ) -> FilePage | None:
        """Return inodes that a filter finds, in pages; those without a name may be among them.

        User xattrs, `$path`, `$name`, `$size`, `$mtime` and `$digest` are decided as
        `query.matching` does, size and time being those of the last seal. Conditions on other
        fields are taken to hold, or not to hold, whichever finds more files. What holds on to its
        values and names while page after page is read is found exactly once.

        For a caller neither the files nor how long it takes depends on what it may not see: no
        index leads, and conditions are looked at after permissions. A file that it may not read is
        found by nothing that is an xattr, and by no negation of that. In a scope that is not
        `EVERYTHING` each inode has a name, and a page may be short of files although it goes on.

        Args:
            order: How they are sorted; None: as is easiest.
            after: That of the page before, with the same filter and order; None: the first page.
            limit: At most so many.
            budget_s: How long it may take; None: as long as it takes.
            scope: Which instant, and for whom.

        Returns:
            None if the budget is too small, or would have to be exceeded by one step.

        Raises:
            NotSupportedError: The index is off or not complete, or a name is not in it.
            NotFoundError: The snapshot is gone.
        """
        ...

    async def describe_files(
        self, inos: Sequence[InodeNo], scope: Scope, *, with_xattrs: bool = False
    ) -> list[FoundInode]:
        """Return what a scope shows of inodes, in their order; those that it hides are left out.

        Raises:
            NotFoundError: The snapshot is gone.
        """
        ...

    def indexed_names(self) -> list[bytes]:
        """Return the names of user xattrs that the index has, or had once."""
        ...

    async def count_named(self, inos: Sequence[InodeNo]) -> int:
        """Return how many of the inodes have a name; the root has one."""
        ...

    async def index_attributes(self, limit: int) -> IndexProgress:
        """Put xattrs into the index that were set without it, in order of inode.

        Args:
            limit: Xattrs that are looked at, and entries that are written; the last one of these
                may be a JSON array, with an entry for each element.
        """
        ...

    def index_progress(self) -> IndexProgress:
        """Return how complete the index of attributes is."""
        ...

    # --- indexes of what memfs knows --------------------------------------------------------------
    async def add_index(self, field: str) -> None:
        """Begin an index, which `build_indexes` fills; idempotent.

        Changes of files keep it up to date from now on. Once it is whole, filters and orders are
        led by it. That of the texts in an xattr leads to values with a part or a word; of JSON
        arrays these are the decoded elements.

        Args:
            field: `$size`, `$mtime` or `$name`; or `user.NAME`: of the texts in that xattr.

        Raises:
            InvalidValueError: No other field can have one.
            NotSupportedError: The database cannot search texts, the index of xattrs is off or has
                no room for the name, or too many xattrs have an index of their texts.
            AlreadyExistsError: The one before is still being removed.
        """
        ...

    async def drop_index(self, field: str) -> None:
        """Give an index up; `build_indexes` removes its entries.

        Raises:
            NotFoundError: There is no such index.
        """
        ...

    async def build_indexes(self, limit: int) -> bool:
        """Do a part of what is to be done for the indexes that were added, and for elements.

        Args:
            limit: Entries that are made or removed; of a text, each 64 letters count as one. The
                last file may have several names, the last array several elements, and the last
                text more letters.

        Returns:
            False if there is nothing to do.
        """
        ...

    def field_indexes(self) -> list[FieldIndex]:
        """Return the indexes that were added, by field."""
        ...

    def element_progress(self) -> ElementProgress:
        """Return how complete the index of elements is."""
        ...
