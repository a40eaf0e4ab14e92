"""A node of a shared mount that is killed at each fault point loses nothing and doubles nothing."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.metadata.shared import bodies
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.moves.faults import NODE_POINTS
from tests.contract.engine.making import make_file, names_in
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.fake_database import FakeDatabase
from tests.killed import Killed

if TYPE_CHECKING:
    from pathlib import Path

QUIET = Limits(checkpoint_bytes=1 << 20, journal_bytes=1 << 20, reserve_bytes=1 << 16)


class Life:
    """Files are made, with a power cut in between, until a fault point is reached.

    Args:
        root: For state directories.
        limits: Sizes on disk.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self.state_dir = root / "state"
        self.database = FakeDatabase()
        self.committed: list[bytes] = []
        """Names of files whose change is in the journal, in order."""
        self._engines: list[SharedEngine] = []
        """Those that were started, and neither closed nor let go."""
        self._countdown = 0
        self._point = ""

    def arm(self, point: str, count: int) -> None:
        """Be killed when a point is reached for the n-th time."""
        self._point, self._countdown = point, count

    def _reach(self, point: str) -> None:
        if point != self._point:
            return
        self._countdown -= 1
        if self._countdown == 0:
            # As SIGKILL leaves the files.
            left = self._root / "left"
            shutil.copytree(self.state_dir, left)
            self.state_dir = left
            raise Killed

    def start(self) -> SharedEngine:
        """Start the node."""
        engine = SharedEngine.join(
            self.state_dir,
            CONFIG,
            self.database,
            NodeSettings("a", 10.0),
            now_ns=1,
            limits=self._limits,
            rng=random.Random(1),
            reach=self._reach,
        )
        self._engines.append(engine)
        return engine

    def live(self) -> None:
        """Start, change something while the database answers, lose power, and do it again."""
        engine = self.start()
        self._serve(engine, (b"a", b"b", b"c"))
        run(make_file(engine, b"synced"))
        engine.commit_nowait()
        self.committed.append(b"synced")
        engine.sync()
        engine.wait_for_checkpoint()
        shutil.copytree(self.state_dir, self._root / "early")
        self._serve(engine, (b"d", b"e"))
        self._abandon(engine)
        # What was not synced went with the power; the file is synced.
        shutil.copy(self.state_dir / "node", self._root / "early" / "node")
        self.state_dir = self._root / "early"
        self._serve(self.start(), (b"f",))

    def _serve(self, engine: SharedEngine, names: tuple[bytes, ...]) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.writer.run)
                await trio.testing.wait_all_tasks_blocked()
                for name in names:
                    await make_file(engine, name)
                    engine.commit_nowait()
                    self.committed.append(name)
                    await engine.commit()
                nursery.cancel_scope.cancel()

        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseExceptionGroup as group:
            if group.subgroup(Killed) is None:
                raise
            raise Killed from group

    def _abandon(self, engine: SharedEngine) -> None:
        self._engines.remove(engine)
        engine.writer.close()
        SqliteEngine.close(engine)

    def end(self) -> None:
        """Give back what a killed process would not have any more."""
        for engine in [*self._engines]:
            self._abandon(engine)

    def recover(self) -> None:
        """Start the node again, and see that it and the database have all that was committed."""
        self._point = ""
        engine = self.start()
        names = run(names_in(engine))
        # The change that was under way may have been committed before it was noted here.
        assert names[: len(self.committed)] == self.committed
        assert run(engine.usage()) == run(engine.recount())
        assert engine.check() == []
        self._serve(engine, (b"last",))
        self._engines.remove(engine)
        engine.close()
        made = [
            parameters[2]
            for number in sorted(self.database.changes)
            for _, parameters in bodies.decode(self.database.changes[number]).records
            if len(parameters) == 4
        ]
        assert [name for name in made if isinstance(name, bytes)][-1] == b"last"
        assert self.database.seq == engine._outbox.number
        assert list(self.database.changes)[-1] == self.database.seq


@pytest.mark.parametrize("limits", [QUIET, SMALL], ids=["journal", "unsent"])
@pytest.mark.parametrize("point", NODE_POINTS)
def test_killed_node_goes_on(tmp_path: Path, point: str, limits: Limits) -> None:
    """At the n-th time that a point is reached, for each n."""
    for count in range(1, 100):
        life = Life(tmp_path / str(count), limits)
        life.arm(point, count)
        try:
            life.live()
        except Killed:
            life.recover()
        else:
            # It was reached less often.
            assert count > 1
            return
        finally:
            life.end()
    raise AssertionError("no end")
