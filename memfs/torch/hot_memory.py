"""Hot memory: tensors by key, on a device while it has room.

Invariant: a key is a safetensors file in one directory of a mount; what is stored is on disk, and
losing the device loses nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from memfs.hot.client import client_at
from memfs.hot.protocol import HotMissError
from memfs.torch.dtypes import precision_of
from memfs.torch.errors import DeviceUnavailableError
from memfs.torch.files import TensorFile
from memfs.torch.loading import load, report_of, resolve_device
from memfs.torch.saving import save
from memfs.torch.slabs import attach_snapshot, ticket_for
from memfs.torch.tiers import pin, stats, wait_hot
from memfs.torch.views import views_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from memfs.hot.client import HotClient

SUFFIX = ".safetensors"
SINGLE = "value"
"""Name of the tensor that was stored without one."""

_START_S_MAX = 60.0
"""How long the hot server is waited for that a new mount starts: its first use of a GPU can take
seconds."""

_START_POLL_S = 0.05

_KEY = re.compile(r"[^/\0]{1,200}")


class LayoutReport(NamedTuple):
    """What laying tensors out anew has come to."""

    tensors: int
    bytes_before: int
    """In the file."""
    bytes_after: int
    """On the device, alignment included."""
    misaligned_fixed_count: int
    """Tensors that the file has at an offset that is no multiple of 256."""
    moved_count: int
    """Tensors whose type or layout is another one now."""
    overflow_count: int
    """Finite values that became infinite by a smaller type."""
    changed: bool
    """False: the slab is laid out as it was."""


class HotMemory:
    """Tensors by key.

    Args:
        size_gb: That of each device, for tensors; the mount's own capacity is what counts, and a
            larger wish is refused.
        directory: On a mount with a hot tier; made if it is missing.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        precision: `float32`, `float16`, `bfloat16`: how floats are retrieved; None: as stored.
        garbage_collection_threshold: As the mount has it (`hot.high_watermark`); anything else is
            refused, since all users of the mount share it.

    Raises:
        DeviceUnavailableError: The directory has no hot tier for the device.
        ValueError: The mount is configured otherwise.
    """

    def __init__(
        self,
        size_gb: float | None = None,
        *,
        directory: str | os.PathLike[str],
        device: str = "auto",
        precision: str | None = None,
        garbage_collection_threshold: float | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.device = resolve_device(device)
        # Sees that it can be one.
        precision_of(precision)
        self.precision = precision
        self._optimized: dict[str, dict[str, Any]] = {}
        self._check(size_gb, garbage_collection_threshold)

    def store(
        self, key: str, value: torch.Tensor | Mapping[str, torch.Tensor], *, priority: int = 50
    ) -> None:
        """Store a tensor, or several by name, and bring them to the device.

        Args:
            key: A file name.
            value: On any device.
            priority: 0 to 100; higher ones leave a full device last.

        Raises:
            TypeError: The value is neither.
            ValueError: The key or the priority cannot be such; nothing is stored.
        """
        tensors = _tensors_of(value)
        path = self.path(key)
        if not isinstance(priority, int) or not 0 <= priority <= 100:
            raise ValueError(f"priority = {priority!r}: it can be a whole number from 0 to 100")
        save(tensors, path)
        self._optimized.pop(key, None)
        pin(path, tier="hot", priority=priority)

    def retrieve(
        self, key: str, *, snapshot: str | None = None, mutable: bool = False, timeout: float = 30.0
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what was stored: a tensor, or several by name.

        Args:
            key: As of `store`.
            snapshot: As it was then.
            mutable: It can be written; else writing to it ends the process.
            timeout: Seconds until the device has it; after that it comes from the file.

        Raises:
            KeyError: Nothing was stored under that key.
        """
        options: dict[str, Any] = {"dtype": self.precision} | self._optimized.get(key, {})
        if snapshot is not None:
            tensors = self._from_snapshot(key, snapshot, options, mutable=mutable)
        else:
            path = self._existing(key)
            tensors = load(path, device=self.device, mutable=mutable, timeout=timeout, **options)
        return tensors[SINGLE] if list(tensors) == [SINGLE] else tensors

    def _from_snapshot(
        self, key: str, snapshot: str, options: Mapping[str, Any], *, mutable: bool
    ) -> dict[str, torch.Tensor]:
        try:
            slab = attach_snapshot(
                self._client(),
                self.device,
                snapshot,
                key,
                precision=precision_of(options.get("dtype")),
                layout=options.get("layout"),
                private=mutable,
            )
        except HotMissError as error:
            raise KeyError(str(error)) from None
        return views_of(slab.base, slab.tensors.tensors)

    def _client(self) -> HotClient:
        """Return the connection to the mount's hot server."""
        answer = stats(self.directory)
        if answer.get("address") is None:
            raise DeviceUnavailableError(f"{self.directory}: {answer.get('note')}")
        return client_at(answer["address"], answer["uid"])

    def exists(self, key: str) -> bool:
        """Return whether something is stored by a key."""
        return self.path(key).exists()

    def delete(self, key: str) -> None:
        """Remove what is stored by a key; KeyError if nothing is."""
        self._existing(key).unlink()
        self._optimized.pop(key, None)

    def keys(self) -> list[str]:
        """Return all keys, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self.directory.glob(f"*{SUFFIX}"))

    # --- as a dictionary -------------------------------------------------------------------------
    def __getitem__(self, key: str) -> torch.Tensor | dict[str, torch.Tensor]:
        """As `retrieve`."""
        return self.retrieve(key)

    def __setitem__(self, key: str, value: torch.Tensor | Mapping[str, torch.Tensor]) -> None:
        """As `store`."""
        self.store(key, value)

    def __delitem__(self, key: str) -> None:
        """As `delete`."""
        self.delete(key)

    def __contains__(self, key: object) -> bool:
        """As `exists`."""
        return isinstance(key, str) and self.exists(key)

    def __iter__(self) -> Iterator[str]:
        """As `keys`."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Count all keys."""
        return len(self.keys())

    def __repr__(self) -> str:
        """Tell where the keys are."""
        return f"{type(self).__name__}({str(self.directory)!r})"

    def path(self, key: str) -> Path:
        """Return the file of a key.

        Raises:
            ValueError: It cannot be the name of one.
        """
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key.startswith("."):
            raise ValueError(
                f"key {key!r:.80} cannot be a file name: a text of up to 200 characters, without "
                "'/', and not with a dot first"
            )
        return self.directory / f"{key}{SUFFIX}"

    def optimize_layout(
        self, key: str, *, channels_last: bool = False, dtype: str | None = None
    ) -> LayoutReport:
        """Have the tensors of a key laid out for the device, and retrieve them so from now on.

        In the hot tier all tensors of a file are in one allocation, contiguous, each at a multiple
        of 256 bytes. Beyond that this can put the channels of 4-D tensors last, and change the type
        of floats. No speed of kernels is promised: measure yours.

        Args:
            key: As of `store`.
            channels_last: For convolutions.
            dtype: `float32`, `float16` or `bfloat16`; None: as `retrieve` gives it.

        Raises:
            KeyError: Nothing was stored under that key.
        """
        path = self._existing(key)
        with TensorFile(path) as file:
            before = file.index()
        wait_hot(path)
        options: dict[str, Any] = {}
        if channels_last:
            options["layout"] = "channels_last"
        if dtype is not None:
            options["dtype"] = dtype
        after = load(
            path, device=self.device, share="require", **({"dtype": self.precision} | options)
        )
        moved_count = sum(
            1
            for tensor in before.tensors
            if after[tensor.name].stride() != tensor.stride
            or after[tensor.name].element_size() != tensor.dtype.item_bytes
        )
        report = report_of(path)
        self._optimized[key] = options
        base_bytes = next(iter(after.values())).untyped_storage().nbytes() if after else 0
        return LayoutReport(
            tensors=len(before.tensors),
            bytes_before=before.size_bytes,
            bytes_after=base_bytes,
            misaligned_fixed_count=sum(1 for t in before.tensors if t.offset % 256),
            moved_count=moved_count,
            overflow_count=0 if report is None else report.overflow_count,
            changed=moved_count > 0,
        )

    def create_snapshot(self, name: str) -> int:
        """Keep all that is stored as it is now, on the device, whatever is stored later.

        No copy is made: what is stored anew takes room beside it.

        Returns:
            Bytes that the snapshot keeps.

        Raises:
            DeviceUnavailableError: Something is not on the device.
        """
        for key in self.keys():
            wait_hot(self.path(key))
        tokens = {}
        for key in self.keys():
            with TensorFile(self.path(key)) as file:
                ticket = ticket_for(file.fd, self.device)
            if ticket is None:
                raise DeviceUnavailableError(f"{self.path(key)}: no hot tier serves {self.device}")
            tokens[key] = ticket.token
        if not tokens:
            raise KeyError("nothing is stored")
        return int(str(self._client().snapshot(name, tokens)["size_bytes"]))

    def drop_snapshot(self, name: str) -> None:
        """Let the memory of a snapshot go.

        Raises:
            KeyError: Nothing has that name.
        """
        try:
            self._client().drop_snapshot(name)
        except HotMissError as error:
            raise KeyError(str(error)) from None

    def get_metrics(self) -> dict[str, Any]:
        """Return use and capacity of the hot tier, which all users of the mount share."""
        answer = stats(self.directory)
        devices = answer.get("devices", [])
        used_bytes = sum(device["used_bytes"] for device in devices)
        capacity_bytes = sum(device["capacity_bytes"] for device in devices)
        return {
            "usage_bytes": used_bytes,
            "size_bytes": capacity_bytes,
            "usage_percent": 100.0 * used_bytes / capacity_bytes if capacity_bytes else 0.0,
            "keys": len(self.keys()),
            "items": len(self.keys()),
            "leases": answer.get("lease_count", 0),
            "evicted": answer.get("evicted_count", 0),
            "devices": devices,
        }

    def _existing(self, key: str) -> Path:
        path = self.path(key)
        if not path.exists():
            raise KeyError(f"nothing is stored by the key {key!r} in {self.directory}")
        return path

    def _check(self, size_gb: float | None, threshold: float | None) -> None:
        deadline_s = time.monotonic() + _START_S_MAX
        answer = stats(self.directory)
        while answer.get("starting") and time.monotonic() < deadline_s:
            time.sleep(_START_POLL_S)
            answer = stats(self.directory)
        devices = [d for d in answer.get("devices", ()) if d["kind"] == self.device.type]
        if not devices:
            raise DeviceUnavailableError(
                f"{self.directory} has no hot tier on {self.device}: {answer.get('note')}"
            )
        capacity_bytes = min(device["capacity_bytes"] for device in devices)
        if size_gb is not None and size_gb * (1 << 30) > capacity_bytes * 1.001:
            raise ValueError(
                f"size_gb={size_gb:g}: the mount's hot tier has "
                f"{capacity_bytes / (1 << 30):g} GiB a device; raise hot.size"
            )
        configured = answer.get("high_watermark")
        if threshold is not None and threshold != configured:
            raise ValueError(
                f"garbage_collection_threshold={threshold:g}: the mount has "
                f"hot.high_watermark={configured}"
            )


def _tensors_of(value: object) -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {SINGLE: value}
    if isinstance(value, Mapping) and all(
        isinstance(each, torch.Tensor) for each in value.values()
    ):
        return dict(value)
    raise TypeError(
        f"the value is {type(value).__name__}; it can be a tensor, or a dictionary of tensors by "
        "name: torch.as_tensor makes one of an array"
    )
