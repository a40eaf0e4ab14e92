"""A whole file system on a node's engine whose database stops answering: nothing is undone."""

from __future__ import annotations

import errno
import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio

from memfs.errors import MetadataError
from memfs.metadata.records import InodeFlags
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.moves.uploading import upload
from memfs.types import ROOT_INODE, FormKind, InodeNo
from tests.fake_database import FakeDatabase
from tests.property.world import ROOMY, Refusal, World

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from memfs.metadata.records import Form
    from memfs.metadata.sqlite.engine import SqliteEngine

T = TypeVar("T")

FILE_MODE = 0o644
LIMIT_S = 1.0
"""In an outage; else nothing ends a wait. A busy machine must not be cut off before it begins."""


class NodeWorld(World):
    """The engine is that of a node; its writer runs while the daemon does.

    Args:
        root: An empty directory of its own.
    """

    def __init__(self, root: Path) -> None:
        self.database = FakeDatabase()
        super().__init__(root, ROOMY, passthrough=True)

    def _open_engine(self) -> SqliteEngine:
        self.node = SharedEngine.join(
            self.state_dir,
            self._config.metadata,
            self.database,
            NodeSettings("a", 1000.0),
            limits=self._limits,
            rng=random.Random(1),
        )
        return self.node

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a part of the daemon to its end."""
        answers: list[T] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.node.writer.run)
                while self.node._outbox.server is None:
                    await trio.lowlevel.checkpoint()
                try:
                    answers.append(await work)
                finally:
                    nursery.cancel_scope.cancel()

        try:
            trio.run(main)
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        return answers[0]

    @contextmanager
    def outage(self) -> Iterator[None]:
        """For the block the database takes everything, and answers nothing."""
        self.database.is_silent = True
        self.node._outbox.limit_s = LIMIT_S
        try:
            yield
        finally:
            self.database.is_silent = False
            self.node._outbox.limit_s = 1000.0
        self.run(self._wait_until_back())

    def wait_until_cut_off(self) -> None:
        """Return once changes are refused; who waits may be told a moment before."""
        self.run(self._wait_until_refused())

    async def _wait_until_refused(self) -> None:
        while self.node.refusal is None:  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def _wait_until_back(self) -> None:
        while self.node.refusal is not None or self.node._outbox.count:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NodeWorld]:
    made = NodeWorld(tmp_path)
    yield made
    made.close()


def _create(world: NodeWorld, name: bytes) -> InodeNo:
    file = world.create(ROOT_INODE, name, FILE_MODE, os.O_WRONLY)
    world.write(file, 0, name * 1000)
    world.release(file)
    return file.ino


def test_creation_that_was_not_confirmed_keeps_its_raw_file(world: NodeWorld) -> None:
    """The program got EIO; the file is there, and so are its bytes."""
    with world.outage():
        with pytest.raises(Refusal) as caught:
            world.create(ROOT_INODE, b"a", FILE_MODE, os.O_WRONLY)
        assert caught.value.errno == errno.EIO
        # What is undone goes with the next round, and so would the raw file.
        world.run(world.filesystem.reap())
    found = world.run(world.filesystem.lookup(ROOT_INODE, b"a"))
    assert found is not None
    assert found.inode.flags & InodeFlags.UNSEALED
    assert world.raw_store.exists(found.inode.raw)
    assert world.database.seq == world.node._outbox.number


def test_refused_creation_leaves_no_raw_file(world: NodeWorld) -> None:
    with world.outage():
        with pytest.raises(Refusal):
            world.create(ROOT_INODE, b"a", FILE_MODE, os.O_WRONLY)
        world.wait_until_cut_off()
        for _ in range(3):
            with pytest.raises(Refusal):
                world.create(ROOT_INODE, b"b", FILE_MODE, os.O_WRONLY)
        assert world.run(world.filesystem.lookup(ROOT_INODE, b"b")) is None


def test_form_that_is_published_in_an_outage_keeps_its_object(world: NodeWorld) -> None:
    """Its move ends with a change that nobody confirms: it counts as done."""
    ino = _create(world, b"a")
    world.run(world.filesystem.finish_requests())

    def stop() -> None:
        world.database.is_silent = True

    world.interruptions.arm("upload.verified", stop)
    world.run(upload(world.move_parts, ino))
    with world.outage():
        inode = world.run(world.engine.get_inode(ino))
        forms = world.run(world.engine.list_all_forms(inode))
        assert [form.kind for form in forms] == [FormKind.REMOTE]
        assert world.node._outbox.count
        assert world.run(world.garbage.collect(10)) == 0
    assert world.run(world.read_all(ino)) == b"a" * 1000


def test_nothing_is_removed_that_the_database_may_still_name(world: NodeWorld) -> None:
    ino = _create(world, b"a")
    world.run(world.filesystem.finish_requests())
    world.run(upload(world.move_parts, ino))
    (form,) = world.run(_forms(world, ino))
    path = world.state_dir / "glacier" / form.place.key
    assert path.exists()
    with world.outage():
        with pytest.raises(Refusal):
            world.request(world.filesystem.unlink(ROOT_INODE, b"a"))
        world.wait_until_cut_off()
        with pytest.raises(MetadataError):
            world.run(world.filesystem.reap_left_over())
        assert path.exists()
    world.run(world.filesystem.reap_left_over())
    while world.run(world.garbage.collect(10)):
        pass
    assert not path.exists()


async def _forms(world: NodeWorld, ino: InodeNo) -> list[Form]:
    return await world.engine.list_all_forms(await world.engine.get_inode(ino))
