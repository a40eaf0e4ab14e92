"""Checksums of whole objects, as sources tell them: a wrong bit is seen, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import zlib
from typing import TYPE_CHECKING

import google_crc32c
import pytest
import trio

from memfs.errors import CorruptDataError
from memfs.stores import source
from memfs.stores.sums import Sum, best_of, decoded, hasher_of, sum_of, update_from
from tests.unit.fakes.bucket import Bucket

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.source import RangeRead, SourceObject

DATA = b"0123456789" * 100


def of_etag(data: bytes) -> Sum:
    return Sum("md5", hashlib.md5(data).digest(), is_certain=False)


class Telling(Bucket):
    """A bucket with two objects that tells checksums, and sends what it is to send."""

    def __init__(self, *sent: bytes) -> None:
        super().__init__()
        self.put("key", DATA)
        self.put("good", DATA)
        self.sums: tuple[Sum, ...] = ()
        self.sent = [*sent]

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        read = await super().read_if(wanted, start, end)
        if wanted.key == "good":
            return read._replace(sums=(of_etag(DATA),))
        data = self.sent.pop(0) if self.sent else read.data
        return read._replace(data=data, sums=self.sums)


async def read_all(bucket: Bucket, *keys: str) -> bytes:
    store, data = bucket.open(), b""
    found = {each.key: each async for page in store.list_pages() for each in page}
    for key in keys:
        data = await store.read(found[key], 0, len(DATA))
    return data


OTHER, THIRD = DATA[::-1], b"x" * len(DATA)


async def test_an_etag_that_is_no_checksum_anywhere_stops_nothing() -> None:
    """The same bytes come twice: a store may well make its ETags in another way."""
    bucket = Telling()
    bucket.sums = (of_etag(OTHER),)
    assert await read_all(bucket, "key") == DATA


async def test_an_etag_is_a_checksum_where_another_one_was_that() -> None:
    bucket = Telling()
    bucket.sums = (of_etag(OTHER),)
    with pytest.raises(CorruptDataError, match=r"key: .* md5 checksum .* write it anew"):
        await read_all(bucket, "good", "key")


async def test_bytes_that_are_others_each_time_are_not_taken() -> None:
    bucket = Telling(OTHER, THIRD)
    bucket.sums = (of_etag(DATA),)
    with pytest.raises(CorruptDataError):
        await read_all(bucket, "key")
    bucket.sent = [OTHER]
    assert await read_all(bucket, "key") == DATA


async def test_a_checksum_that_is_told_as_one_counts_at_once() -> None:
    bucket = Telling()
    bucket.sums = (Sum("sha256", hashlib.sha256(OTHER).digest()), of_etag(DATA))
    with pytest.raises(CorruptDataError, match="sha256"):
        await read_all(bucket, "key")


def test_checksums_are_those_of_their_standards(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA + b"behind it")
    for kind, digest in {
        "crc32": zlib.crc32(DATA).to_bytes(4, "big"),
        "crc32c": google_crc32c.value(DATA).to_bytes(4, "big"),
        "md5": hashlib.md5(DATA).digest(),
        "sha256": hashlib.sha256(DATA).digest(),
    }.items():
        assert sum_of(kind, DATA) == digest
        hasher = hasher_of(kind)
        with path.open("rb") as file:
            update_from(hasher, file.fileno(), 0, 5)
            update_from(hasher, file.fileno(), 5, len(DATA))
        assert hasher.digest() == digest
    # Appendix B.4 of RFC 3720.
    assert sum_of("crc32c", bytes(32)).hex() == "8a9136aa"


def test_what_makes_no_sense_is_no_checksum() -> None:
    right = base64.b64encode(bytes(16)).decode()
    told = [("md5", right), ("md5", "%%"), ("md5", "AAAA"), ("whirlpool", right), ("", "")]
    assert decoded(told) == (Sum("md5", bytes(16)),)
    sums = (of_etag(DATA), Sum("md5", bytes(16)), Sum("crc32c", bytes(4)))
    assert best_of(sums) == sums[2]
    assert best_of(sums[:2]) == sums[1]
    assert best_of(()) is None


@pytest.mark.parametrize("seed", range(5))
async def test_parts_are_summed_in_order_whatever_order_they_come_in(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PART_BYTES", 100)
    data = random.Random(seed).randbytes(1234)
    starts = [*range(0, len(data), 100)]
    random.Random(seed).shuffle(starts)
    told = Sum("md5", hashlib.md5(data, usedforsecurity=False).digest())
    with (tmp_path / "f").open("w+b") as file:
        summing = source._Summing(file.fileno(), len(data), "f")
        async with trio.open_nursery() as nursery:
            for start in starts:
                # The others are written later: what was summed too early would show.
                await trio.to_thread.run_sync(
                    os.pwrite, file.fileno(), data[start : start + 100], start
                )
                nursery.start_soon(summing.note, start, told)
        assert summing.sums() == (told, told.digest)
