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
from memfs.torch.packing import windows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from memfs.torch.packing import Run, Window

BUFFER_BYTES = 8 << 20
BUFFER_COUNT = 6
READERS = 4
"""Guess, after the loaders of others (4 to 16 threads, buffers of 8 to 16 MiB); one reader of the
page cache already moves some GiB a second."""

VECTOR_COUNT_MAX = 512
"""Parts of one preadv(2); the kernel takes 1024 (IOV_MAX)."""


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
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        target.copy_(source)
        return None

    def wait(self, copied: object) -> None:
        """It was copied when `copy` returned."""

    def join(self) -> None:
        """All was copied already."""


class CudaStream:
    """Copies from pinned memory on a stream of its own.

    Args:
        device: A CUDA device; the target was allocated on its current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stub
        # torch's allocator gives out memory that kernels queued on the allocating stream may still
        # use ("CUDA semantics", "Memory management"): the copies have to come after them.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def host_buffer(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
            event.record(self._stream)
        return event

    def wait(self, copied: object) -> None:
        assert isinstance(copied, torch.cuda.Event)
        copied.synchronize()

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def stream_for(device: torch.device) -> Stream:
    """Return what copies to a device."""
    return CudaStream(device) if device.type == "cuda" else NullStream()


def read_to_device(
    fd: int,
    name: str,
    target: torch.Tensor,
    runs: Iterable[Run],
    stream: Stream | None = None,
    *,
    buffer_bytes: int = BUFFER_BYTES,
) -> None:
    """Read parts of a file into memory of a device.

    Args:
        fd: Open for reading.
        name: Its path, for messages.
        target: Shape `(n,)`, dtype uint8.
        runs: What goes where, ascending in the target. What lies between them is undefined after.
        stream: None: that of the target's device.
        buffer_bytes: What is read at a time.

    Raises:
        FormatError: The file is shorter.
        OSError: It cannot be read.
    """
    pieces = list(windows(runs, buffer_bytes))
    if target.device.type == "cpu" and stream is None:
        _read_to_host(fd, name, target, pieces)
        return
    stream = stream or stream_for(target.device)
    buffers = [
        stream.host_buffer(max(piece.size_bytes for piece in pieces))
        for _ in range(min(BUFFER_COUNT, len(pieces)))
    ]
    copies: list[object | None] = [None] * len(buffers)
    reading: deque[tuple[int, Window, Future[None]]] = deque()
    with ThreadPoolExecutor(READERS, "memfs-read") as readers:
        try:
            for number, piece in enumerate(pieces):
                slot = number % len(buffers)
                if len(reading) == len(buffers):
                    _copy_next(reading, buffers, copies, target, stream)
                if copies[slot] is not None:
                    stream.wait(copies[slot])
                    copies[slot] = None
                view = buffers[slot].numpy().data
                reading.append((slot, piece, readers.submit(_fill, fd, name, piece, view)))
            while reading:
                _copy_next(reading, buffers, copies, target, stream)
        finally:
            for _, _, future in reading:
                future.cancel()
            for copied in copies:
                if copied is not None:
                    stream.wait(copied)
    stream.join()


def _copy_next(
    reading: deque[tuple[int, Window, Future[None]]],
    buffers: list[torch.Tensor],
    copies: list[object | None],
    target: torch.Tensor,
    stream: Stream,
) -> None:
    """Copy the piece whose reading began first."""
    slot, piece, future = reading.popleft()
    future.result()
    end = piece.begin + piece.size_bytes
    copies[slot] = stream.copy(target[piece.begin : end], buffers[slot][: piece.size_bytes])


def _read_to_host(fd: int, name: str, target: torch.Tensor, pieces: list[Window]) -> None:
    """Read straight into the target: it is host memory itself."""
    view = target.numpy().data
    if len(pieces) == 1:
        # A sample of a data set: starting a thread and waiting for it took 1.5 ms, all else 0.2 ms.
        _fill(fd, name, pieces[0], view[pieces[0].begin :])
        return
    with ThreadPoolExecutor(READERS, "memfs-read") as readers:
        futures = [readers.submit(_fill, fd, name, piece, view[piece.begin :]) for piece in pieces]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _fill(fd: int, name: str, piece: Window, view: memoryview) -> None:
    """Read the runs of a window; neighbours in the file by one call, although memory has gaps."""
    parts: list[memoryview] = []
    source = end = 0
    for run in piece.runs:
        if parts and (run.source != end or len(parts) == VECTOR_COUNT_MAX):
            _read_fully(fd, name, source, parts)
            parts = []
        if not parts:
            source = run.source
        parts.append(view[run.target : run.target + run.size_bytes])
        end = run.source + run.size_bytes
    _read_fully(fd, name, source, parts)


def _read_fully(fd: int, name: str, source: int, parts: list[memoryview]) -> None:
    waiting = deque(parts)
    while waiting:
        count = os.preadv(fd, list(waiting), source)
        if not count:
            raise FormatError(f"{name} ends at {source}, within its tensors")
        source += count
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.popleft())
        if count:
            waiting[0] = waiting[0][count:]
