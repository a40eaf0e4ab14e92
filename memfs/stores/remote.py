"""The remote stores of a configuration, with their decorators.

Invariant: whatever the URL, the result keeps the whole contract of `stores.store`: bounded waits,
bounded concurrency, retries of what may pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from memfs.config import GlacierConfig
from memfs.encryption.secret_files import read_secret
from memfs.errors import UsageError
from memfs.stores.directory import DirectoryStore
from memfs.stores.directory_publishing import DirectoryPublicStore
from memfs.stores.directory_source import DirectorySource
from memfs.stores.health import StoreHealth
from memfs.stores.kept_options import KeptOptions, joined
from memfs.stores.limit import LimitedStore
from memfs.stores.metered import MeteredStore
from memfs.stores.metered_source import MeteredSource
from memfs.stores.paced import PacedStore, Rates
from memfs.stores.parts import PartSlots
from memfs.stores.probing import ProbedStore
from memfs.stores.restoring import RestoreTier
from memfs.stores.retry import RepeatedCalls, RetryingStore, RetryPolicy
from memfs.stores.settling import SettlingStore
from memfs.stores.source import REQUEST_COUNT_MAX, SourceStore
from memfs.stores.together import NamedStore, StoreSet, spoken_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memfs.config import Config, ObjectStoreConfig
    from memfs.stores.counts import StoreCounts
    from memfs.stores.metered import Meter
    from memfs.stores.objects import FsspecStore
    from memfs.stores.publishing import PublicStore
    from memfs.stores.source import SourceBackend
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

AnyStore = TypeVar("AnyStore", bound="ObjectStoreConfig")

_WITH_CLASSES = ("s3", "gs", "gcs", "abfs", "abfss", "az")

PUBLISH_COUNT_MAX = 8
"""Requests to a place for published objects at a time; guess."""

RANGE_COUNT_MAX = 16
"""Range reads at a time, besides transfers: readers of remote-only files; guess."""


def open_remote_store(
    config: ObjectStoreConfig,
    default_dir: Path,
    rates: Sequence[Rates] = (),
    meter: Meter | None = None,
    health: StoreHealth | None = None,
    counts: StoreCounts | None = None,
) -> RemoteStore:
    """Return the configured store, ready for use.

    Blocks: creates the default directory, imports a protocol's package. No network yet.

    Args:
        default_dir: Where objects lie if `config.url` is None.
        rates: Those of transfers; all of them hold.
        meter: Counts what is spent; None: nobody does.
        health: Told how the store answers; None: nobody wants to know.
        counts: Told of calls and failures, if there is a meter; None: nobody wants to know.

    Raises:
        UsageError: The URL is wrong, the directory that it names is missing, or the package of its
            protocol is not installed.
    """
    policy = RetryPolicy(deadline_s=config.timeout_s)
    plain = _open_plain(config, default_dir)
    metered = MeteredStore(plain, meter, counts) if meter is not None else plain
    limited = LimitedStore(metered, config.transfer_count_max, RANGE_COUNT_MAX)
    retrying: RemoteStore = RetryingStore(limited, policy, random.Random(), health)
    if not isinstance(plain, DirectoryStore):
        retrying = SettlingStore(retrying)
    store = retrying
    # Outermost: waiting for one's turn takes nothing of a call's deadline.
    for each in rates:
        if each.limited:
            store = PacedStore(store, each)
    return store


def open_stores(
    config: Config,
    default_dir: Path,
    environment: Mapping[str, str],
    meter: Meter | None = None,
    healths: Mapping[str, StoreHealth] | None = None,
    counts: StoreCounts | None = None,
) -> dict[str, RemoteStore]:
    """Return all configured stores by name, each by its own keys, the default one first.

    Its name is empty. There is no store where the configuration has no glacier tier. Blocks as
    `open_remote_store`.

    Args:
        default_dir: Where objects of the default store lie if it has no URL.
        environment: That of this process, for credentials.
        meter: Counts what is spent at all of them; None: nobody does.
        healths: By the name of the store, told how each answers; None: nobody wants to know.
        counts: As of `open_remote_store`, of all of them.

    Raises:
        UsageError: As `open_remote_store`, for one of them; or its credentials cannot be read.
    """
    healths = healths or {}
    if not config.glacier.enabled:
        return {}
    shared = Rates(config.quotas.upload_rate_bytes, config.quotas.download_rate_bytes)
    glacier = with_credentials(config.glacier, "glacier", environment)
    opened = {"": open_remote_store(glacier, default_dir, [shared], meter, healths.get(""), counts)}
    for name, named in config.stores.items():
        own = Rates(named.upload_rate_bytes, named.download_rate_bytes)
        named = with_credentials(named, f"stores.{name}", environment)
        with spoken_of(name):
            opened[name] = open_remote_store(
                named, default_dir, [own, shared], meter, healths.get(name), counts
            )
    return opened


def together(opened: Mapping[str, RemoteStore]) -> StoreSet:
    """Return stores as one, by addresses.

    Args:
        opened: By name, the default one among them.
    """
    named = {name: NamedStore(store, name) for name, store in opened.items() if name}
    return StoreSet(opened[""], named)


def with_credentials(config: AnyStore, section: str, environment: Mapping[str, str]) -> AnyStore:
    """Return a configuration whose options have those that `credentials` tells, now and later.

    Raises:
        UsageError: They are not there, others may read them, or they are not TOML.
    """
    if config.credentials is None:
        return config
    # Imported here: most mounts have no such file.
    import tomllib

    place, setting = config.credentials, f"{section}.credentials"

    def read() -> Mapping[str, object]:
        text = read_secret(place, setting, environment)
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            # Not what it says: it may show a part of a secret.
            raise UsageError(
                f"{setting}: not valid TOML: write options as in [{section}.options], such as "
                'key = "..."'
            ) from None

    return dataclasses.replace(config, options=KeptOptions(config.options, read, read()))


def open_source(
    url: str,
    options: Mapping[str, object],
    timeout_s: float,
    health: StoreHealth | None = None,
    *,
    meter: Meter | None = None,
    counts: StoreCounts | None = None,
) -> SourceStore:
    """Return a source, ready for use: the one place where its credentials come in.

    Blocks: imports a protocol's package. No network yet.

    Args:
        url: Protocol, bucket or directory, prefix.
        options: Those of the fsspec file system, credentials among them.
        timeout_s: Deadline of a request.
        health: Told how the source answers; None: nobody wants to know.
        meter: Counts what is spent; None: nobody does. A directory of this machine costs nothing.
        counts: Told of calls and failures, if there is a meter; None: nobody wants to know.

    Raises:
        UsageError: The URL is wrong, the directory that it names is missing, or the package of its
            protocol is not installed.
    """
    scheme = urlsplit(url).scheme
    if "://" not in url or not scheme:
        raise UsageError(
            f"{url}: a source is a URL: s3://BUCKET/PREFIX, gs://BUCKET, abfs://CONTAINER, "
            "file:///DIRECTORY"
        )
    config = GlacierConfig(url=url.rstrip("/"), options=joined(options, {}), timeout_s=timeout_s)
    slots = PartSlots(config.buffer_bytes, config.transfer_count_max)
    backend: SourceBackend
    if scheme == "file":
        path = Path(unquote(urlsplit(url).path))
        if urlsplit(url).netloc or not path.is_absolute() or not path.is_dir():
            raise UsageError(f"{url}: {path} is no directory; write file:///absolute/path")
        backend = DirectorySource(path, timeout_s, REQUEST_COUNT_MAX, slots)
    else:
        backend = _open_remote(scheme, config, 2 * REQUEST_COUNT_MAX, slots)
        if meter is not None:
            backend = MeteredSource(backend, meter, counts)
    policy = RetryPolicy(deadline_s=timeout_s)
    calls = RepeatedCalls(backend.url, policy, random.Random(), health or StoreHealth())
    return SourceStore(backend, calls)


def open_public_store(url: str, options: Mapping[str, object], timeout_s: float) -> PublicStore:
    """Return where plain objects are published, by keys behind a URL.

    Blocks: imports a protocol's package. No network yet.

    Raises:
        UsageError: The URL is wrong, the directory that it names is missing, or the package of its
            protocol is not installed.
    """
    scheme, count = urlsplit(url).scheme, 2 * PUBLISH_COUNT_MAX
    if scheme == "file":
        path = Path(unquote(urlsplit(url).path))
        if urlsplit(url).netloc or not path.is_absolute() or not path.is_dir():
            raise UsageError(
                f"{url}: {path} is no directory: create it, mount its disk, or correct the URL; "
                "write file:///absolute/path"
            )
        return DirectoryPublicStore(path, timeout_s, count)
    if scheme == "s3":
        with _extra("s3", url):
            from memfs.stores.s3_publishing import S3PublicStore
        return S3PublicStore(url, options, timeout_s, count)
    if scheme in ("gs", "gcs"):
        with _extra("gcs", url):
            from memfs.stores.gcs_publishing import GcsPublicStore
        return GcsPublicStore(url, options, timeout_s, count)
    if scheme in ("abfs", "abfss", "az"):
        with _extra("azure", url):
            from memfs.stores.azure_publishing import AzurePublicStore
        return AzurePublicStore(url, options, timeout_s, count)
    from memfs.stores.fsspec_publishing import FsspecPublicStore

    return FsspecPublicStore(url, options, timeout_s, count)


def lies_on_disk_of(store: RemoteStore, directory: Path) -> bool:
    """Return whether a store is a directory on the same file system as another directory."""
    url = urlsplit(store.url)
    if url.scheme != "file":
        return False
    try:
        return os.stat(unquote(url.path)).st_dev == directory.stat().st_dev
    except OSError:
        # It is not there now; a disk that is not mounted is another one.
        return False


def _open_plain(config: ObjectStoreConfig, default_dir: Path) -> RemoteStore:
    """Return the store of a URL without retries and limits."""
    # Abandoned calls keep their threads for a while, so there are twice as many as are wanted.
    threads = 2 * (config.transfer_count_max + RANGE_COUNT_MAX)
    scheme = urlsplit(config.url or "file:").scheme
    _check_classes(config, scheme)
    slots = PartSlots(config.buffer_bytes, config.transfer_count_max)
    if config.url is None:
        return DirectoryStore(default_dir, config.timeout_s, threads, slots)
    if scheme == "file":
        path = Path(unquote(urlsplit(config.url).path))
        if urlsplit(config.url).netloc or not path.is_absolute():
            raise UsageError(f"glacier.url {config.url}: write file:///absolute/path")
        if not path.is_dir():
            # Not made: a mistyped path, or a disk that is not mounted, would take the objects.
            raise UsageError(
                f"glacier.url {config.url}: {path} is no directory: create it, mount its disk, or "
                "correct glacier.url"
            )
        return DirectoryStore(path, config.timeout_s, threads, slots)
    store = _open_remote(scheme, config, threads, slots)
    if scheme in _WITH_CLASSES:
        return store
    log.warning(
        "glacier.url with %s: memfs knows nothing of how durable this store is: what it reports "
        "as written counts as written",
        scheme,
    )
    return ProbedStore(store)


def _check_classes(config: ObjectStoreConfig, scheme: str) -> None:
    """Refuse what this kind of store would silently not do."""
    if config.server_side_encryption is not None and scheme != "s3":
        raise UsageError(
            f"glacier.server_side_encryption is of S3 alone, and glacier.url is {scheme}:; "
            "encryption.keys encrypts on this machine, for every store"
        )
    if config.storage_class is not None and scheme not in _WITH_CLASSES:
        raise UsageError(
            f"glacier.storage_class: a store of {scheme}: has no storage classes; remove it"
        )


def _open_remote(
    scheme: str, config: ObjectStoreConfig, threads: int, parts: PartSlots
) -> FsspecStore:
    """Return the store of a protocol; its libraries, which cost 40 to 2000 ms, are loaded here."""
    url, options, timeout_s = config.url, config.options, config.timeout_s
    assert url is not None
    restore_tier = RestoreTier.of(config.restore_tier)
    if scheme == "s3":
        with _extra("s3", url):
            from memfs.stores.s3 import S3Store
        return S3Store(
            url,
            options,
            timeout_s,
            threads,
            config.storage_class,
            config.server_side_encryption,
            restore_tier,
            config.restore_days,
            config.checksums,
            parts=parts,
        )
    if scheme in ("gs", "gcs"):
        with _extra("gcs", url):
            from memfs.stores.gcs import GcsStore
        return GcsStore(url, options, timeout_s, threads, config.storage_class, parts=parts)
    if scheme in ("abfs", "abfss", "az"):
        with _extra("azure", url):
            from memfs.stores.azure import AzureStore
        return AzureStore(
            url, options, timeout_s, threads, config.storage_class, restore_tier, parts=parts
        )
    if scheme in ("http", "https"):
        try:
            from memfs.stores.web import WebStore
        except ImportError as error:
            raise UsageError(f"{url}: {error}; pip install 'fsspec[http]'") from error
        return WebStore(url, options, timeout_s, threads, parts=parts)
    from memfs.stores.objects import FsspecStore

    return FsspecStore(url, options, timeout_s, threads, parts=parts)


@contextlib.contextmanager
def _extra(name: str, url: str) -> Iterator[None]:
    """Turn a missing package into one sentence with the command that installs it."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"glacier.url {url}: {error}; pip install 'memfs-tiers[{name}]'"
        ) from error
