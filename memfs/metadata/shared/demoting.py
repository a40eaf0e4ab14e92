"""A state directory that wrote, and whose place another one has taken, becomes a reader's.

Its tables are those of a mount that went on elsewhere, so that they are made anew. Before, all
bytes that it alone has are put away; who does that is given (`Holdings`).

1. The row of the writer has an epoch beyond all that the file `node` knows: the place was taken.
2. The tables are opened as at each start. They tell which contents no store has, and the
   database tells what the others know. Their bytes are put away (`demote.moved`, after each), then
   made durable together with a list of them (`demote.rescued`). *Killed before*: the next start
   does the same again.
3. The file `node` says that the directory is emptied, durably (`demote.marked`). *Killed from here
   on*: the next start goes on with that, whatever is left.
4. Tables, journals and local copies go, and new tables come, under a new identity
   (`demote.emptied`). The former one is that of the writer.
5. The file `node` is that of a new reader (`demote.done`), which reads all names (`filling`).

Invariant: nothing is removed before all that is here alone is durable elsewhere in the directory.
"""

from __future__ import annotations

import contextlib
import marshal
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memfs.errors import DatabaseError, DisconnectedError, MetadataError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.files import sync_directory
from memfs.metadata.records import InodeFlags
from memfs.metadata.shared.applying import INODE_AT
from memfs.metadata.shared.joining import no_answer
from memfs.metadata.shared.node_file import Membership, NodeFile, Role
from memfs.metadata.shared.node_table import NodeState
from memfs.metadata.shared.tables import array_text
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.creation import LEASE_NAME, NO_SETTINGS, create
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.pages import FILE_NAME as SUMS_NAME
from memfs.types import BlobId, Generation, InodeNo, RawId, StateId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from memfs.config import MetadataConfig
    from memfs.metadata.shared.joining import Connector, FirstSession
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.sqlite.following import KeptEntry
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.migration import Migration

FILES_A_TIME = 1000
"""Files that the database is asked about at once."""

