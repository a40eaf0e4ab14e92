"""The start of a node: its state directory and the database are brought to the same changes.

1. A connection; the database's format and mount are looked at. Nothing was touched yet.
2. The local engine recovers as ever, and keeps what it redoes (`sqlite.following`).
3. A new state directory is marked as a node's, and the row of the node is made, with the root
   directory, in one transaction.
4. Another epoch is noted in the file `node`, then taken: a group of an earlier process that is
   under way ends before, and one that has not begun never will (`node.taken`).
5. Where the database has more changes, as after power loss here, their bodies are redone here, in
   order, and made durable (`node.caught_up`). Where it has fewer, the writer sends the rest.

Killed at any point, the next start does what is left of it.

Invariant: a node that ends up here has all changes that the database has, in the same order; where
some are missing on either side, nothing was changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from memfs import __version__
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import bodies
from memfs.metadata.shared.node_file import Membership
from memfs.metadata.shared.node_table import READ_LOG, NodeRow
from memfs.metadata.shared.outbox import Outbox
from memfs.metadata.shared.tables import TABLES
from memfs.metadata.shared.writer import (
    EPOCH_STEP_MAX,
    TAKE_EPOCH,
    Node,
    Session,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memfs.errors import MetadataError
    from memfs.metadata.shared.node_file import NodeFile
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.shared.writer import Statement
    from memfs.metadata.sqlite.database import Database
    from memfs.metadata.sqlite.statements import Row
    from memfs.metadata.sqlite.tables import Record
    from memfs.types import StateId

COUNT_BODIES = "select count(*) from change where node = $1 and seq > $2 and seq <= $3"

BODIES_A_TIME = 200


def no_answer(database_name: str, error: MetadataError) -> UsageError:
    """Return why a start is refused where the database refuses, or does not answer.

    Args:
        database_name: Where the names are, for messages.
        error: What it, or the way to it, has said.
    """
    told = str(error)
    told = told if database_name in told else f"{database_name}: {told}"
    return UsageError(told, ExitCode.NO_ANSWER)


class FirstSession(Session, Protocol):
    """A connection that a start uses, where no event loop runs; see `schema` and `Client`."""

    def check(self) -> Mount:
        """Return the mount that the database has; UsageError: it has not, or another one."""
        ...

    def find_nodes(self) -> list[NodeRow]:
        """Return all nodes of the mount."""
        ...

    def find_writer(self) -> NodeRow | None:
        """Return the node that writes; None: no state directory has taken part yet."""
        ...

    def come_back(self, present: NodeRow, name: str, version: str) -> None:
        """Note the name and the version of a node; UsageError: another one has the name."""
        ...

    def join(self, node: NodeRow, rows: Iterable[tuple[SharedTable, Iterable[Row]]]) -> NodeRow:
        """Have a state directory write, or come back; UsageError: another one does."""
        ...

    def join_reader(self, name: str, state_id: bytes, version: str) -> NodeRow:
        """Have a state directory read in the mount; UsageError: it cannot."""
        ...

    def transact_blocking(
        self, statements: Sequence[Statement], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """Run statements as one transaction."""
        ...


class Connector(Protocol):
    """Makes connections to the database of the mount."""

    @property
    def name(self) -> str:
        """Where it is, for messages; without secrets."""
        ...

    def connect_blocking(self) -> FirstSession:
        """Return a connection.

        Raises:
            DatabaseError, DisconnectedError: It refuses, or does not answer in time.
        """
        ...

    async def connect(self) -> Session:
        """Do so without blocking the event loop. Checkpoint: always. Cancel: safe."""
        ...


class Joined(NamedTuple):
    """A node that has begun."""

    node: Node
    epoch: int
    outbox: Outbox


class Joining:
    """One start.

    Args:
        session: A connection whose schema was looked at.
        mount: What the database says of itself.
        database_name: Where the names are, for messages.
        local: The tables of the state directory, just opened.
        file: Its file `node`.
        name: That of this node.
        state_id: That of the state directory.
        limit_s: So long a change will be waited for.
        is_shared: As of `Outbox`.
        rng: Gives epochs.
        reach: Told of each fault point.
    """

    def __init__(
        self,
        session: FirstSession,
        mount: Mount,
        database_name: str,
        local: Database,
        file: NodeFile,
        name: str,
        state_id: StateId,
        limit_s: float,
        is_shared: Callable[[Sequence[Record]], bool],
        rng: random.Random,
        reach: Callable[[str], None],
    ) -> None:
        self._session = session
        self._mount = mount
        self._database_name = database_name
        self._local = local
        self._file = file
        self._name = name
        self._state_id = state_id
        self._limit_s = limit_s
        self._is_shared = is_shared
        self._rng = rng
        self._reach = reach

    def run(self, mark: Callable[[], None]) -> Joined:
        """Do the steps from 3 on.

        Args:
            mark: Marks the state directory as a node's, for good.

        Raises:
            UsageError: The two do not belong together, or changes are missing; nothing was changed.
            DatabaseError, DisconnectedError: The database refuses, or does not answer.
            MetadataError, OSError: The state directory cannot be used.
        """
        known = self._file.read()
        if known is not None and known.mount_id != self._mount.mount_id:
            raise self._refusal(
                "this state directory belongs to a node of another mount: name the database of "
                "that one by metadata.url, or another directory by --state"
            )
        here = NodeRow(0, self._name, bytes(self._state_id), 0, 0, __version__)
        if self._session.find_writer() is None:
            self._begin(known, mark)
            row = self._session.join(here, self._rows())
            self._reach("node.made")
            known = self._file.read()
        else:
            row = self._session.join(here, ())
        node, epoch, number = self._take_epoch(row, known)
        self._session.come_back(row, self._name, __version__)
        outbox = self._open_outbox(number)
        if outbox.number < number:
            self._catch_up(node, outbox, number)
        self._local.follow(outbox)
        return Joined(node, epoch, outbox)

    def _refusal(self, reason: str) -> UsageError:
        return UsageError(f"{self._database_name}: {reason}", ExitCode.STATE_UNUSABLE)

    # --- the first start -------------------------------------------------------------------------
    def _begin(self, known: Membership | None, mark: Callable[[], None]) -> None:
        """Make a node of a new state directory; its row is made next."""
        self._require_new(known)
        self._file.write(Membership(self._mount.mount_id, (0,)))
        mark()
        self._local.begin_following()
        self._reach("node.marked")

    def _require_new(self, known: Membership | None) -> None:
        """See that the state directory has only what each new one has."""
        number, _ = self._local.read_followed()
        counts = (
            f"(select count(*) from {each.name})" for each in TABLES if each.name != "setting"
        )
        row = self._local.row(f"select {', '.join(counts)}")
        assert row is not None
        if not number and sum(row) == 1:
            return
        if known is None:
            raise self._refusal(
                "this state directory has files, and the database has not: have them move there, "
                "by `memfs migrate STATE URL`, or name a new directory by --state"
            )
        raise self._refusal(
            "it does not know this node, which has changed files: it was made anew, or put back "
            "from a backup; put the database back as it was"
        )

    def _rows(self) -> Iterator[tuple[SharedTable, Iterable[Row]]]:
        """Yield what the shared tables begin with."""
        for table in TABLES:
            yield table, self._local.rows(table.select_local)

    # --- each further start ----------------------------------------------------------------------
    def _take_epoch(self, row: NodeRow, known: Membership | None) -> tuple[Node, int, int]:
        """Take another epoch; returns the node with it, and with how many changes there are."""
        number, name, _, former, seq = row[:5]
        node = Node(number, self._name, self._database_name)
        if known is None or former not in known.epochs:
            raise self._refusal(
                f"node {name} writes in the place of this state directory since: it has taken over "
                "(memfs node promote), or a copy of this directory was mounted, or this is an "
                "older copy; mount the one that was mounted last, or have this one read, by "
                'role = "reader" in [nodes], which puts what it alone has into lost+found'
            )
        self._require_no_gap(node, seq)
        epoch = former + self._rng.randint(1, EPOCH_STEP_MAX)
        self._file.write(known._replace(epochs=(former, epoch)))
        (taken,) = self._session.transact_blocking([(TAKE_EPOCH, (epoch, number, former))])
        if not taken:
            raise self._refusal(f"another process has just taken the place of node {name}")
        self._reach("node.taken")
        # A group that was under way has ended since.
        (seq,) = taken[0]
        self._require_no_gap(node, seq)
        return node, epoch, seq

    def _require_no_gap(self, node: Node, seq: int) -> None:
        """See that each change that one side lacks is known to the other one."""
        number, kept = self._local.read_followed()
        number = number or 0
        first = kept[0].number if kept else number + 1
        if seq < number:
            if seq + 1 < first:
                raise self._refusal(
                    f"it has {seq} changes of node {node.name}, and has confirmed {first - 1}: it "
                    "was put back from a backup, or failed over to a server that lacked the last "
                    "ones; put the database back as it was"
                )
            return
        ((count,),) = self._session.transact_blocking([(COUNT_BODIES, (node.number, number, seq))])[
            0
        ]
        if count < seq - number:
            raise self._refusal(
                f"it has {seq} changes of node {node.name}, this state directory has {number}, and "
                f"only {count} of those between are kept: this is an older copy of the directory; "
                "mount the one that was mounted last"
            )

    def _open_outbox(self, seq: int) -> Outbox:
        number, kept = self._local.read_followed()
        outbox = Outbox(number or 0, kept, self._is_shared, self._limit_s)
        outbox.confirm(seq)
        return outbox

    def _catch_up(self, node: Node, outbox: Outbox, seq: int) -> None:
        """Redo here what the database has beyond, and make it durable."""
        self._local.follow(outbox)
        while outbox.number < seq:
            (rows,) = self._session.transact_blocking(
                [(READ_LOG, (node.number, outbox.number, BODIES_A_TIME))]
            )
            if not rows:
                raise self._refusal(f"changes of node {node.name} have gone while they were read")
            for number, data in rows:
                if number != outbox.number + 1:
                    raise self._refusal(f"change {outbox.number + 1} of node {node.name} is gone")
                body = bodies.decode(bytes(data))
                self._local.redo(body.records, body.totals)
                self._reach("node.redone")
        self._local.sync()
        self._reach("node.caught_up")
