"""The names of a mount leave the database: the state directory that writes is enough again.

It has all names anyway. The mount is not served meanwhile, by no machine:

1. The row of the node has all changes of the state directory, and no others.
2. All rows of both are compared (`move_out.compared`).
3. The epoch that the row is about to get is noted in the file `node` (`move_out.noted`).
4. The row gets it, with the state `behind`, and all nodes that read are `left` (`move_out.left`).
   From here on no node starts with this database.
5. The format file gets the identity under which the mount writes, where that is the one of a former
   state directory (`move_out.identified`).
6. Entries of the journal do not count any more (`move_out.uncounted`), and the file `node` goes
   (`move_out.unnamed`).
7. The format file says that the state directory is that of one machine (`move_out.done`).

Killed before step 4, nothing has changed; from there on no mount serves the directory before the
same command has gone on.

Invariant: a state directory of one machine has no node that is `live`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import comparing, node_table, schema
from memfs.metadata.shared.comparing import SHOWN_COUNT, Counter
from memfs.metadata.shared.node_file import NodeFile, Role
from memfs.metadata.shared.node_table import AWAY_S, NodeState
from memfs.metadata.shared.writer import EPOCH_STEP_MAX
from memfs.metadata.sqlite.format import read_is_shared, write_format
from memfs.types import StateId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.node_file import Membership
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.sqlite.engine import SqliteEngine

_LEAVE = """
    update node set epoch = $1, state = 'behind', beat = now()
    where node = $2 and epoch = $3 and seq = $4 and state = 'live' returning node
"""
_LEAVE_READERS = """
    update node set state = 'left' where role = 'reader'
        and exists (select from node where role = 'writer' and epoch = $1 and state = 'behind')
