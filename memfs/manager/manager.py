"""The manager: values by key, each of them an ordinary file of a mount.

Invariant: a manager holds no thread, connection or open file between two calls, so that it goes
through fork, spawn and pickle, and any number of them work side by side. A process holds the mount.
"""

from __future__ import annotations

import errno as codes
import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from memfs.client.placement import TIERS, PlacementError
from memfs.manager.arguments import (
    errors_given,
    filter_given,
    items_given,
    limit_given,
    metadata_given,
    priority_of,
    several,
    size_gb,
)
from memfs.manager.batches import ERRORS, BatchResult, Work, alone, run_batch
from memfs.manager.configuration import configure
from memfs.manager.entries import Entry
from memfs.manager.errors import (
    KeyConflictError,
    MissingKeyError,
    TierUnavailableError,
    ValueFormatError,
)
from memfs.manager.explaining import explained_read, explained_write
from memfs.manager.file_work import compress, prefetch
from memfs.manager.formats import Formats
from memfs.manager.holding import let_go
from memfs.manager.keys import is_cut, path_of
from memfs.manager.many import NewValue, Retrieving, Storing
from memfs.manager.metadata import KEY_XATTR, MIME_XATTR, Scalar, attributes_of, metadata_of
from memfs.manager.metrics import metrics_of
from memfs.manager.paths import snapshot_tree
from memfs.manager.place import Origin, stop
from memfs.manager.policy import MigrationPolicy
from memfs.manager.questions import Question, condition_of
from memfs.manager.results import Results
from memfs.manager.snapshots import SnapshotKeeper
from memfs.manager.values import registry
from memfs.manager.values.value import Content, HeldContent, Mime, Wanted
from memfs.manager.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from memfs.manager.file_work import CompressReport

_MISSING = object()


