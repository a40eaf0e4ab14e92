"""The remote store of a configuration, with its decorators.

Invariant: whatever the URL, the result keeps the whole contract of `stores.store`: bounded waits,
bounded concurrency, retries of what may pass.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from memfs.errors import UsageError
from memfs.stores.directory import DirectoryStore
from memfs.stores.limit import LimitedStore
from memfs.stores.retry import RetryingStore, RetryPolicy

if TYPE_CHECKING:
    from memfs.config import GlacierConfig
    from memfs.stores.store import RemoteStore

RANGE_COUNT_MAX = 16
"""Range reads at a time, besides transfers: readers of remote-only files; guess."""


def open_remote_store(config: GlacierConfig, default_dir: Path) -> RemoteStore:
    """Return the configured store, ready for use.

    Blocks: creates a local directory, imports a protocol's package. No network yet.

    Args:
        config: Of the mount.
        default_dir: Where objects lie if `config.url` is None.

    Raises:
        UsageError: The URL is wrong, or the package of its protocol is not installed.
    """
    policy = RetryPolicy(deadline_s=config.timeout_s)
    limited = LimitedStore(
        _open_plain(config, default_dir), config.transfer_count_max, RANGE_COUNT_MAX
    )
    return RetryingStore(limited, policy, random.Random())


def _open_plain(config: GlacierConfig, default_dir: Path) -> RemoteStore:
    """Return the store of a URL without retries and limits."""
    # Abandoned calls keep their threads for a while, so there are twice as many as are wanted.
    threads = 2 * (config.transfer_count_max + RANGE_COUNT_MAX)
    if config.url is None:
        return DirectoryStore(default_dir, config.timeout_s, threads)
    scheme = urlsplit(config.url).scheme
    if scheme == "file":
        path = Path(unquote(urlsplit(config.url).path))
        if urlsplit(config.url).netloc or not path.is_absolute():
            raise UsageError(f"glacier.url {config.url}: write file:///absolute/path")
        return DirectoryStore(path, config.timeout_s, threads)
    # Imported here: fsspec and s3fs cost 40 to 400 ms that a local glacier need not pay.
    if scheme == "s3":
        try:
            from memfs.stores.s3 import S3Store
        except ImportError as error:
            raise UsageError(
                f"glacier.url {config.url}: {error}; pip install 'memfs-tiers[s3]'"
            ) from error
        return S3Store(
            config.url,
            config.options,
            config.timeout_s,
            threads,
            config.storage_class,
            config.server_side_encryption,
        )
    from memfs.stores.objects import FsspecStore

    return FsspecStore(config.url, config.options, config.timeout_s, threads)