"""


class MovedOut(NamedTuple):
    """What was done."""

    node: str
    """Name that the node had."""
    row_count: int
    """Rows that were the same on both sides; 0: the names had left the database before."""
    readers: tuple[str, ...]
    """Names of the nodes that have read, and cannot any more."""


class MovingOut:
    """One attempt; blocks, perhaps for long.

    Args:
        engine: That of the state directory, just opened; nobody else uses it.
        state_dir: The directory.
        client: Connected to the database.
        database: How messages name it, without secrets.
        rng: Gives the epoch that shuts all others out.
        reach: Told of each fault point (`moves.faults.MOVE_OUT_POINTS`).
        show: Told the stage, rows done, and rows in all.
    """

    def __init__(
        self,
        engine: SqliteEngine,
        state_dir: Path,
        client: Client,
        database: str,
        rng: random.Random,
        *,
        reach: Callable[[str], None] = lambda _point: None,
        show: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
    ) -> None:
        self._engine = engine
        self._state_dir = state_dir
        self._client = client
        self._database = database
        self._rng = rng
        self._reach = reach
        self._show = show
        self._file = NodeFile(state_dir)

    def run(self) -> MovedOut:
        """Do the steps.

        Raises:
            UsageError: The two do not belong together, or do not agree, or a node is mounted;
                nothing was changed.
            DatabaseError, DisconnectedError: The database refuses, or does not answer; the next
                attempt goes on.
            StateDamagedError, MetadataError, OSError: The state directory cannot be used.
        """
        mount = schema.find_mount(self._client, self._database)
        writer = node_table.find_writer(self._client)
        known = self._file.read()
        identity = self._identity(known)
        if writer is None or writer.state_id != identity:
            raise self._refusal(f"it does not have the names of {self._state_dir}")
        readers = tuple(
            node.name for node in node_table.find_nodes(self._client) if node.role == Role.READER
        )
        has_left = writer.state == NodeState.BEHIND and writer.epoch > 0
        if not read_is_shared(self._state_dir):
            if has_left:
                return MovedOut(writer.name, 0, readers)
            raise self._refusal(
                f"{self._state_dir} is that of one machine: it is a copy from before the names "
                "moved there, or they are on their way; `memfs migrate STATE URL` goes on"
            )
        row_count = 0
        if not has_left:
            row_count = self._leave(mount, writer, known)
        elif known is not None and writer.epoch not in known.epochs:
            raise self._refusal(
                f"the names of node {writer.name} have left it, and {self._state_dir} is an older "
                "copy: use the one that was mounted last"
            )
        self._change(identity)
        return MovedOut(writer.name, row_count, readers)

    def _identity(self, known: Membership | None) -> StateId:
        """Return the identity under which the mount writes."""
        if known is not None and known.state_id is not None:
            return StateId(known.state_id)
        return self._engine.state_id

    def _refusal(self, reason: str, code: ExitCode = ExitCode.STATE_UNUSABLE) -> UsageError:
        return UsageError(f"{self._database}: {reason}", code)

    # --- the database ----------------------------------------------------------------------------
    def _leave(self, mount: Mount, writer: NodeRow, known: Membership | None) -> int:
        """Compare all rows, and shut all nodes out; returns how many rows they are."""
        node_table.require_whole(self._database, writer)
        if known is None or known.mount_id != mount.mount_id or known.role is Role.READER:
            raise self._refusal(f"{self._state_dir} is not that of the node that writes there")
        if writer.state != NodeState.LIVE or writer.epoch not in known.epochs:
            raise self._refusal(
                f"node {writer.name} writes in the place of this state directory since, or a copy "
                "of it was mounted: use the one that was mounted last"
            )
        number, _ = self._engine._database.read_followed()
        if number != writer.seq:
            raise self._refusal(
                f"it has {writer.seq} changes of node {writer.name}, and {self._state_dir} has "
                f"{number}: mount it once more and unmount it, which brings both together"
            )
        self._require_no_readers()
        row_count = self._compare()
        epoch = writer.epoch + self._rng.randint(1, EPOCH_STEP_MAX)
        self._file.write(known._replace(epochs=(writer.epoch, epoch)))
        self._reach("move_out.noted")
        taken, _ = self._client.transact_blocking(
            [
                (_LEAVE, (epoch, writer.number, writer.epoch, writer.seq)),
                (_LEAVE_READERS, (epoch,)),
            ]
        )
        if not taken:
            raise self._refusal(
                f"node {writer.name} was mounted meanwhile, from a copy of {self._state_dir}",
                ExitCode.STATE_IN_USE,
            )
        self._reach("move_out.left")
        return row_count

    def _require_no_readers(self) -> None:
        """See that no machine reads: it would go on with names that get old without a word."""
        names = [
            node.name
            for node in node_table.list_nodes(self._client, self._database)
            if node.role == Role.READER and node.heard_s < AWAY_S
        ]
        if names:
            raise self._refusal(
                f"{', '.join(names)} read this mount: unmount it there, for good", ExitCode.BUSY
            )

    def _compare(self) -> int:
        """See that both have the same rows; returns how many."""
        connection = self._engine._database.connection
        comparing.prepare(connection)
        total = comparing.count_local(connection)
        note = Counter("compared", total, self._show)
        found = comparing.first_differences(connection, self._client, note, SHOWN_COUNT)
        if found:
            raise self._refusal(
                f"it has other rows than {self._state_dir} ({'; '.join(found)}), and nothing was "
                "changed: somebody else has changed its tables, or it was put back from a backup",
                ExitCode.PROBLEMS,
            )
        self._reach("move_out.compared")
        return total

    # --- the state directory ---------------------------------------------------------------------
    def _change(self, identity: StateId) -> None:
        """Make one of a single machine of the state directory, durably."""
        engine = self._engine
        if identity != engine.state_id:
            write_format(self._state_dir, engine._state_id, shared=True, writes_as=identity)
        self._reach("move_out.identified")
        engine._database.end_following()
        self._reach("move_out.uncounted")
        self._file.remove()
        self._reach("move_out.unnamed")
        write_format(self._state_dir, engine._state_id)
        self._reach("move_out.done")
