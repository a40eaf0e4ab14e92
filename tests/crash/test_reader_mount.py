"""Two daemons and a database: what one node has written is seen by the one that reads, at once."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING

import pytest

from memfs.filesystem.recency import GRACE_S
from memfs.manager.errors import ReadOnlyMountError
from memfs.manager.manager import MemoryManager
from memfs.metadata.namespace import FROZEN_S
from tests.crash.node_pair import SHORT_LIMIT_S, Pair, Way, errno_of_reading
from tests.mounting import MountError, run_memfs
from tests.waiting import WAIT_S, join, wait_for

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.mount

ROUNDS = 5


def pairs(*ways: Way) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", ways, indirect=True, ids=[way.driver for way in ways])


both_drivers = pairs(Way("kernel"), Way("pyfuse3"))


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return sizes and times of all files below a directory."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@both_drivers
def test_what_was_closed_before_is_seen(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    # The reader's kernel has looked at all of it before.
    (here / "d/e").mkdir(parents=True)
    (here / "f").write_text("0")
    pair.upload()
    assert (there / "f").read_text() == "0"
    assert [path.name for path in (there / "d").iterdir()] == ["e"]
    assert not (there / "missing").exists()
    for number in range(ROUNDS):
        text = f"content {number}" * 100
        (here / "temporary").write_text(text)
        pair.upload()
        (here / "temporary").rename(here / "f")
        assert (there / "f").read_text() == text
    (here / "missing").write_text("")
    assert (there / "missing").read_text() == ""
    (here / "missing").unlink()
    with pytest.raises(FileNotFoundError):
        (there / "missing").open()
    for number in range(ROUNDS):
        (here / f"d/e/{number}").mkdir()
        names = sorted(path.name for path in (there / "d/e").iterdir())
        assert names == [str(each) for each in range(number + 1)]


@both_drivers
def test_a_name_that_is_replaced_again_and_again(pair: Pair) -> None:
    """No open is answered by what the name led to before the open began."""
    here, there = pair.writer.root, pair.reader.root
    count = 20
    for number in range(count):
        (here / f"{number}").write_text(f"{number}")
    (here / "f").hardlink_to(here / "0")
    pair.upload()
    replaced, is_over = [0], threading.Event()
    opens: list[tuple[int, str, int]] = []

    def read() -> None:
        while not is_over.is_set():
            before = replaced[0]
            text = (there / "f").read_text()
            opens.append((before, text, replaced[0] + 1))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 301):
        (here / "next").hardlink_to(here / f"{number % count}")
        (here / "next").rename(here / "f")
        replaced[0] = number
    is_over.set()
    for thread in threads:
        join(thread)
    assert opens
    for before, text, after in opens:
        assert int(text) in {number % count for number in range(before, after + 1)}


@both_drivers
def test_files_in_directories_that_move(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "f").write_text(name)
    pair.upload()
    assert (there / "a/f").read_text() == "a"
    for number in range(ROUNDS):
        (here / "a").rename(here / "c")
        (here / "b").rename(here / "a")
        (here / "c").rename(here / "b")
        expected = "ba" if number % 2 == 0 else "ab"
        assert (there / "a/f").read_text() + (there / "b/f").read_text() == expected
        names = [path.name for path in (there / "a").iterdir()]
        assert names == ["f"]


@both_drivers
def test_paths_through_symlinks_that_are_switched(pair: Pair) -> None:
    """As releases are: `current` leads to another directory, or file, from one instant on."""
    here, there = pair.writer.root, pair.reader.root
    for number in range(2):
        (here / f"v{number}").mkdir()
        (here / f"v{number}/f").write_text(f"{number}")
    (here / "current").symlink_to("v0")
    (here / "file").symlink_to("v0/f")
    pair.upload()
    assert (there / "current/f").read_text() == (there / "file").read_text() == "0"
    for number in range(1, 4 * ROUNDS):
        version = f"{number % 2}"
        for name, target in (("current", f"v{version}"), ("file", f"v{version}/f")):
            (here / "next").symlink_to(target)
            (here / "next").rename(here / name)
        assert (there / "current/f").read_text() == version
        assert (there / "file").read_text() == version


@both_drivers
def test_names_that_only_the_directory_has_that_is_there_now(pair: Pair) -> None:
    """A name is missing where the path leads, and not where it led."""
    here, there = pair.writer.root, pair.reader.root
    for number in range(2):
        (here / f"v{number}").mkdir()
        (here / f"v{number}/only{number}").write_text(f"{number}")
    (here / "current").symlink_to("v0")
    pair.upload()
    for number in range(1, 2 * ROUNDS):
        (here / "next").symlink_to(f"v{number % 2}")
        (here / "next").rename(here / "current")
        assert (there / f"current/only{number % 2}").read_text() == f"{number % 2}"
        assert not (there / f"current/only{(number + 1) % 2}").exists()
    # What `v0` and `v1` lead to changes with each round.
    for number in range(1, 2 * ROUNDS):
        (here / "v0").rename(here / "former")
        (here / "v1").rename(here / "v0")
        (here / "former").rename(here / "v1")
        assert (there / f"v0/only{number % 2}").read_text() == f"{number % 2}"
        assert not (there / f"v0/only{(number + 1) % 2}").exists()


@both_drivers
def test_a_tree_that_is_frozen_and_thawed(pair: Pair) -> None:
    """What was changed after a thaw is seen, however long a reader has relied on the tree."""
    here, there = pair.writer.root, pair.reader.root
    (here / "set/d").mkdir(parents=True)
    for number in range(2):
        text = f"{number}" * 100
        (here / "set/d/f").write_text(text)
        pair.upload()
        run_memfs("freeze", here / "set")
        assert (there / "set/d/f").read_text() == text
        # Until the reader relies on it.
        time.sleep(FROZEN_S + GRACE_S)
        for _ in range(ROUNDS):
            assert (there / "set/d/f").read_text() == text
            assert [path.name for path in (there / "set/d").iterdir()] == ["f"]
            assert not (there / "set/d/missing").exists()
        assert run_memfs("freeze", "--list", "--mount", there) == "/set\n"
        with pytest.raises(MountError, match="this node reads; the writer is first: change it"):
            run_memfs("thaw", there / "set")
        run_memfs("thaw", here / "set")
        (here / "set/d/new").write_text("new")
        (here / "set/d/new").rename(here / "set/d/missing")
        assert [path.name for path in (there / "set/d").iterdir()] == ["f", "missing"]
        (here / "set/d/missing").unlink()
        assert [path.name for path in (there / "set/d").iterdir()] == ["f"]
        (here / "set/d/next").write_text(f"after {number}")
        pair.upload()
        (here / "set/d/next").rename(here / "set/d/f")
        assert (there / "set/d/f").read_text() == f"after {number}"


@pairs(Way("kernel", limit_s=4 * SHORT_LIMIT_S))
def test_a_frozen_tree_is_not_relied_on_without_the_database(pair: Pair) -> None:
    """A thaw may be under way, of which nobody would hear."""
    here, there = pair.writer.root, pair.reader.root
    (here / "set").mkdir()
    (here / "set/f").write_text("text")
    pair.upload()
    run_memfs("freeze", here / "set")
    time.sleep(FROZEN_S + GRACE_S)
    with (there / "set/f").open() as file:
        pair.database.server.stop(signal.SIGQUIT)
        wait_for(lambda: errno_of_reading(there / "set/f") == errno.EIO, "it is relied on")
        assert file.read() == "text"
        pair.database.server.start()
    wait_for(lambda: errno_of_reading(there / "set/f") is None, "it stays an error")


@both_drivers
def test_files_that_are_rewritten_in_place(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    for number in range(ROUNDS):
        text = f"{number}" * (1000 * (ROUNDS - number))
        (here / "f").write_text(text)
        pair.upload()
        assert (there / "f").read_text() == text
        with (there / "f").open() as file:
            assert os.fstat(file.fileno()).st_size == len(text)


def test_attributes_links_and_symlinks(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_text("text")
    (here / "s").symlink_to("f")
    (here / "h").hardlink_to(here / "f")
    os.setxattr(here / "f", "user.tag", b"1")
    (here / "f").chmod(0o640)
    os.utime(here / "f", ns=(1, 2_000_000_000))
    pair.upload()
    assert (there / "s").read_text() == (there / "h").read_text() == "text"
    assert (there / "s").readlink().name == "f"
    status = (there / "f").stat()
    assert (status.st_nlink, status.st_mode & 0o777, status.st_mtime_ns) == (2, 0o640, 2 * 10**9)
    assert (there / "h").stat().st_ino == status.st_ino
    assert os.getxattr(there / "f", "user.tag") == b"1"
    # The kernel knows them already, and they are old for a moment.
    os.setxattr(here / "f", "user.tag", b"2")
    (here / "f").chmod(0o600)
    wait_for(lambda: os.getxattr(there / "f", "user.tag") == b"2", "an old xattr")
    wait_for(lambda: (there / "f").stat().st_mode & 0o777 == 0o600, "an old mode")
    # Its bytes are here, and have another mtime by now.
    os.utime(here / "f", ns=(1, 3_000_000_000))
    wait_for(lambda: (there / "f").stat().st_mtime_ns == 3 * 10**9, "an old time")
    assert (there / "f").read_text() == "text"


@both_drivers
def test_what_a_program_has_open_goes_on(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    content = os.urandom(3 * mmap.PAGESIZE)
    (here / "f").write_bytes(content)
    pair.upload()
    with (there / "f").open("rb") as file:
        assert file.read(10) == content[:10]
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        (here / "f").unlink()
        wait_for(lambda: not (there / "f").exists(), "it has its name")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert mapped[:] == content
        file.seek(0)
        assert file.read() == content
        mapped.close()
    assert list(there.iterdir()) == []
    # Too large to be fetched whole before it is opened.
    large = os.urandom(40 << 20)
    (here / "large").write_bytes(large)
    pair.upload()
    with (there / "large").open("rb", buffering=0) as file:
        assert file.read(10) == large[:10]
        (here / "large").unlink()
        wait_for(lambda: not (there / "large").exists(), "it has its name")
        for offset in (20 << 20, (40 << 20) - 5):
            assert os.pread(file.fileno(), 10, offset) == large[offset : offset + 10]
        assert os.pread(file.fileno(), 10, 40 << 20) == b""


@both_drivers
def test_files_that_are_rewritten_while_they_are_open(pair: Pair) -> None:
    """Under passthrough what has it open keeps the bytes that it was opened for."""
    here, there = pair.writer.root, pair.reader.root
    with contextlib.ExitStack() as stack:
        files: list[tuple[str, IO[str]]] = []
        for number in range(3):
            text = f"{number}" * 1000 * (number + 1)
            (here / "f").write_text(text)
            pair.upload()
            file = stack.enter_context((there / "f").open())
            assert os.fstat(file.fileno()).st_size == len(text)
            assert file.read() == text
            files.append((text, file))
        numbers = {os.fstat(file.fileno()).st_ino for _, file in files}
        assert numbers == {(there / "f").stat().st_ino}
        assert os.getxattr(files[-1][1].fileno(), "user.memfs.state") == b"remote"
        if pair.reader.driver == "kernel":
            for former, opened in files:
                opened.seek(0)
                assert opened.read() == former
    assert (there / "f").read_text() == text
    (here / "f").unlink()
    with pytest.raises(FileNotFoundError):
        (there / "f").open()


def test_nothing_is_changed_here(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_text("text")
    pair.upload()
    assert (there / "f").read_text() == "text"
    for change in (
        lambda: (there / "n").write_text(""),
        lambda: (there / "f").unlink(),
        lambda: os.setxattr(there / "f", "user.a", b"1"),
        lambda: (there / "f").chmod(0o600),
    ):
        with pytest.raises(OSError, match="Read-only") as caught:
            change()
        assert caught.value.errno == errno.EROFS
    for arguments in (
        ("pin", "warm", there / "f"),
        ("snapshot", "create", "--mount", there, "s"),
        ("gc", there),
        ("mount", "-o", "remount,rw", there),
    ):
        with pytest.raises(MountError, match="node reads") as refused:
            run_memfs(*arguments)
        assert "first" in str(refused.value)
    with MemoryManager(mount=here, root="m") as manager:
        manager.store("key", b"value")
    pair.upload()
    with MemoryManager(mount=there, root="m") as manager:
        assert manager.retrieve("key") == b"value"
        with pytest.raises(ReadOnlyMountError, match="this node reads; the writer is first"):
            manager.store("key", b"other")
    # Past the command, the daemon refuses.
    subprocess.run(["mount", "-i", "-o", "remount,rw", there], check=True, timeout=WAIT_S)
    with pytest.raises(OSError, match="Read-only"):
        (there / "n").write_text("")
    status = pair.status()
    assert (status["node"], status["role"], status["writer"]) == ("second", "reader", "first")
    assert "reads what node first writes" in run_memfs("status", there)
    run_memfs("health", there)
    assert "memfs_reader_lag_changes" in run_memfs("metrics", there)


def test_the_store_is_read_alone(pair: Pair) -> None:
    """Nothing there is made, changed or removed by a reader, from its start to its end."""
    here, there = pair.writer.root, pair.reader.root
    for number in range(3):
        (here / f"{number}").write_bytes(os.urandom(10_000))
    pair.upload()
    pair.writer.stop()
    before = listing(pair.objects)
    for number in range(3):
        assert len((there / f"{number}").read_bytes()) == 10_000
    assert run_memfs("query", there, '{"$size": {"$gt": 0}}').count("\n") >= 3
    pair.reader.stop()
    pair.reader.start()
    assert len((there / "1").read_bytes()) == 10_000
    pair.reader.stop()
    pair.reader.check_log()
    assert listing(pair.objects) == before


def test_killed_and_mounted_again(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_text("one")
    pair.upload()
    assert (there / "f").read_text() == "one"
    pair.reader.kill_daemon()
    pair.reader.kill()
    (here / "f").write_text("two")
    (here / "g").write_text("three")
    pair.upload()
    pair.reader.start()
    assert (there / "f").read_text() + (there / "g").read_text() == "twothree"
    pair.writer.kill_daemon()
    pair.writer.kill()
    assert (there / "f").read_text() == "two"
    assert not (there / "h").exists()
    pair.writer.start()
    (here / "h").write_text("four")
    pair.upload()
    assert (there / "h").read_text() == "four"


@pairs(Way(limit_s=SHORT_LIMIT_S))
def test_a_database_that_stops_and_comes_back(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_text("one")
    (here / "g").write_text("other")
    pair.upload()
    server = pair.database.server
    with (there / "f").open() as file:
        server.stop(signal.SIGQUIT)
        for path in (there / "g", there / "missing"):
            with pytest.raises(OSError, match="Input/output error") as caught:
                path.open()
            assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            list(there.iterdir())
        assert file.read() == "one"
        wait_for(lambda: pair.status()["reason"] is not None, pair.status)
        with pytest.raises(MountError, match="has not come in"):
            run_memfs("health", there)
        assert "does not come in" in run_memfs("why", there / "f")
        server.start()
    wait_for(lambda: _reads(there / "g"), pair.status)
    (here / "h").write_text("two")
    pair.upload()
    assert (there / "h").read_text() == "two"


def _reads(path: Path) -> bool:
    try:
        return path.read_text() == "other"
    except OSError:
        return False


@pairs(Way(limit_s=SHORT_LIMIT_S, upload="policy"))
def test_bytes_that_are_not_there_yet(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    with (here / "f").open("w") as file:
        file.write("text")
        file.flush()
        with pytest.raises(OSError, match="busy") as caught:
            (there / "f").open()
        assert caught.value.errno == errno.EBUSY
        assert "node first is writing it" in run_memfs("why", there / "f")
    with pytest.raises(OSError, match="Input/output error"):
        (there / "f").open()
    assert "its bytes are on node first alone" in run_memfs("why", there / "f")
    pair.upload()
    assert (there / "f").read_text() == "text"


@pairs(Way(is_encrypted=True))
def test_objects_are_read_with_the_identity_of_who_has_written_them(pair: Pair) -> None:
    """Whole, and range by range where a file is too large to be fetched before it is opened."""
    here, there = pair.writer.root, pair.reader.root
    small, large = os.urandom(10_000), os.urandom(40 << 20)
    (here / "small").write_bytes(small)
    (here / "large").write_bytes(large)
    pair.upload()
    assert (there / "small").read_bytes() == small
    with (there / "large").open("rb") as file:
        file.seek(20 << 20)
        assert file.read(1000) == large[20 << 20 : (20 << 20) + 1000]


def test_pins_of_the_writer_hold_here(pair: Pair) -> None:
    """Each node keeps in its own RAM what is pinned there, and what takes its place."""
    here, there = pair.writer.root, pair.reader.root
    (here / "d").mkdir()
    run_memfs("pin", "warm", here / "d")
    for number in range(2):
        (here / "d/temporary").write_text(f"content {number}")
        pair.upload()
        (here / "d/temporary").rename(here / "d/f")
        assert (there / "d").is_dir()
        wait_for(lambda: tier_of(there / "d/f") == "warm", lambda: tier_of(there / "d/f"))
        assert (there / "d/f").read_text() == f"content {number}"


def tier_of(path: Path) -> str:
    try:
        return os.getxattr(path, "user.memfs.tier").decode()
    except OSError as error:
        return str(error)


def test_left_behind_and_mounted_again(pair: Pair) -> None:
    """It copies all names anew; what it had of former bytes goes from its disk."""
    for number in range(4):
        (pair.writer.root / f"f{number}").write_bytes(b"first" * 1000)
    pair.upload()
    before = [(pair.reader.root / f"f{number}").read_bytes() for number in range(4)]
    assert before == [b"first" * 1000] * 4
    raw_files = [path for path in (pair.reader.state / "raw").rglob("*") if path.is_file()]
    assert raw_files
    pair.reader.stop()
    pair.database.execute("update node set beat = now() - interval '2 h' where role = 'reader'")
    # It may have applied more than it has told.
    [(seq,)] = pair.database.execute("select seq from node where role = 'writer'")
    first_lacked = seq + 1

    def is_behind() -> bool:
        # Changes of the writer find out, and remove those that only the reader lacks.
        (pair.writer.root / "more").write_text("more")
        (pair.writer.root / "more").unlink()
        fd = os.open(pair.writer.root, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        nodes = json.loads(run_memfs("node", "list", "--json", pair.database.url))
        kept = pair.database.execute(f"select 1 from change where seq <= {first_lacked}")
        return bool(nodes[1]["state"] == "behind" and not kept)

    (pair.writer.root / "f0").write_bytes(b"second" * 1000)
    (pair.writer.root / "f1").unlink()
    (pair.writer.root / "made").mkdir()
    (pair.writer.root / "f2").rename(pair.writer.root / "made" / "moved")
    wait_for(is_behind, "the reader is left behind")
    pair.upload()
    pair.reader.start()
    assert listing(pair.reader.root) == listing(pair.writer.root)
    assert (pair.reader.root / "f0").read_bytes() == b"second" * 1000
    assert (pair.reader.root / "made" / "moved").read_bytes() == b"first" * 1000
    told = run_memfs("node", "list", pair.database.url).splitlines()
    assert told[0].startswith("first: writes, ")
    assert told[2].startswith("second: reads, live, ")
    wait_for(lambda: not any(path.exists() for path in raw_files), "former raw files are removed")


def test_adopted_files(pair: Pair) -> None:
    """They are read from their source, kept here, and told of where only the writer can go on."""
    here, there = pair.writer.root, pair.reader.root
    source = pair.base / "source"
    (source / "d").mkdir(parents=True)
    contents = {name: name.encode() * 10_000 for name in ("a", "b", "d/c")}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    run_memfs("adopt", "--reference", source, here / "referred")
    run_memfs("adopt", "--copy", source, here / "copied")
    run_memfs("adopt", "--lazy", f"file://{source}", here / "lazy")
    for directory in ("referred", "copied"):
        for name, content in contents.items():
            assert (there / directory / name).read_bytes() == content
    told = run_memfs("prefetch", "--wait", there / "referred")
    assert "3 of 3 files are near" in told
    run_memfs("pin", "warm", here / "referred/b")
    wait_for(
        lambda: os.getxattr(there / "referred/b", "user.memfs.tier") == b"warm",
        lambda: run_memfs("why", there / "referred/b"),
    )

    with pytest.raises(MountError, match="memfs adopt --own"):
        run_memfs("barrier", "--level", "remote", here / "referred")

    with pytest.raises(OSError, match="Input/output error"):
        (there / "lazy/a").read_bytes()
    assert "have it listed there" in run_memfs("why", there / "lazy")
    assert sorted(os.listdir(here / "lazy")) == ["a", "b", "d"]
    assert (there / "lazy/a").read_bytes() == contents["a"]

    (source / "a").write_bytes(b"another")
    with pytest.raises(OSError, match="Input/output error"):
        (there / "lazy/a").read_bytes()
    assert (here / "lazy/a").read_bytes() == b"another"
    assert (there / "lazy/a").read_bytes() == b"another"
