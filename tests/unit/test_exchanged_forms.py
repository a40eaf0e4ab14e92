"""Forms that hold another content: exchanged, moved, cut, or of another state directory.

Whatever is done to what lies at rest, a read gives the file's bytes or an error: never others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
from typing import TYPE_CHECKING

import pytest

from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import EncryptionConfig
from memfs.content.forms import FormReader
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import FORM_ERRORS, CorruptDataError, MemfsError, OtherContentError
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.metadata.records import Batch
from memfs.moves.batching import compact, upload_batch
from memfs.moves.coding import unlock
from memfs.moves.dropping import drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.rekeying import rekey
from memfs.moves.uploading import upload
from memfs.stores.container import SeekTable, parse_tail
from memfs.stores.envelope import Encryption
from memfs.stores.packing import pack_file
from memfs.stores.reading import PackedFile
from memfs.types import FormCoding, FormKind, Generation, InodeNo
from tests.moving import SMALL_FRAMES, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.fsck.report import Report
    from memfs.metadata.records import Form

KEY = Key(bytes(range(32)), "of this test")
ENCRYPTED = dataclasses.replace(SMALL_FRAMES, encryption=EncryptionConfig(remote=True, packed=True))
SIZE = 30_000
PLACES = ["packed", "remote", "batched"]
DAMAGES = ["exchanged", "moved", "cut", "longer", "empty", "missing", "mixed"]


def open_state(directory: Path, *, encrypted: bool = False) -> State:
    if encrypted:
        return State(directory, ENCRYPTED, keys=KeyRing([KEY]))
    return State(directory)


@pytest.fixture(params=["clear", "encrypted"])
def state(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[State]:
    opened = open_state(tmp_path / "state", encrypted=request.param == "encrypted")
    yield opened
    opened.close()


def reader_of(state: State) -> FormReader:
    return FormReader(
        state.engine, state.packed_store, state.remote, state.raw_store, keys=state.parts.keys
    )


async def two_files(
    state: State, place: str, make: Callable[[int, int], bytes] = compressible
) -> dict[InodeNo, bytes]:
    """Return two files of one size with one form each."""
    contents = [make(SIZE, seed) for seed in (1, 2)]
    inos = [await state.create(f"f{index}", content) for index, content in enumerate(contents)]
    if place == "batched":
        await upload_batch(state.parts, inos)
    for ino in inos:
        if place == "packed":
            await pack(state.parts, ino)
        elif place == "remote":
            await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
        kind = FormKind.PACKED if place == "packed" else FormKind.REMOTE
        assert await state.forms(ino) == {kind}
    return dict(zip(inos, contents, strict=True))


async def only_form(state: State, ino: InodeNo) -> Form:
    inode = await state.engine.get_inode(ino)
    (form,) = await state.engine.list_forms(inode.blob)
    return form


def path_of(state: State, form: Form) -> tuple[Path, int]:
    if form.kind == FormKind.PACKED:
        return state.packed_store.path(form.place.key), 0
    return state.objects_dir / form.place.key, form.start


def take(state: State, form: Form) -> bytes:
    path, start = path_of(state, form)
    return path.read_bytes()[start : start + form.stored_bytes]


def put(state: State, form: Form, data: bytes | None) -> None:
    """Put bytes in the place of a form; None: there is nothing at all."""
    path, start = path_of(state, form)
    if data is None:
        path.unlink(missing_ok=True)
        return
    whole = path.read_bytes() if path.exists() else b""
    path.write_bytes(whole[:start] + data + whole[start + form.stored_bytes :])


async def damage(state: State, one: Form, other: Form, how: str) -> None:
    ours, theirs = take(state, one), take(state, other)
    if how == "exchanged":
        put(state, one, theirs)
        put(state, other, ours)
    elif how == "mixed":
        # The frames of one with the table of the other.
        at = len(ours) // 2
        put(state, one, ours[:at] + theirs[at - len(ours) :])
    else:
        put(
            state,
            one,
            {
                "moved": theirs,
                "cut": ours[: len(ours) // 2],
                "longer": ours + theirs,
                "empty": b"",
                "missing": None,
            }[how],
        )


async def is_right(read: Awaitable[bytes], wanted: bytes) -> bool:
    """Return whether a read was right; an error is as good, other bytes are not."""
    try:
        found = await read
    except FORM_ERRORS:
        return False
    assert found == wanted, "other bytes were served without an error"
    return True


async def check(state: State) -> Report:
    return await state.check_files()


@pytest.mark.parametrize("warmed", [False, True], ids=["cold caches", "warm caches"])
@pytest.mark.parametrize(("place", "how"), list(itertools.product(PLACES, DAMAGES)))
async def test_no_read_gives_other_bytes(state: State, place: str, how: str, warmed: bool) -> None:
    """Ranges, hydration: before and after a scrub; fsck names what was done."""
    files = await two_files(state, place)
    one, other = [await only_form(state, ino) for ino in files]
    reader = reader_of(state)
    for ino, content in files.items():
        if warmed:
            inode = await state.engine.get_inode(ino)
            assert await reader.read(inode, 5000, 10) == content[5000:5010]
    await damage(state, one, other, how)
    victim = next(iter(files))
    if place != "batched" or how != "longer":
        assert "/f0" in {problem.subject for problem in (await check(state)).problems}
    for _ in range(2):
        for ino, content in files.items():
            await assert_ranges_right_or_refused(state, ino, content, reader)
            await assert_ranges_right_or_refused(state, ino, content, reader_of(state))
        found = await is_right(state.content(victim), files[victim])
        scrubbed = await scrub_file(state.parts, victim)
        if how == "longer":
            # What is behind an object's end is nobody's.
            assert found == (place != "packed")
            break
        assert not found
        assert scrubbed.outcome == ScrubOutcome.QUARANTINED, scrubbed


async def assert_ranges_right_or_refused(
    state: State, ino: InodeNo, content: bytes, reader: FormReader
) -> None:
    inode = await state.engine.get_inode(ino)
    if inode.raw:
        return
    for offset, size in ((0, SIZE), (SIZE // 2, 5000), (SIZE - 10, 20)):
        await is_right(reader.read(inode, offset, size), content[offset : offset + size])


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_form_of_another_content_is_replaced_from_the_right_one(
    state: State, how: str
) -> None:
    """The packed one is asked first, so it is the one that holds what it must not."""
    contents = [compressible(SIZE, seed) for seed in (1, 2)]
    inos = [await state.create(f"f{index}", content) for index, content in enumerate(contents)]
    for ino in inos:
        await pack(state.parts, ino)
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
    forms = [await state.form(ino, FormKind.PACKED) for ino in inos]
    await damage(state, forms[0], forms[1], how)
    for ino, content in zip(inos, contents, strict=True):
        inode = await state.engine.get_inode(ino)
        assert await reader_of(state).read(inode, 100, 20_000) == content[100:20_100]
    scrubbed = await scrub_file(state.parts, inos[0])
    assert scrubbed.outcome == ScrubOutcome.REPAIRED, scrubbed
    assert await state.forms(inos[0]) == {FormKind.REMOTE}
    for ino, content in zip(inos, contents, strict=True):
        assert await state.content(ino) == content


async def test_neither_compaction_nor_rekey_nor_upload_takes_another_content_along(
    tmp_path: Path,
) -> None:
    state = open_state(tmp_path / "state", encrypted=True)
    files = await two_files(state, "batched")
    one, other = [await only_form(state, ino) for ino in files]
    await damage(state, one, other, "exchanged")
    stored_bytes = one.stored_bytes + other.stored_bytes
    key = one.place.key
    with pytest.raises(CorruptDataError):
        await compact(state.parts, Batch(key, stored_bytes, 2, stored_bytes))
    for ino in files:
        assert await only_form(state, ino) in (one, other)
    state.parts.keys = KeyRing([Key(bytes(32), "a newer one"), KEY])
    for ino in files:
        with pytest.raises(CorruptDataError):
            await rekey(state.parts, ino)
    state.close()


async def test_a_packed_form_of_another_content_spoils_no_batch(state: State) -> None:
    files = await two_files(state, "packed")
    one, other = [await only_form(state, ino) for ino in files]
    await damage(state, one, other, "moved")
    spoiled, sound = files
    results = await upload_batch(state.parts, list(files))
    assert results[sound].outcome == MoveOutcome.DONE
    assert results[spoiled].outcome == MoveOutcome.SUPERSEDED
    with pytest.raises(CorruptDataError):
        await upload(state.parts, spoiled)


@pytest.mark.parametrize("place", ["remote", "batched"])
@pytest.mark.parametrize("what", ["frames", "frames and table"])
async def test_ranges_of_frames_of_another_container_are_refused(
    tmp_path: Path, place: str, what: str
) -> None:
    """The frames have the same places, and the table that comes with them claims our digest."""
    state = open_state(tmp_path / "state")
    files = await two_files(state, place, incompressible)
    one, other = [await only_form(state, ino) for ino in files]
    ours, theirs = take(state, one), take(state, other)
    table, their_table = (parse_tail(data, len(data), "object") for data in (ours, theirs))
    assert table.stored_offsets == their_table.stored_offsets
    end = table.stored_offsets[-1]
    if what == "frames":
        put(state, one, theirs[:end] + ours[end:])
    else:
        put(
            state,
            one,
            theirs[:end] + dataclasses.replace(their_table, digest=table.digest).serialise(),
        )
    ino, reader = next(iter(files)), reader_of(state)
    inode = await state.engine.get_inode(ino)
    for offset in (0, SIZE // 2, SIZE - 100):
        with pytest.raises(CorruptDataError):
            await reader.read(inode, offset, 100)
    with pytest.raises(CorruptDataError):
        await state.content(ino)
    state.close()


@pytest.mark.usefixtures("unknown_tables")
async def test_forms_from_before_tables_had_fingerprints_stay_readable(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    for ino, content in (await two_files(state, "remote")).items():
        assert not (await only_form(state, ino)).coding.table_id
        inode = await state.engine.get_inode(ino)
        assert await reader_of(state).read(inode, 100, 200) == content[100:300]
        assert await state.content(ino) == content
    state.close()


@pytest.fixture
def unknown_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are published as before tables had fingerprints."""

    def coding(table: SeekTable) -> FormCoding:
        return FormCoding(str(table.codec), table.shuffle_bytes, table.key_id.hex())

    monkeypatch.setattr(SeekTable, "coding", property(coding))


