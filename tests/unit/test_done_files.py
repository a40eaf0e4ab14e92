"""Files that make room: done ones first, then those used last, and never an only form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.moves.uploading import upload
from memfs.placement.prefetch.done_files import DoneFiles
from memfs.policy import rules
from memfs.types import FormKind, InodeNo, Tier
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL = {FormKind.RAW, FormKind.REMOTE}
GONE = {FormKind.REMOTE}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def done(state: State) -> DoneFiles:
    return DoneFiles(state.placement())


async def stored(state: State, *names: str) -> list[InodeNo]:
    """Files with a raw and a remote form."""
    inos = [await state.create(name, compressible(5000, seed=len(name))) for name in names]
    for ino in inos:
        await upload(state.parts, ino)
    return inos


async def test_what_is_done_leaves_in_the_order_in_which_it_was(
    state: State, done: DoneFiles
) -> None:
    """One at a time, as room is needed; that is recorded."""
    first, second = await stored(state, "a", "b")
    done.add([second, first])
    assert await done.drop_next()
    assert (await state.forms(first), await state.forms(second)) == (LOCAL, GONE)
    decision = await state.engine.get_decision(second)
    assert decision is not None
    assert decision.rule == rules.DONE
    assert await done.drop_next()
    assert not await done.drop_next()


async def test_what_is_used_last_makes_room_when_nothing_is_done(
    state: State, done: DoneFiles
) -> None:
    """In an exact order only; what has been fetched for its turn is out of it."""
    a, b, c = await stored(state, "a", "b", "c")
    done.expect([a, b, c], exact=False)
    assert not await done.drop_next()
    done.expect([a, b, c], exact=True)
    done.forget([c])
    assert await done.drop_next()
    assert [await state.forms(ino) for ino in (a, b, c)] == [LOCAL, GONE, LOCAL]
    done.add([c])
    assert await done.drop_next()
    assert [await state.forms(ino) for ino in (a, c)] == [LOCAL, GONE]


async def test_what_is_used_again_is_done_no_more(state: State, done: DoneFiles) -> None:
    """The next epoch's order says so."""
    [ino] = await stored(state, "a")
    done.add([ino])
    done.expect([ino], exact=False)
    assert not await done.drop_next()
    assert await state.forms(ino) == LOCAL


async def test_an_only_form_an_open_file_and_a_pinned_one_stay(
    state: State, done: DoneFiles
) -> None:
    """They are passed over."""
    alone = await state.create("alone", compressible(5000))
    opened, pinned, gone, free = await stored(state, "open", "pinned", "gone", "free")
    await state.engine.set_pin(pinned, Tier.COLD)
    state.engine.commit_nowait()
    state.open_table.begin(opened)
    await state.unlink("gone")
    done.add([alone, opened, pinned, gone, free])
    assert await done.drop_next()
    assert not await done.drop_next()
    assert await state.forms(alone) == {FormKind.RAW}
    assert (await state.forms(opened), await state.forms(pinned)) == (LOCAL, LOCAL)
    assert await state.forms(free) == GONE
    state.open_table.end(opened)


async def test_a_file_that_is_open_when_its_room_is_needed_leaves_once_it_is_closed(
    state: State, done: DoneFiles
) -> None:
    """A program tells that it is done before the kernel tells that the file is closed."""
    inos = await stored(state, "a", "bb", "ccc")
    for ino in inos:
        state.open_table.begin(ino)
    done.add(inos[:2])
    done.expect(inos[2:], exact=True)
    assert not await done.drop_next()
    assert done.open_count == 3
    for ino in inos:
        state.open_table.end(ino)
    assert [await done.drop_next() for _ in range(4)] == [True, True, True, False]
    assert [await state.forms(ino) for ino in inos] == [GONE] * 3
    assert done.open_count == 0


async def test_open_files_keep_no_others_from_their_turn(
    state: State,
) -> None:
    """However many are open: a look is bounded, and the next one goes on behind it."""
    done = DoneFiles(state.placement(), looks_max=2)
    inos = await stored(state, "a", "bb", "ccc", "dddd", "eeeee")
    for ino in inos[:4]:
        state.open_table.begin(ino)
    done.add(inos)
    assert [await done.drop_next() for _ in range(3)] == [False, False, True]
    assert await state.forms(inos[4]) == GONE
    for ino in inos[:4]:
        state.open_table.end(ino)


async def test_ram_is_freed_likewise(state: State, done: DoneFiles) -> None:
    """Its files stay on the disk."""
    held, other = await stored(state, "a", "b")
    inode = await state.engine.get_inode(held)
    await state.residency.lock(held, inode.raw, inode.size)
    done.add([other, held])
    assert await done.unlock_next()
    assert not state.residency.is_held(held)
    assert not await done.unlock_next()
    assert await state.forms(held) == LOCAL
