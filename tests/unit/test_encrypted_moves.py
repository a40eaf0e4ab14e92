"""Moves of encrypted forms: nothing in clear reaches the store, and keys are told by their ids."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

import pytest

from memfs.config import EncryptionConfig
from memfs.content.forms import FormReader
from memfs.encryption.keys import NO_KEYS, Key, KeyRing
from memfs.errors import CodecMissingError, CorruptDataError, EncryptionKeyError
from memfs.moves.batching import upload_batch
from memfs.moves.coding import unlock
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.rekeying import list_keyed, rekey
from memfs.moves.uploading import upload
from memfs.stores.reading import FrameReader
from memfs.types import FormCoding, FormKind
from tests.moving import SMALL_FRAMES, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.config import Config
    from memfs.fsck.report import Report
    from memfs.types import InodeNo

OLD, NEW = Key(bytes(range(32)), "env:OLD"), Key(bytes(range(32, 64)), "env:NEW")
CONTENT = compressible(30_000)


def config(*, remote: bool = True, packed: bool = False) -> Config:
    encryption = EncryptionConfig(remote=remote, packed=packed)
    return dataclasses.replace(SMALL_FRAMES, encryption=encryption)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state", config(), keys=KeyRing([OLD]))
    yield opened
    opened.close()


def stored(state: State, location: str) -> bytes:
    return (state.objects_dir / location.partition("@")[0]).read_bytes()


async def coding(state: State, ino: InodeNo, kind: FormKind) -> FormCoding:
    return (await state.form(ino, kind)).coding


async def check(state: State, keys: KeyRing) -> Report:
    return await state.check_files(keys=keys)


async def test_an_object_is_encrypted_and_comes_back(state: State) -> None:
    name = "a name that nobody shall read"
    ino = await state.create(name, CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    form = await state.form(ino, FormKind.REMOTE)
    assert form.coding == FormCoding("zstd:3", 1, OLD.id.hex())
    data = stored(state, form.place.key)
    assert bytes.fromhex("28b52ffd") not in data, "no zstd frame lies there in clear"
    assert (await state.engine.get_blob(form.blob)).digest not in data
    assert name not in form.place.key
    assert name.encode() not in data
    assert await state.content(ino) == CONTENT


async def test_ranges_of_an_encrypted_object_are_read_alone(state: State) -> None:
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    reader = FormReader(
        state.engine, state.packed_store, state.remote, state.raw_store, keys=state.parts.keys
    )
    inode = await state.engine.get_inode(ino)
    for offset in (0, 4095, 20_000):
        assert await reader.read(inode, offset, 5000) == CONTENT[offset : offset + 5000]


async def test_packed_files_are_encrypted_on_request_alone(tmp_path: Path) -> None:
    for packed in (False, True):
        state = State(tmp_path / str(packed), config(packed=packed), keys=KeyRing([OLD]))
        ino = await state.create("a", CONTENT)
        await pack(state.parts, ino)
        await drop_raw(state.parts, ino)
        found = await coding(state, ino, FormKind.PACKED)
        assert found.key_id == (OLD.id.hex() if packed else "")
        assert await state.content(ino) == CONTENT
        state.close()


@pytest.mark.parametrize(("remote", "packed"), [(True, False), (False, True), (True, True)])
async def test_a_packed_file_is_uploaded_under_the_key_of_objects(
    tmp_path: Path, remote: bool, packed: bool
) -> None:
    """Without a raw file its frames are encrypted, or decrypted, and not compressed again."""
    state = State(tmp_path / "state", config(remote=remote, packed=packed), keys=KeyRing([OLD]))
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    assert (await upload(state.parts, ino)).outcome is MoveOutcome.DONE
    await drop_form(state.parts, ino, FormKind.PACKED)
    assert (await coding(state, ino, FormKind.REMOTE)).key_id == (OLD.id.hex() if remote else "")
    assert await state.content(ino) == CONTENT
    assert not (await check(state, KeyRing([OLD]))).problems
    state.close()


async def test_batched_files_are_encrypted_each_by_itself(state: State) -> None:
    inos = [await state.create(str(seed), compressible(3000, seed)) for seed in range(5)]
    results = await upload_batch(state.parts, inos)
    assert {result.outcome for result in results.values()} == {MoveOutcome.DONE}
    for seed, ino in enumerate(inos):
        await drop_raw(state.parts, ino)
        assert (await coding(state, ino, FormKind.REMOTE)).key_id == OLD.id.hex()
        assert await state.content(ino) == compressible(3000, seed)


async def test_a_missing_key_is_told_and_is_no_damage(tmp_path: Path, state: State) -> None:
    """Nothing is dropped or repaired for it; with the key everything is there again."""
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    for keys in (NO_KEYS, KeyRing([NEW])):
        state.parts.keys = keys
        with pytest.raises(EncryptionKeyError, match=rf"{OLD.id.hex()}.*encryption\.keys"):
            await hydrate(state.parts, ino)
        reader = FormReader(
            state.engine, state.packed_store, state.remote, state.raw_store, keys=keys
        )
        with pytest.raises(EncryptionKeyError, match=OLD.id.hex()):
            await reader.read(await state.engine.get_inode(ino), 0, 10)
        [problem] = (await check(state, keys)).problems
        assert "not verified" in str(problem)
        assert "encryption.keys" in str(problem)
    state.parts.keys = KeyRing([NEW, OLD])
    assert await state.content(ino) == CONTENT


async def test_fsck_takes_a_missing_codec_for_no_damage(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install, once for all files, and not to remove them."""
    for name in "ab":
        ino = await state.create(name, CONTENT)
        await upload(state.parts, ino)

    def refuse(_spec: object) -> None:
        raise CodecMissingError("no codec of that name is installed")

    monkeypatch.setattr("memfs.stores.reading.get_codec", refuse)
    [problem] = (await check(state, KeyRing([OLD]))).problems
    assert "2 compressed forms were not verified" in str(problem)
    assert "install" in str(problem)


