"""A pipe in the place of a file of the state keeps nobody waiting, and is told as damage."""

from __future__ import annotations

import ast
import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import WarmConfig
from memfs.content.residency import Residency
from memfs.errors import CorruptDataError
from memfs.linux.files import NotPlainError, open_regular, read_regular, take_lease
from memfs.stores.digesting import digest_file, read_file
from memfs.stores.disk import open_source
from memfs.stores.packing import pack_file
from memfs.stores.raw import RawStore
from memfs.stores.sampling import judge
from memfs.types import RawId
from tests.waiting import join, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
RAW = RawId(7)
ROOMS = ("content", "filesystem", "fsck", "jobs", "metadata", "moves", "placement", "stores")
"""Those that open files of a state, by names."""

SAFE = {"O_DIRECTORY", "O_EXCL", "O_PATH", "O_NONBLOCK"}
"""With one of them open(2) meets no pipe, or does not wait for it."""

EXCUSED = {
    ("memfs/stores/raw.py", "_CREATE_FLAGS | access"): "with O_EXCL",
    ("memfs/stores/directory_source.py", "flags"): "with O_NONBLOCK, and compared after it",
    ("memfs/stores/directory_publishing.py", "flags"): "with O_EXCL",
}


@pytest.fixture
def raw_store(tmp_path: Path) -> Iterator[RawStore]:
    store = RawStore(tmp_path)
    os.close(store.create(RAW))
    os.unlink(store.path(RAW))
    os.mkfifo(store.path(RAW))
    yield store
    store.close()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR], ids=["r", "w", "rw"])
def test_a_pipe_is_no_raw_file(raw_store: RawStore, flags: int) -> None:
    with pytest.raises(CorruptDataError, match=r"7 is no plain file: move it away"):
        raw_store.open(RAW, flags)


@pytest.mark.parametrize(
    "read",
    [
        digest_file,
        lambda path: read_file(path, lambda _: None),
        lambda path: judge(path, get_codec(parse_codec("lz4"))),
        lambda path: pack_file(path, -1, get_codec(parse_codec("lz4")), 4096),
        open_source,
    ],
    ids=["digest", "read", "sample", "pack", "upload"],
)
def test_a_pipe_is_not_read(raw_store: RawStore, read: Callable[[Path], object]) -> None:
    with pytest.raises(CorruptDataError, match="no plain file"):
        read(raw_store.path(RAW))


def test_a_pipe_has_nothing_in_ram(raw_store: RawStore) -> None:
    residency = Residency(raw_store, WarmConfig(size_bytes=1 << 20))
    assert residency.ram_bytes(raw_store.path(RAW)) == 0
    residency.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_what_is_no_plain_file_is_an_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "entry"
    make(path)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT):
        with pytest.raises(NotPlainError, match="no plain file"):
            open_regular(path, flags)
    with pytest.raises(NotPlainError):
        read_regular(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(link, os.O_RDONLY)
    with pytest.raises(NotPlainError):
        open_regular(link, os.O_RDONLY, follows=True)


def test_a_lease_is_waited_for(tmp_path: Path) -> None:
    """Threads of the daemon look for writers by leases, and open the same files meanwhile."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    found: list[bytes] = []
    leased = os.open(path, os.O_RDONLY)
    take_lease(leased, fcntl.F_WRLCK)
    thread = threading.Thread(target=lambda: found.append(read_regular(path)))
    thread.start()
    # It is to be F_RDLCK from the moment on that another one wants to open the file.
    wait_for(lambda: fcntl.fcntl(leased, fcntl.F_GETLEASE) == fcntl.F_RDLCK, "nobody opens it")
    assert found == []
    os.close(leased)
    join(thread)
    assert found == [b"bytes"]


def openings(source: str) -> Iterator[tuple[int, str]]:
    """Yield lines and flags of calls that open a file by its name and may wait for a pipe."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called, owner = node.func.attr, ast.unparse(node.func.value)
        if called in ("read_bytes", "read_text"):
            yield node.lineno, called
        elif called == "open" and owner == "os":
            flags = node.args[1]
            names = {each.attr for each in ast.walk(flags) if isinstance(each, ast.Attribute)}
            if not names & SAFE:
                yield node.lineno, ast.unparse(flags)
        elif called == "open" and node.args and isinstance(node.args[0], ast.Constant):
            mode = str(node.args[0].value)
            if set(mode) <= set("rwab+t") and "x" not in mode:
                yield node.lineno, mode


SOURCE = """
os.open(path, os.O_RDONLY | os.O_CLOEXEC)
os.open(path, os.O_RDONLY | os.O_DIRECTORY)
os.open(path, flags)
path.open("rb", 0)
path.open("xb")
path.read_bytes()
webbrowser.open("https://")
"""


def test_openings_are_found() -> None:
    assert list(openings(SOURCE)) == [
        (2, "os.O_RDONLY | os.O_CLOEXEC"),
        (4, "flags"),
        (5, "rb"),
        (7, "read_bytes"),
    ]


def test_all_rooms_open_files_of_the_state_so() -> None:
    """By `linux.files.open_regular`, and by what rests on it."""
    found: dict[tuple[str, str], int] = {}
    for room in ROOMS:
        for file in sorted((ROOT / "memfs" / room).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            found |= {(name, flags): line for line, flags in openings(file.read_text())}
    assert {place: line for place, line in found.items() if place not in EXCUSED} == {}
    assert set(EXCUSED) <= set(found), "an excuse that nobody needs"
