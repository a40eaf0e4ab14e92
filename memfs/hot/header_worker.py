"""`python -m memfs.hot.header_worker MEMORY CPU`: reads one file's header, within limits, and ends.

Invariant: whatever the header says, this process takes at most so many bytes of memory and
seconds of processor time, and what it took is given back by its end.

The one who started it is at standard input (SOCK_SEQPACKET). It asks there for what it has no
descriptor of.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys

from memfs.errors import MemfsError
from memfs.hot.formats.detecting import read_index
from memfs.hot.formats.source import FileSource
from memfs.hot.indexes import encode_index
from memfs.hot.protocol import Packet, ProtocolError, error_reply, number_in, receive, send
from memfs.hot.tensors import FormatError, parse_shape


class _AskedSource:
    """A file whose bytes the other end has."""

    def __init__(self, connection: socket.socket, name: str, size_bytes: int) -> None:
        self._connection = connection
        self.name = name
        self.size_bytes = size_bytes

    def read(self, offset: int, size: int) -> bytes:
        send(self._connection, {"read": offset, "size": size})
        packet = receive(self._connection)
        try:
            if not packet.fds:
                raise FormatError(str(packet.message.get("message")))
            return os.pread(packet.fds[0], size, 0)
        finally:
            packet.close()


def main() -> None:
    """Read one header."""
    memory_bytes, cpu_s = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The daemon is protected from the OOM killer, which its children inherit.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    with socket.socket(fileno=0) as connection:
        packet = receive(connection)
        try:
            content = _read(connection, packet)
        except MemfsError as error:
            send(connection, error_reply(error))
            return
        fd = os.memfd_create("memfs-index", os.MFD_CLOEXEC)
        done = 0
        while done < len(content):
            done += os.pwrite(fd, content[done:], done)
        send(connection, {"size_bytes": len(content)}, [fd])


def _read(connection: socket.socket, packet: Packet) -> bytes:
    message = packet.message
    name, dtype, shape = (message.get(field) for field in ("name", "dtype", "shape"))
    if not isinstance(name, str):
        raise ProtocolError("name: not a text")
    source = (
        FileSource(packet.fds[0], name)
        if packet.fds
        else _AskedSource(connection, name, number_in(message, "size_bytes"))
    )
    return encode_index(
        read_index(
            source,
            dtype=None if dtype is None else str(dtype),
            shape=None if shape is None else parse_shape(str(shape)),
        )
    )


if __name__ == "__main__":
    main()
