"""Containers: any range of them alone, readable by others, and never wrong bytes."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import tracemalloc
from typing import TYPE_CHECKING

import blake3
import cramjam
import pytest
import trio
import trio.testing
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.codecs.registry import get_codec, parse_codec
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import (
    CodecMissingError,
    CorruptDataError,
    EncryptionKeyError,
    InvalidValueError,
    MemfsError,
    NoSpaceError,
    StoreError,
)
from memfs.stores.container import (
    FRAME_COUNT_MAX,
    SeekTable,
    choose_frame_bytes,
    parse_tail,
)
from memfs.stores.digesting import digest_file, read_file
from memfs.stores.envelope import ENVELOPE_BYTES, Encryption, Unlock
from memfs.stores.packing import PackedSummary, pack_file
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.reading import FrameReader, PackedFile
from memfs.stores.store import PART_BYTES
from memfs.types import BlobId, Generation

if TYPE_CHECKING:
    from pathlib import Path

CODECS = ["zstd:3", "lz4", "snappy", "none"]
VARIANTS = [*CODECS, "zstd:3 shuffle:4", "zstd:3 encrypted", "snappy shuffle:2 encrypted"]
"""Codecs, and containers with filter and encryption."""

KEY, OTHER_KEY = Key(bytes(range(32)), "of this test"), Key(bytes(32), "another one")
BLOB = BlobId(77)
UNLOCK = Unlock(KeyRing([OTHER_KEY, KEY]), BLOB)
MIB, GIB = 1 << 20, 1 << 30


def pack(
    source: Path, target: Path, variant: str, frame_bytes: int, blob: BlobId = BLOB
) -> PackedSummary:
    codec, *words = variant.split()
    shuffle_bytes = next((int(word[8:]) for word in words if word.startswith("shuffle:")), 1)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return pack_file(
            source,
            fd,
            get_codec(parse_codec(codec)),
            frame_bytes,
            shuffle_bytes=shuffle_bytes,
            encryption=Encryption(KEY, blob, Generation(3)) if "encrypted" in words else None,
        )
    finally:
        os.close(fd)


def pack_bytes(directory: Path, data: bytes, codec: str, frame_bytes: int) -> Path:
    source, target = directory / "source", directory / "packed"
    source.write_bytes(data)
    pack(source, target, codec, frame_bytes)
    return target


def sample(size: int, seed: int = 1) -> bytes:
    """Bytes of which every second hundred repeats."""
    rng = random.Random(seed)
    count = -(-size // 200)
    parts = [bytes([index % 7]) * 100 + rng.randbytes(100) for index in range(count)]
    return b"".join(parts)[:size]


def open_packed(packed: Path) -> PackedFile:
    return PackedFile.open(packed, unlock=UNLOCK)


def unpack_bytes(packed: Path) -> bytes:
    target = packed.with_name("unpacked")
    with open_packed(packed) as file, target.open("w+b", buffering=0) as opened:
        file.unpack_to(opened.fileno())
    return target.read_bytes()


class Remote:
    """Counts what is asked of an object."""

    def __init__(self, stored: bytes) -> None:
        self.stored = stored
        self.ranges: list[tuple[int, int]] = []

    async def read_range(self, start: int, end: int) -> bytes:
        self.ranges.append((start, end))
        return self.stored[start:end]

    async def open(self, stored_bytes: int | None = None) -> FrameReader:
        size = len(self.stored) if stored_bytes is None else stored_bytes
        return await FrameReader.open(self.read_range, size, "object", UNLOCK)


@pytest.mark.parametrize("codec", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 3000),
    frame_bytes=st.integers(1, 1500),
    offset=st.integers(0, 3200),
    length=st.integers(0, 3200),
)
def test_any_range_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    codec: str,
    size: int,
    frame_bytes: int,
    offset: int,
    length: int,
) -> None:
    directory = tmp_path_factory.mktemp("range")
    data = sample(size)
    packed = pack_bytes(directory, data, codec, frame_bytes)
    with open_packed(packed) as file:
        assert data[offset : offset + length] == file.read(offset, length)
        assert data == file.read(0, size)
    assert data == unpack_bytes(packed)
    shutil.rmtree(directory)


@pytest.mark.parametrize("codec", VARIANTS)
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 2000])
async def test_a_remote_container_reads_back_like_a_local_one(
    tmp_path: Path, codec: str, size: int
) -> None:
    data = sample(size)
    remote = Remote(pack_bytes(tmp_path, data, codec, 100).read_bytes())
    reader = await remote.open()
    for offset in range(0, size + 150, 37):
        assert data[offset : offset + 150] == await reader.read(offset, 150)
    with (tmp_path / "out").open("w+b", buffering=0) as target:
        await reader.unpack_to(target.fileno())
    assert data == (tmp_path / "out").read_bytes()
    await reader.verify()


@pytest.mark.parametrize("codec", VARIANTS)
def test_the_summary_tells_what_was_written(tmp_path: Path, codec: str) -> None:
    data = sample(2550)
    (tmp_path / "source").write_bytes(data)
    summary = pack(tmp_path / "source", tmp_path / "packed", codec, 1000)
    assert summary.size == 2550
    assert summary.frame_count == 3
    assert summary.stored_bytes == (tmp_path / "packed").stat().st_size
    assert summary.digest == blake3.blake3(data).digest() == digest_file(tmp_path / "source")
    with open_packed(tmp_path / "packed") as file:
        assert summary.table == file.table


@pytest.mark.parametrize("size", [0, 1, 2500])
@pytest.mark.parametrize(
    ("codec", "command"), [("zstd:3", ["zstd", "-dc"]), ("lz4", ["lz4", "-dc"])]
)
def test_the_codecs_own_tool_reads_our_files(
    tmp_path: Path, codec: str, command: list[str], size: int
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}: apt-get install zstd lz4")
    data = sample(size)
    packed = pack_bytes(tmp_path, data, codec, 1000)
    with packed.open("rb") as stored:
        done = subprocess.run(command, stdin=stored, capture_output=True, check=True)
    assert data == done.stdout


@pytest.mark.parametrize("size", [0, 1, 2500])
def test_a_snappy_framing_decoder_reads_our_files(tmp_path: Path, size: int) -> None:
    data = sample(size)
    packed = pack_bytes(tmp_path, data, "snappy", 1000)
    assert data == bytes(cramjam.snappy.decompress(packed.read_bytes()))


def test_zstd_files_keep_the_public_seekable_format(tmp_path: Path) -> None:
    """Parsed here as zstd_seekable_compression_format.md says, without our own code."""
    data = sample(2500)
    stored = pack_bytes(tmp_path, data, "zstd:3", 1000).read_bytes()
    count, descriptor, magic = struct.unpack("<IBI", stored[-9:])
    assert (magic, descriptor) == (0x8F92EAB1, 0x80)
    table = stored[-9 - 12 * count - 8 : -9]
    assert struct.unpack("<II", table[:8]) == (0x184D2A5E, 12 * count + 9)
    entries = list(struct.iter_unpack("<III", table[8:]))
    assert [entry[1] for entry in entries] == [1000, 1000, 500, 0]
    hashes = [
        xxhash.xxh64(part).intdigest() & 0xFFFFFFFF
        for part in (data[:1000], data[1000:2000], data[2000:], b"")
    ]
    assert hashes == [entry[2] for entry in entries]
    assert len(stored) == sum(entry[0] for entry in entries) + len(table) + 9


@pytest.mark.parametrize("codec", VARIANTS)
def test_every_flipped_bit_is_found(tmp_path: Path, codec: str) -> None:
    """Never wrong bytes; and since no byte is redundant, never a flip that passes either."""
    packed = pack_bytes(tmp_path, sample(130), codec, 50)
    stored = bytearray(packed.read_bytes())
    for position in range(8 * len(stored)):
        stored[position // 8] ^= 1 << position % 8
        packed.write_bytes(stored)
        with pytest.raises(CorruptDataError, match="packed"), open_packed(packed) as file:
            file.verify()
        stored[position // 8] ^= 1 << position % 8


def test_a_flipped_bit_is_told_with_file_and_frame(tmp_path: Path) -> None:
    packed = pack_bytes(tmp_path, random.Random(2).randbytes(300), "none", 100)
    stored = bytearray(packed.read_bytes())
    stored[150] ^= 4
    packed.write_bytes(stored)
    with open_packed(packed) as file:
        assert len(file.read(0, 100)) == 100
        assert len(file.read(200, 100)) == 100
        with pytest.raises(CorruptDataError, match=f"{packed}: frame 1: "):
            file.read(99, 2)


@pytest.mark.parametrize("codec", VARIANTS)
async def test_a_file_cut_anywhere_is_found(tmp_path: Path, codec: str) -> None:
    packed = pack_bytes(tmp_path, sample(130), codec, 50)
    stored = packed.read_bytes()
    for size in range(len(stored)):
        packed.write_bytes(stored[:size])
        with pytest.raises(CorruptDataError), open_packed(packed):
            pass
        # The object ends earlier than its form says.
        with pytest.raises(CorruptDataError):
            await Remote(stored[:size]).open(len(stored))


@pytest.mark.parametrize("codec", VARIANTS)
def test_bytes_before_or_after_a_container_are_found(tmp_path: Path, codec: str) -> None:
    packed = pack_bytes(tmp_path, sample(130), codec, 50)
    stored = packed.read_bytes()
    for changed in (b"x" + stored, stored + b"x", stored + stored):
        packed.write_bytes(changed)
        with pytest.raises(CorruptDataError), open_packed(packed):
            pass


def test_a_wrong_digest_is_found_when_the_whole_is_read(tmp_path: Path) -> None:
    packed = pack_bytes(tmp_path, sample(130), "none", 50)
    with open_packed(packed) as file:
        table = file.table
    sizes = table.stored_offsets[1:]
    for index in range(len(sizes) - 1, 0, -1):
        sizes[index] -= sizes[index - 1]
    other = SeekTable.build(
        table.codec,
        table.frame_bytes,
        table.size,
        blake3.blake3(b"other").digest(),
        (sizes, table.stored_checksums, table.content_checksums),
    )
    packed.write_bytes(sample(130) + other.serialise())
    with open_packed(packed) as file, pytest.raises(CorruptDataError, match="digest"):
        file.verify()


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    """A codec that is not installed here is no damage: the message says what is missing."""
    packed = pack_bytes(tmp_path, sample(130), "none", 50)
    with open_packed(packed) as file:
        table = file.table
    other = SeekTable(
        table.codec._replace(name="gone"),
        table.frame_bytes,
        table.size,
        table.digest,
        table.stored_offsets,
        table.stored_checksums,
        table.content_checksums,
    )
    stored = sample(130) + other.serialise()
    with pytest.raises(CodecMissingError, match="object: no codec is named 'gone'"):
        parse_tail(stored, len(stored), "object")


@given(st.binary(max_size=400))
def test_random_bytes_end_in_one_kind_of_error(stored: bytes) -> None:
    with pytest.raises(CorruptDataError):
        read_memory(stored)


@given(
    count=st.integers(0, 2**32 - 1),
    description_bytes=st.integers(0, 2**32 - 1),
    filler=st.binary(max_size=200),
)
def test_a_hostile_footer_is_refused(count: int, description_bytes: int, filler: bytes) -> None:
    entry = struct.pack("<III", description_bytes, 0, 0)
    with pytest.raises(CorruptDataError):
        read_memory(filler + entry + struct.pack("<IBI", count, 0x80, 0x8F92EAB1))


def read_memory(stored: bytes) -> None:
    fd = os.memfd_create("container")
    os.write(fd, stored)
    with PackedFile(fd, "object") as file:
        file.verify()


async def test_a_small_object_costs_one_request(tmp_path: Path) -> None:
    data = sample(100_000)
    remote = Remote(pack_bytes(tmp_path, data, "zstd:3", 10_000).read_bytes())
    reader = await remote.open()
    assert data == await reader.read(0, len(data))
    assert [(0, len(remote.stored))] == remote.ranges


async def test_a_table_beyond_the_first_guess_costs_one_more_request(tmp_path: Path) -> None:
    data = sample(200_000)
    remote = Remote(pack_bytes(tmp_path, data, "none", 8).read_bytes())
    reader = await remote.open()
    assert len(remote.ranges) == 2
    assert data[77_777:88_888] == await reader.read(77_777, 11_111)
    assert len(remote.ranges) == 3


@pytest.mark.parametrize(
    "size", [GIB, pytest.param(10 * GIB, marks=pytest.mark.slow)], ids=["1GiB", "10GiB"]
)
async def test_a_range_of_a_large_file_costs_a_few_frames(tmp_path: Path, size: int) -> None:
    words = random.Random(3).randbytes(3 * MIB)
    place = size // 2 + 12345
    with (tmp_path / "source").open("wb") as file:
        file.truncate(size)
        file.seek(place)
        file.write(words)
    summary = pack(tmp_path / "source", tmp_path / "packed", "zstd:3", MIB)
    assert summary.frame_count == size // MIB
    with (tmp_path / "packed").open("rb", buffering=0) as packed:
        ranges: list[int] = []

        async def read_range(start: int, end: int) -> bytes:
            ranges.append(end - start)
            return os.pread(packed.fileno(), end - start, start)

        reader = await FrameReader.open(read_range, summary.stored_bytes, "object")
        assert words[MIB : 2 * MIB] == await reader.read(place + MIB, MIB)
    assert len(ranges) == 2
    assert ranges[0] <= 256 * 1024
    assert ranges[1] < 2 * MIB + 4096


@pytest.mark.parametrize("slot_count", [1, 2, 3])
async def test_a_whole_object_takes_no_more_of_memory_than_there_are_slots(
    tmp_path: Path, slot_count: int
) -> None:
    """Two others may come, for each of whom a slot is kept."""
    packed = pack_bytes(tmp_path, random.Random(1).randbytes(44 * MIB), "none", MIB).read_bytes()
    asked_count = taken_count = most_count = 0

    async def read_range(start: int, end: int) -> bytes:
        nonlocal asked_count, most_count
        asked_count += 1
        await trio.testing.wait_all_tasks_blocked()
        most_count = max(most_count, asked_count - taken_count)
        return packed[start:end]

    def take(_done_bytes: int) -> None:
        nonlocal taken_count
        taken_count += 1

    slots = PartSlots((slot_count + 2) * PART_BYTES, 3)
    reader = await FrameReader.open(read_range, len(packed), "object", slots=slots)
    asked_count = 0
    await reader.verify(take)
    assert most_count == slot_count
    with slots.take(PART_CONCURRENCY) as count:
        assert count == slot_count, "all were given back"


def test_holes_stay_holes(tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as file:
        file.truncate(64 * MIB + 5)
        file.seek(32 * MIB)
        file.write(b"data")
    pack(tmp_path / "source", tmp_path / "packed", "lz4", MIB)
    with open_packed(tmp_path / "packed") as packed, (tmp_path / "out").open("w+b") as target:
        packed.unpack_to(target.fileno())
    assert digest_file(tmp_path / "source") == digest_file(tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 64 * MIB + 5
    assert (tmp_path / "out").stat().st_blocks * 512 <= 2 * MIB


def test_unpacking_replaces_what_the_target_held(tmp_path: Path) -> None:
    packed = pack_bytes(tmp_path, bytes(100) + b"x" * 50, "zstd:3", 50)
    (tmp_path / "unpacked").write_bytes(b"old" * 100)
    with open_packed(packed) as file, (tmp_path / "unpacked").open("r+b") as target:
        file.unpack_to(target.fileno())
    assert bytes(100) + b"x" * 50 == (tmp_path / "unpacked").read_bytes()


def test_memory_stays_bounded_while_a_file_is_packed_and_unpacked(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(random.Random(4).randbytes(MIB) * 64)
    tracemalloc.start()
    try:
        pack(tmp_path / "source", tmp_path / "packed", "zstd:1", MIB)
        with open_packed(tmp_path / "packed") as file:
            file.verify()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 40 * MIB


class StoppedError(Exception):
    """Raised by a progress callback."""


@pytest.mark.parametrize("frame_count", [1, 20])
def test_a_progress_callback_stops_the_work(tmp_path: Path, frame_count: int) -> None:
    (tmp_path / "source").write_bytes(sample(1000 * frame_count))
    seen: list[tuple[int, int]] = []

    def stop(done: int, stored: int) -> None:
        seen.append((done, stored))
        raise StoppedError

    fd = os.open(tmp_path / "packed", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(StoppedError):
        pack_file(tmp_path / "source", fd, get_codec(parse_codec("none")), 1000, stop)
    os.close(fd)
    assert seen == [(1000, 1000)]


def test_a_file_that_shrinks_while_it_is_packed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sample(100_000))

    def shrink(_done: int, _stored: int) -> None:
        os.truncate(tmp_path / "source", 10)

    fd = os.open(tmp_path / "packed", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(StoreError, match="while it was packed"):
        pack_file(tmp_path / "source", fd, get_codec(parse_codec("none")), 1000, shrink)
    os.close(fd)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sample(100_000))
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(MemfsError, match="No space left"):
        pack_file(tmp_path / "source", fd, get_codec(parse_codec("none")), 1000)
    os.close(fd)


def test_huge_files_get_larger_frames() -> None:
    assert choose_frame_bytes(10 * GIB, MIB) == MIB
    assert choose_frame_bytes(FRAME_COUNT_MAX * MIB, MIB) == MIB
    assert choose_frame_bytes(FRAME_COUNT_MAX * MIB + 1, MIB) == 2 * MIB
    for wrong in (0, -1, 2 * GIB):
        with pytest.raises(InvalidValueError, match="frames of"):
            choose_frame_bytes(1, wrong)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
def test_digest_file_is_blake3_of_the_bytes(tmp_path: Path, size: int) -> None:
    data = sample(size)
    (tmp_path / "file").write_bytes(data)
    seen: list[int] = []
    assert blake3.blake3(data).digest() == digest_file(tmp_path / "file", seen.append)
    assert size == (seen[-1] if seen else 0)


def test_holes_are_digested_and_not_read(tmp_path: Path) -> None:
    """As zeros; a file may have them anywhere, and be nothing else."""
    for name, spots in {"none": [], "ends": [0, 40], "middle": [17], "last": [40]}.items():
        path = tmp_path / name
        with path.open("wb") as file:
            for spot in spots:
                file.seek(spot * MIB)
                file.write(sample(MIB))
            file.truncate(41 * MIB)
        seen: list[int] = []
        assert digest_file(path, seen.append) == blake3.blake3(path.read_bytes()).digest()
        assert seen[-1] == len(spots) * MIB
        seen.clear()
        read_file(path, seen.append)
        assert seen[-1] == len(spots) * MIB


async def test_an_encrypted_container_decrypts_to_the_plain_one(tmp_path: Path) -> None:
    """What `envelope` promises: the format inside is the public one, frame by frame."""
    data = sample(2500)
    plain = pack_bytes(tmp_path, data, "zstd:3", 1000).read_bytes()
    encrypted = pack_bytes(tmp_path, data, "zstd:3 encrypted", 1000)
    with open_packed(encrypted) as file, (tmp_path / "copy").open("w+b", buffering=0) as copy:
        assert file.reencrypt_to(copy.fileno(), None)[0] == len(plain)
    assert plain == (tmp_path / "copy").read_bytes()
    assert len(encrypted.read_bytes()) == len(plain) + 4 * 16 + ENVELOPE_BYTES


@pytest.mark.parametrize("variant", ["zstd:3", "lz4 shuffle:2 encrypted"])
async def test_a_container_is_encrypted_again_without_its_codec(
    tmp_path: Path, variant: str
) -> None:
    data = sample(2500)
    packed = pack_bytes(tmp_path, data, variant, 300)
    target = Encryption(OTHER_KEY, BLOB, Generation(3))
    reader = await Remote(packed.read_bytes()).open()
    for name in ("local", "remote"):
        with (tmp_path / name).open("w+b", buffering=0) as copy:
            if name == "local":
                with open_packed(packed) as file:
                    size, table = file.reencrypt_to(copy.fileno(), target)
            else:
                size, table = await reader.reencrypt_to(copy.fileno(), target)
        assert size == (tmp_path / name).stat().st_size
        with open_packed(tmp_path / name) as file:
            assert file.table == table
            assert table.key_id == OTHER_KEY.id
            assert file.read(0, 3000) == data
            file.verify()


def test_a_full_disk_stops_a_copy_and_is_told_as_such(tmp_path: Path) -> None:
    packed = pack_bytes(tmp_path, sample(300), "none encrypted", 100)
    fd = os.open("/dev/full", os.O_WRONLY)
    with open_packed(packed) as file, pytest.raises(NoSpaceError, match="No space left"):
        file.reencrypt_to(fd, None)
    os.close(fd)


@pytest.mark.parametrize("keys", [None, KeyRing(), KeyRing([OTHER_KEY])])
def test_a_missing_key_is_no_damage(tmp_path: Path, keys: KeyRing | None) -> None:
    packed = pack_bytes(tmp_path, sample(130), "none encrypted", 50)
    unlock = None if keys is None else Unlock(keys, BLOB)
    with pytest.raises(EncryptionKeyError, match=f"{packed}: encrypted with key {KEY.id.hex()}"):
        PackedFile.open(packed, unlock=unlock)


def test_one_content_is_never_encrypted_alike(tmp_path: Path) -> None:
    """Each container has a data key of its own: no nonce is used twice under one."""
    (tmp_path / "source").write_bytes(bytes(400))
    for name in "ab":
        pack(tmp_path / "source", tmp_path / name, "none encrypted", 100)
    stored = [(tmp_path / name).read_bytes() for name in "ab"]
    frames = {data[at : at + 116] for data in stored for at in range(0, 4 * 116, 116)}
    assert len(frames) == 8


def test_frames_that_change_places_do_not_decrypt(tmp_path: Path) -> None:
    packed = pack_bytes(tmp_path, sample(300), "none encrypted", 100)
    stored = bytearray(packed.read_bytes())
    stored[:116], stored[116:232] = stored[116:232], stored[:116]
    packed.write_bytes(stored)
    with open_packed(packed) as file:
        for index in (0, 1):
            with pytest.raises(CorruptDataError, match=f"frame {index}: does not decrypt"):
                file.read(index * 100, 100)
        assert file.read(200, 100) == sample(300)[200:]


def test_frames_and_tables_of_other_containers_do_not_decrypt(tmp_path: Path) -> None:
    """Not even those of the same content under the same key."""
    one = pack_bytes(tmp_path, sample(300), "none encrypted", 100).read_bytes()
    packed = pack_bytes(tmp_path, sample(300), "none encrypted", 100)
    other = packed.read_bytes()
    packed.write_bytes(one[:348] + other[348:])
    with open_packed(packed) as file, pytest.raises(CorruptDataError, match="frame 0"):
        file.verify()
    packed.write_bytes(one[:-ENVELOPE_BYTES] + other[-ENVELOPE_BYTES:])
    with pytest.raises(CorruptDataError, match="its table does not decrypt"):
        open_packed(packed)


def test_a_container_of_another_blob_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(sample(300))
    pack(tmp_path / "source", tmp_path / "packed", "none encrypted", 100, BlobId(78))
    with pytest.raises(CorruptDataError, match="holds blob 78 instead of 77"):
        open_packed(tmp_path / "packed")


@pytest.mark.parametrize(("offset", "what"), [(16, "blob"), (24, "generation"), (4, "frame_count")])
def test_an_envelope_that_was_forged_does_not_open(tmp_path: Path, offset: int, what: str) -> None:
    """Its checksum is no secret; the table's associated data is what counts."""
    packed = pack_bytes(tmp_path, sample(300), "none encrypted", 100)
    stored = bytearray(packed.read_bytes())
    start = len(stored) - ENVELOPE_BYTES
    stored[start + offset] ^= 1
    stored[-16:-8] = struct.pack("<Q", xxhash.xxh64_intdigest(bytes(stored[start:-16])))
    packed.write_bytes(stored)
    blob = BlobId(BLOB ^ 1) if what == "blob" else BLOB
    with pytest.raises(CorruptDataError, match="does not decrypt"):
        PackedFile.open(packed, unlock=Unlock(KeyRing([KEY]), blob))


def test_nothing_of_an_encrypted_content_shows(tmp_path: Path) -> None:
    """Neither its bytes nor the digest that would tell a known file."""
    data = b"secret " * 100
    stored = pack_bytes(tmp_path, data, "none encrypted", 100).read_bytes()
    assert b"secret" not in stored
    assert blake3.blake3(data).digest() not in stored


def test_a_filter_is_undone_for_frames_of_any_length(tmp_path: Path) -> None:
    for size in range(1, 40):
        packed = pack_bytes(tmp_path, sample(size), "lz4 shuffle:8", 13)
        with open_packed(packed) as file:
            assert file.table.shuffle_bytes == 8
            assert file.read(0, size) == sample(size)
