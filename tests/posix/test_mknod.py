"""mknod(2): FIFOs, sockets and device nodes, and what they do when opened."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.processes import ALICE, holding, run_as

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        (stat.S_IFIFO, 0),
        (stat.S_IFSOCK, 0),
        (stat.S_IFREG, 0),
        (stat.S_IFCHR, os.makedev(1, 3)),
        (stat.S_IFBLK, os.makedev(7, 300)),
        (stat.S_IFCHR, os.makedev(4095, 0xFFFFF)),
    ],
    ids=["fifo", "socket", "file", "character device", "block device", "largest device number"],
)
def test_a_node_keeps_kind_mode_and_device_number(place: Path, kind: int, device: int) -> None:
    os.mknod(place / "node", kind | 0o640, device)
    status = (place / "node").stat()
    assert (status.st_mode, status.st_nlink, status.st_size) == (kind | 0o640, 1, 0)
    assert status.st_rdev == device


def test_the_umask_is_applied(place: Path) -> None:
    old = os.umask(0o077)
    try:
        os.mkfifo(place / "p", 0o666)
    finally:
        os.umask(old)
    assert stat.S_IMODE((place / "p").stat().st_mode) == 0o600


def test_a_fifo_passes_bytes_between_processes(place: Path) -> None:
    os.mkfifo(place / "p")

    def write() -> int:
        fd = os.open(place / "p", os.O_RDWR)
        return os.write(fd, b"through the pipe")

    with holding(write) as count:
        reader = os.open(place / "p", os.O_RDONLY)
        assert os.read(reader, count) == b"through the pipe"
        os.close(reader)
    assert (place / "p").stat().st_size == 0


def test_a_fifo_without_a_reader_refuses_a_writer_that_will_not_wait(place: Path) -> None:
    os.mkfifo(place / "p")
    assert error_of(os.open, place / "p", os.O_WRONLY | os.O_NONBLOCK) == "ENXIO"


def test_a_socket_is_bound_and_connected_by_path(place: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        try:
            # The address has room for 108 bytes only, so the path is a relative one.
            os.chdir(place)
            server.bind("s")
            server.listen()
            client.connect("s")
        finally:
            os.fchdir(here)
            os.close(here)
        connection, _ = server.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(5) == b"hello"
    assert stat.S_ISSOCK((place / "s").stat().st_mode)


def test_a_device_node_works_where_the_mount_permits_devices(place: Path) -> None:
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    if os.statvfs(place).f_flag & os.ST_NODEV:
        assert error_of(os.open, place / "null", os.O_RDWR) == "EACCES"
    else:
        fd = os.open(place / "null", os.O_RDWR)
        assert (os.write(fd, b"gone"), os.read(fd, 1)) == (4, b"")
        os.close(fd)


def test_devices_are_for_root_and_fifos_for_all(place: Path) -> None:
    place.chmod(0o777)
    device = stat.S_IFCHR | 0o600
    assert run_as(ALICE, error_of, os.mknod, place / "c", device, os.makedev(1, 3)) == "EPERM"
    run_as(ALICE, os.mkfifo, place / "p")
    assert (place / "p").stat().st_uid == ALICE.uid


def test_an_existing_name_is_refused(place: Path) -> None:
    (place / "f").touch()
    assert error_of(os.mkfifo, place / "f") == "EEXIST"


def test_nodes_are_renamed_and_removed_like_files(place: Path) -> None:
    os.mkfifo(place / "p")
    (place / "p").rename(place / "q")
    assert stat.S_ISFIFO((place / "q").stat().st_mode)
    (place / "q").unlink()
    assert os.listdir(place) == []
