"""Headers that are large, hostile or elsewhere: read or refused, at little cost to others."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.hot.headers import HeaderFile, HeaderLimits, HeaderReader
from memfs.hot.indexes import decode_index
from memfs.hot.tensors import FormatError
from tests.tiers.tensors import safetensors_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def header_of(count: int, padding: int = 0) -> bytes:
    """A safetensors file of empty tensors."""
    row = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"{at:06}{'x' * padding}": row for at in range(count)}).encode()
    return struct.pack("<Q", len(text)) + text


@contextlib.contextmanager
def file_of(path: Path, content: bytes) -> Iterator[HeaderFile]:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield HeaderFile(str(path), len(content), fd, None, None, None)
    finally:
        os.close(fd)


def reader(limits: HeaderLimits | None = None) -> HeaderReader:
    environment = dict(os.environ)
    return HeaderReader(environment) if limits is None else HeaderReader(environment, limits)


def children() -> set[int]:
    """Return the processes of this one that read headers: the test run has others beside them."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found |= set(map(int, file.read().split()))
    return {each for each in found if b"memfs.hot.header_worker" in _command_of(each)}


def _command_of(process: int) -> bytes:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("count", [3, 500, 5000])
async def test_small_and_large_headers_give_the_same_index(tmp_path: Path, count: int) -> None:
    """Whether they are read in this process or in another one."""
    with file_of(tmp_path / "file", header_of(count)) as file:
        index = decode_index(await reader().read(file))
    assert [tensor.name for tensor in index.tensors] == [f"{at:06}" for at in range(count)]


@pytest.mark.parametrize("count", [3, 5000])
async def test_a_file_that_is_elsewhere_is_asked_for_piece_by_piece(
    tmp_path: Path, count: int
) -> None:
    """Its header alone."""
    content = header_of(count)
    pieces: list[tuple[int, int]] = []

    async def read(offset: int, size: int) -> bytes:
        pieces.append((offset, size))
        return content[offset : offset + size]

    file = HeaderFile("file", len(content), None, read, None, None)
    assert len(decode_index(await reader().read(file)).tensors) == count
    assert max(size for _, size in pieces) <= len(content)

    async def cut_off(offset: int, size: int) -> bytes:
        return content[offset : offset + size - 1]

    with pytest.raises(FormatError, match="ends at"):
        await reader().read(file._replace(read=cut_off))
    assert children() == set()


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (header_of(5000)[:-1], "says that its header has"),
        (header_of(5000) + b"x", "the tensors end at"),
        (struct.pack("<Q", 65_000_000) + b"{" + bytes(100_000), "25000000 are allowed"),
        (struct.pack("<Q", 20_000_000) + b"{" * 20_000_000, "more parts than"),
        (struct.pack("<Q", 20_000_000) + b'{"' + b"x" * 20_000_000, "is not JSON"),
        (header_of(101_000), "100000 are taken"),
    ],
)
async def test_a_large_header_that_lies_is_refused_by_name(
    tmp_path: Path, content: bytes, flaw: str
) -> None:
    """As small ones are."""
    with (
        file_of(tmp_path / "some file", content) as file,
        pytest.raises(FormatError, match=f"some file.*{flaw}"),
    ):
        await reader().read(file)
    assert children() == set()


@pytest.mark.parametrize("limits", [HeaderLimits(48 << 20, 100), HeaderLimits(1 << 30, 1)])
async def test_what_takes_too_much_is_refused(tmp_path: Path, limits: HeaderLimits) -> None:
    """By the limits of a process that is not this one."""
    with (
        file_of(tmp_path / "file", header_of(100_000, 150)) as file,
        pytest.raises(FormatError, match="takes more than"),
    ):
        await reader(limits).read(file)
    assert children() == set()


async def test_large_headers_are_read_one_at_a_time_and_others_meanwhile(tmp_path: Path) -> None:
    """The loop goes on, a small header does not wait, and there is never a second process."""
    most = 0
    small_done = trio.Event()

    async def read_large(name: str) -> None:
        with file_of(tmp_path / name, header_of(20_000)) as file:
            await headers.read(file)

    async def read_small() -> None:
        with file_of(tmp_path / "small", safetensors_of(1000)) as file:
            await headers.read(file)
        assert nursery.child_tasks, "the large ones are done before"
        small_done.set()

    headers = reader()
    async with trio.open_nursery() as watching:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(children()))
                await trio.sleep(0.005)

        watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(read_large, str(number))
            nursery.start_soon(read_small)
            await small_done.wait()
        watching.cancel_scope.cancel()
    assert most == 1


async def test_who_gives_up_leaves_no_process(tmp_path: Path) -> None:
    """And the next one is served."""
    headers = reader()
    with file_of(tmp_path / "file", header_of(50_000)) as file:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(headers.read, file)
            with trio.fail_after(30):
                while not children():  # noqa: ASYNC110 - of the kernel, which sets no event
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        wait_for(lambda: not children(), "a process that is left")
        with trio.fail_after(30):
            assert await headers.read(file)
