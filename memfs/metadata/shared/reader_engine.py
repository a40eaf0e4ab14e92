"""The engine of a node that reads: it has all names, and changes nothing.

A reader has a replica: the tables of a SQLite engine in a state directory of its own. It is filled
once from the tables of the database (`filling`), and follows the log from there (`log`,
`applying`). What it reads is read there; what a node has alone is its own, as raw files that it has
made to read them.

1. A connection; the database's format, mount and writer are looked at. Nothing was touched yet.
2. A new state directory is marked as a reader's (`node_file`), then made.
3. The row of the node is made or found, and gets another epoch, which is noted here before: a copy
   of the state directory is told from it (`reader.taken`). From here on the database keeps the
   changes that this node lacks.
4. The replica is filled, unless it is, and the database has all changes beyond.
   *Killed here*: nothing says that it is filled, and the next start begins this step anew.
5. It catches up with the log.

Invariant: the tables of a state directory are replaced only if its file `node` says that it is a
reader's.
"""

from __future__ import annotations

import contextlib
import random
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import trio

from memfs import __version__
from memfs.errors import DatabaseError, DisconnectedError, MetadataError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import bodies
from memfs.metadata.shared.applying import Applying
from memfs.metadata.shared.filling import fill, is_filled
from memfs.metadata.shared.joining import no_answer
from memfs.metadata.shared.log import BODIES_A_TIME, READ_LOG, Log, ReaderNode
from memfs.metadata.shared.node_file import Membership, NodeFile, Role
from memfs.metadata.shared.node_table import Presence, appear, require_whole
from memfs.metadata.shared.writer import EPOCH_STEP_MAX, TAKE_EPOCH
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.metadata.sqlite.format import read_format, write_format
from memfs.types import StateId

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.config import MetadataConfig, QueryConfig
    from memfs.metadata.shared.joining import Connector, FirstSession
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.migration import Migration

READ_SEQ = "select seq from node where role = 'writer'"
BEAT = "update node set beat = now() where node = $1 and epoch = $2"


class ReaderSettings(NamedTuple):
    """How a reader takes part in its mount."""

    name: str
    limit_s: float
    """So long an open, a listing or a missing name waits for the database."""
    presence: Callable[[], Presence] = Presence
    """What other nodes are told of it; asked once there is a state directory."""


class ReaderEngine(Applying):
    """Implements `memfs.metadata.engine.Engine` for a node that reads; made by `join`."""

    log: Log
    """Its `run` applies what the writer changes; a task of the daemon."""
    store_url: str
    """URL of the mount's object store."""
    mount_id: str
    """Which mount it is: 32 hexadecimal digits."""
    node: ReaderNode
    """What this node is in the table of nodes."""
    writer_state_id: StateId
    """Identity of the state directory under which the objects were made."""

    @classmethod
    def join(
        cls,
        state_dir: Path,
        config: MetadataConfig,
        connector: Connector,
        settings: ReaderSettings,
        *,
        now_ns: int | None = None,
        limits: Limits | None = None,
        migration: Migration | None = None,
        query: QueryConfig | None = None,
        rng: random.Random | None = None,
        reach: Callable[[str], None] = lambda _point: None,
        tell: Callable[[str], None] = lambda _sentence: None,
    ) -> Self:
        """Open the state directory of a reader, creating it if it is missing, and catch up.

        Blocks: until the database has answered, or the connection fails in time; a new reader reads
        all names.

        Args:
            state_dir, config, now_ns, limits, migration, query: As `SqliteEngine.open`.
            connector: Connects to the database.
            settings: This node's.
            rng: Gives jitter and epochs.
            reach: Told of each fault point (`moves.faults.READER_POINTS`, `FILL_POINTS`).
            tell: Told how far the first reading of all names is, in a sentence now and then.

        Raises:
            UsageError: The state directory is no reader's of this mount, or nobody writes it yet,
                or the database does not answer; nothing was changed.
            StateDamagedError, MetadataError, NoSpaceError: As `SqliteEngine.open`.
        """
        rng = rng or random.Random()
        name = connector.name
        with contextlib.ExitStack() as stack:
            try:
                session = connector.connect_blocking()
                stack.callback(session.close)
                mount = session.check()
                writer = session.find_writer()
            except MetadataError as error:
                raise no_answer(name, error) from error
            if writer is None:
                raise UsageError(
                    f"{name}: no node has written this mount yet: mount it first where it is "
                    'written, with nodes.role = "writer"',
                    ExitCode.NO_ANSWER,
                )
            require_whole(name, writer)
            file = NodeFile(state_dir)
            _mark(state_dir, file, mount, name)
            _refuse_heir(file, writer, name)
            try:
                engine = cls.open(
                    state_dir,
                    config,
                    now_ns,
                    limits,
                    None,
                    migration,
                    query,
                    NO_SETTINGS,
                    shared=True,
                )
            except UsageError as error:
                raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from error
            stack.callback(Applying.close, engine)
            try:
                write_format(state_dir, engine._state_id, shared=True)
                row = session.join_reader(settings.name, bytes(engine.state_id), __version__)
                epoch = _take_epoch(session, file, row, name, rng)
                session.transact_blocking([appear(row.number, epoch, settings.presence())])
                reach("reader.taken")
                if not is_filled(engine) or not engine._may_follow(session):
                    beat = partial(_beat, connector, row.number, epoch)
                    fill(session, engine, reach=reach, beat=beat, tell=tell)
                engine._catch_up(session)
                engine.sync()
            except (DatabaseError, DisconnectedError) as error:
                raise no_answer(name, error) from error
            except OSError as error:
                raise MetadataError(f"{state_dir} cannot be used: {error}") from error
            engine.store_url = mount.store
            engine.mount_id = mount.mount_id
            engine.writer_state_id = StateId(bytes(writer.state_id))
            engine.node = ReaderNode(row.number, settings.name, name, epoch)
            engine.log = Log(
                engine.node,
                engine.apply,
                partial(trio.to_thread.run_sync, engine.sync),
                engine.read_applied(),
                connector.connect,
                settings.limit_s,
                rng,
                reach,
            )
            engine.log.begin(session, writer.name)
            stack.pop_all()
        return engine

    @property
    def object_state_id(self) -> StateId:
        """That of the node which writes."""
        return self.writer_state_id

    def close(self) -> None:
        """Close the connection and the replica; idempotent."""
        self.log.close()
        super().close()

    def _may_follow(self, session: FirstSession) -> bool:
        """Tell whether the database has all changes beyond the last one that is here."""
        applied = self.read_applied()
        rows, changes = session.transact_blocking([(READ_SEQ, ()), (READ_LOG, (applied, 1))])
        ((seq,),) = rows
        return bool(seq == applied or (seq > applied and changes and changes[0][0] == applied + 1))

    def _catch_up(self, session: FirstSession) -> None:
        while True:
            first = self.read_applied() + 1
            (changes,) = session.transact_blocking([(READ_LOG, (first - 1, BODIES_A_TIME))])
            if not changes:
                return
            if [row[0] for row in changes] != [*range(first, first + len(changes))]:
                raise DisconnectedError("changes have gone while they were read; mount again")
            self.apply([(int(number), bodies.decode(bytes(data))) for number, data in changes])


