"""Hot memory that starts a mount of its own if no directory is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfs.manager import place
from memfs.manager.configuration import has_gpu
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
        if directory is None:
            devices = "auto" if device == "cuda" or (device == "auto" and has_gpu()) else "cpu"
            options: dict[str, object] = {
                "hot.devices": [device if device.startswith("cuda:") else devices]
            }
            if garbage_collection_threshold is not None:
                options["hot.high_watermark"] = garbage_collection_threshold
                options["hot.low_watermark"] = max(
                    0.01, round(garbage_collection_threshold - 0.1, 4)
                )
            size = _SIZE_GB if size_gb is None else size_gb
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
        """Let go of a mount of its own; see `MemoryManager.close`.

        Raises:
            MountUnavailableError: It is in use, or another process holds it.
        """
        if self._own is None:
            return
        if unmount:
            place.stop(self._own)
        let_go(self._own.state_dir)
        self._own = None
