"""The process at the other end of a unix socket, as the kernel knows it.

Invariant: the ids are those of the moment when it connected; it cannot choose them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from memfs.linux.libc import LIBC

if TYPE_CHECKING:
    import trio

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h
_GROUP_COUNT_MAX = 65536  # NGROUPS_MAX, linux/limits.h


class Peer(NamedTuple):
    """Ids of a process; a container's are translated into those of this process."""

    pid: int
    uid: int
    """Effective."""
    gid: int
    """Effective."""
    groups: frozenset[int]
    """Supplementary groups."""


def peer_of(connection: socket.socket | trio.socket.SocketType) -> Peer:
    """Return the process that has connected.

    Raises:
        OSError: The kernel does not tell; before Linux 4.13 it does not tell groups.

    Source: unix(7), SO_PEERCRED; net/core/sock.c, SO_PEERGROUPS.
    """
    value = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(value)
    return Peer(pid, uid, gid, _groups(connection.fileno()))


def _groups(fd: int) -> frozenset[int]:
    # Python's getsockopt has room for 256 groups.
    count = 64
    while True:
        groups = (ctypes.c_uint32 * count)()
        length = ctypes.c_uint32(ctypes.sizeof(groups))
        failed = LIBC.getsockopt(
            fd, socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(length)
        )
        if not failed:
            return frozenset(groups[: length.value // 4])
        code = ctypes.get_errno()
        if code != errno.ERANGE or count >= _GROUP_COUNT_MAX:
            raise OSError(code, os.strerror(code))
        count = _GROUP_COUNT_MAX
