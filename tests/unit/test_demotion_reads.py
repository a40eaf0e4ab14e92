"""What a demotion asks the engine: a file is read anew only where it may have changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memfs.config import GlacierConfig
from memfs.content.activity import Activity
from memfs.placement.mover import Mover
from memfs.types import FormKind, Tier
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo


async def _settle() -> bool:
    return False


@pytest.mark.parametrize(
    ("tier", "batched", "read_count"),
    [(Tier.COLD, False, 6), (Tier.GLACIER, False, 6), (Tier.GLACIER, True, 8)],
)
async def test_a_demotion_reads_a_file_no_more_often_than_it_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: Tier, batched: bool, read_count: int
) -> None:
    """It was read 12 times.

    Now the change of the pin reads it, the round, the move where it begins, the gate of the raw
    file twice, the move after the bytes are written, and the batch twice: before it leaves out
    clones that are uploaded just now, and after it was gathered.
    """
    glacier = GlacierConfig(batch_file_bytes_max=1 << 20 if batched else 0)
    state = State(tmp_path / "state", replace(SMALL_FRAMES, glacier=glacier))
    activity = Activity()
    mover = Mover(state.placement(activity), _settle)
    await mover.run_round()
    ino = await state.create("a", compressible(100_000))
    await state.engine.set_pin(ino, tier)
    state.engine.commit_nowait()
    activity.note_pin(ino)
    reads: list[InodeNo] = []
    get_inode = state.engine.get_inode

    async def count(read: InodeNo) -> Inode:
        reads.append(read)
        return await get_inode(read)

    monkeypatch.setattr(state.engine, "get_inode", count)
    await mover.run_round()
    monkeypatch.undo()
    form = FormKind.PACKED if tier == Tier.COLD else FormKind.REMOTE
    assert await state.forms(ino) == {form}
    state.close()
    assert reads.count(ino) == read_count
