"""The engine of a node of a shared mount: the SQLite engine, whose journal a database has as well.

What is read is read here, from this node's own tables, which have all of the mount. What is changed
is committed here first, as ever, and answered once the database has confirmed it (`writer`). A
change that was committed here is never undone by what the database does: it follows.

While the database does not answer, changes are refused before they touch anything. What this node
has alone goes on, where reading needs it: forms that are made to be read, and what is measured.

Invariant: what `commit` or `sync` returned for is in the database; so is what a program was
answered.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import trio

from memfs.errors import (
    DatabaseError,
    DisconnectedError,
    MemfsError,
    MetadataError,
    UsageError,
)
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import promoting
from memfs.metadata.shared.joining import Joining, no_answer
from memfs.metadata.shared.node_file import NodeFile, Role
from memfs.metadata.shared.node_table import Presence, appear
from memfs.metadata.shared.reader_engine import ReaderEngine
from memfs.metadata.shared.statements import SHARED, translate
from memfs.metadata.shared.writer import NOTE_END, FencedError, Writer
from memfs.metadata.sqlite.change import Change
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_is_shared, write_format
from memfs.metadata.sqlite.statements import (
    DELETE_GARBAGE,
    INSERT_BLOB,
    SET_BLOB,
    SET_DURABLE,
    SET_RAW,
)
from memfs.sizes import format_count
from memfs.types import StateId
from memfs.waiting import is_request, leave, run_at_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from memfs.config import MetadataConfig, QueryConfig
    from memfs.metadata.records import Event, Inode, MetricRow, MoveKind
    from memfs.metadata.shared.joining import Connector
    from memfs.metadata.shared.outbox import Outbox
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.migration import Migration
    from memfs.metadata.sqlite.tables import Record
    from memfs.types import Generation, InodeNo, IntentId, RawId

log = logging.getLogger(__name__)

BACKLOG_BYTES_MAX = 8 << 20
"""Bytes of entries that are on their way; beyond, the end of each change waits for the database."""


_NOT_WAITED_FOR = frozenset({SET_RAW, SET_DURABLE, DELETE_GARBAGE})
"""Statements that no answer depends on. Nodes share how many blocks a raw form takes: reading needs
them, and what was read does not depend on them. What was garbage is gone, and an object whose
record comes back is removed again."""


def is_waited_for(records: Sequence[Record]) -> bool:
    """Return whether programs wait until the database has an entry: it changes what nodes share.

    Args:
        records: Its statements.
    """
    for number, parameters in records:
        shared = SHARED.get(number)
        if shared is None or number in _NOT_WAITED_FOR:
            continue
        if shared.applies is None or shared.applies(parameters):
            return True
    return False


def _keep_epochs(file: NodeFile, epochs: tuple[int, ...]) -> None:
    """Note which epochs the row of this node may have, durably."""
    known = file.read()
    assert known is not None, "a node's"
    file.write(known._replace(epochs=epochs))


def _note_end(connector: Connector, number: int, epoch: int) -> None:
    """Note that a node has ended in order. What goes wrong is passed over: it is silent soon."""
    try:
        with contextlib.closing(connector.connect_blocking()) as session:
            session.transact_blocking([(NOTE_END, (number, epoch))])
    except (DatabaseError, DisconnectedError, UsageError) as error:
        log.info("%s does not know that this node has ended: %s", connector.name, error)


_NO_DIGEST = bytes(32)
"""That of no content."""

_MADE: ContextVar[list[int] | None] = ContextVar("made", default=None)
"""Numbers of entries that the work under way has made (`SharedEngine.confirmed`)."""

T = TypeVar("T")


class NodeSettings(NamedTuple):
    """How a node takes part in its mount."""

    name: str
    limit_s: float
    """So long a change is waited for."""
    keep_changes_s: float = 3600.0
    """So long changes are kept for nodes that read and are not heard of."""
    presence: Callable[[], Presence] = Presence
    """What other nodes are told of it; asked once there is a state directory."""


class SharedChange(Change):
    """The block of `SharedEngine.change` that commits at its end.

    Args:
        change: That of the SQLite engine.
        end: Awaited after the outermost block has committed.
    """

    def __init__(self, change: Change, end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(change._database, change._savepoints, commits=True)
        self._end = end

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit the step here; who waits for more does so by `commit`."""
        await super().__aexit__(kind, error, traceback)
        if error is None and not self._savepoints:
            await self._end()


