"""The writer: sends the entries of this node's journal to the database of the mount.

All entries that wait go as one group: one transaction, one round trip. It begins with the row of
this node, which has the epoch of its connection and the number of its last entry, and which no
other group can change meanwhile:

1. The group is on its way. *Killed, or cut off*: nobody knows whether it is committed. A new
   connection takes a new epoch, which waits for a transaction under way and shuts out one that has
   not begun, and is told the number of the last entry. The others are sent again.
2. It is committed, and who waits is told. *Killed before*: the next start is told the same.

The database keeps the bodies of entries until this node has them on stable storage (`following`),
and all nodes that read have applied them. One that has not been heard of for `nodes.keep_changes`,
or lacks too many, is left behind: it reads all tables again when it comes back.

Invariant: entries are committed there in order, each exactly once; what was told to be confirmed is
committed.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import marshal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from memfs.backoff import Backoff
from memfs.defects import as_failure
from memfs.errors import (
    DatabaseError,
    DisconnectedError,
    MemfsError,
    MetadataError,
    UnconfirmedError,
)
from memfs.metadata.shared import bodies
from memfs.signals import Signal

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from memfs.metadata.shared.outbox import Entry, Outbox
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from memfs.metadata.sqlite.tables import Record

log = logging.getLogger(__name__)

Statement = tuple[str, "Sequence[SqlValue]"]

READ_NODE = "select epoch, seq, name from node where node = $1"
TAKE_EPOCH = "update node set epoch = $1, beat = now() where node = $2 and epoch = $3 returning seq"
ADVANCE = (
    "with moved as (update node set seq = $1, beat = now()"
    " where node = $2 and epoch = $3 and seq = $4 returning 1)"
    " select 1 / count(*) from moved"
)
"""Fails if this is not the node's epoch any more, or other entries are missing, and the whole group
with it."""
NOT_MOVED = "22012"
"""The SQLSTATE of that, division_by_zero."""
NOTE_END = "update node set applied = epoch where node = $1 and epoch = $2"
"""The node has ended in order: nobody has to wait until it is silent. The next epoch forgets it."""
INSERT_CHANGE = "insert into change (node, seq, at, body) values ($1, $2, now(), $3)"
LEAVE_BEHIND = (
    "update node set state = 'behind' where node in (select node from node"
    " where role = 'reader' and state = 'live'"
    " and (applied < $1 or beat < now() - $2 * interval '1 second')"
    " for update skip locked)"
)
"""A row that is locked is just being heard of, or the next group sees to it: nobody waits here."""
TRIM = (
    "with readers as (select coalesce(min(applied), $2::bigint) as applied"
    " from node where role = 'reader' and state = 'live'),"
    " trimmed as (delete from change using readers"
    " where node = $1 and seq <= least($2::bigint, applied))"
    " select applied from readers"
)
"""Removes bodies that all have; returns which changes all nodes that read have applied."""

END_FORMER = (
    "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1"
    " and datname = current_database() and usename = current_user and pid <> pg_backend_pid()"
)
READ_OTHERS = (
    "select coalesce(host(client_addr), 'this machine'), backend_start::text"
    " from pg_stat_activity where datname = current_database() and usename = current_user"
    " and pid <> pg_backend_pid() order by backend_start limit 10"
)
"""Who else is connected as this user."""

RETRIED = ("40001", "40P01")
"""Serialization failure and deadlock: the same transaction may succeed now."""
RETRIES_MAX = 10
RETRY_S_MAX = 0.2
"""Pauses between those are shorter."""

GROUP_COUNT_MAX = 1000
GROUP_BYTES_MAX = 4 << 20
"""Bytes of journal in a group, but for a single entry that has more."""

LOCAL_S = 1.0
"""An entry that no program waits for goes with the next group, or after so long."""
TRIM_S = 1.0
"""Between two groups that remove bodies."""
KEPT_COUNT_MAX = 10_000_000
"""A node that reads and lacks more changes is left behind: they take some 2 GB."""
BEAT_S = 5.0
"""A connection without work is tried so often: one that is lost is known before a program waits."""

CONNECT_S_MIN, CONNECT_S_MAX = 0.1, 5.0
"""Pauses between attempts to connect, which double. Guess."""

EPOCH_STEP_MAX = 1 << 20
"""A new epoch is greater by a random number: so a node whose answer was lost knows its own."""


class Session(Protocol):
    """A connection to the database."""

    @property
    def backend_pid(self) -> int:
        """Process id of the server's process for it."""
        ...

    async def transact(
        self, statements: Sequence[Statement], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """See `Client.transact`."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Node(NamedTuple):
    """What a writer writes as."""

    number: int
    """Its key in the tables."""
    name: str
    database: str
    """Where its names are, for messages; without secrets."""


class Report(NamedTuple):
    """How the writer is doing."""

    node: str
    database: str
    epoch: int
    connected: bool
    cut_off_since: float | None
    """Seconds since 1970; None: changes are taken."""
    reason: str | None
    """Why the database did not answer last; None: it does."""
    unconfirmed_count: int
    unconfirmed_bytes: int
    unconfirmed_age_s: float
    """That of the oldest one."""
    group_count: int
    """Groups that were committed."""
    entry_count: int
    """Entries in them."""
    retries: tuple[tuple[str, int], ...]
    """How often groups were sent again, by SQLSTATE; `lost`: a connection."""


class FencedError(MetadataError):
    """Another process has taken this node's place, or the database is not the one it was."""


class Writer:
    """Sends the entries of an outbox; `run` is a task of the daemon.

    Args:
        node: This node.
        outbox: Has the entries.
        connect: Returns a connection.
        translate: Returns what records do to the shared tables, as statements.
        keep_epochs: Notes which epochs the row of this node may have, on stable storage.
        durable_number: Returns up to which number entries survive power loss here.
        refuse: Told why changes are refused from now on; None: they are taken again.
        rng: Gives jitter, and epochs.
        reach: Told of each fault point.
        note_latency: Told how many seconds each group took.
        keep_changes_s: For so long changes are kept for nodes that read and are not heard of.
    """

    def __init__(
        self,
        node: Node,
        outbox: Outbox,
        connect: Callable[[], Awaitable[Session]],
        translate: Callable[[Iterable[Record]], Sequence[Statement]],
        keep_epochs: Callable[[tuple[int, int]], None],
        durable_number: Callable[[], int],
        refuse: Callable[[MetadataError | None], None],
        rng: random.Random,
        reach: Callable[[str], None] = lambda _point: None,
        note_latency: Callable[[float], None] = lambda _seconds: None,
        keep_changes_s: float = 3600.0,
    ) -> None:
        self._node = node
        self._outbox = outbox
        self._connect = connect
        self._translate = translate
        self._keep_epochs = keep_epochs
        self._durable_number = durable_number
        self._refuse = refuse
        self._rng = rng
        self._reach = reach
        self._note_latency = note_latency
        self._session: Session | None = None
        self._pid = 0
        """That of the server's process for the present session, or the last one."""
        self._epoch = 0
        self._wanted = 0
        """The epoch that it is about to take, or has taken without an answer."""
        self._asked_s: float | None = None
        """When the database was asked what it has not answered yet."""
        self._cut_off_since: float | None = None
        self._reason: str | None = None
        self._fence: FencedError | None = None
        self._defect: tuple[str, MemfsError | OSError] | None = None
        """The last failure, by what it looks like."""
        self._keep_changes_s = keep_changes_s
        self._durable = 0
        self._trimmed_s = float("-inf")
        self._is_ending = False
        """A group is to go, even without entries."""
        self._ended = Signal()
        self.applied_by_readers = 0
        """All nodes that read have applied the changes up to here, but those that are behind."""
        self._group_count = self._entry_count = 0
        self._retries: collections.Counter[str] = collections.Counter()

    def begin(self, session: Session, epoch: int) -> None:
        """Go on with a connection that has an epoch already; what it was told is confirmed."""
        self._session, self._epoch, self._wanted = session, epoch, epoch
        self._pid = session.backend_pid

    def report(self) -> Report:
        """Return how it is doing."""
        outbox = self._outbox
        return Report(
            self._node.name,
            self._node.database,
            self._epoch,
            self._session is not None,
            self._cut_off_since,
            self._reason,
            outbox.count,
            outbox.bytes,
            outbox.age_s,
            self._group_count,
            self._entry_count,
            tuple(sorted(self._retries.items())),
        )

    @property
    def last_change(self) -> int:
        """Number of the last change of this node, confirmed or not."""
        return self._outbox.number

    @property
    def epoch(self) -> int | None:
        """The present epoch; None: another process may have a later one, as nobody answers."""
        if self._session is None or self._fence is not None or self._cut_off_since is not None:
            return None
        return self._epoch

    async def run(self) -> None:
        """Send entries until cancelled, or until another process has this node's place."""
        outbox = self._outbox
        outbox.server = threading.get_ident()
        self._asked_s = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await self._serve(self._send_for_ever)
                nursery.cancel_scope.cancel()
        finally:
            outbox.server = None
            self.close()

    async def finish(self) -> None:
        """Return once `run` has sent everything, is cut off, or has had the time for it.

        Bodies go that are on stable storage here, and that no node which reads lacks.
        """
        outbox = self._outbox
        # Also entries that nobody waits for go at once.
        outbox.added.set()
        with contextlib.suppress(UnconfirmedError):
            await outbox.wait(outbox.number)
            await self._remove_bodies()

    async def _remove_bodies(self) -> None:
        """Have `run` send a last group without entries, which removes bodies that nobody needs."""
        self._trimmed_s = float("-inf")
        self._is_ending = True
        self._outbox.added.set()
        with trio.move_on_after(self._outbox.limit_s):
            while self._is_ending and self._outbox.refusal is None:
                await self._ended.wait(self._ended.count)

    async def send_all(self) -> None:
        """Send what there is, where no `run` does. Bounded by the limit.

        Raises:
            MetadataError: Not all of it could be sent.
        """
        self._asked_s = None
        with trio.move_on_after(self._outbox.limit_s):
            await self._serve(self._send_what_there_is)
        self.close()
        if self._outbox.count:
            raise self._fence or self._refusal()

    def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # --- connections -----------------------------------------------------------------------------
    async def _serve(self, work: Callable[[Session], Awaitable[None]]) -> None:
        """Do some work with a connection, and with the next one where that fails."""
        backoff = Backoff(CONNECT_S_MIN, CONNECT_S_MAX, self._rng)
        while self._fence is None:
            try:
                if self._session is None:
                    self._ask()
                    await self._begin_session(await self._connect())
                    backoff.reset()
                assert self._session is not None
                await work(self._session)
            except FencedError as error:
                self._note_fence(error)
            except Exception as error:
                # A defect as well cuts the node off after a while, and a later version may send it.
                self._note_failure(self._failure_of(error))
                pause_s = backoff.fail()
            else:
                return
            self.close()
            if self._fence is None:
                await trio.sleep(pause_s)

    async def _begin_session(self, session: Session) -> None:
        """Take an epoch, and see which entries are committed."""
        me, outbox = self._node.number, self._outbox
        self._session = session
        # It may wait for the rest of a group that will never come, and hold the node's row.
        former_pid, self._pid = self._pid, session.backend_pid
        _, found = await session.transact(
            [(END_FORMER, (former_pid,)), (READ_NODE, (me,))], outbox.limit_s
        )
        former, _, name = found[0] if found else (None, 0, "")
        if former not in (self._epoch, self._wanted):
            raise FencedError(await self._describe_fence(session, name))
        if former == self._wanted:
            self._epoch = former
            self._wanted = self._epoch + self._rng.randint(1, EPOCH_STEP_MAX)
            try:
                self._keep_epochs((self._epoch, self._wanted))
            except OSError as error:
                raise MetadataError(f"the epoch cannot be noted: {error}") from error
        epoch = self._wanted
        (taken,) = await session.transact([(TAKE_EPOCH, (epoch, me, former))], outbox.limit_s)
        if not taken:
            # An earlier attempt has just succeeded; or it was another process, as is seen next.
            raise DisconnectedError("the epoch of this node has changed meanwhile")
        self._epoch = epoch
        self._reach("node.taken")
        (number,) = taken[0]
        if not outbox.confirmed <= number <= outbox.number:
            raise FencedError(
                f"{self._node.database} has {number} changes of this node, and confirmed "
                f"{outbox.confirmed} of {outbox.number}: it was put back from a backup, or has "
                "failed over to a server that lacked the last ones; unmount, and put the database "
                "back as it was, or make a new state directory for this node"
            )
        if number > outbox.confirmed:
            outbox.confirm(number)
            self._answered()

    async def _describe_fence(self, session: Session, name: str) -> str:
        if name not in ("", self._node.name):
            return (
                f"{self._node.database}: node {name} writes in the place of node "
                f"{self._node.name} since (memfs node promote): unmount this one"
            )
        others = await session.transact([(READ_OTHERS, ())], self._outbox.limit_s)
        told = ", ".join(f"{each[0]} since {each[1]}" for each in others[0])
        return (
            f"another process has taken the place of node {self._node.name} of "
            f"{self._node.database}: connected are {told or 'no others now'}; a copy of this state "
            "directory is mounted: unmount one of the two"
        )

    # --- groups ----------------------------------------------------------------------------------
    async def _send_for_ever(self, session: Session) -> None:
        outbox = self._outbox
        beat_s = trio.current_time() + BEAT_S
        while True:
            seen = outbox.added.count
            if not outbox.waits and self._cut_off_since is None:
                with trio.move_on_after(LOCAL_S):
                    await outbox.added.wait(seen)
                if not (outbox.count or self._is_ending) and trio.current_time() < beat_s:
                    continue
            # One without entries tells that the database answers.
            is_last = self._is_ending and not outbox.count
            await self._send_group(session)
            if is_last:
                self._is_ending = False
                self._ended.set()
            beat_s = trio.current_time() + BEAT_S

    async def _send_what_there_is(self, session: Session) -> None:
        while self._outbox.count:
            await self._send_group(session)

    async def _send_group(self, session: Session) -> None:
        outbox = self._outbox
        # Those who are to be served at the same time join.
        await trio.lowlevel.checkpoint()
        entries = outbox.first(GROUP_COUNT_MAX, GROUP_BYTES_MAX)
        last = entries[-1].number if entries else outbox.confirmed
        statements = self._group(entries, last)
        is_trimmed = self._trim(statements)
        self._ask()
        begun_s = trio.current_time()
        self._reach("node.sending")
        answers = await self._transact(session, statements)
        self._reach("node.confirmed")
        self._note_latency(trio.current_time() - begun_s)
        if is_trimmed:
            ((self.applied_by_readers,),) = answers[-1]
        self._group_count += bool(entries)
        self._entry_count += len(entries)
        outbox.confirm(last)
        self._answered()

    def _group(self, entries: Sequence[Entry], last: int) -> list[Statement]:
        me, before = self._node.number, self._outbox.confirmed
        statements: list[Statement] = [(ADVANCE, (last, me, self._epoch, before))]
        changes: list[Record] = []
        for entry in entries:
            records, totals = marshal.loads(entry.payload)
            body = bodies.encode(entry.fingerprint, records, totals)
            statements.append((INSERT_CHANGE, (me, entry.number, body)))
            changes += records
        return [*statements, *self._translate(changes)]

    def _trim(self, statements: list[Statement]) -> bool:
        """Have a group remove bodies that nobody needs, if that is due; the last statement does."""
        now_s = trio.current_time()
        if now_s - self._trimmed_s < TRIM_S:
            return False
        self._trimmed_s = now_s
        confirmed = self._outbox.confirmed
        self._durable = max(self._durable, self._durable_number())
        limits = (confirmed - KEPT_COUNT_MAX, self._keep_changes_s)
        statements.append((LEAVE_BEHIND, limits))
        statements.append((TRIM, (self._node.number, min(self._durable, confirmed))))
        return True

    async def _transact(self, session: Session, statements: Sequence[Statement]) -> list[list[Row]]:
        for attempt in range(RETRIES_MAX + 1):
            try:
                return await session.transact(statements, self._outbox.limit_s)
            except DatabaseError as error:
                if error.sqlstate == NOT_MOVED:
                    # The next connection asks why.
                    raise DisconnectedError("the row of this node is not as it was") from error
                self._retries[error.sqlstate] += 1
                if error.sqlstate not in RETRIED or attempt == RETRIES_MAX:
                    raise
            await trio.sleep(self._rng.uniform(0, RETRY_S_MAX))
        raise AssertionError("the last attempt returns or raises")

    # --- cut off, and back -----------------------------------------------------------------------
    def _ask(self) -> None:
        if self._asked_s is None:
            self._asked_s = trio.current_time()

    def _answered(self) -> None:
        self._asked_s = None
        self._reason = None
        if self._cut_off_since is not None and not self._outbox.waits:
            lasted_s = time.time() - self._cut_off_since
            log.warning(
                "%s answers again after %.0f s: changes are taken", self._node.database, lasted_s
            )
            self._cut_off_since = None
            self._tell(None)

    async def _watch(self) -> None:
        """Cut the node off once the database has not answered for the limit."""
        limit_s = self._outbox.limit_s
        while True:
            now_s = trio.current_time()
            due_s = (now_s if self._asked_s is None else self._asked_s) + limit_s
            if due_s <= now_s and self._cut_off_since is None and self._fence is None:
                self._cut_off()
            await trio.sleep_until(due_s if due_s > now_s else now_s + limit_s)

    def _cut_off(self) -> None:
        self._cut_off_since = time.time() - self._outbox.limit_s
        refusal = self._refusal()
        log.warning("%s; reading goes on", refusal)
        self._tell(refusal)

    def _refusal(self) -> MetadataError:
        return MetadataError(
            f"changes are refused: {self._node.database} has not answered for "
            f"{self._outbox.limit_s:g} s"
            f"{': ' + self._reason if self._reason else ''}"
        )

    def _failure_of(self, error: Exception) -> MemfsError | OSError:
        """Return an error as the reason why the database has not answered."""
        known = self._defect
        if known is None or known[0] != repr(error):
            # It comes again every few seconds, and is logged once.
            failure = as_failure(error, f"changes for {self._node.database}")
            known = self._defect = repr(error), failure
        return known[1]

    def _note_failure(self, error: MemfsError | OSError) -> None:
        reason = str(error)
        if reason != self._reason:
            log.info("%s: %s", self._node.database, reason)
        self._reason = reason
        if isinstance(error, DisconnectedError):
            self._retries["lost"] += 1

    def _note_fence(self, error: FencedError) -> None:
        self._fence = error
        self._reason = str(error)
        self._cut_off_since = self._cut_off_since or time.time()
        log.error("%s; no change is taken until then", error)
        self._tell(error)

    def _tell(self, refusal: MetadataError | None) -> None:
        self._refuse(refusal)
        self._outbox.refuse(refusal)
