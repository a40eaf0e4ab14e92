"""The SQLite engine: the metadata of one state directory, in this process.

Invariant: no coroutine of it suspends, so a caller may run one to its end with one `send(None)`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from memfs.config import QueryConfig
from memfs.errors import MetadataError, StateDamagedError
from memfs.linux.boot import boot_id
from memfs.metadata.records import Usage, WorkCounts
from memfs.metadata.sqlite.attribute_index import AttributeIndex
from memfs.metadata.sqlite.check import RECOUNT, find_damage
from memfs.metadata.sqlite.creation import LEASE_NAME, NO_SETTINGS, create
from memfs.metadata.sqlite.database import Database
from memfs.metadata.sqlite.field_index import FieldIndexes
from memfs.metadata.sqlite.foreign import Foreign
from memfs.metadata.sqlite.format import FILE_NAME as FORMAT_NAME
from memfs.metadata.sqlite.format import (
    FORMAT_NUMBER,
    new_state_id,
    read_format,
    read_former_id,
    read_state_id,
    refuse_half_repaired,
    refuse_shared,
    write_format,
)
from memfs.metadata.sqlite.inode_cache import InodeCache
from memfs.metadata.sqlite.journal import BOOT_BYTES, Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES, Identity
from memfs.metadata.sqlite.lease import FIRST_ID, IdLease
from memfs.metadata.sqlite.limits import Limits
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.schema import totals_of
from memfs.types import BlobId, InodeNo, RawId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from memfs.config import MetadataConfig
    from memfs.metadata.sqlite.change import Change
    from memfs.metadata.sqlite.migration import Migration
    from memfs.types import StateId

T = TypeVar("T")

COUNT_WORK = """
    select
        (select count(*) from (
            select 1 from inode where raw <> 0 and flags <> 2 and flags = 1 limit ?)),
        (select count(*) from (
            select 1 from inode where raw <> 0 and flags <> 2 and flags = 0 limit ?)),
        (select count(*) from (select 1 from intent limit ?)),
        (select count(*) from (select 1 from pending limit ?))
