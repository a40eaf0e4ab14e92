"""What the daemon answers to `memfs gc`, on a real engine and real stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import pytest

from memfs.config import QuotasConfig
from memfs.control.methods import upkeep
from memfs.errors import CorruptDataError
from memfs.jobs.gc import GcMethods
from memfs.jobs.orphans import SearchPlace
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.placement import upkeep as upkeep_rounds
from memfs.placement.quotas import Quotas
from memfs.placement.upkeep import Compaction
from memfs.types import FormKind
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.records import Batch
    from memfs.moves.attempt import MoveParts


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
    held = {"held_count": 0, "needed_count": 0}
    assert await gc.garbage(dry_run=True) == {"removed_count": 0, "left_count": 2} | held
    assert await gc.garbage() == {"removed_count": 2, "left_count": 0} | held
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


@pytest.mark.parametrize("error", [CorruptDataError("a damaged part"), KeyError("a defect")])
async def test_batches_that_cannot_be_compacted_hide_no_other(
    state: State, gc: GcMethods, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """However many they are: they are the sparsest, and stay so."""
    monkeypatch.setattr(upkeep_rounds, "BATCHES_LOOKED_AT", 2)
    kept = []
    for batch in range(4):
        names = [f"{batch}-{number}" for number in range(8)]
        inos = [await state.create(name, compressible(5000, batch)) for name in names]
        await upload_batch(state.parts, inos)
        # The last one is the densest.
        for name in names[: 7 if batch < 3 else 5]:
            await state.unlink(name)
        kept.append(inos[7])
    last = (await state.form(kept[3], FormKind.REMOTE)).place.key

    async def compact_last(parts: MoveParts, batch: Batch) -> int:
        if batch.key != last:
            raise error
        return await compact(parts, batch)

    monkeypatch.setattr(upkeep_rounds, "compact", compact_last)
    found = [cast("Any", await gc.batches())["compacted"] for _ in range(4)]
    assert [each["failure"] is None for each in found] == [False, False, False, True]
    assert (await state.form(kept[3], FormKind.REMOTE)).place.key != last


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
