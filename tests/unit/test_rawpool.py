"""The pool of raw files made ahead of need."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.content.rawpool import REFILL_COUNT, RawPool
from memfs.metadata.sqlite import lease
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.stores.raw import RawStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    opened = SqliteEngine.open(tmp_path, MetadataConfig())
    yield opened
    opened.close()


@pytest.fixture
def raw_store(tmp_path: Path, engine: SqliteEngine) -> Iterator[RawStore]:
    store = RawStore(tmp_path)
    yield store
    store.close()


def test_taken_files_are_empty_read_only_and_never_the_same(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """Two inodes with one raw file would be one file."""
    pool = RawPool(engine, raw_store)
    first, second = pool.take(), pool.take()
    assert len({first.ino, second.ino}) == len({first.raw, second.raw}) == 2
    assert os.fstat(first.fd).st_size == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(first.fd, b"x")
    os.close(first.fd)
    os.close(second.fd)


async def test_a_filled_pool_makes_no_file_when_one_is_taken(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """And one that is never asked makes none at all."""
    pool = RawPool(engine, raw_store)
    assert list(raw_store.iterate()) == []
    taken = [pool.take()]
    await pool.refill()
    before = len(list(raw_store.iterate()))
    taken += [pool.take() for _ in range(REFILL_COUNT)]
    assert len(list(raw_store.iterate())) == before
    for ready in taken:
        os.close(ready.fd)
    pool.close()
    assert sorted(raw_store.iterate()) == sorted(ready.raw for ready in taken)


def test_what_is_given_back_is_taken_next_and_removed_at_the_end(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """A refused create leaves nothing behind."""
    pool = RawPool(engine, raw_store)
    ready = pool.take()
    pool.give_back(ready)
    assert pool.take() == ready
    pool.give_back(ready)
    pool.close()
    assert list(raw_store.iterate()) == []


async def test_a_crash_forgets_no_file_of_a_pool_that_nobody_drew_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories and links take numbers too, and the sweep looks at the last ones only."""
    monkeypatch.setattr(lease, "LEASE_COUNT", 100)
    engine = SqliteEngine.open(tmp_path / "state", MetadataConfig())
    raw_store = RawStore(tmp_path / "state")
    pool = RawPool(engine, raw_store)
    await pool.refill()
    ready = set(raw_store.iterate())
    for _ in range(1000):
        engine.reserve_ids()
    engine.wait_for_checkpoint()
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    after = SqliteEngine.open(tmp_path / "crashed", MetadataConfig())
    start, end = after.unsettled_raw_range()
    assert ready
    assert ready <= set(range(start, end))
    after.close()
    pool.close()
    raw_store.close()
    engine.close()
