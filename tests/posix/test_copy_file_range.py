"""copy_file_range(2)."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.data_path

CONTENT = random.Random(4).randbytes(300_000)


def _copy_all(
    source: int, target: int, length: int, from_offset: int = 0, to_offset: int = 0
) -> int:
    """Copy like a program: until nothing more comes."""
    copied = 0
    while copied < length:
        count = os.copy_file_range(
            source, target, length - copied, from_offset + copied, to_offset + copied
        )
        if count == 0:
            break
        copied += count
    return copied


@pytest.fixture
def pair(place: Path) -> Iterator[tuple[int, int]]:
    """Handles of a file with content and of an empty one."""
    (place / "source").write_bytes(CONTENT)
    source = os.open(place / "source", os.O_RDONLY)
    target = os.open(place / "target", os.O_CREAT | os.O_RDWR, 0o600)
    yield source, target
    os.close(source)
    os.close(target)


def test_a_whole_file_is_copied(place: Path, pair: tuple[int, int]) -> None:
    assert len(CONTENT) == _copy_all(*pair, 1 << 30)
    assert (place / "target").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("from_offset", "to_offset", "length"),
    [(0, 4096, 4096), (1, 0, 100_000), (4096, 123, 8192), (299_000, 5, 5000)],
)
def test_a_range_lands_where_it_should(
    place: Path, pair: tuple[int, int], from_offset: int, to_offset: int, length: int
) -> None:
    os.pwrite(pair[1], b"o" * 200_000, 0)
    copied = _copy_all(*pair, length, from_offset, to_offset)
    expected = bytearray(b"o" * 200_000)
    piece = CONTENT[from_offset : from_offset + length]
    expected[to_offset : to_offset + len(piece)] = piece
    assert len(piece) == copied
    assert bytes(expected) == (place / "target").read_bytes()


def test_without_offsets_the_positions_move(pair: tuple[int, int]) -> None:
    os.lseek(pair[0], 100, os.SEEK_SET)
    count = os.copy_file_range(*pair, 1000)
    assert 0 < count <= 1000
    assert (100 + count, count) == tuple(os.lseek(fd, 0, os.SEEK_CUR) for fd in pair)


def test_a_copy_is_independent_of_its_source(place: Path, pair: tuple[int, int]) -> None:
    _copy_all(*pair, len(CONTENT))
    with (place / "source").open("r+b") as file:
        file.write(b"changed")
    assert (place / "target").read_bytes() == CONTENT


def test_within_one_file_disjoint_ranges_are_copied(place: Path) -> None:
    (place / "f").write_bytes(CONTENT)
    fd = os.open(place / "f", os.O_RDWR)
    assert _copy_all(fd, fd, 10_000, 0, 200_000) == 10_000
    os.close(fd)
    expected = CONTENT[:200_000] + CONTENT[:10_000] + CONTENT[210_000:]
    assert expected == (place / "f").read_bytes()


def test_within_one_file_overlapping_ranges_are_refused(place: Path) -> None:
    (place / "f").write_bytes(CONTENT)
    fd = os.open(place / "f", os.O_RDWR)
    assert error_of(os.copy_file_range, fd, fd, 10_000, 0, 5000) == "EINVAL"
    os.close(fd)


def test_bytes_just_written_by_another_handle_are_copied(
    place: Path, pair: tuple[int, int]
) -> None:
    with (place / "source").open("r+b") as file:
        file.write(b"fresh")
        file.flush()
        _copy_all(*pair, 5)
    assert (place / "target").read_bytes() == b"fresh"


def test_to_and_from_another_file_system(place: Path, reference: Path) -> None:
    """The kernel may refuse with EXDEV; what it does copy is right."""
    (place / "here").write_bytes(CONTENT)
    (reference / "there").write_bytes(CONTENT)
    for source, target in [(place / "here", reference / "a"), (reference / "there", place / "a")]:
        source_fd = os.open(source, os.O_RDONLY)
        target_fd = os.open(target, os.O_CREAT | os.O_WRONLY, 0o600)
        failure = error_of(_copy_all, source_fd, target_fd, len(CONTENT))
        os.close(source_fd)
        os.close(target_fd)
        assert failure in (None, "EXDEV")
        assert (CONTENT if failure is None else b"") == target.read_bytes()


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (lambda s, t: os.copy_file_range(t, s, 1, 0, 0), "EBADF"),
        (lambda s, t: os.copy_file_range(s, t, 1, 1 << 40, 0), None),
    ],
    ids=["into a read-only handle", "from past the end"],
)
def test_what_is_refused(
    pair: tuple[int, int], attempt: Callable[[int, int], int], expected: str | None
) -> None:
    os.write(pair[1], b"x")
    assert expected == error_of(attempt, *pair)


def test_an_appending_target_is_refused(place: Path, pair: tuple[int, int]) -> None:
    fd = os.open(place / "target", os.O_WRONLY | os.O_APPEND)
    assert error_of(os.copy_file_range, pair[0], fd, 10) == "EBADF"
    os.close(fd)
