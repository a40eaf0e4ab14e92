"""A place where an engine lives, can be closed and can crash."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, TypeVar

from memfs.config import KIB, MetadataConfig
from memfs.metadata.sqlite.database import Limits
from memfs.metadata.sqlite.engine import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from memfs.metadata.engine import Engine

T = TypeVar("T")

BIRTH_NS = 1_000
"""When the root directory was made."""

SMALL = Limits(
    checkpoint_bytes=4 * KIB,
    journal_bytes=64 * KIB,
    reserve_bytes=64 * KIB,
    log_page_count=8,
    late_bytes=4 * KIB,
)
"""Sizes at which a short test goes through every part of a checkpoint."""

CONFIG = MetadataConfig(cache_bytes=256 * KIB, inode_cache_count=3)
"""A cache so small that tests see rows as well as cached inodes."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of an engine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the engine suspended")


class SqliteSite:
    """A state directory with its SQLite engine open."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._root = root
        self._limits = limits
        self._crash_count = 0
        self.state_dir = root / "state"
        self.engine: Engine = self._open()

    def _open(self) -> SqliteEngine:
        self._sqlite = SqliteEngine.open(self.state_dir, CONFIG, BIRTH_NS, self._limits)
        return self._sqlite

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self.engine.close()
        self.engine = self._open()
        return self.engine

    def crash(self) -> Engine:
        """Go on with the files as SIGKILL would have left them."""
        # A file is copied at one instant only while the checkpoint thread rests.
        self._sqlite.settle()
        self._crash_count += 1
        copy = self._root / f"crash-{self._crash_count}"
        shutil.copytree(self.state_dir, copy)
        self.engine.close()
        shutil.rmtree(self.state_dir)
        self.state_dir = copy
        self.engine = self._open()
        return self.engine

    def close(self) -> None:
        """Close the engine, check it before."""
        damage = self.engine.check()
        self.engine.close()
        assert damage == []
