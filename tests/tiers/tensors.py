"""Files of tensors, and programs that attach to them by the client alone."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from memfs.hot.client import client_for, read_ticket
from memfs.hot.devices.opening import map_slab

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.hot.client import HotClient, Lease, Ticket

HOT = """
[hot]
devices = ["cpu"]
size = "64MiB"
reserve = 0

[policy]
interval = "100ms"
retry_min = "100ms"
retry_max = "400ms"
"""
"""A mount with the CPU twin as its hot tier."""


def tensors(size: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Some tensors of about `size` bytes together."""
    generator = np.random.default_rng(seed)
    return {
        "weight": generator.standard_normal((max(1, size // 4000), 1000)).astype(np.float32),
        "bias": generator.standard_normal(100).astype(np.float16),
        "ids": generator.integers(0, 1 << 40, 7),
    }


def safetensors_of(size: int, seed: int = 1) -> bytes:
    """The same as a file of the safetensors format."""
    return save(tensors(size, seed), {"seed": str(seed)})


def ticket_of(path: Path) -> Ticket:
    """What a program that may read a file gets."""
    fd = os.open(path, os.O_RDONLY)
    try:
        ticket = read_ticket(fd)
    finally:
        os.close(fd)
    assert ticket is not None
    return ticket


class Attached:
    """A slab that is attached to and mapped, until `close`."""

    def __init__(self, path: Path, lease: Lease | None = None, **wishes: object) -> None:
        ticket = ticket_of(path)
        self.client: HotClient = client_for(ticket)
        if lease is None:
            lease = self.client.attach(ticket.token, **wishes)  # type: ignore[arg-type]  # as the test says
        self.lease = lease
        self.mapping = map_slab(
            lease.kind,
            lease.uuid,
            lease.slab_fd,
            lease.size_bytes,
            private=False,
        )

    def tensors(self) -> dict[str, bytes]:
        """The bytes of each tensor as they are in the slab now."""
        return {
            tensor.name: ctypes.string_at(self.mapping.address + tensor.offset, tensor.size_bytes)
            for tensor in self.lease.index.tensors
        }

    def close(self) -> None:
        """Unmap, and give the lease back."""
        self.mapping.unmap()
        self.client.release(self.lease)


def bytes_of(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The bytes of arrays by name."""
    return {name: array.tobytes() for name, array in arrays.items()}