def _mark(state_dir: Path, file: NodeFile, mount: Mount, name: str) -> None:
    """See that a state directory is a reader's of this mount; a new one becomes such.

    Raises:
        UsageError: It is another one; nothing was changed.
        MetadataError: It cannot be written.
    """
    known = file.read()
    if known is None:
        if read_format(state_dir, shared=True) is not None:
            raise UsageError(
                f"{state_dir} has files of its own, and that of a node that reads must not: name "
                "a new directory by --state",
                ExitCode.STATE_UNUSABLE,
            )
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write(Membership(mount.mount_id, (0,), Role.READER))
        except OSError as error:
            raise MetadataError(f"{state_dir} cannot be used: {error}") from error
        return
    if known.mount_id != mount.mount_id:
        raise UsageError(
            f"{state_dir} belongs to a node of another mount than {name} has: name the database "
            "of that one by metadata.url, or another directory by --state",
            ExitCode.STATE_UNUSABLE,
        )
    if known.role is not Role.READER:
        raise UsageError(
            f'{state_dir} belongs to the node that writes: mount it with nodes.role = "writer", or '
            "name another directory by --state",
            ExitCode.STATE_UNUSABLE,
        )


def _refuse_heir(file: NodeFile, writer: NodeRow, name: str) -> None:
    """See that a state directory has not taken the place of the writer.

    Raises:
        UsageError: It has: nobody else can write now.
    """
    known = file.read()
    if known is not None and known.taken is not None and known.taken == writer.epoch:
        raise UsageError(
            f"{name}: this node has taken the place of the one that wrote: write "
            'role = "writer" in [nodes], and mount again',
            ExitCode.STATE_UNUSABLE,
        )


def _take_epoch(
    session: FirstSession, file: NodeFile, row: NodeRow, name: str, rng: random.Random
) -> int:
    """Give the node another epoch, noted here before.

    Raises:
        UsageError: This is a copy, or an older copy, of the state directory.
    """
    known = file.read()
    assert known is not None, "marked"
    refusal = UsageError(
        f"{name}: node {row.name} was mounted from a copy of this state directory since: mount the "
        "one that was mounted last, or name a new directory by --state",
        ExitCode.STATE_UNUSABLE,
    )
    if row.epoch not in known.epochs:
        raise refusal
    epoch = row.epoch + rng.randint(1, EPOCH_STEP_MAX)
    file.write(known._replace(epochs=(row.epoch, epoch)))
    (taken,) = session.transact_blocking([(TAKE_EPOCH, (epoch, row.number, row.epoch))])
    if not taken:
        raise refusal
    return epoch


def _beat(connector: Connector, number: int, epoch: int) -> None:
    """Note that a node is alive that reads all names; its own connection is busy with that.

    What goes wrong is passed over: the connection that is busy has the same trouble.
    """
    with contextlib.suppress(DatabaseError, DisconnectedError, UsageError):
        session = connector.connect_blocking()
        with contextlib.closing(session):
            session.transact_blocking([(BEAT, (number, epoch))])