class SharedEngine(SqliteEngine):
    """Implements `memfs.metadata.engine.Engine`; made by `join`."""

    _outbox: Outbox
    _is_owed = False
    """A request has ended a change, and is not answered yet."""
    _is_closed = False
    _note_end: Callable[[int], None]
    """Tells the database that the node has ended in order, in an epoch."""
    writer: Writer
    """Its `run` sends what is committed here; a task of the daemon."""
    store_url: str
    """URL of the mount's object store."""
    mount_id: str
    """Which mount it is: 32 hexadecimal digits."""
    node_number: int
    """Its key in the table of nodes."""

    @classmethod
    def join(
        cls,
        state_dir: Path,
        config: MetadataConfig,
        connector: Connector,
        settings: NodeSettings,
        *,
        now_ns: int | None = None,
        limits: Limits | None = None,
        migration: Migration | None = None,
        query: QueryConfig | None = None,
        first_settings: Mapping[str, bytes] = NO_SETTINGS,
        rng: random.Random | None = None,
        reach: Callable[[str], None] = lambda _point: None,
        note_latency: Callable[[float], None] = lambda _seconds: None,
        tell: Callable[[str], None] = lambda _sentence: None,
    ) -> Self:
        """Open the state directory of a node, creating it if it is missing, and catch up.

        That of a node that reads becomes the one that writes, if it was promoted (`promoting`).

        Blocks: until the database has answered some questions, or the connection fails in time.

        Args:
            state_dir, config, now_ns, limits, migration, query, first_settings: As `open`.
            connector: Connects to the database.
            settings: This node's.
            rng: Gives jitter and epochs.
            reach: Told of each fault point (`moves.faults.NODE_POINTS`).
            note_latency: Told how many seconds each group took.
            tell: As of `ReaderEngine.join`.

        Raises:
            UsageError: As `open`; or the database is not that of this node's mount, or changes are
                missing there or here; then nothing was changed but what a recovery changes.
            StateDamagedError, MetadataError, NoSpaceError: As `open`.
        """
        rng = rng or random.Random()
        with contextlib.ExitStack() as stack:
            try:
                session = connector.connect_blocking()
                stack.callback(session.close)
                mount = session.check()
                file = NodeFile(state_dir)
                known = file.read()
                is_promoted = promoting.is_taking(known)
                if known is not None and known.role is Role.READER:
                    offer = promoting.find_offer(state_dir, session, connector.name)
                    if offer is not None:
                        open_reader = partial(
                            ReaderEngine.join,
                            state_dir,
                            config,
                            connector,
                            now_ns=now_ns,
                            limits=limits,
                            migration=migration,
                            query=query,
                            rng=rng,
                            reach=reach,
                            tell=tell,
                        )
                        promoting.take(
                            offer,
                            state_dir,
                            connector.name,
                            session,
                            open_reader,
                            settings.limit_s,
                            rng,
                            reach,
                        )
            except (DatabaseError, DisconnectedError) as error:
                raise no_answer(connector.name, error) from error
            except OSError as error:
                raise MetadataError(f"{state_dir} cannot be used: {error}") from error
            try:
                engine = cls.open(
                    state_dir,
                    config,
                    now_ns,
                    limits,
                    None,
                    migration,
                    query,
                    first_settings,
                    shared=True,
                )
            except UsageError as error:
                raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from error
            stack.callback(SqliteEngine.close, engine)

            def mark() -> None:
                if not read_is_shared(state_dir):
                    write_format(state_dir, engine._state_id, shared=True)

            try:
                if is_promoted:
                    promoting.change(engine, state_dir, connector.name, session, reach)
            except (DatabaseError, DisconnectedError) as error:
                raise no_answer(connector.name, error) from error
            except OSError as error:
                raise MetadataError(f"{state_dir} cannot be used: {error}") from error
            known = file.read()
            if known is not None and known.state_id is not None:
                engine.former_state_id = StateId(known.state_id)
            joining = Joining(
                session,
                mount,
                connector.name,
                engine._database,
                file,
                settings.name,
                engine.state_id,
                settings.limit_s,
                is_waited_for,
                rng,
                reach,
            )
            try:
                joined = joining.run(mark)
                session.transact_blocking(
                    [appear(joined.node.number, joined.epoch, settings.presence())]
                )
            except (DatabaseError, DisconnectedError) as error:
                raise no_answer(connector.name, error) from error
            except OSError as error:
                raise MetadataError(f"{state_dir} cannot be used: {error}") from error
            engine._outbox = joined.outbox
            engine.store_url = mount.store
            engine._note_end = partial(_note_end, connector, joined.node.number)
            engine.mount_id = mount.mount_id
            engine.node_number = joined.node.number
            engine.writer = Writer(
                joined.node,
                joined.outbox,
                connector.connect,
                translate,
                partial(_keep_epochs, file),
                lambda: joined.outbox.number_at(engine._database.durable_sequence),
                engine._refuse,
                rng,
                reach,
                note_latency,
                settings.keep_changes_s,
            )
            engine.writer.begin(session, joined.epoch)
            if engine.former_state_id is not None:
                engine._close_lost_files()
            engine._changes = SharedChange(engine._changes, engine._end_change)
            stack.pop_all()
        return engine

    def _close_lost_files(self) -> None:
        """Have no file seem to be written that a former writer was writing, and has alone."""
        if lost := promoting.list_lost(self):
            log.warning(
                "the node that wrote before had not closed %s: reading is EIO, until somebody "
                "writes there anew",
                format_count(len(lost), "file"),
            )
            run_at_once(self.seal(lost))
            for file in lost:
                # With a blob that has no form a file is not taken for an empty one.
                blob = self.reserve_blob()
                self._write(INSERT_BLOB, (blob, file.size, _NO_DIGEST))
                self._write(SET_BLOB, (blob, 0, file.ino))
                self._cache.forget(file.ino)
            self._database.commit_nowait()

    # --- committing ------------------------------------------------------------------------------
    @property
    def uncommitted(self) -> bool:
        return self._database.uncommitted or self._is_owed

    async def commit(self) -> None:
        self._is_owed = False
        self._database.commit_nowait()
        outbox = self._outbox
        if outbox.waits and outbox.server is not None:
            number = outbox.last_shared
            await leave()
            await outbox.wait(number)

    async def _end_change(self) -> None:
        """A change is committed here: what a program is to be told waits for `commit`.

        Nothing is raised: who made the change would take it for undone.
        """
        outbox = self._outbox
        if not outbox.waits:
            return
        self._is_owed = self._is_owed or is_request()
        if (made := _MADE.get()) is not None:
            made.append(outbox.number)
        if outbox.bytes > BACKLOG_BYTES_MAX and outbox.server is not None:
            await leave()
            with trio.CancelScope(shield=True):
                await outbox.wait_for_room(BACKLOG_BYTES_MAX)

    async def confirmed(self, work: Awaitable[T]) -> T:
        """Return the result of some work, once the database has the changes that it made.

        Raises:
            UnconfirmedError: It has not in time.
        """
        made: list[int] = []
        token = _MADE.set(made)
        try:
            result = await work
        finally:
            _MADE.reset(token)
        if made:
            await self.commit()
        return result

    @property
    def synced(self) -> bool:
        return super().synced and not self._outbox.waits

    @property
    def sync_waits(self) -> bool:
        return self._outbox.waits and self._outbox.server is not None

    def sync(self) -> None:
        number = self._outbox.last_shared
        super().sync()
        if self._outbox.server is not None:
            self._outbox.wait_in_thread(number)

    def close(self) -> None:
        failure: MemfsError | None = None
        if not self._is_closed:
            self._is_closed = True
            try:
                self._database.commit_nowait()
            except MemfsError as error:
                failure = error
            self._send_left()
            super().close()
            report = self.writer.report()
            if failure is None and not report.unconfirmed_count and report.reason is None:
                self._note_end(report.epoch)
        if failure is not None:
            raise failure

    def _send_left(self) -> None:
        """Send what is left, where the database answers; the next start sends it else."""
        outbox = self._outbox
        if outbox.count and outbox.server is None and self._database.refusal is None:
            # There may be an event loop in this thread, which cannot run meanwhile.
            thread = threading.Thread(target=self._send_in_thread, name="memfs-last-changes")
            thread.start()
            thread.join()
        self.writer.close()

    def _send_in_thread(self) -> None:
        try:
            trio.run(self.writer.send_all)
        except MemfsError as error:
            log.warning(
                "%d changes stay in this node's journal until its next start: %s",
                self._outbox.count,
                error,
            )

    # --- cut off ---------------------------------------------------------------------------------
    def _refuse(self, refusal: MetadataError | None) -> None:
        self._database.refusal = refusal

    @contextlib.contextmanager
    def _reading_needs(self) -> Iterator[None]:
        """For the block, which does not suspend, changes are taken that are this node's alone."""
        refusal = self._database.refusal
        if refusal is None or isinstance(refusal, FencedError):
            yield
            return
        self._database.refusal = None
        try:
            yield
        finally:
            self._database.refusal = refusal

    async def begin_intent(
        self, kind: MoveKind, ino: InodeNo, generation: Generation, location: str, now_ns: int
    ) -> IntentId:
        with self._reading_needs():
            return await super().begin_intent(kind, ino, generation, location, now_ns)

    async def cancel_intent(self, intent: IntentId) -> None:
        with self._reading_needs():
            await super().cancel_intent(intent)

    async def publish_raw(
        self,
        ino: InodeNo,
        generation: Generation,
        raw: RawId,
        blocks: int,
        intent: IntentId,
        *,
        durable: bool = False,
    ) -> Inode | None:
        with self._reading_needs():
            return await super().publish_raw(ino, generation, raw, blocks, intent, durable=durable)

    async def put_metrics(self, rows: Sequence[MetricRow]) -> None:
        with self._reading_needs():
            await super().put_metrics(rows)

    async def add_events(self, events: Sequence[Event]) -> None:
        with self._reading_needs():
            await super().add_events(events)
