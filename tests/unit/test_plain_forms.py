"""Plain objects: files whose bytes lie in a bucket as other programs have written them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blake3
import pytest

from memfs.content.forms import FormReader
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import CorruptDataError, NotSupportedError, ObjectMissingError
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.metadata.records import Blob, Form
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.rekeying import list_keyed, rekey
from memfs.moves.uploading import upload
from memfs.types import FormCoding, FormKind, Layout, Place
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

KEY = "photos/a@12.jpg"
CONTENT = compressible(2_500_000)
"""It has three frames."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


@pytest.fixture
def reader(state: State) -> FormReader:
    return FormReader(state.engine, state.packed_store, state.remote, state.raw_store)


def store(state: State, content: bytes, key: str = KEY) -> None:
    """Have another program write an object."""
    path = state.objects_dir / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def adopt(
    state: State, content: bytes = CONTENT, place: Place | None = None, *, drops: bool = True
) -> InodeNo:
    """Make a file whose content is a plain object."""
    store(state, content)
    ino = await state.create("a", content)
    inode = await state.engine.get_inode(ino)
    blob = Blob(state.engine.reserve_blob(), len(content), blake3.blake3(content).digest())
    form = Form(
        blob.blob,
        FormKind.REMOTE,
        place or Place(KEY, etag="e"),
        FormCoding("none"),
        len(content),
        Layout.PLAIN,
        owned=False,
    )
    async with state.engine.change():
        assert await state.engine.publish_form(ino, inode.generation, blob, form, None)
    if drops:
        assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
    return ino


@pytest.mark.parametrize("content", [CONTENT, b"short", bytes(3_000_000), b"x" + bytes(2 << 20)])
async def test_a_plain_object_becomes_a_raw_file(state: State, content: bytes) -> None:
    ino = await adopt(state, content)
    assert await state.forms(ino) == {FormKind.REMOTE}
    assert await state.content(ino) == content


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 4096), ((1 << 20) - 1, 2), (100, 2_000_000), (2_499_999, 10), (2_500_000, 5)],
)
async def test_a_range_of_a_plain_object_reads_as_of_the_file(
    state: State, reader: FormReader, offset: int, size: int
) -> None:
    inode = await state.engine.get_inode(await adopt(state))
    assert await reader.read(inode, offset, size) == CONTENT[offset : offset + size]
    assert await reader.read(inode, offset, size) == CONTENT[offset : offset + size]


async def test_no_byte_of_another_content_is_handed_out(state: State, reader: FormReader) -> None:
    """Neither at the first read nor later: somebody may write the object anew at any time."""
    inode = await state.engine.get_inode(await adopt(state))
    changed = bytearray(CONTENT)
    changed[2_000_000] ^= 1
    store(state, bytes(changed))
    with pytest.raises(CorruptDataError):
        await reader.read(inode, 0, 10)
    with pytest.raises(CorruptDataError):
        await hydrate(state.parts, inode.ino)
    store(state, CONTENT)
    fresh = FormReader(state.engine, state.packed_store, state.remote, state.raw_store)
    await hydrate(state.parts, inode.ino)
    await drop_raw(state.parts, inode.ino)
    assert await fresh.read(inode, 0, 10) == CONTENT[:10]
    store(state, bytes(changed))
    with pytest.raises(CorruptDataError):
        await fresh.read(inode, 2_000_000, 10)


@pytest.mark.parametrize("size", [0, 100, 2_499_999, 2_500_001])
async def test_an_object_of_another_size_is_refused(
    state: State, reader: FormReader, size: int
) -> None:
    inode = await state.engine.get_inode(await adopt(state))
    store(state, CONTENT[:size] if size < len(CONTENT) else CONTENT + b"+")
    if size > len(CONTENT):
        # The first bytes are those that were adopted; that more came later is for a refresh.
        assert await reader.read(inode, 0, 10) == CONTENT[:10]
    else:
        with pytest.raises(CorruptDataError):
            await reader.read(inode, 0, 10)


async def test_the_last_local_copy_stays_if_the_object_was_written_anew(state: State) -> None:
    """As long as before, so that its size tells nothing."""
    ino = await adopt(state, drops=False)
    store(state, bytes(len(CONTENT)))
    with pytest.raises(CorruptDataError):
        await drop_raw(state.parts, ino)
    (state.objects_dir / KEY).unlink()
    with pytest.raises(ObjectMissingError):
        await drop_raw(state.parts, ino)
    assert FormKind.RAW in await state.forms(ino)
    assert await state.content(ino) == CONTENT


async def test_a_file_that_is_removed_leaves_the_object(state: State) -> None:
    await adopt(state)
    await state.unlink("a")
    assert await state.garbage.collect(100)
    assert (state.objects_dir / KEY).read_bytes() == CONTENT


async def test_a_file_that_is_rewritten_leaves_the_object(state: State) -> None:
    ino = await adopt(state)
    await hydrate(state.parts, ino)
    await state.rewrite(ino, b"new")
    await upload(state.parts, ino)
    while await state.garbage.collect(100):
        pass
    assert (state.objects_dir / KEY).read_bytes() == CONTENT
    assert await state.content(ino) == b"new"


async def test_a_plain_object_is_never_rekeyed(state: State) -> None:
    ino = await adopt(state)
    state.parts.keys = KeyRing([Key(bytes(32), "key")])
    assert [form.current for form in await list_keyed(state.parts, ino)] == [True]
    assert (await rekey(state.parts, ino)).outcome == MoveOutcome.UNNEEDED
    form = await state.form(ino, FormKind.REMOTE)
    assert (form.owned, form.layout, form.place.key) == (False, Layout.PLAIN, KEY)


async def test_scrub_and_fsck_read_plain_objects(state: State) -> None:
    ino = await adopt(state, drops=False)
    assert (await scrub_file(state.parts, ino)).outcome == ScrubOutcome.SOUND
    assert await problems(state) == []
    store(state, bytes(len(CONTENT)))
    assert len(await problems(state)) == 1
    scrubbed = await scrub_file(state.parts, ino)
    # The local copy is sound: the file lets go of the object, and the object stays.
    assert scrubbed.outcome == ScrubOutcome.REPAIRED
    assert await state.forms(ino) == {FormKind.RAW}
    while await state.garbage.collect(100):
        pass
    assert (state.objects_dir / KEY).exists()


async def problems(state: State) -> list[object]:
    return list((await state.check_files()).problems)


async def test_an_object_in_a_source_that_is_not_there_is_said_so(
    state: State, reader: FormReader
) -> None:
    ino = await adopt(state, place=Place(KEY, store="source-1", etag="e"), drops=False)
    with pytest.raises(NotSupportedError, match=f"source-1:{KEY}"):
        await drop_raw(state.parts, ino)
    async with state.engine.change():
        assert await state.engine.drop_raw(ino, (await state.engine.get_inode(ino)).generation)
    with pytest.raises(NotSupportedError, match="source"):
        await reader.read(await state.engine.get_inode(ino), 0, 10)
