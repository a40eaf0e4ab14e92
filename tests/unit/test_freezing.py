"""A thaw is safe for nodes that rely on a frozen tree, and may be cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import FrozenError, NoXattrError
from memfs.filesystem.freezing import Freezing
from memfs.metadata.namespace import FROZEN_S, FrozenTree
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from tests.moving import State

LATE_NS = 1 << 62


@pytest.mark.parametrize("is_shared", [False, True])
async def test_nothing_changes_before_all_nodes_have_heard_of_a_thaw(
    state: State, autojump_clock: trio.testing.MockClock, is_shared: bool
) -> None:
    engine = state.engine
    freezing = Freezing(engine, state.parts.sealer, is_shared=is_shared)
    assert await freezing.freeze(ROOT_INODE)
    assert not await freezing.freeze(ROOT_INODE)
    begun_s = trio.current_time()
    await freezing.thaw(ROOT_INODE)
    waited_s = trio.current_time() - begun_s
    assert waited_s > FROZEN_S if is_shared else waited_s == 0
    assert not engine.has_frozen
    with pytest.raises(NoXattrError):
        await freezing.thaw(ROOT_INODE)


async def test_a_thaw_that_is_cut_off_leaves_the_tree_frozen(
    state: State, autojump_clock: trio.testing.MockClock
) -> None:
    engine = state.engine
    freezing = Freezing(engine, state.parts.sealer, is_shared=True)
    await freezing.freeze(ROOT_INODE)
    with trio.move_on_after(FROZEN_S / 2):
        await freezing.thaw(ROOT_INODE)
    assert await engine.list_frozen() == [FrozenTree(ROOT_INODE, True)]
    with pytest.raises(FrozenError):
        await engine.set_xattr(ROOT_INODE, b"user.a", b"1", 0, LATE_NS)
    await freezing.thaw(ROOT_INODE)
    await engine.set_xattr(ROOT_INODE, b"user.a", b"1", 0, LATE_NS)
