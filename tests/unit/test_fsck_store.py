"""fsck against stores that refuse a part of what it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import MemfsError, StoreError, StoreUnavailableError
from memfs.fsck.check import check
from memfs.moves.uploading import upload
from memfs.stores.forwarding import ForwardingStore
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from memfs.fsck.report import Report
    from memfs.stores.store import ObjectStat, RemoteStore


class Unlisted(ForwardingStore):
    """A store that lists nothing."""

    def __init__(self, inner: RemoteStore, error: MemfsError) -> None:
        super().__init__(inner)
        self._error = error

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        for each in (self._error,):
            raise each
            yield


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


async def _check(state: State, error: MemfsError) -> Report:
    remote = Unlisted(state.remote, error)
    return await check(state.engine, state.raw_store, state.packed_store, remote)


async def test_a_refused_listing_is_no_damage(state: State) -> None:
    """Rights to list are not needed otherwise, and every file was looked at by its key."""
    await upload(state.parts, await state.create("file", compressible(20_000)))
    report = await _check(state, StoreError("403 Forbidden"))
    assert (report.file_count, report.form_count) == (1, 2)
    (problem,) = report.problems
    assert problem.subject == state.remote.url
    assert "not listed" in problem.fault
    assert "403 Forbidden" in problem.fault
    assert "no file is touched" in problem.remedy


async def test_a_store_that_goes_away_meanwhile_is_no_finding(state: State) -> None:
    await upload(state.parts, await state.create("file", compressible(20_000)))
    with pytest.raises(StoreUnavailableError):
        await _check(state, StoreUnavailableError("gone"))
