"""A place where an engine lives, can be closed and can crash."""

from __future__ import annotations

import random
import re
import shutil
import struct
import zlib
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest
import trio

from memfs.config import KIB, MetadataConfig
from memfs.metadata.sqlite import format2
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.metadata.sqlite.undo_triggers import UNDO_TRIGGERS
from memfs.waiting import run_at_once
from tests.contract.engine.suspending import SuspendingEngine

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from memfs.metadata.engine import Engine

T = TypeVar("T")

run = run_at_once

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


_WRITES = re.compile(r"insert or fail into \w+ select .*?(?=( from head)? where not exists)", re.S)
"""What a trigger that writes an undo row does, but for the condition."""

local_only = pytest.mark.parametrize("engine_site", ["sqlite"], indirect=True)
"""For tests of a promise that no engine need make which commits each call by itself."""


def write_first_layout(path: Path, first_sequence: int, payloads: Sequence[bytes]) -> None:
    """Write a journal as versions before the second layout did."""
    fingerprint, salt = zlib.crc32("\n".join(format2.TEXTS).encode()), 0x1234
    header = struct.pack("<8sIIQI", b"memfsjnl", 1, fingerprint, first_sequence, salt)
    content = header + struct.pack("<I", zlib.crc32(header))
    for sequence, payload in enumerate(payloads, first_sequence):
        prefix = struct.pack("<QI", sequence, len(payload))
        checksum = zlib.crc32(payload, zlib.crc32(prefix, salt))
        content += prefix + struct.pack("<I", checksum) + payload
    path.write_bytes(content.ljust(64 * KIB, b"\0"))


def watch_undo_rows(engine: SqliteEngine) -> None:
    """Have each change fail whose row the newest snapshot would not know any more."""
    for text in UNDO_TRIGGERS:
        watch = text.replace("create trigger ", "create temp trigger watch_")
        engine._database.connection.execute(_WRITES.sub("select raise(fail, 'no undo row')", watch))


class SqliteSite:
    """A state directory with its SQLite engine open."""

    commits_each_call: ClassVar = False
    """A call is committed when it is answered, if it is in no change."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._root = root
        self._limits = limits
        self._crash_count = 0
        self.state_dir = root / "state"
        self.engine: Engine = self._open()

    def _open(self) -> Engine:
        self._sqlite = SqliteEngine.open(self.state_dir, CONFIG, BIRTH_NS, self._limits)
        watch_undo_rows(self._sqlite)
        return self._sqlite

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self.engine.close()
        self.engine = self._open()
        return self.engine

    def crash(self) -> Engine:
        """Go on with the files as SIGKILL would have left them."""
        # A file is copied at one instant only while the checkpoint thread rests.
        self._sqlite.wait_for_checkpoint()
        self._crash_count += 1
        copy = self._root / f"crash-{self._crash_count}"
        shutil.copytree(self.state_dir, copy)
        self._abandon()
        shutil.rmtree(self.state_dir)
        self.state_dir = copy
        self._after_crash()
        self.engine = self._open()
        return self.engine

    def _abandon(self) -> None:
        """End an engine whose files were copied."""
        self.engine.close()

    def _after_crash(self) -> None:
        """Do to the files what a crash has done beside the kill."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the engine to its end."""
        return run(coroutine)

    def undo_row_count(self) -> int:
        """Count all rows that are there for snapshots."""
        tables = ("snapshot", "head", "inode_was", "dentry_was", "xattr_was", "symlink_was", "kept")
        counts = ", ".join(f"(select count(*) from {table})" for table in tables)
        return sum(self._sqlite._rows(f"select {counts}")[0])

    def close(self) -> None:
        """Close the engine, check it before."""
        damage = self.engine.check()
        self.engine.close()
        assert damage == []


class SuspendingSite(SqliteSite):
    """The same engine, which suspends at random at each call and commits late."""

    commits_each_call: ClassVar = True

    def _open(self) -> Engine:
        return SuspendingEngine(super()._open(), random.Random(1)).as_engine

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the engine to its end."""

        async def main() -> T:
            return await coroutine

        return trio.run(main)
