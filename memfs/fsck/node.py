"""The state directory of a node of a shared mount: how it stands to the database, and its tables.

What is here and what is there may be of different changes: the node that writes may have some that
it has not sent, one that reads lacks the latest ones, and after power loss here the database has
more. The rows that such changes touch are passed over, and it is said how many. Where the next
mount makes all tables anew, or is refused, there is nothing to compare, and that is said.

Invariant: nothing is changed in the database, and here nothing but what opening the engine changes.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import CorruptDataError, DatabaseError, DisconnectedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.fsck.report import NodeReport, Problem, Remedies
from memfs.fsck.rows import compare
from memfs.metadata.shared import bodies
from memfs.metadata.shared.applying import Applying
from memfs.metadata.shared.filling import is_filled
from memfs.metadata.shared.instant import Instant
from memfs.metadata.shared.joining import BODIES_A_TIME
from memfs.metadata.shared.node_file import Role
from memfs.metadata.shared.node_table import READ_LOG, READ_NODES, NodeRow, NodeState
from memfs.metadata.shared.touched import Touched
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_state_id
from memfs.metadata.sqlite.statements import UNDERSTOOD
from memfs.sizes import format_count
from memfs.types import StateId

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.config import MetadataConfig
    from memfs.fsck.report import Progress
    from memfs.metadata.shared.instant import Session
    from memfs.metadata.shared.node_file import Membership
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.sqlite.following import KeptEntry

CHANGE_COUNT_MAX = 200_000
"""Changes between both sides of which it is told which rows they touch: some 50 MB."""

_READ_ANEW = "name a new directory by --state: it reads all names anew"
_TAKE_OVER = (
    "`memfs node check` tells whether the database is sound; if it is, have a machine that reads "
    "take over (`memfs node promote`); if this directory is right, `memfs snapshot export --wait` "
    "at its mount, and `memfs snapshot import`, make a mount of it"
)
_ANEW = "it copies all names from the database at its next mount"

OF_READERS = Remedies(
    metadata=f"mount with another state directory, {_READ_ANEW}",
    missing="the next mount reads its object",
    changed="the next mount reads its object, or else remove this raw file",
    resized="the next mount reads its object, or else remove this raw file",
    unknown="nothing reads it: remove it, or name a new directory by --state",
)
OF_WRITERS = Remedies(
    metadata=_TAKE_OVER,
    changed="the next mount reads another form of it, or else restore it with its times",
    resized="open it for writing once",
)


class Standing(NamedTuple):
    """How a state directory stands to the database."""

    touched: Touched
    """By the changes that one side lacks."""
    lag: str
    """What these are, and what becomes of them, a sentence; empty: both sides have all."""


def open_node(state_dir: Path, known: Membership, config: MetadataConfig) -> SqliteEngine:
    """Open the engine of a node that nobody has mounted; as `SqliteEngine.open`."""
    kind = Applying if known.role is Role.READER else SqliteEngine
    return kind.open(state_dir, config, shared=True)


class NodeCheck:
    """One state directory beside the database of its mount.

    Args:
        state_dir: The directory.
        known: What it says of its node.
        engine: Its engine, freshly opened.
    """

    def __init__(self, state_dir: Path, known: Membership, engine: SqliteEngine) -> None:
        self._state_dir = state_dir
        self._known = known
        self._engine = engine
        self._is_reader = known.role is Role.READER
        self._report = NodeReport(has_times=not self._is_reader)

    @property
    def remedies(self) -> Remedies:
        """What to do about what is here."""
        return OF_READERS if self._is_reader else OF_WRITERS

    def run_alone(self, reason: str, *, is_answered: bool) -> NodeReport:
        """Return what there is to say without the database.

        Args:
            reason: Why it was not asked, a phrase.
            is_answered: It was not to be asked.
        """
        report = self._report
        report.is_answered = is_answered
        self._leave_out(f"the tables were not compared with those of the database: {reason}")
        if self._is_reader:
            self._look_at_filling()
        else:
            report.has_objects = True
            report.sealed_as = self._own_identity()
        what = "the objects in the store were" if self._is_reader else "objects without a file were"
        self._leave_out(f"{what} not looked at: the database tells which of them are needed")
        return report

    def run(self, session: Session, mount: Mount, database: str, progress: Progress) -> NodeReport:
        """Compare with the database.

        Args:
            session: A connection to it.
            mount: What it says of itself.
            database: How messages name it.
            progress: Told how many rows were looked at.

        Raises:
            UsageError: It is that of another mount.
        """
        if mount.mount_id != self._known.mount_id:
            raise UsageError(
                f"{self._state_dir} belongs to a node of another mount than {database} has: name "
                "its configuration with -c",
                ExitCode.STATE_UNUSABLE,
            )
        report = self._report
        try:
            with Instant(session) as instant:
                nodes = [NodeRow._make(row) for row in instant.ask(READ_NODES)]
                writer = next((node for node in nodes if node.role == Role.WRITER), None)
                if writer is not None:
                    report.sealed_as = StateId(bytes(writer.state_id))
                stand = self._stand_of_reader if self._is_reader else self._stand_of_writer
                standing = stand(instant, nodes, writer)
                if standing is not None:
                    self._compare(instant, standing, progress)
        except (DatabaseError, DisconnectedError) as error:
            report.is_answered = False
            self._leave_out(f"not all tables were compared with those of the database: {error}")
        except (CorruptDataError, UsageError) as error:
            self._complain("the change log", str(error), "`memfs node check` tells more")
        return report

    def _own_identity(self) -> StateId:
        known = self._known
        return self._engine.state_id if known.state_id is None else StateId(known.state_id)

    def _leave_out(self, sentence: str) -> None:
        self._report.left_out.append(sentence)

    def _complain(self, subject: str, fault: str, remedy: str) -> None:
        self._report.problems.append(Problem(subject, fault, remedy))

    # --- one that reads --------------------------------------------------------------------------
    def _look_at_filling(self) -> bool:
        assert isinstance(self._engine, Applying)
        if not is_filled(self._engine):
            self._report.is_whole = False
            self._leave_out(f"this machine had not copied all names yet: {_ANEW}")
        return self._report.is_whole

    def _stand_of_reader(
        self, instant: Instant, nodes: list[NodeRow], writer: NodeRow | None
    ) -> Standing | None:
        known, engine = self._known, self._engine
        assert isinstance(engine, Applying)
        if writer is not None and known.taken is not None and writer.epoch == known.taken:
            self._leave_out(
                "the tables were not compared: this machine has taken over, and has not begun to "
                'write; mount it with role = "writer" in [nodes], and look again'
            )
            return None
        if not self._look_at_filling():
            return None
        state_id = read_state_id(self._state_dir)
        row = next((node for node in nodes if node.state_id == state_id), None)
        if row is None or writer is None:
            self._leave_out(
                "the tables were not compared: the database does not know this machine, and "
                f"{_ANEW}"
            )
            return None
        if row.epoch not in known.epochs:
            self._complain(
                f"node {row.name}",
                "it was mounted from a copy of this state directory since, so that its next mount "
                "is refused",
                f"mount the directory that was mounted last, or {_READ_ANEW}",
            )
            return None
        here, there = engine.read_applied(), instant.read_seq()
        if row.state != NodeState.LIVE or here > there:
            reason = (
                "the database was put back to an older state"
                if here > there
                else "it was away for too long, or was removed by `memfs node forget`"
            )
            self._leave_out(f"the tables were not compared: {reason}, and {_ANEW}")
            return None
        self._report.has_objects = True
        touched = self._touched_there(instant, writer.number, here, there)
        lag = f"this machine lacks {format_count(there - here, 'change')} until its next mount"
        return _standing(touched, lag if there > here else "")

    # --- the one that writes ---------------------------------------------------------------------
    def _stand_of_writer(
        self, instant: Instant, nodes: list[NodeRow], writer: NodeRow | None
    ) -> Standing | None:
        del nodes
        number, kept = self._engine._database.read_followed()
        here = number or 0
        self._report.has_objects = True
        if writer is None:
            if not here:
                self._leave_out("the tables were not compared: this machine has not written yet")
            else:
                self._complain_of_gap("it does not know this machine")
            return None
        if writer.epoch not in self._known.epochs:
            self._report.has_objects = False
            self._complain(
                f"node {writer.name}",
                "it writes in the place of this state directory since, which cannot be mounted to "
                "write any more",
                'if that is so by `memfs node promote`, mount this one with role = "reader" in '
                "[nodes], which puts away what it alone has; if it is a copy, mount the directory "
                "that was mounted last",
            )
            return None
        there = instant.read_seq()
        first = kept[0].number if kept else here + 1
        if there + 1 < first:
            self._complain_of_gap(
                f"it has {there} changes of this machine, which had confirmed {first - 1}"
            )
            return None
        if there > here:
            lag = (
                f"this machine has lost the last {format_count(there - here, 'change')}, as by a "
                "power failure, and gets them from the database at its next mount"
            )
            touched = self._touched_there(instant, writer.number, here, there)
            return _standing(touched, lag)
        self._report.knows_objects = True
        waiting = format_count(here - there, "change")
        lag = f"the database gets {waiting} of this machine at its next mount"
        touched = self._touched_here([each for each in kept if each.number > there])
        return _standing(touched, lag if here > there else "")

    def _complain_of_gap(self, fault: str) -> None:
        self._complain(
            "the database",
            f"{fault}: it was put back from a backup, or failed over to a server that lacked the "
            "last ones",
            "put the database back as it was",
        )

    # --- changes between -------------------------------------------------------------------------
    def _touched_there(
        self, instant: Instant, number: int, here: int, there: int
    ) -> Touched | None:
        """Return what the changes touch that the database has beyond; None: that is not known."""
        touched = Touched()
        if self._are_too_many(there - here):
            return None
        last = here
        while last < there:
            rows = instant.ask(READ_LOG, (number, last, BODIES_A_TIME))
            if not rows or [row[0] for row in rows] != [*range(last + 1, last + 1 + len(rows))]:
                self._miss_changes(last + 1)
                return None
            for _, data in rows:
                touched.add(bodies.decode(bytes(data)).records)
            last += len(rows)
        return touched

    def _miss_changes(self, first: int) -> None:
        fault = f"change {first} is not kept in the database any more"
        if self._is_reader:
            self._report.has_objects = False
            self._leave_out(f"the tables were not compared: {fault}, and {_ANEW}")
            return
        self._complain(
            "the database",
            f"{fault}, and this state directory lacks it: this is an older copy of the directory, "
            "and its next mount is refused",
            "mount the one that was mounted last",
        )

    def _touched_here(self, entries: list[KeptEntry]) -> Touched | None:
        """Likewise of changes that the database lacks."""
        touched = Touched()
        if self._are_too_many(len(entries)):
            return None
        for _, fingerprint, payload in entries:
            if fingerprint not in UNDERSTOOD:
                self._leave_out(
                    "the tables were not compared: another version of memfs has made changes that "
                    "are not in the database yet; mount and unmount once with that version"
                )
                return None
            records, _totals = marshal.loads(payload)
            touched.add(records)
        return touched

    def _are_too_many(self, count: int) -> bool:
        if count <= CHANGE_COUNT_MAX:
            return False
        self._leave_out(
            f"the tables were not compared: {format_count(count, 'change')} lie between them and "
            "those of the database; mount it until it has no more to send or to get, and look again"
        )
        return True

    # --- rows ------------------------------------------------------------------------------------
    def _compare(self, instant: Instant, standing: Standing, progress: Progress) -> None:
        report = self._report
        compared = compare(
            self._engine._database.connection,
            instant,
            standing.touched,
            is_reader=self._is_reader,
            is_heir=self._known.state_id is not None,
            progress=lambda count: progress("rows", count, 0),
        )
        report.row_count = compared.row_count
        remedy = _READ_ANEW if self._is_reader else _TAKE_OVER
        for row, fault in compared.faults:
            self._complain(row, fault, remedy)
        if standing.lag:
            passed = format_count(compared.passed_count, "row")
            self._leave_out(f"{standing.lag}: {passed} that may differ by these were passed over")


def _standing(touched: Touched | None, lag: str) -> Standing | None:
    return None if touched is None else Standing(touched, lag)
