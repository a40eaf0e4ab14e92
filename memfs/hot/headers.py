"""Headers: the tensors of a file, by its header, read without harm to who asks.

Invariants:
- Small headers are read here, in a thread. Larger ones are read by a process of limited memory and
  time, one at a time, since a header of 25 MB takes ten times its size and seconds to read.
- What comes back is an encoded index of at most `INDEX_BYTES_MAX`, or an error that says why not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.hot.formats.detecting import read_index
from memfs.hot.formats.source import FileSource
from memfs.hot.indexes import encode_index
from memfs.hot.protocol import (
    HotGoneError,
    Packet,
    ProtocolError,
    error_reply,
    number_in,
    raise_error,
    receive_async,
    send_async,
    shorten,
)
from memfs.hot.tensors import FormatError, parse_shape
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.hot.formats.source import Source

SMALL_BYTES_MAX = 64 << 10
"""Read of a file before its header counts as a large one: some 600 tensors of safetensors. Reading
as much takes some 5 ms and 1 MiB, starting a process 60 ms."""

READ_BYTES_MAX = 32 << 20
"""Limit of one piece that the process asks for; headers have up to 25 MB."""

INDEX_BYTES_MAX = 64 << 20
"""Limit of an encoded index: names, shapes and strides of 100,000 tensors take some 20 MB."""

WAIT_S_MAX = 120.0
"""A process that has not answered by then is ended: a store may be slow, a header not. Guess."""


class HeaderLimits(NamedTuple):
    """What the reading of a large header may take."""

    memory_bytes: int = 640 << 20
    """Bytes of address space (RLIMIT_AS). A header of 25 MB with 100,000 tensors takes 270 MiB
    (measured, Python 3.11)."""
    cpu_s: int = 10
    """That of processor time (RLIMIT_CPU). The same header takes 2 s (measured, shared machine)."""


LIMITS = HeaderLimits()


class HeaderFile(NamedTuple):
    """A file whose header is to be read."""

    name: str
    """Its path, for messages."""
    size_bytes: int
    fd: int | None
    """Open for reading; None: only `read` gives its bytes."""
    read: Callable[[int, int], Awaitable[bytes]] | None
    """Returns the bytes from an offset on, of a size; used where there is no descriptor."""
    dtype: str | None
    """That of a raw file of numbers; None: the file says."""
    shape: str | None
    """Likewise, extents separated by commas."""


class _LargeHeaderError(Exception):
    """More has to be read of a file than is read here."""


class _SmallSource:
    """A source of which only so much may be read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left_bytes = SMALL_BYTES_MAX
        self.name = source.name
        self.size_bytes = source.size_bytes

    def read(self, offset: int, size: int) -> bytes:
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise _LargeHeaderError
        return self._source.read(offset, size)


class _AwaitedSource:
    """A source for a worker thread whose bytes come from the loop."""

    def __init__(self, file: HeaderFile) -> None:
        self._file = file
        self.name = file.name
        self.size_bytes = file.size_bytes

    def read(self, offset: int, size: int) -> bytes:
        return trio.from_thread.run(_piece, self._file, offset, size)


class HeaderReader:
    """Reads headers.

    Args:
        environment: That of the processes that it starts.
        limits: Those of each of them.
    """

    def __init__(self, environment: Mapping[str, str], limits: HeaderLimits = LIMITS) -> None:
        self._environment = dict(environment)
        self._limits = limits
        self._lock = trio.Lock()

    async def read(self, file: HeaderFile) -> bytes:
        """Return the index of a file as `encode_index` writes it.

        Raises:
            FormatError: It holds no tensors that memfs knows, its header lies, or it is too large.
        """
        file = file._replace(name=shorten(file.name))
        try:
            return await trio.to_thread.run_sync(_read_small, file)
        except _LargeHeaderError:
            async with self._lock:
                return await self._read_large(file)

    async def _read_large(self, file: HeaderFile) -> bytes:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as connection:
            with theirs:
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", "memfs.hot.header_worker", *map(str, self._limits)],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    # What goes wrong there is told by its end.
                    stderr=subprocess.DEVNULL,
                    env=self._environment,
                    start_new_session=True,
                )
            try:
                with trio.fail_after(WAIT_S_MAX):
                    return await _converse(connection, file)
            except (HotGoneError, OSError):
                raise FormatError(
                    f"{file.name}: reading its header takes more than "
                    f"{format_size(self._limits.memory_bytes)} of memory or "
                    f"{self._limits.cpu_s} s of a processor"
                ) from None
            except trio.TooSlowError:
                raise FormatError(
                    f"{file.name}: reading its header took longer than {WAIT_S_MAX:.0f} s"
                ) from None
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def _converse(connection: trio.socket.SocketType, file: HeaderFile) -> bytes:
    """Have the process at the other end read a file, and give it what it asks for."""
    await send_async(
        connection,
        {
            "name": file.name,
            "size_bytes": file.size_bytes,
            "dtype": file.dtype,
            "shape": file.shape,
        },
        [] if file.fd is None else [file.fd],
    )
    while True:
        packet = await receive_async(connection)
        try:
            if "read" not in packet.message:
                raise_error(packet.message)
                return await trio.to_thread.run_sync(_take_index, packet)
            await _give(connection, file, packet.message)
        finally:
            packet.close()


async def _give(
    connection: trio.socket.SocketType, file: HeaderFile, message: Mapping[str, object]
) -> None:
    offset, size = number_in(message, "read"), number_in(message, "size")
    try:
        content = await _piece(file, offset, size)
    except FormatError as error:
        await send_async(connection, error_reply(error))
        return
    fd = os.memfd_create("memfs-header", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as target:
            target.write(content)
        await send_async(connection, {}, [fd])
    finally:
        os.close(fd)


async def _piece(file: HeaderFile, offset: int, size: int) -> bytes:
    """Return bytes of a file that has no descriptor.

    Raises:
        FormatError: They are not all there, or are more than any header has.
    """
    assert file.read is not None, "a file without a descriptor has a function that reads it"
    if offset < 0 or not 0 <= size <= READ_BYTES_MAX:
        raise FormatError(f"{file.name}: its header has more than {READ_BYTES_MAX} bytes")
    content = await file.read(offset, size)
    if len(content) != size:
        raise FormatError(f"{file.name} ends at {offset + len(content)}, within its header")
    return bytes(content)


def _take_index(packet: Packet) -> bytes:
    if len(packet.fds) != 1 or os.fstat(packet.fds[0]).st_size > INDEX_BYTES_MAX:
        raise ProtocolError(f"an index of more than {INDEX_BYTES_MAX} bytes, or none")
    return os.pread(packet.fds[0], INDEX_BYTES_MAX, 0)


def _read_small(file: HeaderFile) -> bytes:
    source = _AwaitedSource(file) if file.fd is None else FileSource(file.fd, file.name)
    return encode_index(
        read_index(
            _SmallSource(source),
            dtype=file.dtype,
            shape=None if file.shape is None else parse_shape(file.shape),
        )
    )