@pytest.mark.usefixtures("unknown_tables")
async def test_a_form_in_quarantine_is_not_read(tmp_path: Path) -> None:
    """Its frames are sound and its table claims the right digest: all of it tells, and no part."""
    state = open_state(tmp_path / "state")
    files = await two_files(state, "remote", incompressible)
    one, other = [await only_form(state, ino) for ino in files]
    data = take(state, other)
    table = parse_tail(data, len(data), "object")
    blob = await state.engine.get_blob(one.blob)
    forged = dataclasses.replace(table, digest=blob.digest).serialise()
    right = take(state, one)
    put(state, one, data[: table.stored_offsets[-1]] + forged)
    ino, reader = next(iter(files)), reader_of(state)
    inode = await state.engine.get_inode(ino)
    await reader.read(inode, 0, 100)
    assert (await scrub_file(state.parts, ino)).outcome == (ScrubOutcome.QUARANTINED)
    for used in (reader, reader_of(state)):
        with pytest.raises(CorruptDataError, match="in quarantine"):
            await used.read(inode, 0, 100)
    put(state, one, right)
    assert (await scrub_file(state.parts, ino)).outcome == ScrubOutcome.SOUND
    assert await reader_of(state).read(inode, 0, 100) == files[ino][:100]
    state.close()


