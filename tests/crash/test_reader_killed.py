"""A node that reads and is killed at each fault point goes on where it was, with all changes."""

from __future__ import annotations

import itertools
import random
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.moves.faults import READER_POINTS
from tests.contract.engine.making import make_sealed, names_in
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.replica import without_own
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.killed import Killed
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.servers.postgresql import Database


class Life:
    """A reader's state directory, and the process that has it.

    Args:
        root: For state directories.
        mount: Its database.
    """

    def __init__(self, root: Path, mount: MountDatabase) -> None:
        self._root = root
        self._mount = mount
        self.state_dir = root / "reader"
        self._point, self._countdown = "", 0
        self.kill_count = 0

    def arm(self, point: str, count: int) -> None:
        """Be killed when a point is reached for the n-th time."""
        self._point, self._countdown = point, count

    def _reach(self, point: str) -> None:
        if point != self._point:
            return
        self._countdown -= 1
        if self._countdown == 0:
            # As SIGKILL leaves the files.
            self.kill_count += 1
            left = self._root / f"left-{self.kill_count}"
            shutil.copytree(self.state_dir, left)
            self.state_dir = left
            raise Killed

    def start(self) -> ReaderEngine:
        """Start the node."""
        return ReaderEngine.join(
            self.state_dir,
            CONFIG,
            self._mount.connector,
            ReaderSettings("r", WAIT_S),
            limits=SMALL,
            rng=random.Random(1),
            reach=self._reach,
        )

    async def live(self, change: Callable[[], Awaitable[object]]) -> bool:
        """Start, and follow until all is there, or until it is killed; tells whether it was.

        Args:
            change: Has the writer change something meanwhile.
        """
        try:
            engine = await trio.to_thread.run_sync(self.start)
        except Killed:
            return True
        before = self.kill_count
        await change()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.log.run)
                await engine.log.barrier()
                nursery.cancel_scope.cancel()
        except* Killed:
            pass
        finally:
            engine.close()
        return self.kill_count > before


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("point", READER_POINTS)
async def test_a_reader_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, postgres: Database, point: str, count: int
) -> None:
    mount = MountDatabase(postgres)
    writer = SharedEngine.join(
        tmp_path / "writer",
        CONFIG,
        mount.connector,
        NodeSettings("w", WAIT_S),
        now_ns=BIRTH_NS,
        limits=SMALL,
        rng=random.Random(1),
    )
    life = Life(tmp_path, mount)
    try:
        numbers = itertools.count()

        async def change() -> None:
            for number in itertools.islice(numbers, 30):
                await make_sealed(writer, b"%d" % number)
                writer.commit_nowait()
            await trio.to_thread.run_sync(writer._send_left)

        await change()
        assert not await life.live(change)
        life.arm(point, count)
        was_killed = False
        for _ in range(count + 1):
            was_killed = await life.live(change) or was_killed
        assert was_killed
        assert life.kill_count == 1
        engine = await trio.to_thread.run_sync(life.start)
        here, there = local_tables(engine._rows), shared_tables(mount.client)
        assert_same(without_own(here, ()), without_own(there, ()))
        assert engine.check() == []
        assert len(await names_in(engine)) == next(numbers)
        engine.close()
    finally:
        writer.close()
        mount.client.close()
