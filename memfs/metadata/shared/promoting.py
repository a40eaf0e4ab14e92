"""A node that reads becomes the one that writes, in the place of another state directory.

`memfs node promote` has offered it the row of the node that writes, with an epoch that shuts the
former one out (`node_table.promote`). The next start, with `nodes.role = "writer"`, takes it:

1. The replica gets all changes, as at each start of a reader.
2. The epoch that it is about to take is noted in the file `node` (`promote.noted`).
3. The row of the writer gets that epoch, and the reader's row is left (`promote.taken`). *Killed
   from here on*: the next start knows by the epoch that it was this state directory, and goes on.
   Settings that tell how the former machine's disk is go in the same transaction.
4. The file `node` says that it writes, under the identity of the former state directory
   (`promote.marked`): objects are sealed with that, and their store has its marks. It tells of the
   epoch that was taken until the end, so that no start takes these tables for a reader's.
5. The tables get what only a writer has, objects that are to be removed, and settings, in one
   transaction (`promote.changed`). Then numbers are handed out beyond those of the former writer.
6. The file `node` is as that of each writer (`promote.done`).

Bytes that the former node had alone are not here. What it was writing becomes a closed file with a
blob that has no form, so that reading is EIO; it can be written anew, or removed.

Invariant: at any time one state directory at most has the epoch of the row of the writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MetadataError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.records import Seal
from memfs.metadata.shared.node_file import NodeFile, Role
from memfs.metadata.shared.node_table import NodeState
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.metadata.shared.tables import BY_NAME, LOCAL_SETTINGS, array_text, local_row
from memfs.metadata.shared.writer import EPOCH_STEP_MAX
from memfs.metadata.sqlite.format import read_state_id
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.metadata.sqlite.rows import GARBAGE_COUNT
from memfs.types import FormKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.shared.joining import FirstSession
    from memfs.metadata.shared.node_file import Membership
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs.metadata.sqlite.following import Execute

LOCK_NODES = "select node from node order by node for update"
LEAVE = (
    "update node set state = 'left' where node = $1 and exists (select from node"
    " where role = 'writer' and state = 'left' and epoch = $2 and seq = $3 and name = $4)"
)
FORGET_MACHINE = (
    "delete from setting where name = any($1::bytea[])"
    " and exists (select from node where role = 'writer' and epoch = $2)"
)
MACHINE_SETTINGS = (b"recheck.boot", b"recheck.clean", b"syncs.refused")
"""What the former machine knew of its disk: nothing of it is true of the heir's."""
NOTE_FETCHED = (
    "insert into setting (name, value) select 'recheck.boot'::bytea, 'fetched'::bytea"
    " from node where role = 'writer' and epoch = $1"
)
"""As `moves.rechecking.FETCHED`: the heir's raw files are as it has fetched them, with the times of
then. It would take one whose time the former writer has set since for one that was written."""
TAKE = (
    "update node set epoch = $1, state = 'live', beat = now() where role = 'writer'"
    " and state = 'left' and epoch = $2 and seq = $3 and name = $4 returning node"
)

GAP_COUNT = 1 << 32
"""Numbers beyond those that nodes share: the former writer may have given some out since, and its
objects have them in their keys. It may have given a million a second for an hour."""

_HIGHEST = f"""
    select max(
        (select coalesce(max(ino), 0) from inode), (select coalesce(max(cookie), 0) from dentry),
        (select coalesce(max(blob), 0) from blob), (select coalesce(max(snap), 0) from snapshot),
        (select coalesce(max(ino), 0) from inode_was),
        (select coalesce(max(cookie), 0) from dentry_was),
        (select coalesce(max(source), 0) from source),
        (select coalesce(max(item), 0) from garbage where item < {FIRST_READER_ID}),
        (select coalesce(max(intent), 0) from intent where intent < {FIRST_READER_ID}))
"""
_LOST_FILES = """
    select ino, generation, size, 0, atime_ns, mtime_ns, ctime_ns from inode
    where flags & 1 = 1 and raw = 0
"""


class Offer(NamedTuple):
    """What a state directory is about to take."""

    reader: NodeRow
    """Its row so far."""
    writer: NodeRow
    """The row that it is offered."""


def find_offer(state_dir: Path, session: FirstSession, database_name: str) -> Offer | None:
    """Return what the state directory of a reader is offered; None: it has taken it already.

    Args:
        state_dir: Its file `node` says that it is a reader's.
        session: A connection to the database of its mount.
        database_name: Where that is, for messages.

    Raises:
        UsageError: It is offered nothing: another node writes.
    """
    known = NodeFile(state_dir).read()
    assert known is not None, "a reader's"
    if known.is_emptied:
        raise UsageError(
            f"{state_dir} was about to become that of a node that reads: mount it once with "
            'role = "reader" in [nodes]',
            ExitCode.STATE_UNUSABLE,
        )
    nodes = session.find_nodes()
    writer = next((node for node in nodes if node.role == Role.WRITER), None)
    if has_taken(known, writer):
        return None
    state_id = read_state_id(state_dir)
    own = next((node for node in nodes if node.state_id == state_id), None)
    if writer is None or own is None or (writer.state, writer.name) != (NodeState.LEFT, own.name):
        name = "another one" if writer is None else writer.name
        raise UsageError(
            f"{database_name}: this state directory is that of a node that reads, and node {name} "
            'writes: write role = "reader" in [nodes], or have this one take over, by '
            f"`memfs node promote {'NAME' if own is None else own.name}`",
            ExitCode.STATE_UNUSABLE,
        )
    return Offer(own, writer)