async def test_a_container_of_another_state_with_the_same_key_is_refused(tmp_path: Path) -> None:
    """Even one of the same content: it says of which state it is, and its key is bound to that."""
    states = [open_state(tmp_path / name, encrypted=True) for name in ("one", "other")]
    inos, forms = [], []
    for state in states:
        ino = await state.create("f", compressible(SIZE))
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
        inos.append(ino)
        forms.append(await only_form(state, ino))
    assert forms[0].blob == forms[1].blob
    put(states[0], forms[0], take(states[1], forms[1]))
    with pytest.raises(CorruptDataError, match="was written by state directory"):
        await states[0].content(inos[0])
    stolen = take(states[1], forms[1])
    ours, theirs = (bytes(state.engine.state_id) for state in states)
    assert theirs in stolen
    put(states[0], forms[0], stolen.replace(theirs, ours))
    with pytest.raises(CorruptDataError, match="envelope"):
        await states[0].content(inos[0])
    for state in states:
        state.close()


async def test_containers_from_before_states_had_ids_stay_readable(tmp_path: Path) -> None:
    """Their digest binds them."""
    state = open_state(tmp_path / "state", encrypted=True)
    files = await two_files(state, "remote")
    one, other = [await only_form(state, ino) for ino in files]
    for form, content in zip((one, other), files.values(), strict=True):
        old = Encryption(KEY, form.blob, Generation(1))
        put(state, form, packed_bytes(tmp_path, content, old))
    old_form = take(state, one)
    assert bytes(state.engine.state_id) not in old_form
    for ino, content in files.items():
        inode = await state.engine.get_inode(ino)
        stored_bytes = len(take_all(state, await only_form(state, ino)))
        form = (await only_form(state, ino))._replace(stored_bytes=stored_bytes)
        blob = await state.engine.get_blob(form.blob)
        with PackedFile.open(
            path_of(state, form)[0], unlock=unlock(state.parts, blob, form.coding)
        ) as packed:
            assert packed.read(0, inode.size) == content
    wrong = Encryption(KEY, one.blob, Generation(1))
    put(state, one, packed_bytes(tmp_path, compressible(SIZE, 9), wrong))
    blob = await state.engine.get_blob(one.blob)
    with pytest.raises(OtherContentError):
        PackedFile.open(path_of(state, one)[0], unlock=unlock(state.parts, blob, one.coding))
    state.close()