_TABLE_FILES = (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", SUMS_NAME, *JOURNAL_NAMES)

_LIST_FILES = """
    select ino, generation, raw, blob, size, mtime_ns, flags from inode
    where ino > ? and mode & 61440 = 32768 and nlink > 0 and (raw <> 0 or blob <> 0)
    order by ino limit ?
"""
_LIST_KEPT = """
    select ino, generation, raw, blob, size, mtime_ns from kept
    where (ino, generation) > (?, ?) and (raw <> 0 or blob <> 0) and not exists (
        select 1 from form where form.blob = kept.blob and kind = 'remote') and not exists (
        select 1 from foreign_object as o where o.ino = kept.ino and o.generation = kept.generation)
    order by ino, generation limit ?
"""
_HAS_REMOTE = "select 1 from form where blob = ? and kind = 'remote'"
_HAS_OBJECT = "select 1 from foreign_object where ino = ? and generation = ?"
_FIND_INODES = """
    select i.ino, i.generation, i.blob, exists (select from form as f where f.blob = i.blob)
        or exists (select from foreign_object as o
            where o.ino = i.ino and o.generation = i.generation)
    from inode as i where i.ino = any($1::bigint[])
"""

_CONTENT = frozenset(
    {sqlite.INSERT_INODE, sqlite.UNSEAL, sqlite.SEAL, sqlite.SET_BLOB, sqlite.INSERT_OBJECT}
)
"""Statements that give a file its content; the number of the inode is where `_INODES` says."""
_INODES = {**INODE_AT, sqlite.INSERT_INODE: 0, sqlite.INSERT_OBJECT: 0}


class OwnContent(NamedTuple):
    """Bytes that this state directory may have alone."""

    ino: InodeNo
    generation: Generation
    raw: RawId
    """0 (`NO_RAW`): there is no raw file."""
    blob: BlobId
    """Its packed form has the bytes where there is no raw file."""
    size: int
    mtime_ns: int
    is_open: bool
    """It was being written: the raw file has the right size."""
    is_former: bool
    """Only snapshots have it."""
    is_safe: bool
    """A store has the bytes, unless the raw file was written since."""


class Holdings(Protocol):
    """What lies in the state directory beside the tables."""

    def rescue(
        self, engine: SqliteEngine, contents: Iterable[OwnContent], change_count: int
    ) -> None:
        """Put away all bytes that are here alone, durably; again after a start that was cut short.

        Args:
            engine: The tables; nothing is written to them.
            contents: May be here alone.
            change_count: Changes of the tables that the database may lack.

        Raises:
            MemfsError: The disk refuses; the next attempt goes on.
        """
        ...

    def clear(self) -> None:
        """Remove all local copies, and keep tables that lack in the database, if there are any."""
        ...


def demote(
    state_dir: Path,
    config: MetadataConfig,
    connector: Connector,
    holdings: Callable[[int, StateId], Holdings],
    *,
    limits: Limits | None = None,
    migration: Migration | None = None,
    reach: Callable[[str], None] = lambda _point: None,
) -> bool:
    """Make a state directory whose place was taken that of a new reader.

    Args:
        state_dir: Any; one that was not replaced stays as it is.
        config, limits, migration: As `SqliteEngine.open`.
        connector: Connects to the database of the mount.
        holdings: Made with the last epoch of the directory, and the identity that it wrote under.
        reach: Told of each fault point (`moves.faults.DEMOTE_POINTS`).

    Returns:
        Whether it was replaced.

    Raises:
        UsageError: The database does not answer, or is older than the state directory; nothing was
            changed.
        StateDamagedError, MemfsError: The tables cannot be opened, or the disk refuses.
    """
    file = NodeFile(state_dir)
    known = file.read()
    if known is None or (known.role is Role.READER and not known.is_emptied):
        return False
    if not known.is_emptied:
        try:
            with contextlib.closing(connector.connect_blocking()) as session:
                mount = session.check()
                writer = session.find_writer()
                if known.mount_id != mount.mount_id or not _is_replaced(
                    known, writer, connector.name
                ):
                    return False
                _rescue(state_dir, config, known, session, holdings, limits, migration, reach)
        except (DatabaseError, DisconnectedError) as error:
            raise no_answer(connector.name, error) from error
        known = known._replace(role=Role.READER, is_emptied=True, taken=None)
        with _disk_errors(state_dir):
            file.write(known)
        reach("demote.marked")
    holdings(max(known.epochs), StateId(known.state_id or b"")).clear()
    with _disk_errors(state_dir):
        _renew_tables(state_dir)
        reach("demote.emptied")
        file.write(Membership(known.mount_id, (0,), Role.READER))
    reach("demote.done")
    return True


def _is_replaced(known: Membership, writer: NodeRow | None, database_name: str) -> bool:
    if writer is None or writer.state == NodeState.BEHIND or writer.epoch in known.epochs:
        # The tables may be those of a mount that moves in or out: no node reads it.
        return False
    if writer.epoch < max(known.epochs):
        raise UsageError(
            f"{database_name}: it knows epoch {writer.epoch} of node {writer.name}, and this state "
            f"directory {max(known.epochs)}: it was put back from a backup; put it back as it was",
            ExitCode.STATE_UNUSABLE,
        )
    return True


@contextlib.contextmanager
def _disk_errors(state_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MetadataError(f"{state_dir} cannot be used: {error}") from error


def _rescue(
    state_dir: Path,
    config: MetadataConfig,
    known: Membership,
    session: FirstSession,
    holdings: Callable[[int, StateId], Holdings],
    limits: Limits | None,
    migration: Migration | None,
    reach: Callable[[str], None],
) -> None:
    """Step 2."""
    engine = SqliteEngine.open(state_dir, config, limits=limits, migration=migration, shared=True)
    with contextlib.closing(engine):
        number, kept = engine._database.read_followed()
        unsent = Unsent.of(kept if number is not None else ())
        found = _find(engine, session, unsent)
        state_id = StateId(known.state_id or bytes(engine.state_id))
        own = holdings(max(known.epochs), state_id)
        own.rescue(engine, found, len(kept))
    reach("demote.rescued")


class Unsent(NamedTuple):
    """What changes did that the database may lack."""

    contents: frozenset[int]
    """Inodes whose content they have changed."""
    blobs: frozenset[int]
    """Contents whose objects they have recorded."""

    @classmethod
    def of(cls, entries: Iterable[KeptEntry]) -> Unsent:
        """Return that of some entries of the journal."""
        contents, blobs = set(), set()
        for entry in entries:
            records, _totals = marshal.loads(entry.payload)
            for number, parameters in records:
                if number in _CONTENT:
                    contents.add(int(parameters[_INODES[number]]))
                elif number == sqlite.INSERT_FORM:
                    blobs.add(int(parameters[0]))
        return cls(frozenset(contents), frozenset(blobs))


def _find(engine: SqliteEngine, session: FirstSession, unsent: Unsent) -> Iterator[OwnContent]:
    """Yield the contents of this directory, and whether a store has them."""
    after = 0
    while rows := engine._rows(_LIST_FILES, (after, FILES_A_TIME)):
        after = rows[-1][0]
        doubtful = [row[0] for row in rows if row[0] in unsent.contents or row[3] in unsent.blobs]
        known = _known_elsewhere(session, doubtful) if doubtful else {}
        for ino, generation, raw, blob, size, mtime_ns, flags in rows:
            is_open = bool(flags & InodeFlags.UNSEALED)
            is_safe = not is_open and _has_store(engine, ino, generation, blob)
            if ino in doubtful:
                is_safe = is_safe and _is_known(known.get(ino), generation, blob)
            if raw or not is_safe:
                yield OwnContent(
                    *(InodeNo(ino), Generation(generation), RawId(raw), BlobId(blob)),
                    *(size, mtime_ns, is_open, False, is_safe),
                )
    place = (0, 0)
    while rows := engine._rows(_LIST_KEPT, (*place, FILES_A_TIME)):
        place = rows[-1][0], rows[-1][1]
        for ino, generation, raw, blob, size, mtime_ns in rows:
            yield OwnContent(
                *(InodeNo(ino), Generation(generation), RawId(raw), BlobId(blob)),
                *(size, mtime_ns, False, True, False),
            )


def _has_store(engine: SqliteEngine, ino: int, generation: int, blob: int) -> bool:
    return bool(
        (blob and engine._row(_HAS_REMOTE, (blob,))) or engine._row(_HAS_OBJECT, (ino, generation))
    )


def _known_elsewhere(
    session: FirstSession, inos: Sequence[int]
) -> dict[int, tuple[int, int, bool]]:
    """Return generation, content, and whether a store has that, as the database has files."""
    (rows,) = session.transact_blocking([(_FIND_INODES, (array_text(inos),))])
    return {ino: (generation, blob, bool(is_stored)) for ino, generation, blob, is_stored in rows}


def _is_known(found: tuple[int, int, bool] | None, generation: int, blob: int) -> bool:
    """Return whether others know where the bytes of a content are, or that it was replaced."""
    if found is None:
        return False
    there, there_blob, is_stored = found
    return there > generation or (there == generation and there_blob == blob and is_stored)


def _renew_tables(state_dir: Path) -> None:
    """Step 4, but for the local copies: the format file has the new identity at its end."""
    for name in (*_TABLE_FILES, LEASE_NAME):
        (state_dir / name).unlink(missing_ok=True)
    sync_directory(state_dir)
    create(state_dir, time.time_ns(), NO_SETTINGS, FIRST_READER_ID)
