"""Tiers of files, as training programs steer them: pins, prefetching, and what is where.

Invariant: what is told is read from memfs when it is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memfs.client import placement
from memfs.client.mount import Mount
from memfs.client.placement import PlacementError
from memfs.control.client import ControlError
from memfs.hot.devices.device import DeviceError
from memfs.hot.pool import HotTierFullError as TierFullError
from memfs.hot.protocol import HotGoneError, HotMissError, HotTimeoutError
from memfs.torch.errors import (
    DeviceUnavailableError,
    FormatError,
    HotTierFullError,
    LoadTimeoutError,
)
from memfs.torch.files import TensorFile
from memfs.torch.loading import report_of, resolve_device
from memfs.torch.mounts import PATHS_A_CALL, by_mount, require_mount
from memfs.torch.slabs import leased, serves, ticket_for
from memfs.types import PendingCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import torch

    from memfs.control.methods.prefetching import PrefetchProgress

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Where a file is."""

    tier: str | None
    """`hot`, `warm`, `cold` or `glacier`; None: it is not on memfs."""
    pinned: str | None
    """The pin in force, own or inherited; None: no pin is in force."""
    generation: int | None
    """Counts how often it was rewritten; None: no hot tier is configured."""
    nbytes: int
    """Size of the file."""
    devices: tuple[str, ...]
    """UUIDs of the devices that have it."""
    leases: int | None
    """Programs that have its tensors mapped from a device; None: it may not be asked."""
    source: str | None
    """Where this process's last load took it from: `hot`, `mapped`, `pipeline`, `read`; None: it
    has not loaded it."""
    why: str | None
    """Why it is where it is, as one sentence."""


def info(path: str | os.PathLike[str]) -> FileInfo:
    """Return where a file is.

    Raises:
        OSError: As of open(2).
    """
    report = report_of(path)
    source = None if report is None else report.source
    mount = Mount.find(path)
    with TensorFile(path) as file:
        nbytes = os.fstat(file.fd).st_size
        if mount is None:
            # Attributes that came with a copy, say, are those of another file.
            return FileInfo(None, None, None, nbytes, (), None, source, None)
        tier = _xattr(file.fd, "tier")
        pin_now = _xattr(file.fd, "pin")
        residency = json.loads(_xattr(file.fd, "residency") or "{}")
        why = json.loads(_xattr(file.fd, "why") or "{}")
        ticket = json.loads(_xattr(file.fd, "lease") or "{}")
        ino = os.fstat(file.fd).st_ino
    return FileInfo(
        tier=tier,
        pinned=None if pin_now == "auto" else pin_now,
        generation=ticket.get("generation"),
        nbytes=nbytes,
        devices=tuple(residency.get("devices", ())),
        leases=_leases(mount, ino),
        source=source,
        why=why.get("detail"),
    )