def take_all(state: State, form: Form) -> bytes:
    return path_of(state, form)[0].read_bytes()


def packed_bytes(directory: Path, content: bytes, encryption: Encryption) -> bytes:
    source, target = directory / "content", directory / "container"
    source.write_bytes(content)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        pack_file(source, fd, get_codec(parse_codec("zstd:3")), 4096, encryption=encryption)
    finally:
        os.close(fd)
    return target.read_bytes()


async def test_random_damage_never_shows_other_bytes(state: State) -> None:
    """Any two forms, any splice of them, at any length."""
    rng = random.Random(8)
    files: dict[InodeNo, bytes] = {}
    for place in PLACES:
        for size in (1, 4096, 20_000):
            content = incompressible(size, len(files)) if rng.random() < 0.5 else compressible(size)
            ino = await state.create(f"{place}{size}", content + bytes([len(files)]))
            files[ino] = content + bytes([len(files)])
            if place == "packed":
                await pack(state.parts, ino)
            elif place == "remote":
                await upload(state.parts, ino)
            else:
                await upload_batch(state.parts, [ino])
            if await state.forms(ino) != {FormKind.RAW}:
                await drop_raw(state.parts, ino)
    cold = [ino for ino in files if FormKind.RAW not in await state.forms(ino)]
    forms = {ino: await only_form(state, ino) for ino in cold}
    sound = {ino: take(state, form) for ino, form in forms.items()}
    reader = reader_of(state)
    for _ in range(150):
        victim, donor = rng.sample(cold, 2)
        ours, theirs = sound[victim], sound[donor]
        cut, other_cut = rng.randint(0, len(ours)), rng.randint(0, len(theirs))
        spliced = rng.choice([theirs, ours[:cut], ours[:cut] + theirs[other_cut:], ours[cut:]])
        put(state, forms[victim], spliced)
        inode = await state.engine.get_inode(victim)
        content = files[victim]
        for used in (reader, reader_of(state)):
            offset = rng.randrange(len(content))
            await is_right(used.read(inode, offset, 5000), content[offset : offset + 5000])
        with contextlib.suppress(MemfsError):
            await scrub_file(state.parts, victim)
        path_of(state, forms[victim])[0].write_bytes(sound[victim])
    for ino in cold:
        assert await state.content(ino) == files[ino]
