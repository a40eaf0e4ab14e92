"""Holes cost next to nothing, and the digest stays that of all bytes."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import blake3
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import ColdConfig
from memfs.encryption.keys import Key, KeyRing
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.uploading import upload
from memfs.stores import zeros
from memfs.stores.container import checksum
from memfs.stores.digesting import digest_file
from memfs.stores.envelope import Encryption, Unlock
from memfs.stores.packing import pack_file
from memfs.stores.reading import BATCH_BYTES, FrameReader, PackedFile
from memfs.stores.unpacking import Unpacking
from memfs.stores.zeros import ZeroRuns
from memfs.types import BlobId, FormKind, Generation
from tests.moving import SMALL_FRAMES, State, incompressible
from tests.waiting import wait_for, wait_until_set

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
KEY = Key(bytes(range(32)), "of this test")


@settings(deadline=None, max_examples=60)
@given(runs=st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 5000)), max_size=8))
def test_the_digest_is_that_of_all_bytes(runs: list[tuple[bytes, int]]) -> None:
    """Also where what is kept is used again, behind equal and behind other bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeros, "KEPT_BYTES_MIN", 100)
        patch.setattr(zeros, "KEPT_COUNT_MAX", 3)
        kept = ZeroRuns()
        for begin in (0, 0, 1):
            hasher, content = blake3.blake3(), b""
            for data, count in runs[begin:]:
                hasher.update(data)
                hasher = kept.update(hasher, count)
                content += data + bytes(count)
            assert hasher.digest() == blake3.blake3(content).digest()


def test_a_run_is_hashed_once_behind_the_same_bytes() -> None:
    kept = ZeroRuns()
    steps: list[None] = []
    for prefix in (b"a", b"a", b"b"):
        hasher = blake3.blake3(prefix)
        kept.update(hasher, 64 * MIB, lambda: steps.append(None))
    assert len(steps) == 2 * 16


def test_a_longer_run_and_one_that_was_stopped_go_on_from_what_is_known() -> None:
    kept = ZeroRuns()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        kept.update(blake3.blake3(b"a"), 64 * MIB, step)
    for size in (64 * MIB, 64 * MIB + 12345, 32 * MIB):
        hasher = kept.update(blake3.blake3(b"a"), size, step)
        assert hasher.digest() == blake3.blake3(b"a" + bytes(size)).digest()
    # 10 and 6 of the first run, 1 for what is longer, and 8 for what nothing shorter is known of.
    assert steps == 10 + 6 + 1 + 8


class CountedZeros(ZeroRuns):
    """Counts the steps of hashing."""

    steps = 0

    def update(
        self,
        hasher: blake3.blake3,
        size_bytes: int,
        on_step: Callable[[], None] | None = None,
    ) -> blake3.blake3:
        def step() -> None:
            self.steps += 1
            if on_step is not None:
                on_step()

        return super().update(hasher, size_bytes, step)


async def test_the_holes_of_a_file_are_hashed_once(tmp_path: Path) -> None:
    """Whatever its size is: the last frame is no whole one, and is read as data."""
    source, packed = tmp_path / "source", tmp_path / "packed"
    source.write_bytes(b"data")
    os.truncate(source, 256 * MIB + 12345)
    counted = CountedZeros()
    with packed.open("wb", buffering=0) as target:
        pack_file(
            source, target.fileno(), get_codec(parse_codec("zstd:3")), 64 << 10, zeros=counted
        )
    once = counted.steps
    assert once > 60
    with PackedFile.open(packed) as file:
        file.verify(None, counted)
    assert counted.steps <= once + 1
    stored = packed.read_bytes()

    async def read_range(start: int, end: int) -> bytes:
        return stored[start:end]

    reader = await FrameReader.open(read_range, len(stored), "object")
    await reader.verify(None, counted)
    assert counted.steps <= once + 2


async def packed_holes(tmp_path: Path, frame_count: int) -> bytes:
    source, packed = tmp_path / "source", tmp_path / "packed"
    source.touch()
    os.truncate(source, frame_count * 4096)
    with packed.open("wb", buffering=0) as target:
        pack_file(source, target.fileno(), get_codec(parse_codec("zstd:3")), 4096)
    return packed.read_bytes()


