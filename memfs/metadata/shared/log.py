"""The log: what the node that writes has changed reaches a node that reads.

Each round asks the database in one round trip how many changes the writer has, and for those beyond
what this node has, and applies them. Who calls `barrier` is served by the next round that begins:
all that was committed before the call is applied then. A few rounds may be under way at a time, by
a connection each, so that nobody waits for the end of another one's before the own begins. Rounds
come by themselves too, so that names and attributes that the kernel keeps are old for a moment at
most.

Once a second the node notes in its row of the database how far it has got on stable storage: the
writer keeps the bodies of changes until then.

Invariant: what `barrier` has returned for is applied. Where the database does not answer in time,
or changes are missing, it raises; it never returns late knowledge as if it were news.
"""

from __future__ import annotations

import collections
import logging
import math
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.backoff import Backoff
from memfs.defects import as_failure
from memfs.errors import BehindError, CorruptDataError, DisconnectedError, MemfsError
from memfs.linux.boot import boot_time_s
from memfs.metadata.namespace import FROZEN_S
from memfs.metadata.shared import bodies
from memfs.signals import Signal

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from memfs.metadata.shared.applying import Effects
    from memfs.metadata.shared.bodies import Body
    from memfs.metadata.shared.writer import Session
    from memfs.metadata.sqlite.statements import Row
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

READ_STATE = (
    "select w.seq, w.name, r.epoch, r.state, w.epoch from node as w, node as r"
    " where w.role = 'writer' and r.node = $1"
)
READ_LOG = (
    "select c.seq, c.body from change as c join node as w on w.node = c.node"
    " where w.role = 'writer' and c.seq > $1 order by c.seq limit $2"
)
REPORT = (
    "update node set applied = greatest(applied, $1), beat = now()"
    " where node = $2 and epoch = $3 and state = 'live'"
)
REPORT_LAZILY = "set local synchronous_commit = off"
"""A report that is lost comes again; nobody waits for a disk."""

BODIES_A_TIME = 200
APPLIED_AT_ONCE = 20
"""So many changes are applied before others have the event loop; most have some five statements,
which take some 0.1 ms. Guess."""

ROUNDS_AT_ONCE = 3
"""Further connections are made once they would have served somebody."""

SILENT_S = 2.0
"""Who waits for an answer for so long is served by another connection as well: TCP doubles its
pauses, so that an old one hears of a network that is back only after about as long as it was cut.
All but the first are given up after so long."""

BEAT_S = 0.25
"""Between two rounds that nobody asks for. A round takes the server some 30 us. Guess."""
REPORT_S = 1.0

CONNECT_S_MIN, CONNECT_S_MAX = 0.1, 5.0
"""Pauses between attempts to connect, which double. Guess."""

TAKEN_COUNT_MAX = 65_536
"""Inodes remembered that have lost a name; some 8 MB."""

_LIVE = "live"


class ReaderNode(NamedTuple):
    """What a log is read as."""

    number: int
    """Its key in the table of nodes."""
    name: str
    database: str
    """Where the names are, for messages; without secrets."""
    epoch: int


class LogReport(NamedTuple):
    """How far a reader is."""

    node: str
    database: str
    writer: str
    connected: bool
    applied: int
    """Number of the writer's last change that this node has."""
    writer_seq: int
    """Number of the last one that the database is known to have."""
    behind_since: float | None
    """Seconds since 1970 at which the database answered last; None: it does."""
    reason: str | None
    """Why this node does not know the present; None: it does."""
    is_left_behind: bool
    """Changes are gone that it would need: it has to be mounted anew."""


