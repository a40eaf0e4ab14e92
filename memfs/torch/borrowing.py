"""Borrowed memory as a tensor.

Invariants:
- `on_free` is called once, when the last view of a borrowed tensor dies, by a thread of this module
  and never by the thread that dropped it: freeing may wait for a device.
- In the child of a fork, what was borrowed by its parent is called free in the child's own thread,
  and `on_free` has to tell the two apart.

By the array interfaces of numpy and numba, whose objects torch keeps alive with the memory, and not
by a DLPack capsule made by hand: its deleter would run Python code wherever a tensor dies, also
while an exception is on its way, which ctypes does not allow for.

Source: https://numpy.org/doc/stable/reference/arrays.interface.html,
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class _Freeing:
    """The thread that frees; one a process, started when it is first needed."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = False

    def put(self, on_free: Callable[[], None]) -> None:
        # Takes no lock of ours (SimpleQueue is reentrant): it is called wherever a tensor dies.
        self._queue.put(on_free)

    def start(self) -> None:
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="memfs-free", daemon=True).start()

    def wait(self) -> None:
        """Return when all that was put so far is freed."""
        done = threading.Event()
        self.put(done.set)
        self.start()
        done.wait()

    def _run(self) -> None:
        while True:
            on_free = self._queue.get()
            try:
                on_free()
            # Nobody is left to tell: the tensor's owner is gone.
            except Exception:
                log.exception("memory of the hot tier could not be freed")
            del on_free


_freeing = _Freeing()


def _start_anew() -> None:
    """In the child of a fork: the thread is the parent's."""
    global _freeing
    _freeing = _Freeing()


os.register_at_fork(after_in_child=_start_anew)


def wait_freed() -> None:
    """Return when all memory whose tensors are gone has been given back."""
    _freeing.wait()


class _Memory:
    """Memory as numpy and torch take it from others; dies with the last tensor."""

    def __init__(
        self, address: int, size_bytes: int, device: torch.device, on_free: Callable[[], None]
    ) -> None:
        interface = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            # Not declared read-only, although it may be: torch has no such tensors and would warn.
            "data": (address, False),
            "version": 3,
        }
        if device.type == "cuda":
            self.__cuda_array_interface__ = interface
        else:
            self.__array_interface__ = interface
        self._on_free = on_free

    def __del__(self) -> None:
        _freeing.put(self._on_free)


def borrow(
    address: int, size_bytes: int, device: torch.device, on_free: Callable[[], None]
) -> torch.Tensor:
    """Return memory of somebody else as a tensor.

    Args:
        address: That of the first byte, in the address space of the device.
        size_bytes: > 0.
        device: `cpu`, or a CUDA device with its index.
        on_free: Called when the tensor and all views of it are gone, in another thread.

    Returns:
        Shape `(size_bytes,)`, dtype uint8, on that device.
    """
    _freeing.start()
    memory = _Memory(address, size_bytes, device, on_free)
    if device.type == "cuda":
        return torch.as_tensor(memory, device=device)
    return torch.from_numpy(np.asarray(memory))
