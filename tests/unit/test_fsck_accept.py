"""Raw files that were changed on purpose are accepted by path, by raw file and by its number."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.fsck.accept import accept_changes, find_change
from memfs.metadata.records import InodeFlags
from memfs.moves.dropping import drop_raw
from memfs.moves.packing import pack
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

CONTENT = compressible(30_000)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


async def raw_path(state: State, ino: InodeNo) -> Path:
    return state.raw_store.path((await state.engine.get_inode(ino)).raw)


async def problems(state: State) -> list[str]:
    report = await state.check_files()
    return [problem.subject for problem in report.problems]


@pytest.mark.parametrize("how", ["path", "bare path", "raw path", "raw number"])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_changed_raw_file_becomes_the_content(state: State, how: str, packed: bool) -> None:
    ino = await state.create("f", CONTENT)
    if packed:
        await pack(state.parts, ino)
    former = await state.engine.get_inode(ino)
    path = await raw_path(state, ino)
    path.write_bytes(b"edited")
    assert await problems(state) == ["/f"]
    name = {
        "path": "/f",
        "bare path": "f",
        "raw path": str(path),
        "raw number": str(int(former.raw)),
    }[how]
    change = await find_change(state.engine, state.raw_store, name)
    assert (change.path, change.raw_path) == ("/f", path)
    assert (change.size_before, change.size) == (len(CONTENT), 6)
    assert change.mtime_ns == path.stat().st_mtime_ns
    assert change.form_count == int(packed)
    assert change.differs
    await accept_changes(state.engine, [change])
    assert await problems(state) == []
    inode = await state.engine.get_inode(ino)
    assert inode.flags & InodeFlags.UNSEALED, "the next mount seals it"
    assert inode.generation == former.generation + 1
    assert not inode.blob
    again = await find_change(state.engine, state.raw_store, name)
    assert not again.differs


@pytest.mark.parametrize("name", ["/nothing", "/", "7777777", "raw/zz"])
async def test_what_is_not_there_is_not_accepted(state: State, name: str) -> None:
    await state.create("f", CONTENT)
    if name.startswith("raw"):
        name = str(state.raw_store.root / "0" / "zz")
    with pytest.raises(UsageError):
        await find_change(state.engine, state.raw_store, name)


@pytest.mark.parametrize("what", ["missing", "link", "only packed"])
async def test_a_raw_file_that_cannot_be_one_is_not_accepted(
    state: State, tmp_path: Path, what: str
) -> None:
    ino = await state.create("f", CONTENT)
    path = await raw_path(state, ino)
    if what == "only packed":
        await pack(state.parts, ino)
        await drop_raw(state.parts, ino)
    else:
        path.unlink()
    if what == "link":
        (tmp_path / "other").write_bytes(b"other")
        path.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match=r"no plain file|is missing|has no raw file"):
        await find_change(state.engine, state.raw_store, "/f")


async def test_the_command_asks_and_takes_yes(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    opened = State(directory)
    ino = await opened.create("f", CONTENT)
    path = await raw_path(opened, ino)
    opened.close()
    path.write_bytes(b"edited")

    def fsck(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "memfs_tools", "fsck", *arguments, directory],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    asked = fsck("--accept", "f")
    assert asked.returncode == ExitCode.USAGE
    assert "has 6 bytes of " in asked.stderr
    assert f"instead of {len(CONTENT)} bytes of " in asked.stderr
    assert "add --yes" in asked.stderr
    assert fsck().returncode == ExitCode.PROBLEMS, "nothing was changed"
    taken = fsck("--accept", "f", "--yes")
    assert taken.returncode == ExitCode.OK, taken.stderr
    assert fsck("--accept", "f", "--yes").returncode == ExitCode.OK
    assert os.stat(path).st_size == 6