async def test_reading_back_is_given_up_amid_the_frames_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 8 MiB has the frames of 100 GiB of holes."""
    stored = await packed_holes(tmp_path, 20_000)
    assert len(stored) < BATCH_BYTES
    begun, given_up, taken = threading.Event(), threading.Event(), 0
    take = Unpacking.take

    def wait_once(self: Unpacking, index: int, view: memoryview) -> int:
        nonlocal taken
        taken += 1
        begun.set()
        wait_until_set(given_up)
        return take(self, index, view)

    monkeypatch.setattr(Unpacking, "take", wait_once)

    async def read_range(start: int, end: int) -> bytes:
        return stored[start:end]

    reader = await FrameReader.open(read_range, len(stored), "object")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.verify)
        await trio.to_thread.run_sync(wait_until_set, begun)
        nursery.cancel_scope.cancel()
        given_up.set()
    assert taken == 1


@pytest.mark.parametrize("is_remote", [False, True], ids=["packed", "remote"])
async def test_a_long_run_of_zeros_is_given_up_amid(tmp_path: Path, is_remote: bool) -> None:
    """An unmount waited for the zeros of 64 GiB: half a minute."""
    stored, begun = await packed_holes(tmp_path, 10), threading.Event()

    class EndlessZeros(ZeroRuns):
        def update(
            self,
            hasher: blake3.blake3,
            size_bytes: int,
            on_step: Callable[[], None] | None = None,
        ) -> blake3.blake3:
            assert on_step is not None, "nothing ends it"
            begun.set()
            wait_for(on_step, "it was not given up")
            return hasher

    async def read_range(start: int, end: int) -> bytes:
        return stored[start:end]

    async def verify() -> None:
        if is_remote:
            reader = await FrameReader.open(read_range, len(stored), "object")
            await reader.verify(None, EndlessZeros())
            return
        with PackedFile.open(tmp_path / "packed") as file:
            await trio.to_thread.run_sync(
                file.verify, lambda _: trio.from_thread.check_cancelled(), EndlessZeros()
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(verify)
        await trio.to_thread.run_sync(wait_until_set, begun)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


def sparse_file(path: Path, size: int, rng: random.Random) -> bytes:
    """Write a file with holes, zeros that are no holes, and data, in pieces of any length."""
    content = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(rng.randint(0, 6)):
            at, count = rng.randrange(size), rng.randint(1, 20_000)
            data = rng.choice([bytes(count), rng.randbytes(count)])[: size - at]
            file.seek(at)
            file.write(data)
            content[at : at + len(data)] = data
    return bytes(content)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("codec", ["zstd:3", "lz4", "snappy", "none"])
async def test_sparse_files_come_back_with_their_holes(
    tmp_path: Path, codec: str, encrypted: bool
) -> None:
    rng = random.Random(codec)
    encryption = Encryption(KEY, BlobId(1), Generation(1), bytes(16)) if encrypted else None
    unlock = Unlock(KeyRing([KEY]), BlobId(1))
    for number in range(6):
        source, packed = tmp_path / f"source{number}", tmp_path / f"packed{number}"
        content = sparse_file(source, rng.randint(1, 400_000), rng)
        with packed.open("wb", buffering=0) as container:
            summary = pack_file(
                source,
                container.fileno(),
                get_codec(parse_codec(codec)),
                4096,
                encryption=encryption,
            )
        assert summary.digest == blake3.blake3(content).digest() == digest_file(source)
        assert summary.stored_bytes == packed.stat().st_size
        checksums = [checksum(content[at : at + 4096]) for at in range(0, len(content), 4096)]
        assert list(summary.table.content_checksums) == checksums
        out = tmp_path / "out"
        with PackedFile.open(packed, unlock=unlock) as file, out.open("wb") as target:
            file.verify()
            file.unpack_to(target.fileno())
            assert file.read(0, len(content)) == content
        assert out.read_bytes() == content
        assert out.stat().st_blocks <= source.stat().st_blocks
        stored = packed.read_bytes()

        async def read_range(start: int, end: int, stored: bytes = stored) -> bytes:
            return stored[start:end]

        reader = await FrameReader.open(read_range, len(stored), "object", unlock)
        with out.open("wb") as target:
            await reader.unpack_to(target.fileno())
        assert out.read_bytes() == content


async def test_one_hole_of_many_that_is_damaged_is_found(tmp_path: Path) -> None:
    """What is known of frames of zeros is compared with each of them."""
    source, packed = tmp_path / "source", tmp_path / "packed"
    source.touch()
    os.truncate(source, 100 * 4096)
    with packed.open("wb", buffering=0) as target:
        summary = pack_file(source, target.fileno(), get_codec(parse_codec("zstd:3")), 4096)
    stored = bytearray(packed.read_bytes())
    for index in (1, 50, 99):
        damaged = bytearray(stored)
        damaged[summary.table.stored_offsets[index] + 2] ^= 1
        packed.write_bytes(damaged)
        with PackedFile.open(packed) as file, pytest.raises(Exception, match=f"frame {index}:"):
            file.verify()


async def test_a_sparse_file_costs_the_store_its_data_alone(tmp_path: Path) -> None:
    """Data that no codec makes smaller included, which the sample may meet alone."""
    config = SMALL_FRAMES.__class__(
        metadata=SMALL_FRAMES.metadata,
        warm=SMALL_FRAMES.warm,
        cold=ColdConfig(),
        glacier=SMALL_FRAMES.glacier,
        policy=SMALL_FRAMES.policy,
    )
    state = State(tmp_path / "state", config)
    size, data = 512 * MIB, incompressible(MIB)
    ino = await state.create("f", b"")
    inode = await state.engine.get_inode(ino)
    await state.engine.unseal(ino, inode.raw)
    with state.raw_store.path(inode.raw).open("r+b") as file:
        file.truncate(size)
        # Where a sample is taken: at the start, in the middle and at the end.
        for at in (0, size // 2 - MIB // 2, size - MIB):
            file.seek(at)
            file.write(data)
    await state.seal(ino)
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
    form = await state.form(ino, FormKind.REMOTE)
    assert form.stored_bytes < 4 * MIB
    await drop_raw(state.parts, ino)
    inode = await hydrate(state.parts, ino)
    assert state.raw_store.stat(inode.raw).st_blocks * 512 < 5 * MIB
    with state.raw_store.path(inode.raw).open("rb") as file:
        file.seek(size - MIB)
        assert file.read() == data
    state.close()
