"""read(2), write(2) and their positional and vectored kin."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.processes import in_child, together

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path

MIB = 1 << 20
GIB = 1 << 30


def _overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def test_bytes_come_back_as_written(place: Path) -> None:
    content = random.Random(1).randbytes(3 * MIB + 17)
    (place / "f").write_bytes(content)
    assert content == (place / "f").read_bytes()
    assert len(content) == (place / "f").stat().st_size


def test_read_ends_at_the_end_of_the_file(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    fd = os.open(place / "f", os.O_RDONLY)
    assert os.pread(fd, 100, 7) == b"789"
    assert os.pread(fd, 100, 10) == b""
    assert os.pread(fd, 100, 1 << 40) == b""
    os.close(fd)


def test_pread_and_pwrite_leave_the_position(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"abcdef")
    os.pwrite(fd, b"XY", 1)
    assert os.pread(fd, 3, 1) == b"XYd"
    assert os.lseek(fd, 0, os.SEEK_CUR) == 6
    os.close(fd)


def test_vectored_reads_and_writes_keep_the_order(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    assert os.writev(fd, [b"abc", b"", b"def", b"ghi"]) == 9
    os.lseek(fd, 1, os.SEEK_SET)
    buffers = [bytearray(2), bytearray(3), bytearray(10)]
    assert os.readv(fd, buffers) == 8
    assert [bytes(buffers[0]), bytes(buffers[1]), bytes(buffers[2][:3])] == [b"bc", b"def", b"ghi"]
    assert os.pwritev(fd, [b"12", b"34"], 20) == 4
    assert os.pread(fd, 100, 9) == b"\0" * 11 + b"1234"
    os.close(fd)


def test_a_write_beyond_the_end_leaves_zeros_between(place: Path) -> None:
    (place / "f").write_bytes(b"head")
    with (place / "f").open("r+b") as file:
        file.seek(MIB)
        file.write(b"tail")
    content = (place / "f").read_bytes()
    assert b"head" + bytes(MIB - 4) + b"tail" == content


def test_a_sparse_file_takes_no_room_for_its_holes(place: Path) -> None:
    with (place / "f").open("wb") as file:
        file.seek(GIB)
        file.write(b"x")
    status = (place / "f").stat()
    assert status.st_size == GIB + 1
    assert status.st_blocks * 512 < MIB


def test_offsets_beyond_4_gib_are_not_cut_to_32_bits(place: Path) -> None:
    offsets = [4 * GIB - 10, 4 * GIB + 50, 37 * GIB]
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    for offset in offsets:
        os.pwrite(fd, b"%020d" % offset, offset)
    for offset in offsets:
        assert b"%020d" % offset == os.pread(fd, 20, offset)
    assert bytes(100) == os.pread(fd, 100, 0)
    os.close(fd)
    assert offsets[-1] + 20 == (place / "f").stat().st_size


def test_overlapping_random_writes_match_a_buffer_in_memory(place: Path) -> None:
    rng = random.Random(2)
    model = bytearray()
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(300):
        offset, data = rng.randrange(400_000), rng.randbytes(rng.randrange(1, 30_000))
        if len(model) < offset + len(data):
            model.extend(bytes(offset + len(data) - len(model)))
        model[offset : offset + len(data)] = data
        assert len(data) == os.pwrite(fd, data, offset)
        start = rng.randrange(len(model))
        length = rng.randrange(50_000)
        assert model[start : start + length] == os.pread(fd, length, start)
    os.close(fd)
    assert bytes(model) == (place / "f").read_bytes()


def test_appends_by_two_processes_are_never_lost_nor_torn(place: Path) -> None:
    record_count, record_bytes = 300, 100

    def append(index: int) -> None:
        fd = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        for _ in range(record_count):
            os.write(fd, b"%d" % index * record_bytes)
        os.close(fd)

    together(2, append)
    content = (place / "f").read_bytes()
    records = [content[at : at + record_bytes] for at in range(0, len(content), record_bytes)]
    assert 2 * record_count == len(records)
    assert {b"0" * record_bytes, b"1" * record_bytes} == set(records)
    assert record_count == records.count(b"0" * record_bytes)


def test_one_process_sees_at_once_what_another_wrote(place: Path) -> None:
    (place / "f").write_bytes(b"old")
    reader = os.open(place / "f", os.O_RDONLY)
    assert os.pread(reader, 10, 0) == b"old"
    in_child(_overwrite, place / "f", b"newer")
    assert os.pread(reader, 10, 0) == b"newer"
    assert os.fstat(reader).st_size == 5
    os.close(reader)


def test_writers_on_disjoint_ranges_do_not_disturb_each_other(place: Path) -> None:
    stripe, count = 4096 + 13, 40
    (place / "f").touch()

    def write(index: int) -> None:
        fd = os.open(place / "f", os.O_WRONLY)
        for number in range(index, count, 4):
            os.pwrite(fd, bytes([number]) * stripe, number * stripe)
        os.close(fd)

    together(4, write)
    assert b"".join(bytes([n]) * stripe for n in range(count)) == (place / "f").read_bytes()


def test_preadv2_without_waiting_reads_right_or_refuses(place: Path) -> None:
    """RWF_NOWAIT may answer EAGAIN or EOPNOTSUPP: never wrong bytes."""
    (place / "f").write_bytes(b"cached")
    fd = os.open(place / "f", os.O_RDONLY)
    buffer = bytearray(6)
    failure = error_of(os.preadv, fd, [buffer], 0, os.RWF_NOWAIT)
    assert failure in (None, "EAGAIN", "ENOTSUP")
    assert failure is not None or buffer == b"cached"
    os.close(fd)


def test_pwritev2_with_dsync_and_append(place: Path) -> None:
    (place / "f").write_bytes(b"start")
    fd = os.open(place / "f", os.O_RDWR)
    assert os.pwritev(fd, [b"ST"], 0, os.RWF_DSYNC) == 2
    assert os.pwritev(fd, [b"+end"], 0, os.RWF_APPEND) == 4
    os.close(fd)
    assert (place / "f").read_bytes() == b"STart+end"


def test_a_write_of_nothing_changes_nothing(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(0, 0))
    fd = os.open(place / "f", os.O_WRONLY)
    assert os.pwrite(fd, b"", 100) == 0
    os.close(fd)
    assert ((place / "f").stat().st_size, (place / "f").stat().st_mtime_ns) == (1, 0)


def test_negative_offsets_are_refused(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    assert error_of(os.pread, fd, 1, -1) == "EINVAL"
    assert error_of(os.pwrite, fd, b"x", -1) == "EINVAL"
    os.close(fd)


def test_reading_a_directory_is_refused(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    assert error_of(os.read, fd, 1) == "EISDIR"
    os.close(fd)


def test_sendfile_and_splice_move_the_right_bytes(place: Path) -> None:
    content = random.Random(3).randbytes(300_000)
    (place / "source").write_bytes(content)
    source = os.open(place / "source", os.O_RDONLY)
    target = os.open(place / "target", os.O_CREAT | os.O_WRONLY, 0o600)
    offset = 0
    while count := os.sendfile(target, source, offset, 1 << 20):
        offset += count
    read_fd, write_fd = os.pipe()
    spliced = 0
    while count := os.splice(source, write_fd, 65536):
        spliced += os.splice(read_fd, target, count)
    for fd in (source, target, read_fd, write_fd):
        os.close(fd)
    assert (len(content), len(content)) == (offset, spliced)
    assert content * 2 == (place / "target").read_bytes()
