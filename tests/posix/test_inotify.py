"""inotify(7): programs that watch a directory see what happens in it."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

from tests.processes import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_NONBLOCK = 0x100, 0x200, 0o4000

_libc = ctypes.CDLL(None, use_errno=True)


def _events(fd: int) -> Iterator[tuple[int, str]]:
    buffer = os.read(fd, 65536)
    position = 0
    while position < len(buffer):
        # struct inotify_event: wd, mask, cookie, len, name.
        _, mask, _, length = struct.unpack_from("=iIII", buffer, position)
        name = buffer[position + 16 : position + 16 + length].rstrip(b"\0")
        yield mask, name.decode()
        position += 16 + length


def test_changes_by_another_process_are_told(place: Path) -> None:
    fd = _libc.inotify_init1(IN_NONBLOCK)
    assert fd >= 0
    mask = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    assert _libc.inotify_add_watch(fd, os.fsencode(place), mask) >= 0

    def change() -> None:
        (place / "a").write_bytes(b"x")
        (place / "a").rename(place / "b")
        (place / "b").unlink()

    in_child(change)
    assert list(_events(fd)) == [
        (IN_CREATE, "a"),
        (IN_MODIFY, "a"),
        (IN_MOVED_FROM, "a"),
        (IN_MOVED_TO, "b"),
        (IN_DELETE, "b"),
    ]
    os.close(fd)
