"""What the daemon answers to `memfs gc`, on a real engine and real stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from memfs.config import QuotasConfig
from memfs.control.methods import upkeep
from memfs.jobs.gc import GcMethods
from memfs.jobs.orphans import SearchPlace
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.placement.quotas import Quotas
from memfs.placement.upkeep import Compaction
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


@pytest.fixture
def gc(state: State) -> GcMethods:
    quotas = Quotas(QuotasConfig(), state.engine)
    return GcMethods(state.parts, state.garbage, Compaction(state.parts, quotas))


async def test_garbage_is_removed_and_a_dry_run_only_counts(state: State, gc: GcMethods) -> None:
    for name in ("a", "b"):
        await state.create(name, b"content")
        await state.unlink(name)
    assert await gc.garbage(dry_run=True) == {"removed_count": 0, "left_count": 2, "held_count": 0}
    assert await gc.garbage() == {"removed_count": 2, "left_count": 0, "held_count": 0}
    assert await state.leaks() == []


async def test_sparse_batches_are_compacted_one_a_call(state: State, gc: GcMethods) -> None:
    """And then no batch is left, and the files in it are as they were."""
    inos = [await state.create(f"{number}", compressible(5000, number)) for number in range(8)]
    await upload_batch(state.parts, inos)
    await drop_raw(state.parts, inos[7])
    for number in range(7):
        await state.unlink(f"{number}")
    told: Any = await gc.batches(dry_run=True)
    assert (told["compacted"], told["left_count"]) == (None, 1)
    done: Any = await gc.batches()
    assert (done["compacted"]["failure"], done["left_count"]) == (None, 0)
    assert done["compacted"]["freed_bytes"] == told["left_bytes"]
    again: Any = await gc.batches()
    assert again["compacted"] is None
    assert await state.content(inos[7]) == compressible(5000, 7)


async def test_accounts_that_have_drifted_are_told(state: State, gc: GcMethods) -> None:
    """As they are kept and as they count, by name."""
    await state.create("a", b"content")
    sound: Any = await gc.accounts()
    assert sound["drift"] == {}
    state.engine._totals[1] += 5
    drifted: Any = await gc.accounts()
    assert drifted["drift"] == {"logical_bytes": [12, 7]}


def test_places_are_those_that_can_be_looked_at() -> None:
    assert {each.value for each in SearchPlace} == set(get_args(upkeep.SearchPlace))
