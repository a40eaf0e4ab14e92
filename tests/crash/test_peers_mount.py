"""Two daemons: what one has closed and not uploaded is read by the other, from the first one."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from typing import TYPE_CHECKING

import pytest

from memfs.moves.faults import PEER_POINTS
from tests.crash.node_pair import LIMIT_S, SHORT_LIMIT_S, Pair, Way, errno_of_reading, signal_all
from tests.mounting import run_memfs
from tests.waiting import wait_for
from tests.warm import FAULTS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.mount

BIG = os.urandom(1 << 20)
"""Some messages."""


def pairs(*ways: Way) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", ways, indirect=True, ids=[way.driver for way in ways])


LISTENING = Way("kernel", upload="policy", listens=True)
both_drivers = pairs(LISTENING, LISTENING._replace(driver="pyfuse3"))
one = pairs(LISTENING)
impatient = pairs(LISTENING._replace(limit_s=SHORT_LIMIT_S))


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    """What daemons look at that start later: a fault point to be killed at, and at which time."""
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path / "armed"
        patch.setenv(FAULTS_VARIABLE, str(file))
        yield file


def blobs(pair: Pair) -> list[Path]:
    found = (pair.objects.glob(f"{kind}/**/*") for kind in ("blobs", "batches"))
    return [path for some in found for path in some if path.is_file()]


def wait_until_read(path: Path) -> None:
    wait_for(lambda: errno_of_reading(path) is None, lambda: f"reading {path}")


@both_drivers
def test_a_file_that_was_just_closed_is_read_elsewhere(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    for number in range(10):
        data = bytes([number]) * (number * 100_000 + 1)
        (here / f"{number}").write_bytes(data)
        assert (there / f"{number}").read_bytes() == data
    for number in range(5):
        # In place, while a program there has the former bytes open.
        with (there / "0").open("rb") as former:
            (here / "0").write_bytes(b"anew %d" % number)
            assert (there / "0").read_bytes() == b"anew %d" % number
            assert former.read()
    assert blobs(pair) == []
    # What is uploaded later is the same; local copies stay.
    pair.upload()
    assert blobs(pair) != []
    assert (there / "9").read_bytes() == bytes([9]) * 900_001


@one
def test_holes_and_attributes_come_along(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    with (here / "f").open("wb") as file:
        file.seek(1 << 20)
        file.write(BIG)
        file.truncate(3 << 20)
    os.utime(here / "f", ns=(1, 1_234_567_890))
    (here / "f").chmod(0o640)
    data = (there / "f").read_bytes()
    assert data == bytes(1 << 20) + BIG + bytes(1 << 20)
    status = (there / "f").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777) == (1_234_567_890, 0o640)
    assert status.st_blocks * 512 < 2 << 20


@one
def test_a_file_that_is_being_written_is_refused_until_it_is_closed(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    with (here / "f").open("wb") as file:
        file.write(BIG)
        file.flush()
        assert errno_of_reading(there / "f") == errno.EBUSY
    assert (there / "f").read_bytes() == BIG
    with (here / "f").open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    # A mapping outlives its handle.
    with mapped:
        mapped[0:4] = b"map "
        assert errno_of_reading(there / "f") == errno.EBUSY
    assert (there / "f").read_bytes() == b"map " + BIG[4:]


@pytest.mark.parametrize("point", [each for each in PEER_POINTS if each != "peer.received"])
@impatient
def test_the_writer_is_killed_while_somebody_reads_from_it(
    armed: Path, pair: Pair, point: str
) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "before").write_bytes(BIG)
    assert (there / "before").read_bytes() == BIG
    (here / "f").write_bytes(BIG)
    with (here / "f").open("rb") as file:
        os.fsync(file.fileno())
    armed.write_text(f"{point} {2 if point == 'peer.sent' else 1}")
    assert errno_of_reading(there / "f") in (errno.EIO, errno.EBUSY)
    assert not pair.writer.daemon_pids()
    armed.unlink()
    # What came from there before stays.
    assert (there / "before").read_bytes() == BIG
    pair.writer.kill()
    pair.writer.start()
    wait_until_read(there / "f")
    assert (there / "f").read_bytes() == BIG


@pytest.mark.parametrize("point", ["peer.received", "hydrate.written", "hydrate.published"])
@one
def test_a_reader_is_killed_while_it_reads_from_the_writer(
    armed: Path, pair: Pair, point: str
) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "f").write_bytes(BIG)
    armed.write_text(f"{point} {2 if point == 'peer.received' else 1}")
    assert errno_of_reading(there / "f") is not None
    assert not pair.reader.daemon_pids()
    armed.unlink()
    pair.reader.kill()
    pair.reader.start()
    assert (there / "f").read_bytes() == BIG
    assert blobs(pair) == []


@impatient
def test_a_writer_that_is_stopped_holds_nobody_up_for_longer_than_the_limit(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "known").write_bytes(b"known")
    assert (there / "known").read_bytes() == b"known"
    (here / "f").write_bytes(BIG)
    with (here / "f").open("rb") as file:
        os.fsync(file.fileno())
    signal_all(pair.writer, signal.SIGSTOP)
    try:
        assert errno_of_reading(there / "f") in (errno.EIO, errno.EBUSY)
        assert (there / "known").read_bytes() == b"known"
    finally:
        signal_all(pair.writer, signal.SIGCONT)
    wait_until_read(there / "f")
    assert (there / "f").read_bytes() == BIG


@impatient
def test_certificates_are_known_by_the_database_alone(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "1").write_bytes(b"1")
    assert (there / "1").read_bytes() == b"1"
    assert "answers other nodes at 127.0.0.1:" in run_memfs("node", "list", pair.database.url)
    # Another key, as after a disk that lost it.
    pair.writer.stop()
    (pair.writer.state / "peer.pem").unlink()
    pair.writer.start()
    (here / "2").write_bytes(b"2")
    wait_until_read(there / "2")
    # A node without a row is not answered.
    ((certificate,),) = pair.database.execute("select certificate from node where name = 'second'")
    pair.database.execute("update node set certificate = 'x' where name = 'second'")
    pair.writer.stop()
    pair.writer.start()
    (here / "3").write_bytes(b"3")
    assert errno_of_reading(there / "3") in (errno.EIO, errno.EBUSY)
    pair.database.execute(
        f"update node set certificate = '\\x{bytes(certificate).hex()}' where name = 'second'"
    )
    wait_until_read(there / "3")


@one
def test_who_takes_over_has_what_it_has_read(pair: Pair) -> None:
    here, there = pair.writer.root, pair.reader.root
    (here / "read").write_bytes(BIG)
    (here / "lost").write_bytes(BIG)
    assert (there / "read").read_bytes() == BIG
    pair.writer.kill()
    run_memfs("node", "promote", "second", pair.database.url, "--accept-loss")
    pair.reader.stop()
    pair.reader.config = pair.configure("second", "writer", LIMIT_S)
    pair.reader.start()
    assert (there / "read").read_bytes() == BIG
    assert errno_of_reading(there / "lost") == errno.EIO
    (there / "lost").unlink()
    run_memfs("barrier", "--level", "remote", there)
    assert blobs(pair) != []


def test_nobody_listens_unless_it_is_said(pair: Pair) -> None:
    assert "answers" not in run_memfs("node", "list", pair.database.url)
    assert not (pair.writer.state / "peer.pem").exists()
