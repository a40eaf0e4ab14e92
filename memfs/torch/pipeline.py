"""The pipeline: bytes of a file into memory of a device, read and copied at the same time.

Invariant: a host buffer is filled again only when the copy out of it has ended; whatever fails, all
threads have ended when the call returns.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import torch

from memfs.hot.tensors import FormatError

if TYPE_CHECKING:
    from concurrent.futures import Future

BUFFER_BYTES = 8 << 20
BUFFER_COUNT = 6
READERS = 4
"""Guess, after the loaders of others (4 to 16 threads, buffers of 8 to 16 MiB); one reader of the
page cache already moves some GiB a second."""


class Stream(Protocol):
    """Copies from host buffers to one device, in order and on its own."""

    def host_buffer(self, size_bytes: int) -> torch.Tensor:
        """Return host memory that the device can copy from: shape `(size_bytes,)`, uint8."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        """Begin a copy; returns what `wait` takes."""
        ...

    def wait(self, copied: object) -> None:
        """Return when a copy has ended, and with it all before it."""
        ...

    def join(self) -> None:
        """Have what the caller does next on the device wait for all copies."""
        ...


class NullStream:
    """Copies at once: for the CPU."""

    def host_buffer(self, size_bytes: int) -> torch.Tensor:
        """See `Stream`."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        """See `Stream`."""
        target.copy_(source)
        return None

    def wait(self, copied: object) -> None:
        """See `Stream`."""

    def join(self) -> None:
        """See `Stream`."""


class CudaStream:
    """Copies from pinned memory on a stream of its own.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stub

    def host_buffer(self, size_bytes: int) -> torch.Tensor:
        """See `Stream`."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        """See `Stream`."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
            event.record(self._stream)
        return event

    def wait(self, copied: object) -> None:
        """See `Stream`."""
        assert isinstance(copied, torch.cuda.Event)
        copied.synchronize()

    def join(self) -> None:
        """See `Stream`."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def stream_for(device: torch.device) -> Stream:
    """Return what copies to a device."""
    return CudaStream(device) if device.type == "cuda" else NullStream()


def read_to_device(
    fd: int, name: str, target: torch.Tensor, stream: Stream | None = None
) -> torch.Tensor:
    """Read the beginning of a file into memory of a device.

    Args:
        fd: Open for reading.
        name: Its path, for messages.
        target: Shape `(n,)`, dtype uint8: as many bytes as are read.
        stream: None: that of the target's device.

    Returns:
        `target`.

    Raises:
        FormatError: The file is shorter.
        OSError: It cannot be read.
    """
    size_bytes = target.numel()
    if target.device.type == "cpu" and stream is None:
        return _read_to_host(fd, name, target)
    stream = stream or stream_for(target.device)
    pieces = [
        (begin, min(BUFFER_BYTES, size_bytes - begin))
        for begin in range(0, size_bytes, BUFFER_BYTES)
    ]
    buffers = [stream.host_buffer(BUFFER_BYTES) for _ in range(min(BUFFER_COUNT, len(pieces)))]
    copies: list[object | None] = [None] * len(buffers)
    reading: deque[tuple[int, int, int, Future[None]]] = deque()
    with ThreadPoolExecutor(READERS, "memfs-read") as readers:
        try:
            for number, (begin, size) in enumerate(pieces):
                slot = number % len(buffers)
                if len(reading) == len(buffers):
                    _copy_next(reading, buffers, copies, target, stream)
                if copies[slot] is not None:
                    stream.wait(copies[slot])
                    copies[slot] = None
                part = buffers[slot].numpy().data[:size]
                future = readers.submit(_fill, fd, name, begin, part)
                reading.append((slot, begin, size, future))
            while reading:
                _copy_next(reading, buffers, copies, target, stream)
        finally:
            for _, _, _, future in reading:
                future.cancel()
            for copied in copies:
                if copied is not None:
                    stream.wait(copied)
    stream.join()
    return target


def _copy_next(
    reading: deque[tuple[int, int, int, Future[None]]],
    buffers: list[torch.Tensor],
    copies: list[object | None],
    target: torch.Tensor,
    stream: Stream,
) -> None:
    """Copy the piece whose reading began first."""
    slot, begin, size, future = reading.popleft()
    future.result()
    copies[slot] = stream.copy(target[begin : begin + size], buffers[slot][:size])


def _read_to_host(fd: int, name: str, target: torch.Tensor) -> torch.Tensor:
    """Read straight into the target, by several threads: it is host memory itself."""
    view = target.numpy().data
    with ThreadPoolExecutor(READERS, "memfs-read") as readers:
        futures = [
            readers.submit(_fill, fd, name, begin, view[begin : begin + BUFFER_BYTES])
            for begin in range(0, len(view), BUFFER_BYTES)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
    return target


def _fill(fd: int, name: str, begin: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(fd, [part[done:]], begin + done)
        if not count:
            raise FormatError(f"{name} ends at {begin + done}, within its tensors")
        done += count