async def test_objects_under_a_former_key_stay_readable(state: State) -> None:
    first = await state.create("a", CONTENT)
    await upload(state.parts, first)
    state.parts.keys = KeyRing([NEW, OLD])
    second = await state.create("b", compressible(9000, 7))
    await upload(state.parts, second)
    for ino, key in ((first, OLD), (second, NEW)):
        assert (await coding(state, ino, FormKind.REMOTE)).key_id == key.id.hex()
        await drop_raw(state.parts, ino)
    assert await state.content(first) == CONTENT
    assert await state.content(second) == compressible(9000, 7)


async def test_an_object_of_another_file_is_refused(state: State) -> None:
    """One who can write to the store cannot pass one file's object off as another's."""
    inos = [await state.create(name, CONTENT) for name in "ab"]
    for ino in inos:
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
    mine, other = [await state.form(ino, FormKind.REMOTE) for ino in inos]
    (state.objects_dir / mine.place.key).write_bytes(stored(state, other.place.key))
    with pytest.raises(CorruptDataError, match=f"holds blob {other.blob}"):
        await hydrate(state.parts, inos[0])
    assert await state.content(inos[1]) == CONTENT


async def test_what_does_not_shrink_is_stored_as_it_is_and_found_out_by_a_sample(
    state: State,
) -> None:
    content = incompressible(400_000)
    ino = await state.create("a", content)
    assert (await pack(state.parts, ino)).outcome is MoveOutcome.INCOMPRESSIBLE
    assert await state.engine.list_intents() == []
    await upload(state.parts, ino)
    assert (await coding(state, ino, FormKind.REMOTE)).codec == "none"
    assert state.parts.tally.totals()["zstd:3"].spared_count == 2
    assert state.parts.tally.totals()["none"].content_bytes == len(content)


@pytest.mark.parametrize("keys", [KeyRing([NEW, OLD]), NO_KEYS])
async def test_rekey_puts_a_new_object_in_the_place_of_the_old_one(
    state: State, keys: KeyRing
) -> None:
    """Under the first key, or in clear where objects are not encrypted any more."""
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    former = await state.form(ino, FormKind.REMOTE)
    state.parts.keys = keys
    if keys is NO_KEYS:
        state.parts.keys = KeyRing([OLD])
        state.parts.config = config(remote=False)
    result = await rekey(state.parts, ino)
    form = await state.form(ino, FormKind.REMOTE)
    assert (result.outcome, result.moved_bytes) == (MoveOutcome.DONE, form.stored_bytes)
    assert form.place.key != former.place.key
    wanted = NEW.id.hex() if keys.first is NEW else ""
    assert form.coding.key_id == wanted
    assert (await rekey(state.parts, ino)).outcome is MoveOutcome.UNNEEDED
    await state.garbage.collect(10)
    assert not (state.objects_dir / former.place.key).exists()
    assert await state.leaks() == []
    if wanted:
        state.parts.keys = KeyRing([NEW])
    assert await state.content(ino) == CONTENT
    assert not (await check(state, state.parts.keys)).problems