def is_taking(known: Membership | None) -> bool:
    """Return whether a state directory is not a writer's yet, by its file `node`."""
    return known is not None and (known.role is Role.READER or known.taken is not None)


def has_taken(known: Membership, writer: NodeRow | None) -> bool:
    """Return whether the row of the writer is that of a state directory which is taking it."""
    return writer is not None and known.taken is not None and writer.epoch == known.taken


def take(
    offer: Offer,
    state_dir: Path,
    database_name: str,
    session: FirstSession,
    open_reader: Callable[[ReaderSettings], ReaderEngine],
    limit_s: float,
    rng: random.Random,
    reach: Callable[[str], None],
) -> None:
    """Have a state directory take the row of the writer: steps 1 to 3.

    Args:
        offer: What it is offered.
        state_dir: The directory, which nobody has open.
        database_name: Where the database is, for messages.
        session: A connection to it.
        open_reader: As `ReaderEngine.join`.
        limit_s: For the database's answers.
        rng: Gives the epoch.
        reach: Told of each fault point.

    Raises:
        UsageError: Somebody else was faster; or as `ReaderEngine.join`.
        DatabaseError, DisconnectedError: As of the session.
        MetadataError, OSError: The state directory cannot be used.
    """
    engine = open_reader(ReaderSettings(offer.reader.name, limit_s))
    applied = engine.read_applied()
    engine.close()
    file = NodeFile(state_dir)
    known = file.read()
    assert known is not None, "a reader's"
    writer, name = offer.writer, offer.reader.name
    if applied != writer.seq:
        raise MetadataError(
            f"{database_name}: this node has {applied} changes, and the former writer made "
            f"{writer.seq}: mount it again"
        )
    epoch = writer.epoch + rng.randint(1, EPOCH_STEP_MAX)
    file.write(known._replace(taken=epoch))
    reach("promote.noted")
    here = (writer.epoch, applied, name)
    *_, taken, _, _ = session.transact_blocking(
        [
            (LOCK_NODES, ()),
            (LEAVE, (offer.reader.number, *here)),
            (TAKE, (epoch, *here)),
            (FORGET_MACHINE, (array_text(MACHINE_SETTINGS), epoch)),
            (NOTE_FETCHED, (epoch,)),
        ],
        limit_s,
    )
    if not taken:
        raise _replaced(database_name)
    reach("promote.taken")


def change(
    engine: SqliteEngine,
    state_dir: Path,
    database_name: str,
    session: FirstSession,
    reach: Callable[[str], None],
) -> None:
    """Make a writer's tables of those of a reader, which has taken over: steps 4 to 6.

    Args:
        engine: Just opened.
        state_dir: Its directory.
        database_name: Where the database is, for messages.
        session: A connection to it.
        reach: Told of each fault point.

    Raises:
        UsageError: Another node is to write since.
        DatabaseError, DisconnectedError: As of the session.
        MetadataError, OSError: The state directory cannot be used.
    """
    file = NodeFile(state_dir)
    known = file.read()
    writer = session.find_writer()
    assert known is not None
    assert writer is not None
    if not has_taken(known, writer):
        raise _replaced(database_name)
    known = known._replace(
        epochs=(writer.epoch,), role=Role.WRITER, state_id=bytes(writer.state_id)
    )
    file.write(known)
    reach("promote.marked")
    if engine._database.read_followed()[0] is None:
        _change_tables(engine, session, writer)
    reach("promote.changed")
    if engine._lease.next_id >= FIRST_READER_ID:
        engine._lease.restart(_highest(engine) + GAP_COUNT)
    file.write(known._replace(taken=None))
    reach("promote.done")


def _replaced(database_name: str) -> UsageError:
    return UsageError(
        f"{database_name}: another node is to write since (see `memfs node list`): have this one "
        'read, by role = "reader" in [nodes]',
        ExitCode.STATE_IN_USE,
    )


def _change_tables(engine: SqliteEngine, session: FirstSession, writer: NodeRow) -> None:
    shared = {
        name: [
            local_row(BY_NAME[name], row)
            for row in session.transact_blocking([(BY_NAME[name].select_shared, ())])[0]
        ]
        for name in ("garbage", "setting")
    }
    database = engine._database
    highest = max([_highest(engine), *(item for item, _ in shared["garbage"])])
    # Numbers that this node has handed out for itself go along.
    shift = highest + GAP_COUNT - FIRST_READER_ID

    def do(execute: Execute) -> None:
        for table, column in (("garbage", "item"), ("intent", "intent")):
            execute(f"update {table} set {column} = {column} + ?", (shift,))
        execute(
            "delete from setting where substr(name, 1, ?) <> ?",
            (len(LOCAL_SETTINGS), LOCAL_SETTINGS),
        )
        for name, value in shared["setting"]:
            execute("insert into setting (name, value) values (?, ?)", (name, value))
        for item, location in shared["garbage"]:
            kind = FormKind.REMOTE.value
            execute(
                "insert into garbage (item, kind, location) values (?, ?, ?)",
                (item, kind, location),
            )
        database.totals[GARBAGE_COUNT] += len(shared["garbage"])

    database.begin_following(writer.seq, do)


def _highest(engine: SqliteEngine) -> int:
    """Return the highest number in use, but for those of raw files."""
    [(highest,)] = engine._rows(_HIGHEST)
    return int(highest)


def list_lost(engine: SqliteEngine) -> list[Seal]:
    """Return how files become closed that the former writer was writing, and has alone."""
    return [Seal._make(row) for row in engine._rows(_LOST_FILES)]
