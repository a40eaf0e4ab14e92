"""One tier at a time: managers whose values are pinned where they are stored.

Invariant: a class here adds names and defaults, and no second way to store anything.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

from memfs.manager.arguments import size_mb as check_size_mb
from memfs.manager.keys import path_of
from memfs.manager.manager import MemoryManager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.manager.file_work import CompressReport


_MIB = 1 << 20


class TierMemory(MemoryManager):
    """A manager of one tier; made as its subclasses say."""

    tier: ClassVar[str]
    """That of its values, unless another one is named."""

    def get_metrics(self) -> dict[str, Any]:
        """Return use and size of this tier; see `MemoryManager.get_metrics`."""
        return super().get_metrics()[self.tier]


class WarmMemory(TierMemory):
    """Values in RAM, and on the local disk below it, so that no restart loses them.

    Args:
        size_gb: GB of RAM.
        directory: A path in a mount that is there; None: a mount of its own.
        serialization_format: That of lists and dictionaries: `json`, `msgpack` or `pickle`.
        compression: None or `none`: pages in RAM are never compressed.
        shared_memory: Values are read-only views of the memory that all processes share.
        state: The state directory of a mount of its own.
        allow_pickle: As of `MemoryManager`.
    """

    tier = "warm"
    own_state = "warm"

    def __init__(
        self,
        size_gb: float | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        serialization_format: str = "json",
        compression: str | None = None,
        shared_memory: bool = False,
        state: str | os.PathLike[str] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            warm_memory_size=size_gb,
            mount=directory,
            state=state,
            root="warm",
            allow_pickle=allow_pickle,
            warm_config={
                "serialization_format": serialization_format,
                "compression": compression,
                "shared_memory": shared_memory,
            },
        )

    def allocate_pool(self, name: str, size_mb: float) -> None:
        """Reserve RAM for the keys below `NAME/`, or give the pool another size.

        Args:
            name: Letters, digits, `.`, `_`, `-`; up to 63.
            size_mb: MB of 2^20 bytes.

        Raises:
            ControlError: There is no such room, or it is no name.
            ValueError: It is no size.
        """
        mount = self._mounted()
        mount.pool_create(name, int(check_size_mb("size_mb", size_mb) * _MIB))
        self._root.make_directory(path_of(name))
        os.setxattr(self.path(name), "user.memfs.pool", name.encode())


class ColdMemory(TierMemory):
    """Values on the local disk, compressed when they are not used.

    Args:
        size_gb: GB of the disk.
        storage_path: The state directory, where all bytes are; None: the default one.
        directory: A path in a mount that is there, in place of `storage_path`.
        file_format: That of tables: `parquet`.
        compression: Codec of values that are not used: `zstd`, `zstd:9`, `lz4`, `snappy`, `none`.
        index_in_memory: Keep the names and attributes of a million files in memory.
        allow_pickle: As of `MemoryManager`.
    """

    tier = "cold"
    own_state = "cold"

    def __init__(
        self,
        size_gb: float | None = None,
        storage_path: str | os.PathLike[str] | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        file_format: str = "parquet",
        compression: str | None = None,
        index_in_memory: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        config: dict[str, Any] = {"file_format": file_format, "index_in_memory": index_in_memory}
        if compression is not None:
            config["compression"] = compression
        if storage_path is not None:
            config["storage_path"] = storage_path
        super().__init__(
            cold_memory_size=size_gb,
            mount=directory,
            root="cold",
            cold_config=config,
            allow_pickle=allow_pickle,
        )

    def compress(  # type: ignore[override]  # one key is what the tier is asked for
        self, key: str, compression_level: int | None = None, *, codec: str = "zstd"
    ) -> CompressReport:
        """Compress one value now; see `MemoryManager.compress`."""
        return super().compress(self.tier, compression_level, keys=[key], codec=codec)


class GlacierMemory(TierMemory):
    """Values in an object store; reading one brings it to the local disk.

    Args:
        provider: `local`, `s3`, `gcs` or `azure`.
        config: `bucket`, `prefix`, `region`, `encryption`, `options`; `storage_path` with `local`.
        directory: A path in a mount that is there, with its own store.
        state: The state directory of a mount of its own.
        allow_pickle: As of `MemoryManager`.
    """

    tier = "glacier"

    def __init__(
        self,
        provider: str = "local",
        config: Mapping[str, Any] | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        glacier = None if directory is not None else {"provider": provider, **(config or {})}
        # One state for one store: whatever another manager has as its store, this one has its own.
        store = json.dumps(glacier, sort_keys=True, default=os.fspath)
        self.own_state = f"glacier-{hashlib.blake2b(store.encode(), digest_size=4).hexdigest()}"
        super().__init__(
            mount=directory,
            state=state,
            root="glacier",
            glacier_config=glacier,
            allow_pickle=allow_pickle,
        )
