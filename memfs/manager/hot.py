"""Hot memory that starts a mount of its own if no directory is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfs.manager import place
from memfs.manager.configuration import configure, has_gpu
from memfs.manager.errors import ClosedManagerError
from memfs.manager.holding import hold, let_go
from memfs.manager.wishes import Wishes
from memfs.torch import hot_memory

if TYPE_CHECKING:
    import os

    from memfs.client.mount import Mount

_SIZE_GB = 1.0
"""GB of each device of a mount of its own, if no size is asked for. Guess."""


class HotMemory(hot_memory.HotMemory):
    """Tensors by key, on a device while it has room; see `memfs.torch.HotMemory`.

    Args:
        size_gb: GB of each device.
        directory: On a mount with a hot tier; None: a mount of its own, whose hot tier is on all
            GPUs, or in shared memory on a machine without one.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        precision: `float32`, `float16`, `bfloat16`: how floats are retrieved; None: as stored.
        garbage_collection_threshold: Share of the size beyond which what nobody uses leaves.
        state: The state directory of a mount of its own.

    Raises:
        MountUnavailableError: No mount can be started.
        DeviceUnavailableError: There is no hot tier for the device.
        ValueError: The mount is configured otherwise.
    """

    def __init__(
        self,
        size_gb: float | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str | None = None,
        garbage_collection_threshold: float | None = None,
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        self._own: Mount | None = None
        self._is_closed = False
        given = {
            "size_gb": size_gb,
            "precision": precision,
            "garbage_collection_threshold": garbage_collection_threshold,
        }
        configured = configure(
            hot={name: value for name, value in given.items() if value is not None}
        )
        if directory is None:
            devices = "auto" if device == "cuda" or (device == "auto" and has_gpu()) else "cpu"
            options: dict[str, object] = {
                "hot.devices": [device if device.startswith("cuda:") else devices],
                **configured.options,
            }
            size = configured.sizes_gb.get("hot", _SIZE_GB)
            chosen = place.own_state("hot") if state is None else Path(state)
            self._own = place.start(chosen, Wishes(hot_gb=size, options=options))
            directory = self._own.mountpoint / "hot"
        super().__init__(
            size_gb,
            directory=directory,
            device=device,
            precision=precision,
            garbage_collection_threshold=garbage_collection_threshold,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hold the mount in another process as well."""
        self.__dict__.update(state)
        if self._own is not None:
            hold(self._own.state_dir)

    def close(self, *, unmount: bool = False) -> None:
        """Let go of a mount of its own; what is asked for later is a `ClosedManagerError`.

        Raises:
            MountUnavailableError: It is in use, or another process holds it.
        """
        if self._is_closed:
            return
        if self._own is not None:
            if unmount:
                place.stop(self._own)
            let_go(self._own.state_dir)
        self._is_closed = True

    def path(self, key: str) -> Path:
        """As of `memfs.torch.HotMemory`.

        Raises:
            ClosedManagerError: It was closed.
        """
        self._require_open()
        return super().path(key)

    def keys(self) -> list[str]:
        """Return all keys, sorted."""
        self._require_open()
        return super().keys()

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedManagerError(
                f"{self.directory}: this HotMemory was closed; make another one, which goes on"
            )