class MemoryManager(SnapshotKeeper):
    """Values by key.

    Without `mount` it starts a mount of its own, or joins the one that another process has started
    for the same state directory. With `mount`, or the environment variable MEMFS_MOUNT, it works on
    a mount that is there; what the other arguments wish is compared with what that mount has.

    Args:
        hot_memory_size: GB (2^30 bytes) of each GPU.
        warm_memory_size: GB of RAM.
        cold_memory_size: GB of the local disk.
        glacier_enabled: Whether values may go to an object store.
        migration_policy: When values of this manager that nobody uses move on; a mark of their
            directory, which stays until another policy is given.
        mount: Any path in a mount.
        root: The directory of all keys, from the top of the mount on.
        state: The state directory of a mount of its own; by default `~/.local/share/memfs/default`.
        options: Keys of the configuration of a mount of its own: `{"glacier.url": "s3://..."}`.
        hot_config: `size_gb`, `device`, `precision`, `garbage_collection_threshold`.
        warm_config: `size_gb`, `serialization_format` (of values without a file format: `json`,
            `msgpack`, `pickle`), `shared_memory` (values are read-only views).
        cold_config: `size_gb`, `storage_path` (the state directory), `compression` (a codec),
            `file_format` (of tables), `index_in_memory`.
        glacier_config: `provider` (`local`, `s3`, `gcs`, `azure`), `bucket`, `prefix`, `region`,
            `encryption`, `storage_path`, `options` (of the fsspec file system).
        allow_pickle: Objects of Python may be stored with `format="pickle"`, and are read from
            files that belong to this user and that nobody else may write. To read a pickle runs it.
        plain: Work in `mount` even where that is no mount of memfs: without tiers, for tests.

    Raises:
        MountUnavailableError: There is no mount, and no mount can be started.
        ValueError: The mount is configured otherwise; the message names the key.
    """

    tier: ClassVar[str | None] = None
    """Pin of values that are stored without one."""

    own_state = "default"
    """Name of the state directory of a mount of its own, beside those of other managers."""

    def __init__(
        self,
        hot_memory_size: float | None = None,
        warm_memory_size: float | None = None,
        cold_memory_size: float | None = None,
        glacier_enabled: bool = True,
        migration_policy: MigrationPolicy | None = None,
        *,
        mount: str | os.PathLike[str] | None = None,
        root: str = "memories",
        state: str | os.PathLike[str] | None = None,
        options: Mapping[str, object] | None = None,
        hot_config: Mapping[str, Any] | None = None,
        warm_config: Mapping[str, Any] | None = None,
        cold_config: Mapping[str, Any] | None = None,
        glacier_config: Mapping[str, Any] | None = None,
        allow_pickle: bool = False,
        plain: bool = False,
    ) -> None:
        configured = configure(hot_config, warm_config, cold_config, glacier_config)
        self._habits = configured.habits
        given = {"hot": hot_memory_size, "warm": warm_memory_size, "cold": cold_memory_size}
        sizes = {
            tier: size_gb(f"{tier}_memory_size", size)
            for tier, size in given.items()
            if size is not None
        } | dict(configured.sizes_gb)
        if migration_policy is not None and not isinstance(migration_policy, MigrationPolicy):
            raise TypeError(
                f"migration_policy is {type(migration_policy).__name__}; it can be a "
                "memfs.policies.MigrationPolicy"
            )
        wishes = Wishes(
            sizes.get("hot"),
            sizes.get("warm"),
            sizes.get("cold"),
            glacier_enabled,
            {**configured.options, **(options or {})},
        )
        if state is None:
            state = configured.state
        self._origin = Origin.chosen(mount, state, self.own_state, wishes, plain=plain)
        self._below = path_of(root)
        self._take_place()
        self._formats = Formats(self._habits.fallback_format, allow_pickle=allow_pickle)
        if migration_policy is not None:
            self._mark("policy", migration_policy.mark())

    def _mark(self, name: str, value: bytes) -> None:
        """Say something of all keys by an attribute of their directory."""
        self._mounted()
        os.setxattr(self._made_directory(), f"user.memfs.{name}", value)

    def _take_place(self) -> None:
        directory, served = self._origin.take()
        super().__init__(directory / self._below, served)
        self._is_closed = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Work in the same place in another process, whose mount is started if it is gone."""
        self.__dict__.update(state)
        self._take_place()

    def __enter__(self) -> Self:
        """Return the manager; `close` is called at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """As `close`."""
        self.close()

    # --- values ----------------------------------------------------------------------------------
    def store(
        self,
        key: str,
        value: object,
        tier: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        *,
        format: str | None = None,
        priority: int | None = None,
        overwrite: bool = True,
        durable: bool = False,
    ) -> Entry:
        """Store a value as a file; it is there whole, with its metadata, or not at all.

        Args:
            key: Any text; `/` makes directories.
            value: Bytes, a text, an array of numpy, a tensor of torch or several by name, a table
                of pyarrow, pandas or polars, or what JSON has.
            tier: Pin the value to `hot`, `warm`, `cold` or `glacier`; None: memfs chooses.
            metadata: Texts, numbers, true or false, dates by name; any program reads them as
                extended attributes `user.NAME`.
            format: `bytes`, `str`, `npy`, `safetensors`, `parquet`, `json`, `msgpack`, `pickle`;
                None: by the value.
            priority: 0 to 100; higher ones leave a full tier last.
            overwrite: A value that is there gives way; else that is an error.
            durable: Return when all of it is on stable storage.

        Raises:
            ValueFormatError: The key, the value or the metadata cannot be stored so.
            KeyConflictError: The key is a directory of other keys, or below a key; or it is stored
                already, and `overwrite` is false.
            TierUnavailableError: The mount has no such tier; nothing is stored.
            DiskFullError: The disk is full; the message says what gives room back.
            OSError: It cannot be written; what was stored before is still there.
        """
        new = self._prepared(key, value, tier, metadata, format=format, priority=priority)
        try:
            status = self._root.write(
                new.path, new.fill, new.attributes, replace=overwrite, durable=durable
            )
        except (ValueFormatError, KeyConflictError):
            raise
        except OSError as error:
            is_own = self._origin.kind == "state"
            raise explained_write(
                error, self.directory, self.mount, tier or self.tier, is_own=is_own
            ) from error
        found = metadata_of(new.attributes)
        return Entry(key, self.path(key), found, status.st_size, status.st_mtime)

    def _prepared(
        self,
        key: str,
        value: object,
        tier: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        *,
        format: str | None = None,
        priority: int | None = None,
    ) -> NewValue:
        """Look at arguments of `store`, and return what they come to."""
        path = path_of(key)
        kind = self._formats.for_value(value, format)
        attributes = attributes_of(metadata_given(metadata))
        if is_cut(path):
            attributes[KEY_XATTR] = key.encode()
        attributes |= self._placement(tier or self.tier, priority)
        if (tier or self.tier) == "hot" and kind.name not in registry.TENSORS:
            raise TierUnavailableError(
                f"{key!r}: only tensors and arrays can be hot, and this value is stored as "
                f"{kind.name}"
            )
        return NewValue(key, path, value, kind, attributes)

    def retrieve(
        self,
        key: str,
        *,
        partial: bool = False,
        start: int | None = None,
        end: int | None = None,
        name: str | None = None,
        snapshot: str | None = None,
        default: object = _MISSING,
        copy: bool | None = None,
        device: str | None = None,
    ) -> Any:  # noqa: ANN401 - what was stored
        """Return what was stored, or a part of it.

        A part costs what is asked for, in each tier: bytes of a file, characters of a text, rows of
        an array or a table, the first axis of a tensor. Lists in JSON are read whole.

        Args:
            key: As of `store`.
            partial: Return `start` to `end`, as in a slice; implied by one of them.
            start: First byte, row or element; negative: from the end.
            end: Behind the last one.
            name: One tensor, column or field.
            snapshot: As it was then; an id of `create_snapshot`.
            default: Returned where nothing is stored.
            copy: None: as `warm_config` says, else a copy. False: a view of memory that all
                processes share, read-only, where the format allows it (bytes, arrays, tensors). To
                write to such a tensor ends the process.
            device: Where tensors of torch are to be: `cuda`, `cuda:1`, `cpu`. All other values are
                on the CPU, and another device is an error.

        Raises:
            MissingKeyError: Nothing is stored, and there is no default.
            MissingSnapshotError: There is no such snapshot.
            ValueFormatError: The file does not hold what it should, or nothing that could be on
                that device, or in such parts.
            UnsafeFormatError: It is a pickle, and may not be run.
            ArchivedError: Its object is archived; that begins its restore, and `until` tells when
                it is over at the latest.
        """
        partial = partial or start is not None or end is not None
        copied = not self._habits.views if copy is None else copy
        wanted = Wanted(start, end, name, partial, copied, device, self._habits.precision)
        root = self._root if snapshot is None else self._root_at(snapshot)
        try:
            fd = self._opened(key, root)
        except MissingKeyError:
            if snapshot is not None:
                self._require_snapshot(snapshot)
            if default is not _MISSING:
                return default
            raise
        except OSError as error:
            raise explained_read(error, key, self.path(key), self.mount) from None
        try:
            content = Content(fd, f"{root.path}/{path_of(key)}", _mime_of(fd))
            return self._formats.for_content(content, fd).read(content, wanted)
        except OSError as error:
            if snapshot is not None and error.errno == codes.ESTALE:
                self._require_snapshot(snapshot)
            raise explained_read(error, key, self.path(key), self.mount) from None
        finally:
            os.close(fd)

    # --- as a dictionary -------------------------------------------------------------------------
    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        """As `retrieve`."""
        return self.retrieve(key)

    def __setitem__(self, key: str, value: object) -> None:
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
        return self.keys()

    def __len__(self) -> int:
        """Count all keys, one by one."""
        return sum(1 for _ in self.keys())

    def __bool__(self) -> bool:
        """Return whether anything is stored; looks for one key, and counts no others."""
        return next(iter(self.keys()), None) is not None

    # --- questions -------------------------------------------------------------------------------
    def query(
        self,
        metadata_filter: Mapping[str, Any] | None = None,
        *,
        prefix: str = "",
        at: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Results:
        """Return the values that a filter finds by their metadata, and by what memfs knows.

        Args:
            metadata_filter: `{"city": "Ulm", "date": {"$gte": "2025-01-01"}}`; None: all values.
                The page "Questions to all files" has the language.
            prefix: That of the key.
            at: Id of a snapshot: values, metadata and paths are those of then.
            sort: A name of metadata, `$size` or `$mtime`; with `-` before it, descending.
            limit: Entries at the most.
            cursor: `cursor` of earlier results with the same arguments, to go on behind them.

        Raises:
            FilterError: The filter means nothing, and the message says where.
            MissingSnapshotError: There is no such snapshot.
        """
        mount, limit = self._mounted(), limit_given(limit)
        top = mount.mountpoint if at is None else snapshot_tree(mount, at)
        root = self._root if at is None else self._root_at(at)
        above = prefix.rpartition("/")[0]
        inner = mount.inner(self.directory / path_of(above) if above else self.directory)
        condition = condition_of(filter_given(metadata_filter), inner)
        question = Question(mount, root, top, condition, prefix, sort, at)
        results = Results(question.page, limit, cursor)
        bool(results)
        return results

    # --- many at a time --------------------------------------------------------------------------
    def batch_store(
        self,
        /,
        items: Iterable[Mapping[str, Any] | tuple[str, Any]] | Mapping[str, Any],
        *,
        errors: ERRORS = "raise",
        progress: Callable[[int], None] | bool | None = None,
        **options: Any,  # noqa: ANN401 - as of `store`
    ) -> BatchResult[Entry]:
        """Store many values, some at a time.

        Args:
            items: Dictionaries with the arguments of `store`, or pairs of key and value; or one
                dictionary of values by key.
            errors: `raise`: at the end, all together; `return`: they are in the result.
            progress: Told how many are done; True: a bar on the terminal.
            options: Arguments of `store` for all of them.

        Returns:
            Entries by key; `errors` by key of those that failed.

        Raises:
            BatchError: Some failed; the others are stored.
            TypeError: An item is neither.
        """
        given = items_given(items, options)
        self._root.require()
        storing = Storing(self._root, self.mount, self._prepared, self.store)
        return run_batch(given, storing.works, errors=errors_given(errors), progress=progress)

    def batch_retrieve(
        self,
        /,
        keys: Iterable[str],
        *,
        errors: ERRORS = "raise",
        progress: Callable[[int], None] | bool | None = None,
        **options: Any,  # noqa: ANN401 - as of `retrieve`
    ) -> BatchResult[Any]:
        """Return many values by key; arguments as of `batch_store`."""

        def retrieve(key: str) -> Any:  # noqa: ANN401 - what was stored
            return self.retrieve(key, **options)

        read = None
        if not options.keys() - {"default"} and not self._habits.views:
            read = partial(self._read_held, retrieve)
        self._root.require()
        retrieving = Retrieving(self._root, self.mount, read, retrieve)
        return run_batch(
            several("keys", keys),
            retrieving.works,
            errors=errors_given(errors),
            progress=progress,
        )

    def batch_delete(
        self,
        keys: Iterable[str],
        *,
        missing_ok: bool = False,
        errors: ERRORS = "raise",
        progress: Callable[[int], None] | bool | None = None,
    ) -> BatchResult[None]:
        """Remove many values; arguments as of `batch_store`."""

        def works(keys: Iterable[str]) -> Iterator[Work[None]]:
            for key in keys:
                yield alone(str(key), partial(self.delete, key, missing_ok=missing_ok))

        self._root.require()
        return run_batch(
            several("keys", keys), works, errors=errors_given(errors), progress=progress
        )

    # --- tiers -----------------------------------------------------------------------------------
    def move(self, key: str, tier: str, priority: int | None = None) -> None:
        """Send a value to a tier and keep it there.

        Raises:
            MissingKeyError: Nothing is stored.
            TierUnavailableError: The mount has no such tier, or the value cannot be there.
        """
        path = self._require(key)
        mount = self._mounted()
        try:
            mount.pin(
                path, _checked_tier(tier), None if priority is None else priority_of(priority)
            )
        except PlacementError as error:
            raise TierUnavailableError(str(error)) from None

    def why(self, key: str) -> dict[str, Any]:
        """Return the decision that brought a value where it is; raises `MissingKeyError`."""
        return self._mounted().why(self._require(key))

    def prefetch(self, keys: Iterable[str], tier: Literal["hot", "warm", "cold"] = "warm") -> int:
        """Have values brought near before they are used; returns how many the mount has taken.

        Fewer than there are keys: its list is full, or some have nothing stored.
        """
        mount = self._mounted()
        paths = [mount.inner(self.path(key)) for key in several("keys", keys)]
        return prefetch(mount, paths, tier)

    def compress(
        self,
        tier: str = "cold",
        compression_level: int | None = None,
        *,
        keys: Iterable[str] | None = None,
        codec: str = "zstd",
    ) -> CompressReport:
        """Compress values now that are in a tier.

        Args:
            tier: Values elsewhere are left alone.
            compression_level: That of the codec; None: its default. Without `keys`, values that
                are packed later have it, too.
            keys: Those of these values; None: of all.
            codec: `zstd`, `lz4`, `snappy` or another one that the mount has.

        Raises:
            MissingKeyError: Nothing is stored under one of `keys`; nothing was compressed.
            ControlError: EINVAL: there is no such codec, or it has no such level.
        """
        mount, chosen, wanted = self._mounted(), dict[int, str](), _checked_tier(tier)
        text = codec if compression_level is None else f"{codec}:{compression_level}"
        # Without a file: a codec that the mount lacks is told before anything is changed.
        mount.compress([], text)
        for key in self.keys() if keys is None else several("keys", keys):
            path = self.path(key)
            try:
                if path.tier == wanted:
                    chosen[path.stat().st_ino] = key
            except FileNotFoundError:
                # A key that was removed meanwhile is left out, if all were asked for.
                if keys is not None:
                    raise MissingKeyError(f"nothing is stored under the key {key!r}") from None
        if keys is None and compression_level is not None:
            self._mark("codec", text.encode())
        return compress(mount, chosen, text)

    def get_metrics(self) -> dict[str, dict[str, Any]]:
        """Return use and size of all four tiers of the mount, which all its users share.

        Returns:
            For each of `hot`, `warm`, `cold`, `glacier`: `usage_bytes`, `size_bytes` (0: without
            limit, or there is no such tier), `usage_percent` (0.0 without a size), `items`,
            `hit_ratio`: the share that the tier served of the opens that no faster one did, since
            the daemon's start (None: there was no open). `total`: their sum, whose `hit_ratio` is
            the share that did not wait for the object store. `moves`: counts of those `running`,
            `queued` and `waiting`. `snapshots`: their `count`, `kept_items` and `kept_bytes`.
        """
        mount = self._mounted()
        return metrics_of(mount.status(), mount.metrics())

    def close(self, *, unmount: bool = False) -> None:
        """Let go of the mount; what is asked of the manager later is a `ClosedManagerError`.

        A mount that managers have started goes 60 s after no process holds it.

        Args:
            unmount: At once; a mount that was not started for a manager is left alone.

        Raises:
            MountUnavailableError: It is in use, or another process holds it.
        """
        if self._is_closed:
            return
        if unmount and self.mount is not None:
            stop(self.mount)
        self._is_closed = True
        self._root.close()
        if self.mount is not None:
            let_go(self.mount.state_dir)

    # --- within ----------------------------------------------------------------------------------
    def _read_held(
        self, retrieve: Callable[[str], Any], key: str, path: str, data: bytes, mime: Mime
    ) -> Any:  # noqa: ANN401 - what was stored
        """Return what was stored, of a file that was read already."""
        content = HeldContent(data, f"{self._root.path}/{path}", mime)
        try:
            kind = registry.for_content(content)
            if kind.name == registry.PICKLE:
                # Whose file it is decides.
                return retrieve(key)
            return kind.read(content, Wanted(precision=self._habits.precision))
        finally:
            content.close()

    def _placement(self, tier: str | None, priority: int | None) -> dict[str, bytes]:
        found = {}
        if tier is not None:
            self._mounted()
            found["user.memfs.tier"] = _checked_tier(tier).encode()
        if priority is not None:
            self._mounted()
            found["user.memfs.priority"] = str(priority_of(priority)).encode()
        return found


def _checked_tier(tier: str) -> str:
    if tier not in TIERS:
        raise ValueError(f"tier {tier!r} is not one of {', '.join(TIERS)}")
    return tier


def _mime_of(fd: int) -> Mime:
    try:
        return Mime.parse(os.getxattr(fd, MIME_XATTR).decode("utf-8", "replace"))
    except OSError:
        return Mime.parse("")
