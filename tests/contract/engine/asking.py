"""Questions to an engine, page by page, and the indexes that lead them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.records import Scope
from memfs.query.parsing import parse
from memfs.types import NOW, InodeNo

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import FileOrder
    from memfs.types import SnapshotId


async def build(engine: Engine, limit: int = 3) -> None:
    """Build all indexes to their end, in steps of so many inodes."""
    while await engine.build_indexes(limit):
        pass


async def ask(
    engine: Engine,
    filter_: object,
    order: FileOrder | None = None,
    limit: int = 1000,
    snap: SnapshotId = NOW,
) -> tuple[list[InodeNo], str]:
    """All files of a filter, and what led to the first page."""
    node, after, inos, driver = parse(filter_), None, list[InodeNo](), None
    while True:
        page = await engine.find_files(node, order, after, limit, None, Scope(snap))
        assert page is not None
        assert page.is_exact
        driver = page.driver if driver is None else driver
        inos += page.inos
        after = page.after
        if after is None:
            return inos, driver
