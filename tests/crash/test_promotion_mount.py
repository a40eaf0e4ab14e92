"""A machine that reads takes over from one that is gone, with mounts and programs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from memfs.jobs.orphans import AGE_S_MIN
from tests.crash.node_pair import LIMIT_S, Pair, Way, errno_of_reading, signal_all
from tests.mounting import Mount, MountError, run_memfs
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mount

TIME_NS = 1_500_000_000_123_456_789

WITHOUT_UPLOADS = pytest.mark.parametrize(
    "pair", [Way(upload="policy"), Way(upload="policy", is_encrypted=True)], indirect=True
)


@WITHOUT_UPLOADS
def test_a_reader_takes_over_from_a_writer_that_was_killed(pair: Pair) -> None:
    """What was uploaded is there, what was not is told, and the former one stays out."""
    here, there = pair.writer.root, pair.reader.root
    (here / "d").mkdir()
    (here / "d/kept").write_text("kept" * 1000)
    (here / "removed").write_text("r")
    (here / "open").write_text("former")
    pair.upload()
    (here / "removed").unlink()
    assert (there / "d/kept").read_text() == "kept" * 1000
    # The other one has its bytes with another time.
    os.utime(here / "d/kept", ns=(TIME_NS, TIME_NS))
    (here / "d/lost").write_text("lost" * 1000)
    open_file = (here / "open").open("w")
    open_file.write("x")
    open_file.flush()
    pair.writer.kill()
    open_file.close()

    url = pair.database.url
    with pytest.raises(MountError, match=r"2 files would be lost.*first alone.*d/lost"):
        run_memfs("node", "promote", "second", url)
    told = json.loads(run_memfs("node", "promote", "second", url, "--accept-loss", "--json"))
    assert told["file_count"] == 2
    # The one that was closed just now may not have been sealed yet.
    assert told["open_count"] in (1, 2)
    # It reads on meanwhile.
    assert (there / "d/kept").read_text() == "kept" * 1000
    assert "is to write, once it is mounted" in run_memfs("node", "list", url)

    pair.reader.stop()
    pair.reader.check_log()
    pair.reader.config = pair.configure("second", "writer", LIMIT_S)
    pair.reader.start()
    assert (there / "d/kept").read_text() == "kept" * 1000
    assert (there / "d/kept").stat().st_mtime_ns == TIME_NS
    assert errno_of_reading(there / "d/lost") == errno.EIO
    assert os.getxattr(there / "d/lost", "user.memfs.state") == b"lost"
    assert "its bytes are nowhere" in run_memfs("why", there / "d/lost")
    with pytest.raises(MountError, match="there are no bytes of it"):
        run_memfs("barrier", "--level", "remote", there / "d/lost")
    assert errno_of_reading(there / "open") == errno.EIO
    assert sorted(path.name for path in there.iterdir()) == ["d", "open"]
    (there / "d/lost").write_text("anew")
    (there / "open").unlink()
    (there / "new").write_text("new" * 1000)
    (there / "d/kept").rename(there / "d/moved")
    run_memfs("barrier", "--level", "remote", there)
    run_memfs("gc", there)
    assert (there / "d/moved").stat().st_mtime_ns == TIME_NS

    (pair.base / "third").mkdir()
    third = Mount(
        pair.base / "third", "kernel", pair.configure("third", "reader", LIMIT_S), forked=True
    )
    third.start()
    try:
        assert (third.root / "new").read_text() == "new" * 1000
        assert (third.root / "d/moved").read_text() == "kept" * 1000
        assert (third.root / "d/lost").read_text() == "anew"
        (there / "later").write_text("later")
        run_memfs("barrier", "--level", "remote", there)
        assert (third.root / "later").read_text() == "later"
    finally:
        third.stop()
    with pytest.raises(MountError, match="node second writes in the place of this state directory"):
        pair.writer.start()
    # It becomes a reader, and puts away what it alone has.
    pair.writer.config = pair.configure("first", "reader", LIMIT_S)
    pair.writer.start()
    assert (here / "d/moved").read_text() == "kept" * 1000
    assert (here / "d/lost").read_text() == "anew"
    [own] = (pair.writer.state / "lost+found").glob("replaced-*/files")
    assert (own / "d/lost").read_text() == "lost" * 1000
    assert (own / "open").read_text() == "x"
    assert "files that it alone had lie in" in pair.writer.log.read_text()
    assert "lost+found" in run_memfs("status", here)
    assert "files/d/lost" in run_memfs("gc", "--lost-found", here)
    run_memfs("gc", "--lost-found", "--yes", here)
    assert not own.exists()
    # A further start is like any other one.
    pair.reader.stop()
    pair.reader.start()
    assert (there / "new").read_text() == "new" * 1000
    (there / "newer").write_text("newer")


def test_a_writer_that_sleeps_is_shut_out_when_it_wakes(pair: Pair) -> None:
    """Its programs get errors, and what they wrote is nowhere else."""
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_text("before")
    pair.upload()
    assert (there / "f").read_text() == "before"
    signal_all(pair.writer, signal.SIGSTOP)
    try:
        run_memfs("node", "promote", "second", pair.database.url)
        pair.reader.stop()
        pair.reader.config = pair.configure("second", "writer", LIMIT_S)
        pair.reader.start()
        (there / "f").write_text("after")
        run_memfs("barrier", "--level", "remote", there)
    finally:
        signal_all(pair.writer, signal.SIGCONT)

    def is_shut_out() -> bool:
        with contextlib.suppress(OSError):
            (here / "g").write_text("in vain")
        return "node second writes in the place of node first" in run_memfs("status", here)

    wait_for(is_shut_out, lambda: run_memfs("status", here))
    with pytest.raises(OSError, match="Input/output error"):
        (here / "h").write_text("in vain")
    assert not (there / "g").exists()
    assert (there / "f").read_text() == "after"


def test_the_heir_takes_for_orphans_what_no_table_has(pair: Pair) -> None:
    """And leaves what files, snapshots and readers need, and what is younger than a day."""
    here, there = pair.writer.root, pair.reader.root
    for name in ("kept", "gone", "past"):
        (here / name).write_text(name * 1000)
    pair.upload()
    run_memfs("snapshot", "create", "s", "--mount", here)
    (here / "past").unlink()
    needed = objects_of(pair)
    run_memfs("barrier", "--level", "remote", here)
    pair.writer.stop()
    run_memfs("node", "promote", "second", pair.database.url)
    pair.reader.stop()
    pair.reader.config = pair.configure("second", "writer", LIMIT_S)
    pair.reader.start()
    (there / "gone").unlink()
    orphans = [pair.objects / f"blobs/01/1-{number}-0123456789abcdef" for number in (1, 2)]
    orphans[0].parent.mkdir(parents=True, exist_ok=True)
    for path in orphans:
        path.write_bytes(b"object")
    # All but one orphan are old enough to go; that one is where no nodes share a mount.
    for path in [*needed, orphans[0]]:
        os.utime(path, (1, 1))
    written_s = time.time() - 2 * AGE_S_MIN
    os.utime(orphans[1], (written_s, written_s))
    for options in (["--orphans", "--yes"], ["--lost-found", "--yes"]):
        run_memfs("gc", *options, there)
    assert [path.exists() for path in orphans] == [False, True]
    assert [path for path in needed if not path.exists()] == []
    assert (there / "kept").read_text() == "kept" * 1000
    orphans[1].unlink()


def objects_of(pair: Pair) -> list[Path]:
    """Return the objects of files in the store."""
    return [
        path
        for folder in ("blobs", "batches")
        for path in (pair.objects / folder).rglob("*")
        if path.is_file()
    ]
