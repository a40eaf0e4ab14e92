"""Slabs of the hot tier in this process: attached, mapped, and given back with their last tensor.

Invariant: a lease ends when no tensor of its slab is left in the process that took it, or with the
process.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from memfs.hot.client import client_for, read_ticket
from memfs.hot.devices.opening import map_slab
from memfs.torch.borrowing import borrow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memfs.hot.client import HotClient, Lease, Ticket
    from memfs.hot.devices.device import SlabMapping
    from memfs.hot.tensors import TensorIndex


@dataclass(frozen=True, slots=True)
class MappedSlab:
    """A slab that is mapped in this process."""

    base: torch.Tensor
    """Shape `(n,)`, dtype uint8."""
    tensors: TensorIndex
    generation: int
    uuid: str
    report: Mapping[str, object]


def ticket_for(fd: int, device: torch.device) -> Ticket | None:
    """Return the ticket of an open file if the hot tier can serve a device; None if it cannot.

    Raises:
        OSError: As of `read_ticket`.
    """
    try:
        ticket = read_ticket(fd)
    except (ValueError, TypeError, KeyError):
        # Anyone may give a file of another file system an attribute of that name.
        return None
    if ticket is None or ticket.kind != device.type:
        return None
    if ticket.kind == "cuda" and _uuid_of(device) not in ticket.uuids:
        return None
    return ticket


def attach(
    ticket: Ticket,
    device: torch.device,
    *,
    precision: str | None = None,
    layout: str | None = None,
    demand: bool = False,
    private: bool = False,
    timeout_s: float = 30.0,
) -> MappedSlab:
    """Attach to a file and map it.

    Args:
        ticket: That of `ticket_for`; it is spent by this.
        device: Where its tensors are to be.
        precision: That of its floats; None: as in the file.
        layout: `channels_last`; None: as in the file.
        demand: Have it loaded if need be.
        private: Writable, copy-on-write; on a GPU it is cloned instead.
        timeout_s: Longest wait.

    Raises:
        MemfsError: As of `HotClient.attach`, and `DeviceError`.
    """
    client = client_for(ticket)
    lease = client.attach(
        ticket.token,
        dtype=precision,
        layout=layout,
        demand=demand,
        device=_uuid_of(device) if device.type == "cuda" else None,
        timeout_s=timeout_s,
    )
    return _mapped(client, lease, device, private=private)


def attach_snapshot(
    client: HotClient,
    device: torch.device,
    name: str,
    label: str,
    *,
    precision: str | None = None,
    layout: str | None = None,
    private: bool = False,
) -> MappedSlab:
    """Attach to what a snapshot keeps and map it; see `attach`.

    Raises:
        MemfsError: As of `HotClient.attach_snapshot`, and `DeviceError`.
    """
    lease = client.attach_snapshot(name, label, dtype=precision, layout=layout)
    return _mapped(client, lease, device, private=private)


@contextlib.contextmanager
def leased(ticket: Ticket, device: torch.device, timeout_s: float) -> Iterator[str]:
    """Have a file loaded, and keep it where it is meanwhile, without mapping it.

    Args:
        ticket: That of `ticket_for`; it is spent by this.
        device: Where it is loaded, unless it is on another one already.
        timeout_s: Longest wait.

    Yields:
        The UUID of the device where it is.

    Raises:
        MemfsError: As of `HotClient.attach`.
    """
    client = client_for(ticket)
    lease = client.attach(
        ticket.token,
        demand=True,
        device=_uuid_of(device) if device.type == "cuda" else None,
        timeout_s=timeout_s,
    )
    os.close(lease.slab_fd)
    try:
        yield lease.uuid
    finally:
        client.release(lease)


def serves(uuid: str, device: torch.device) -> bool:
    """Return whether a device of the hot tier is the one that torch calls so."""
    return device.type == "cpu" or uuid == _uuid_of(device)


def _mapped(client: HotClient, lease: Lease, device: torch.device, *, private: bool) -> MappedSlab:
    on_cpu = lease.kind == "cpu"
    try:
        mapping = map_slab(
            lease.kind,
            lease.uuid,
            lease.slab_fd,
            lease.size_bytes,
            private=private and on_cpu,
        )
    except BaseException:
        client.release(lease)
        raise
    giving_back = _GivingBack(client, lease, mapping, device)
    base = borrow(mapping.address, mapping.size_bytes, device, giving_back)
    if private and not on_cpu:
        base = base.clone()
    return MappedSlab(base, lease.index, lease.generation, lease.uuid, lease.report)


class _GivingBack:
    """Unmaps a slab and ends its lease, in the process that took it."""

    def __init__(
        self, client: HotClient, lease: Lease, mapping: SlabMapping, device: torch.device
    ) -> None:
        self._client = client
        self._lease = lease
        self._mapping = mapping
        self._device = device
        self._pid = os.getpid()

    def __call__(self) -> None:
        if os.getpid() != self._pid:
            # The mapping and the lease are the parent's; this process's copy goes with it.
            return
        if self._device.type == "cuda":
            # Kernels that use it may be queued still; foreign memory is not ordered by streams.
            torch.cuda.synchronize(self._device)
        self._mapping.unmap()
        self._client.release(self._lease)


def _uuid_of(device: torch.device) -> str:
    """Return the UUID of a CUDA device as nvidia-smi prints it."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
