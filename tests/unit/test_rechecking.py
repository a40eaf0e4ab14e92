"""Power loss: the engine has forgotten that a file was opened for writing; its bytes are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.metadata.records import InodeFlags
from memfs.moves.rechecking import FETCHED, SETTING, Recheck
from memfs.moves.uploading import upload
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


async def durable_file(state: State, name: str, content: bytes) -> InodeNo:
    ino = await state.create(name, content)
    inode = await state.engine.get_inode(ino)
    await state.engine.mark_durable([(ino, inode.generation)])
    state.engine.commit_nowait()
    return ino


async def write_unnoticed(state: State, ino: InodeNo, content: bytes) -> None:
    inode = await state.engine.get_inode(ino)
    state.raw_store.path(inode.raw).write_bytes(content)


async def boot(state: State, name: bytes) -> Recheck:
    recheck = Recheck(state.parts, name, files_a_slice=2)
    await recheck.begin()
    return recheck


async def run(recheck: Recheck) -> int:
    adopted_count = 0
    while not recheck.done:
        adopted_count += await recheck.compare_slice()
    return adopted_count


async def test_files_written_before_power_loss_are_adopted(state: State) -> None:
    """Each in its turn, however many others there are, and no other one."""
    await run(await boot(state, b"first"))
    inos = [await durable_file(state, str(number), b"old") for number in range(7)]
    await write_unnoticed(state, inos[4], b"newer")
    assert await run(await boot(state, b"second")) == 1
    await state.sealer.seal_all()
    sizes = [(await state.engine.get_inode(ino)).size for ino in inos]
    assert sizes == [3, 3, 3, 3, 5, 3, 3]
    flags = [(await state.engine.get_inode(ino)).flags for ino in inos]
    assert flags.count(InodeFlags.DURABLE) == 6


async def test_nothing_is_doubted_while_the_machine_stays_up(state: State) -> None:
    """SIGKILL of the daemon loses no note: the journal is in the page cache."""
    await run(await boot(state, b"first"))
    assert (await boot(state, b"first")).done


async def test_nothing_is_doubted_in_a_new_state(state: State) -> None:
    """Its first mount may be so short that no step comes before its end."""
    first = await boot(state, b"first")
    await durable_file(state, "f", b"content")
    await first.note_drained()
    state.engine.commit_nowait()
    assert (await boot(state, b"second")).proven


async def test_nothing_is_doubted_after_an_orderly_end(state: State) -> None:
    first = await boot(state, b"first")
    await run(first)
    await first.note_drained()
    state.engine.commit_nowait()
    second = await boot(state, b"second")
    assert second.done
    assert not (await boot(state, b"third")).done


async def test_an_unfinished_recheck_begins_anew(state: State) -> None:
    """Also where its mount ended in order."""
    await run(await boot(state, b"first"))
    inos = [await durable_file(state, str(number), b"old") for number in range(5)]
    await write_unnoticed(state, inos[4], b"newer")
    second = await boot(state, b"second")
    assert await second.compare_slice() == 0
    await second.note_drained()
    state.engine.commit_nowait()
    assert await run(await boot(state, b"second")) == 1


async def test_a_file_that_a_program_has_written_since_is_left_alone(state: State) -> None:
    await run(await boot(state, b"first"))
    ino = await durable_file(state, "file", b"old")
    await write_unnoticed(state, ino, b"newer")
    recheck = await boot(state, b"second")
    await state.rewrite(ino, b"by a program")
    assert await run(recheck) == 0
    assert await state.content(ino) == b"by a program"


async def test_what_was_fetched_as_a_reader_gets_the_times_of_its_inode(state: State) -> None:
    """Nothing of it was written here; what has another size has its bytes in a form."""
    inos = [await durable_file(state, str(number), b"old") for number in range(5)]
    retimed, cut, gone = [await state.engine.get_inode(ino) for ino in inos[:3]]
    for inode in (cut, gone):
        await upload(state.parts, inode.ino)
    state.raw_store.set_times(retimed.raw, 1, 2)
    state.raw_store.path(cut.raw).write_bytes(b"")
    state.raw_store.unlink(gone.raw)
    async with state.engine.change():
        await state.engine.put_setting(SETTING, FETCHED)
    recheck = await boot(state, b"of the heir")
    assert recheck.proven
    assert state.raw_store.stat(retimed.raw).st_mtime_ns == retimed.mtime_ns
    now = [await state.engine.get_inode(ino) for ino in inos]
    assert [bool(inode.raw) for inode in now] == [True, False, False, True, True]
    assert [inode.mtime_ns for inode in now[:1]] == [retimed.mtime_ns]
    assert await state.sealer.adopt_doubtful() == 0
    assert await state.engine.get_setting(SETTING) == b"of the heir"
