"""A site whose journal a node that reads takes in; that has raw files, ends, and is killed."""

from __future__ import annotations

import marshal
import random
import shutil
from typing import TYPE_CHECKING

from memfs.metadata.shared.applying import Applying, is_followed_setting
from memfs.metadata.shared.bodies import Body
from memfs.metadata.shared.tables import BY_NAME
from memfs.metadata.sqlite.schema import stored_totals, totals_of
from tests.contract.engine.making import hydrate
from tests.contract.engine.site import (
    BIRTH_NS,
    CONFIG,
    SMALL,
    SqliteSite,
    run,
    watch_undo_rows,
)
from tests.contract.engine.tables import Tables, assert_same, local_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.following import KeptEntry
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.metadata.sqlite.tables import Record


_SIZED = ("inode", "inode_was")
_BLOCKS = {name: BY_NAME[name].column_names.split(", ").index("blocks") for name in _SIZED}


def without_own(tables: Tables, hydrated: Collection[SqlValue]) -> Tables:
    """Return what a reader has of the writer's tables: no garbage, and few settings.

    Args:
        tables: Those of the writer, or of the reader.
        hydrated: Inodes whose blocks the reader knows from a raw file of its own.
    """
    rows = dict(tables.rows)
    for name, at in _BLOCKS.items():
        rows[name] = {
            key: (*row[:at], None, *row[at + 1 :]) if key[0] in hydrated else row
            for key, row in tables.rows[name].items()
        }
    rows["garbage"] = {}
    rows["setting"] = {
        key: row
        for key, row in tables.rows["setting"].items()
        if isinstance(key[0], bytes) and is_followed_setting(key[0].decode("utf-8", "replace"))
    }
    return Tables(rows)


class Bodies:
    """Keeps what a journal gets, as other nodes get it; a `Follower` that has confirmed all."""

    def __init__(self) -> None:
        self.waiting: list[Body] = []
        self.number = 0
        self.is_dead = False
        """What comes now is lost."""

    def note(self, sequence: int, records: Sequence[Record], payload: bytes) -> None:
        """See `Follower`."""
        del sequence
        self.number += 1
        if not self.is_dead:
            _, totals = marshal.loads(payload)
            self.waiting.append(Body(tuple(records), tuple(totals_of(stored_totals(totals)))))

    def unconfirmed(self, after: int) -> Iterable[KeptEntry]:
        """See `Follower`."""
        del after
        return ()

    @property
    def confirmed(self) -> int:
        """See `Follower`."""
        return self.number


class Replica:
    """The engine of a reader, which takes in bodies and does what readers do in between.

    Args:
        state_dir: Where it is to be.
        limits: Sizes on disk.
        rng: Chooses.
    """

    def __init__(self, state_dir: Path, limits: Limits, rng: random.Random) -> None:
        self._state_dir = state_dir
        self._limits = limits
        self._rng = rng
        self._number = 0
        self._hydrated: set[SqlValue] = set()
        self._open()

    def _open(self) -> None:
        self.engine = Applying.open(self._state_dir, CONFIG, BIRTH_NS, self._limits)
        watch_undo_rows(self.engine)

    def take_in(self, bodies: list[Body]) -> None:
        """Take bodies in, in steps, and do other things between; the list is empty afterwards."""
        while bodies:
            some = bodies[: self._rng.choice((1, 2, 7, len(bodies)))]
            self.engine.apply([*enumerate(some, self._number + 1)])
            self._number += len(some)
            del bodies[: len(some)]
            self._live_on()
            assert self.engine.read_applied() == self._number

    def compare(self, shared: Tables) -> None:
        """See that it has what the database has, and that its own tables agree with each other."""
        here = without_own(local_tables(self.engine._rows), self._hydrated)
        assert_same(here, without_own(shared, self._hydrated))
        assert self.engine.check() == []

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _live_on(self) -> None:
        chosen = self._rng.random()
        if chosen < 0.3:
            self._hydrate()
        elif chosen < 0.5:
            self._evict()
        elif chosen < 0.6:
            self.engine.close()
            self._open()
        elif chosen < 0.7:
            self._be_killed()

    def _hydrate(self) -> None:
        engine = self.engine
        rows = engine._rows(
            "select ino from inode where blob <> 0 and raw = 0 and flags = 0 limit 2"
        )
        for (ino,) in rows:
            inode = run(engine.get_inode(ino))
            assert run(hydrate(engine, inode))
            self._hydrated.add(ino)
            run(engine.mark_durable([(inode.ino, inode.generation)]))
        engine.commit_nowait()

    def _evict(self) -> None:
        engine = self.engine
        for (ino,) in engine._rows("select ino from inode where raw <> 0 limit 1"):
            inode = run(engine.get_inode(ino))
            run(engine.drop_raw(inode.ino, inode.generation))
        run(engine.clear_garbage([item.item for item in run(engine.list_garbage(3))]))
        engine.commit_nowait()

    def _be_killed(self) -> None:
        self.engine.wait_for_checkpoint()
        copy = self._state_dir.with_name(f"{self._state_dir.name}-")
        shutil.copytree(self._state_dir, copy)
        self.engine.close()
        shutil.rmtree(self._state_dir)
        self._state_dir = copy
        self._open()


class FollowedSite(SqliteSite):
    """A plain SQLite engine, and a reader that has what it has after each crash and at each end."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._bodies = Bodies()
        self.replica = Replica(root / "reader", limits, random.Random(1))
        super().__init__(root, limits)

    def _open(self) -> Engine:
        engine = super()._open()
        before, self._bodies = self._bodies, Bodies()
        self._bodies.waiting = before.waiting
        self._sqlite._database.follow(self._bodies)
        return engine

    def commit_and_compare(self) -> None:
        """Commit, have the reader take that in, and compare."""
        self._sqlite.commit_nowait()
        self.replica.take_in(self._bodies.waiting)
        self.replica.compare(local_tables(self._sqlite._rows))

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self.commit_and_compare()
        return super().reopen()

    def crash(self) -> Engine:
        """Go on with the files as SIGKILL would have left them."""
        self._bodies.is_dead = True
        engine = super().crash()
        self.commit_and_compare()
        return engine

    def close(self) -> None:
        """Close both; check and compare before."""
        self.commit_and_compare()
        super().close()
        self.replica.close()