class NameChanges:
    """Which inodes have lost a name lately, by numbers of changes."""

    def __init__(self) -> None:
        self._taken: collections.OrderedDict[InodeNo, int] = collections.OrderedDict()
        self._forgotten = 0
        """The last change of which something was forgotten."""
        self._way_taken = 0
        """The last change that removed, moved or replaced a directory or a symlink."""

    def note(self, number: int, effects: Effects) -> None:
        """Note what changes up to a number have taken."""
        for taken in effects.taken:
            self._taken[taken.ino] = number
            self._taken.move_to_end(taken.ino)
            if taken.leads_on:
                self._way_taken = number
        while len(self._taken) > TAKEN_COUNT_MAX:
            _, self._forgotten = self._taken.popitem(last=False)

    def lost_a_name(self, ino: InodeNo, since: int) -> bool:
        """Tell whether a path may have led to an inode that leads elsewhere, or nowhere, by now.

        Args:
            ino: What it led to.
            since: The last change that who walked the path has seen.
        """
        return max(self._way_taken, self._forgotten, self._taken.get(ino, 0)) > since


class Log:
    """Follows the writer; `run` is a task of the daemon.

    Args:
        node: This one.
        apply: See `Applying.apply`.
        sync: Makes what was applied survive power loss.
        applied: Number of the last one that it has; all up to there are on stable storage.
        connect: Returns a connection.
        limit_s: So long a barrier waits.
        rng: Gives jitter.
        reach: Told of each fault point.
        clock: Seconds, those in which the machine was suspended included.
    """

    def __init__(
        self,
        node: ReaderNode,
        apply: Callable[[Sequence[tuple[int, Body]]], Effects],
        sync: Callable[[], Awaitable[None]],
        applied: int,
        connect: Callable[[], Awaitable[Session]],
        limit_s: float,
        rng: random.Random,
        reach: Callable[[str], None] = lambda _point: None,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        self._node = node
        self._apply_changes = apply
        self._sync = sync
        self._connect = connect
        self._rng = rng
        self._reach = reach
        self.limit_s = limit_s
        self.applied = applied
        """Number of the last change of the writer that was applied."""
        self.writer_epoch = 0
        """The highest epoch of the writer's row that was seen; it never falls."""
        self.name_changes = NameChanges()
        self.tell: Callable[[Effects], None] = lambda _effects: None
        """Told of what was applied just now; the daemon sets it."""
        self._sessions: dict[int, Session] = {}
        """By the task that asks by it; the first one also asks by itself."""
        self._writer_seq = applied
        self._writer = ""
        self._reported = applied
        self._report_s = float("-inf")
        self._asked = self._begun = self._served = 0
        """How many barriers were asked for, and for which of them a round has begun, and ended."""
        self._is_silent = False
        """Somebody waits, and no round has ended for a while."""
        self._asks = Signal()
        self._told = Signal()
        self._refusal: BehindError | None = None
        """Why nothing is told any more, for good."""
        self._reason: str | None = None
        self._answered_at = time.time()
        self._clock = clock
        self._known_s = float("-inf")
        """All that was committed by then is applied, by `clock`."""

    # --- asking ----------------------------------------------------------------------------------
    async def barrier(self) -> int:
        """Return once all is applied that the database had when this was called.

        Checkpoint: always. Cancel: safe.

        Returns:
            The number of the last change that is applied.

        Raises:
            BehindError: The database does not answer in time, or changes are missing.
        """
        self._asked += 1
        mine = self._asked
        self._asks.set()
        with trio.move_on_after(self.limit_s):
            while self._served < mine and self._refusal is None:
                await self._told.wait(self._told.count)
        if self._served < mine:
            raise self._behind()
        await trio.lowlevel.checkpoint()
        return self.applied

    async def wait_beyond(self, number: int) -> int:
        """Return once a later change than `number` is applied, with the number of the last one.

        Checkpoint: always. Cancel: safe.

        Raises:
            BehindError: Changes are missing.
        """
        while self.applied <= number:
            if self._refusal is not None:
                raise self._behind()
            await self._told.wait(self._told.count)
        await trio.lowlevel.checkpoint()
        return self.applied

    @property
    def is_fresh(self) -> bool:
        """Whether all is applied that was committed `FROZEN_S` ago."""
        return self._refusal is None and self._clock() - self._known_s < FROZEN_S

    def report(self) -> LogReport:
        """Return how far this node is."""
        is_well = self._reason is None and self._refusal is None
        return LogReport(
            self._node.name,
            self._node.database,
            self._writer,
            bool(self._sessions),
            self.applied,
            self._writer_seq,
            None if is_well else self._answered_at,
            str(self._refusal) if self._refusal is not None else self._reason,
            self._refusal is not None,
        )

    def _behind(self) -> BehindError:
        if self._refusal is not None:
            return BehindError(str(self._refusal))
        return BehindError(
            f"what node {self._writer or 'that writes'} has changed is not known: "
            f"{self._node.database} has not answered for {self.limit_s:g} s"
            f"{': ' + self._reason if self._reason else ''}"
        )

    # --- following -------------------------------------------------------------------------------
    def begin(self, session: Session, writer: str) -> None:
        """Go on with a connection that is there."""
        self._sessions[0], self._writer = session, writer

    def close(self) -> None:
        """Close the connections."""
        for at in [*self._sessions]:
            self._close(at)

    def _close(self, at: int) -> None:
        session = self._sessions.pop(at, None)
        if session is not None:
            session.close()

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                for at in range(ROUNDS_AT_ONCE):
                    nursery.start_soon(self._serve, at)
        finally:
            self.close()

    async def _watch(self) -> None:
        """Have others serve those whose round is not answered."""
        while True:
            asked, served = self._asked, self._served
            await trio.sleep(SILENT_S)
            if asked > served == self._served:
                self._is_silent = True
                self._begun = served
                self._asks.set()

    async def _serve(self, at: int) -> None:
        """Do rounds by one connection, and by the next one where that is lost."""
        backoff = Backoff(CONNECT_S_MIN, CONNECT_S_MAX, self._rng)
        while self._refusal is None:
            try:
                if at not in self._sessions:
                    if at:
                        await self._until_needed()
                    self._sessions[at] = await self._connect_within(
                        math.inf if not at else SILENT_S
                    )
                await self._follow(at, self._sessions[at], backoff)
            except (BehindError, CorruptDataError) as error:
                self._refuse(error)
            except Exception as error:
                failure = as_failure(error, f"the log of {self._node.database}")
                if not at:
                    self._note_failure(failure)
                self._close(at)
                # Others serve those for whom this round had begun.
                self._begun = self._served
                self._asks.set()
                await trio.sleep(backoff.fail())
        await trio.sleep_forever()

    async def _connect_within(self, limit_s: float) -> Session:
        with trio.move_on_after(limit_s):
            return await self._connect()
        raise DisconnectedError(f"no connection in {limit_s:g} s")

    async def _until_needed(self) -> None:
        """Return once somebody waits although each connection that there is has a round."""
        while self._asked == self._begun or (self._begun == self._served and not self._is_silent):
            await self._asks.wait(self._asks.count)

    async def _follow(self, at: int, session: Session, backoff: Backoff) -> None:
        while self._refusal is None:
            seen, asked = self._asks.count, self._asked
            if asked > self._begun or not at:
                self._begun = asked
                await self._round(session, is_first=not at)
                backoff.reset()
                self._is_silent = False
                self._reason, self._answered_at = None, time.time()
                self._served = max(self._served, asked)
                self._told.set()
            if self._asked == self._begun:
                with trio.move_on_after(math.inf if at else BEAT_S):
                    await self._asks.wait(seen)
            else:
                await trio.lowlevel.checkpoint()

    async def _round(self, session: Session, *, is_first: bool) -> None:
        """Apply all that the database has now.

        Args:
            session: The connection.
            is_first: By it the database is told how far this node is, if that is due. It is waited
                for as long as anybody waits: a database may be slow.
        """
        report = await self._due_report() if is_first else []
        limit_s = self.limit_s if is_first else min(self.limit_s, SILENT_S)
        while True:
            before, begun_s = self.applied, self._clock()
            found, *_, changes = await session.transact(
                [
                    (READ_STATE, (self._node.number,)),
                    *report,
                    (READ_LOG, (before, BODIES_A_TIME)),
                ],
                limit_s,
            )
            report = []
            seq = self._checked_state(found, before)
            self._reach("reader.fetched")
            await self._apply(changes, seq)
            if self.applied >= seq:
                self._known_s = max(self._known_s, begun_s)
                return

    async def _due_report(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the statements that report how far this node is, if that is due."""
        now_s = trio.current_time()
        if now_s < self._report_s + REPORT_S:
            return []
        self._report_s, number = now_s, self.applied
        if number != self._reported:
            await self._sync()
            self._reported = number
        return [
            (REPORT_LAZILY, ()),
            (REPORT, (number, self._node.number, self._node.epoch)),
        ]

    def _checked_state(self, found: Sequence[Row], before: int) -> int:
        """Return the number of the writer's last change.

        Args:
            found: What `READ_STATE` has told.
            before: What was applied when that was asked.

        Raises:
            BehindError: This node cannot follow any more.
            DisconnectedError: There is no writer.
        """
        if not found:
            raise DisconnectedError("the table of nodes lacks the one that writes, or this one")
        ((seq, self._writer, epoch, state, writer_epoch),) = found
        if epoch != self._node.epoch:
            raise BehindError(
                f"another process has taken the place of node {self._node.name} of "
                f"{self._node.database}: a copy of this state directory is mounted; unmount one of "
                "the two"
            )
        if seq < before:
            raise BehindError(
                f"{self._node.database} has {seq} changes of node {self._writer}, and this node "
                f"{before}: it was put back from a backup; unmount, and mount again, which "
                "reads all names anew"
            )
        if state != _LIVE:
            raise self._left_behind()
        self._writer_seq = max(self._writer_seq, int(seq))
        self.writer_epoch = max(self.writer_epoch, int(writer_epoch))
        return int(seq)

    def _left_behind(self) -> BehindError:
        return BehindError(
            f"{self._node.database} has not kept the changes of node {self._writer} since number "
            f"{self.applied}, which this node needs next: it was away for longer than "
            "nodes.keep_changes; unmount, and mount again, which reads all names anew"
        )

    async def _apply(self, changes: Sequence[Row], seq: int) -> None:
        if not changes and self.applied < seq:
            raise self._left_behind()
        for at in range(0, len(changes), APPLIED_AT_ONCE):
            # Another round may have applied some of them.
            decoded = [
                (int(number), bodies.decode(bytes(data)))
                for number, data in changes[at : at + APPLIED_AT_ONCE]
                if number > self.applied
            ]
            if not decoded:
                continue
            for before, (number, _) in enumerate(decoded, self.applied + 1):
                if number != before:
                    raise self._left_behind()
            effects = self._apply_changes(decoded)
            self.applied = decoded[-1][0]
            self._reach("reader.applied")
            self.name_changes.note(self.applied, effects)
            self.tell(effects)
            self._told.set()
            await trio.lowlevel.checkpoint()

    # --- failing ---------------------------------------------------------------------------------
    def _note_failure(self, error: MemfsError | OSError) -> None:
        reason = str(error)
        if reason != self._reason:
            log.info("%s: %s", self._node.database, reason)
        self._reason = reason

    def _refuse(self, error: BehindError | CorruptDataError) -> None:
        if isinstance(error, BehindError):
            self._refusal = error
        else:
            self._refusal = BehindError(
                f"{self._node.database}: {error}; unmount, and mount again, which reads all names "
                "anew"
            )
        log.error("%s; open files can be read on", self._refusal)
        self._told.set()
        self._asks.set()