async def test_rekey_encrypts_what_was_stored_in_clear(tmp_path: Path) -> None:
    state = State(tmp_path / "state", config())
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    state.parts.keys = KeyRing([NEW])
    assert [form.current for form in await list_keyed(state.parts, ino)] == [False]
    await rekey(state.parts, ino)
    [keyed] = await list_keyed(state.parts, ino)
    assert (keyed.kind, keyed.key_id, keyed.current) == (FormKind.REMOTE, NEW.id.hex(), True)
    assert await state.content(ino) == CONTENT
    state.close()


async def test_rekey_takes_a_file_out_of_its_batch(state: State) -> None:
    inos = [await state.create(str(seed), compressible(3000, seed)) for seed in range(3)]
    await upload_batch(state.parts, inos)
    for ino in inos:
        await drop_raw(state.parts, ino)
    state.parts.keys = KeyRing([NEW, OLD])
    await rekey(state.parts, inos[1])
    assert (await state.form(inos[1], FormKind.REMOTE)).place.offset is None
    for seed, ino in enumerate(inos):
        assert await state.content(ino) == compressible(3000, seed)
    assert not (await check(state, state.parts.keys)).problems


async def test_rekey_writes_a_packed_file_anew(tmp_path: Path) -> None:
    """It stays packed, and its frames are not compressed again."""
    state = State(tmp_path / "state", config(packed=True), keys=KeyRing([OLD]))
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    state.parts.keys = KeyRing([NEW, OLD])
    assert (await rekey(state.parts, ino)).outcome is MoveOutcome.DONE
    assert await state.forms(ino) == {FormKind.PACKED}
    assert (await coding(state, ino, FormKind.PACKED)).key_id == NEW.id.hex()
    assert (await rekey(state.parts, ino)).outcome is MoveOutcome.UNNEEDED
    await state.garbage.collect(10)
    assert await state.leaks() == []
    state.parts.keys = KeyRing([NEW])
    assert await state.content(ino) == CONTENT
    state.close()


async def test_a_damaged_object_is_not_replaced(state: State) -> None:
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    form = await state.form(ino, FormKind.REMOTE)
    data = bytearray(stored(state, form.place.key))
    data[100] ^= 1
    (state.objects_dir / form.place.key).write_bytes(data)
    state.parts.keys = KeyRing([NEW, OLD])
    with pytest.raises(CorruptDataError, match="frame 0: does not decrypt"):
        await rekey(state.parts, ino)
    assert await state.form(ino, FormKind.REMOTE) == form
    await state.garbage.collect(10)
    assert await state.leaks() == []


async def test_a_file_rewritten_while_it_is_rekeyed_keeps_its_new_content(state: State) -> None:
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    state.parts.keys = KeyRing([NEW, OLD])

    class Rewriting(FaultPoints):
        def reach(self, point: str) -> None:
            if point == "rekey.prepared":
                # The engine does not suspend, so this ends at once.
                with contextlib.suppress(StopIteration):
                    state.rewrite(ino, b"new").send(None)

    state.parts.faults = Rewriting()
    assert (await rekey(state.parts, ino)).outcome is MoveOutcome.SUPERSEDED
    assert await state.content(ino) == b"new"
    await state.garbage.collect(10)
    assert await state.leaks() == []


async def test_a_copy_under_another_key_gets_the_storage_class_of_objects(tmp_path: Path) -> None:
    state = State(tmp_path / "state", config(), keys=KeyRing([OLD]))
    ino = await state.create("f", CONTENT)
    await upload(state.parts, ino)
    state.parts.keys = KeyRing([NEW, OLD])
    archived = []

    async def note(call: str, key: str) -> None:
        if call == "archive":
            archived.append(key)

    state.remote.before = note
    assert (await rekey(state.parts, ino)).outcome == MoveOutcome.DONE
    assert archived == [(await state.form(ino, FormKind.REMOTE)).place.key]
    state.close()


async def test_an_object_in_clear_is_not_taken_for_an_encrypted_one(state: State) -> None:
    """One who can write to the store cannot write what memfs then serves."""
    ino = await state.create("f", CONTENT)
    await upload(state.parts, ino)
    form = await state.form(ino, FormKind.REMOTE)
    forged = State(state.state_dir.with_name("forged"))
    other = await forged.create("f", incompressible(30_000, 9))
    await upload(forged.parts, other)
    data = stored(forged, (await forged.form(other, FormKind.REMOTE)).place.key)
    forged.close()
    (state.objects_dir / form.place.key).write_bytes(data)
    with pytest.raises(CorruptDataError, match="in clear"):
        await FrameReader.open(
            functools.partial(state.remote.get_range, form.place.key),
            len(data),
            form.place.key,
            unlock(state.parts, await state.engine.get_blob(form.blob), form.coding),
        )