"""
"""By the index `inode_unsettled`, as the lists of the same files."""


class SqliteEngine(Foreign):
    """Implements `memfs.metadata.engine.Engine`; its methods are described there."""

    database_class: ClassVar[type[Database]] = Database
    first_id: ClassVar[int] = FIRST_ID
    """The first number that a new state directory hands out."""
    former_state_id: StateId | None = None
    """Identity of the state directory whose place this one has taken, as a node; None: its own."""

    @classmethod
    def open(
        cls,
        state_dir: Path,
        config: MetadataConfig,
        now_ns: int | None = None,
        limits: Limits | None = None,
        complain: Callable[[str], None] | None = None,
        migration: Migration | None = None,
        query: QueryConfig | None = None,
        first_settings: Mapping[str, bytes] = NO_SETTINGS,
        *,
        shared: bool = False,
    ) -> Self:
        """Open the metadata of a state directory, creating them if they are missing.

        Args:
            state_dir: Made if it is missing.
            config: Sizes in memory.
            now_ns: Times of a new root directory; None: now.
            limits: Sizes on disk; None: the defaults.
            complain: Told of damage (repair); None: it is refused.
            migration: Changes tables of an older format; None: they are refused.
            query: What is indexed; None: the defaults.
            first_settings: What a directory that is made here has from the beginning.
            shared: It may belong to a node of a shared mount.

        Raises:
            UsageError: The format is unreadable, newer, older or of another engine, or another
                process uses the directory; then nothing was touched.
            StateDamagedError: The files are damaged or do not belong together; nothing was touched.
            MetadataError: The files are broken.
            NoSpaceError: The disk is too full even to open.
        """
        if (number := read_format(state_dir, shared=shared)) is None:
            if not shared:
                # Its tables would be taken for those of a node that reads, and emptied.
                refuse_shared(state_dir)
            now_ns = time.time_ns() if now_ns is None else now_ns
            create(state_dir, now_ns, first_settings, cls.first_id)
        if complain is None:
            refuse_half_repaired(state_dir)
        if not (state_dir / FILE_NAME).exists():
            raise StateDamagedError(f"{state_dir / FILE_NAME} is missing", str(state_dir))
        limits = limits or Limits()
        try:
            lease = IdLease(state_dir / LEASE_NAME, limits.lease_count)
        except OSError as error:
            raise MetadataError(f"{state_dir / LEASE_NAME} cannot be used: {error}") from error
        cache = InodeCache(config.inode_cache_count)
        attributes = AttributeIndex(query or QueryConfig())
        fields = FieldIndexes()

        def forget() -> None:
            cache.clear()
            attributes.forget()
            fields.forget()

        try:
            state_id = _state_id(state_dir, number or FORMAT_NUMBER)
            identity = Identity(state_id, _boot(), lease)
            database = cls.database_class(
                state_dir,
                config.cache_bytes,
                limits,
                forget,
                identity,
                complain,
                migration,
            )
        except BaseException:
            lease.close(clean=False)
            raise
        attributes.bind(database)
        fields.bind(database)
        engine = cls(database, lease, cache, state_id, attributes, fields)
        engine.former_state_id = read_former_id(state_dir)
        return engine

    # --- ids -------------------------------------------------------------------------------------
    def reserve_ids(self) -> tuple[InodeNo, RawId]:
        """One number serves as both."""
        number = self._take_id()
        return InodeNo(number), RawId(number)

    def hold_raw_ids(self, oldest: RawId) -> None:
        self._lease.hold(oldest)

    def reserve_blob(self) -> BlobId:
        return BlobId(self._take_id())

    def unrecorded_raw_range(self) -> tuple[RawId, RawId]:
        start, end = self._lease.unrecorded
        return RawId(start), RawId(end)

    def clear_unrecorded_raw_range(self) -> None:
        self._lease.note_recovered()

    @property
    def state_id(self) -> StateId:
        return self.former_state_id or self._state_id

    @property
    def object_state_id(self) -> StateId:
        return self.state_id

    # --- totals ----------------------------------------------------------------------------------
    async def usage(self) -> Usage:
        return Usage._make(self._totals)

    async def count_work(self, limit: int) -> WorkCounts:
        return WorkCounts._make(self._rows(COUNT_WORK, (limit,) * 4)[0])

    async def recount(self) -> Usage:
        return Usage._make(totals_of(self._rows(RECOUNT, ())[0]))

    def check(self) -> list[str]:
        return find_damage(self._rows, Usage._make(self._totals), self._lease.next_id)

    # --- transactions ----------------------------------------------------------------------------
    def change(self, *, deferred: bool = False) -> Change:
        return self._deferred_changes if deferred else self._changes

    @property
    def uncommitted(self) -> bool:
        return self._database.uncommitted

    def commit_nowait(self) -> None:
        """Do as `commit`, for who has no event loop."""
        self._database.commit_nowait()

    async def commit(self) -> None:
        self._database.commit_nowait()

    async def confirmed(self, work: Awaitable[T]) -> T:
        """Return the result of some work, once it is where it has to be: here."""
        return await work

    # --- readers of other processes --------------------------------------------------------------
    def publish(self) -> bool:
        """Bring all changes into the tables; False: not yet, try again in some milliseconds."""
        return self._database.publish()

    def note_reader(self, *, is_there: bool) -> None:
        """Note that another process reads the tables, or that it has ended."""
        self._database.is_read_elsewhere = is_there

    @property
    def synced(self) -> bool:
        return self._database.synced

    def sync(self) -> None:
        self._database.sync()

    @property
    def sync_waits(self) -> bool:
        return False

    @property
    def refusal(self) -> str | None:
        refusal = self._database.refusal
        return None if refusal is None else str(refusal)

    @property
    def is_settling(self) -> bool:
        return self._database.is_checkpointing

    def maintain(self) -> None:
        self._database.maintain()

    def wait_for_checkpoint(self) -> None:
        """Wait until what `maintain` began in the background has ended."""
        self._database.wait_for_checkpoint()

    def close(self) -> None:
        """Commit, make durable and close; idempotent.

        Raises:
            NoSpaceError, MetadataError: The last mutations could not be committed; as
                `commit_nowait`. The engine is closed all the same.
        """
        clean = False
        try:
            clean = self._database.close()
        finally:
            self._lease.close(clean=clean)


def _state_id(state_dir: Path, number: int) -> StateId:
    """Return the identity of a state directory, giving it one if it was made before there were any.

    Args:
        state_dir: Has a format file.
        number: That of the format there.

    Raises:
        StateDamagedError: It had one.
        OSError: It cannot be written.
    """
    state_id = read_state_id(state_dir)
    if state_id is not None:
        return state_id
    for name in JOURNAL_NAMES:
        if (state_dir / name).exists():
            journal = Journal(state_dir / name, create=False)
            journal.close()
            if journal.origin is not None:
                raise StateDamagedError(
                    f"{state_dir / FORMAT_NAME} has lost its id", str(state_dir)
                )
    state_id = new_state_id()
    write_format(state_dir, state_id, number)
    return state_id


def _boot() -> bytes:
    """Return the name of this run of the kernel as journals have it; zeros if it has no name."""
    try:
        return bytes.fromhex(boot_id().decode().replace("-", "")).ljust(BOOT_BYTES, b"\0")
    except (OSError, ValueError):
        return bytes(BOOT_BYTES)