def stats(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return devices, slabs and counters of the hot tier of a mount.

    Args:
        path: Anything on it.

    Raises:
        DeviceUnavailableError: It is not on memfs, or its daemon may not be asked.
    """
    mount = require_mount(path)
    try:
        return mount.stats()
    except ControlError as error:
        raise DeviceUnavailableError(f"{os.fspath(path)}: {error}") from None


def pin(
    path: str | os.PathLike[str],
    *,
    tier: str = "hot",
    device: torch.device | str = "auto",
    priority: int | None = None,
    timeout: float = 30.0,
) -> None:
    """Send a file, or all below a directory, to a tier and keep it there.

    Args:
        path: On memfs.
        tier: `hot`, `warm`, `cold` or `glacier`.
        device: `auto`: memfs chooses one. `cuda:1`, `cpu`: a file, not a directory, goes there;
            only with `hot`. With several GPUs it is loaded there first, so that it has to fit as
            unpinned files have to, and only then pinned. Otherwise `pin` does not wait.
        priority: 0 to 100; higher ones leave a full tier last. None: as it is.
        timeout: Seconds; bounds the wait for a GPU that was named.

    Raises:
        ValueError: A device is named for another tier than `hot`.
        HotTierFullError: The device that was named has no room.
        LoadTimeoutError: The file was not there in time.
        FormatError: `hot`, and the file holds no tensors; the reason is in the message.
        DeviceUnavailableError: It is not on memfs; or `hot`, and the mount has no such tier;
            or the file is on another device already, where programs may use it.
        OSError: As of setxattr(2).
    """
    name = os.fspath(path)
    if device != "auto" and tier != "hot":
        raise ValueError(f"device={device!r}: files of the tier {tier} are on none")
    require_mount(name)
    with contextlib.ExitStack() as keeping:
        if device != "auto":
            keeping.enter_context(_on_device(name, resolve_device(device), timeout))
        _pin(name, tier, priority)


def _pin(name: str, tier: str, priority: int | None) -> None:
    try:
        placement.pin(Path(name), tier, priority)
    except PlacementError as error:
        if tier == "hot" and error.errno == errno.EINVAL:
            raise FormatError(str(error)) from None
        if tier == "hot" and error.errno == errno.ENOTSUP:
            raise DeviceUnavailableError(str(error)) from None
        raise OSError(error.errno, str(error), name) from None


@contextlib.contextmanager
def _on_device(name: str, device: torch.device, timeout_s: float) -> Iterator[None]:
    """Have a file loaded to a device, and keep it there meanwhile."""
    with TensorFile(name) as file:
        ticket = ticket_for(file.fd, device)
    if ticket is None:
        raise DeviceUnavailableError(f"{name}: no hot tier serves {device}; see hot.devices")
    if len(ticket.uuids) == 1:
        # It goes nowhere else, and a pinned file may take more room than one that is asked for.
        yield
        return
    try:
        with leased(ticket, device, timeout_s) as uuid:
            if not serves(uuid, device):
                raise DeviceUnavailableError(
                    f"{name} is on {uuid} already, and not on {device}; unpin it, and pin it again "
                    "when it has left"
                )
            yield
    except HotTimeoutError as error:
        raise LoadTimeoutError(f"{name}: {error}") from None
    except TierFullError as error:
        raise HotTierFullError(f"{name}: {error}") from None
    except (HotMissError, HotGoneError, DeviceError) as error:
        raise DeviceUnavailableError(f"{name}: {error}") from None


def unpin(path: str | os.PathLike[str]) -> None:
    """Let memfs choose the tier of a file again; nothing happens if it had no pin of its own.

    Raises:
        DeviceUnavailableError: It is not on memfs.
        OSError: As of removexattr(2).
    """
    require_mount(path)
    try:
        placement.unpin(Path(path))
    except PlacementError as error:
        raise OSError(error.errno, str(error), os.fspath(path)) from None


def wait_hot(path: str | os.PathLike[str], timeout: float = 60.0) -> None:
    """Return when a file that is pinned hot is on a device.

    Raises:
        HotTierFullError: It waits for room.
        TimeoutError: It was not there in time.
    """
    deadline_s = time.monotonic() + timeout
    while (_tier := os.getxattr(path, "user.memfs.tier")) != b"hot":
        why = json.loads(os.getxattr(path, "user.memfs.why"))
        pending = why.get("pending")
        if pending is not None and pending.get("code") == PendingCode.FULL:
            raise HotTierFullError(f"{os.fspath(path)}: {pending['reason']}")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{os.fspath(path)} is {_tier.decode()} after {timeout:g} s: {why}")
        time.sleep(POLL_S)


class PrefetchJob:
    """Files that are being brought near, in order.

    Args:
        jobs: Mounts with the numbers of their lists.
    """

    def __init__(self, jobs: dict[Mount, int]) -> None:
        self._jobs = jobs

    def progress(self) -> list[PrefetchProgress]:
        """Return how far each mount is; see `memfs prefetch --json`."""
        return [mount.prefetch_progress(job) for mount, job in self._jobs.items()]

    @property
    def done(self) -> bool:
        """True if nothing is left to do."""
        return all(progress["ended"] for progress in self.progress())

    @property
    def failed_count(self) -> int:
        """Files that could not be fetched so far."""
        return sum(progress["failed_count"] for progress in self.progress())

    @property
    def failed(self) -> bool:
        """True if a file could not be fetched so far."""
        return self.failed_count > 0

    def wait(self, timeout: float = 600.0) -> None:
        """Return when nothing is left to do.

        Raises:
            TimeoutError: That takes longer; the reason is in the message.
        """
        deadline_s = time.monotonic() + timeout
        while not self.done:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not fetched within {timeout:g} s: {self.progress()}")
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """Forget what waits; what was fetched stays."""
        for mount, job in self._jobs.items():
            mount.prefetch_cancel(job)


def prefetch(
    paths: Iterable[str | os.PathLike[str]],
    *,
    tier: Literal["hot", "warm", "cold"] = "warm",
    wait: bool = False,
) -> PrefetchJob:
    """Have files brought near in the order in which they will be used.

    Args:
        paths: Those that are not on memfs are passed over.
        tier: `warm`: into RAM if that has room; `cold`: onto the local disk; `hot`: onto a
            device.
        wait: Return when all are there.

    Raises:
        ControlError: The daemon refuses, or may not be asked by this user.
    """
    jobs: dict[Mount, int] = {}
    for mount, inner in by_mount(paths).items():
        at = 0
        while at < len(inner):
            answer = mount.prefetch(inner[at : at + PATHS_A_CALL], tier, jobs.get(mount))
            jobs[mount] = answer["job"]
            at += answer["taken_count"]
            if not answer["taken_count"]:
                # The list is full: it goes on as it is worked off.
                time.sleep(POLL_S)
    job = PrefetchJob(jobs)
    if wait:
        job.wait()
    return job


def _xattr(fd: int, name: str) -> str | None:
    try:
        return os.getxattr(fd, f"user.memfs.{name}").decode()
    except OSError:
        return None


def _leases(mount: Mount, ino: int) -> int | None:
    try:
        answer = mount.stats()
    except ControlError:
        return None
    return sum(int(slab["leases"]) for slab in answer.get("slabs", ()) if slab["ino"] == ino)
