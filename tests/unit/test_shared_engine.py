"""The engine of a node, on a fake database: what waits, what is refused, how it starts and ends."""

from __future__ import annotations

import random
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import DisconnectedError, MetadataError, UnconfirmedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.records import Event, MoveKind
from memfs.metadata.shared import engine as shared_engine
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.joining import no_answer
from memfs.metadata.shared.writer import BEAT_S
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.types import ROOT_INODE, Generation
from memfs.waiting import LEAVE, fast_path
from tests.contract.engine.making import NOW_NS, make_file, make_sealed, names_in
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.fake_database import FakeDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from memfs.types import InodeNo

LIMIT_S = 10.0
SETTINGS = NodeSettings("a", LIMIT_S)
QUIET = Limits(checkpoint_bytes=1 << 20, journal_bytes=1 << 20, reserve_bytes=1 << 16)
"""No checkpoint begins by itself."""


class Node:
    """A state directory and the database that it belongs to."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.database = FakeDatabase()

    def start(
        self,
        limits: Limits = QUIET,
        *,
        at: Path | None = None,
        reach: Callable[[str], None] = lambda _point: None,
    ) -> SharedEngine:
        """Have the state directory join, or a copy of it; returns its engine."""
        return SharedEngine.join(
            at or self.state_dir,
            CONFIG,
            self.database,
            SETTINGS,
            now_ns=1,
            limits=limits,
            rng=random.Random(1),
            reach=reach,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SharedEngine]:
        """Start, and send changes during the block; a database that is silent then hears no end."""
        engine = self.start()
        async with sending(engine):
            yield engine
        if self.database.is_silent:
            abandon(engine)
        else:
            engine.close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "state")


def killed(engine: SharedEngine, state_dir: Path) -> Path:
    """Return a copy of the files as SIGKILL would have left them."""
    engine.wait_for_checkpoint()
    copy = state_dir.with_name(state_dir.name + "-killed")
    shutil.copytree(state_dir, copy)
    abandon(engine)
    return copy


def abandon(engine: SharedEngine) -> None:
    """Give up an engine whose files were copied, without a word to the database."""
    engine.writer.close()
    SqliteEngine.close(engine)


@asynccontextmanager
async def sending(engine: SharedEngine) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def make_and_commit(engine: SharedEngine, *names: bytes) -> None:
    for name in names:
        await make_file(engine, name)
        await engine.commit()


class TestChanges:
    async def test_commit_returns_when_the_database_has_it(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:
            node.database.latency_s = 3.0
            await make_file(engine, b"a")
            assert engine.uncommitted
            await engine.commit()
            assert trio.current_time() == pytest.approx(3.0, abs=0.1)
            assert node.database.seq == 1
            assert not engine.uncommitted

    async def test_request_on_the_fast_path_leaves_it_before_it_waits(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:
            await make_file(engine, b"a")
            with fast_path():
                commit = engine.commit()
                assert commit.send(None) is LEAVE
                commit.close()

    async def test_garbage_that_is_gone_is_waited_for_by_nobody(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        """An object whose record comes back is removed again."""
        async with node.serving() as engine:
            inode = await make_sealed(engine, b"a")
            await engine.unlink(ROOT_INODE, b"a", NOW_NS)
            await engine.reap([inode.ino])
            await engine.commit()
            node.database.is_silent = True
            [item] = await engine.list_garbage(9)
            await engine.clear_garbage([item.item])
            await engine.commit()
            assert trio.current_time() < 0.1
            node.database.is_silent = False

    async def test_change_of_the_background_does_not_wait(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        """Nor is it told that the database did not answer: it would undo what was done."""
        async with node.serving() as engine:
            node.database.is_silent = True
            async with engine.change():
                await make_file(engine, b"a")
            assert trio.current_time() < 0.1
            assert not engine.uncommitted
            node.database.is_silent = False
            await engine.commit()
            assert node.database.seq == 1

    async def test_change_of_a_request_is_waited_for_by_its_reply(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:

            async def serve() -> None:
                async with engine.change():
                    await make_file(engine, b"a")
                assert engine.uncommitted
                await engine.commit()
                assert node.database.seq == 1

            with fast_path():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve)
            assert not engine.uncommitted

    async def test_large_backlog_holds_changes_back(
        self, autojump_clock: trio.testing.MockClock, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_engine, "BACKLOG_BYTES_MAX", 3000)
        async with node.serving() as engine:
            node.database.latency_s = 1.0
            for number in range(50):
                async with engine.change():
                    await make_file(engine, b"%d" % number)
                assert engine._outbox.bytes < 4000
            assert trio.current_time() > 2.0

    async def test_cancelled_wait_leaves_the_change_done(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:
            node.database.latency_s = 1.0
            with trio.move_on_after(0.5) as scope:
                await make_and_commit(engine, b"a")
            assert scope.cancelled_caught
            await engine.commit()
            assert node.database.seq == 1
            assert await names_in(engine) == [b"a"]


class TestConfirmed:
    """Methods of sockets are answered once the database has what they have changed."""

    async def test_work_that_changes_something_waits(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:

            async def change() -> InodeNo:
                async with engine.change():
                    return (await make_file(engine, b"a")).ino

            node.database.latency_s = 3.0
            ino = await engine.confirmed(change())
            assert (await engine.get_inode(ino)).ino == ino
            assert node.database.seq == 1
            node.database.is_silent = True

            async def change_again() -> None:
                async with engine.change():
                    await make_file(engine, b"b")

            with pytest.raises(UnconfirmedError):
                await engine.confirmed(change_again())

    async def test_work_that_reads_does_not_wait_for_others(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:
            node.database.is_silent = True
            async with engine.change():
                await make_file(engine, b"a")
            assert await engine.confirmed(names_in(engine)) == [b"a"]
            assert trio.current_time() < 0.1


class TestCutOff:
    async def test_who_waits_is_told_and_nothing_is_undone(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        async with node.serving() as engine:
            node.database.stop()
            with pytest.raises(UnconfirmedError):
                await make_and_commit(engine, b"a")
            assert trio.current_time() == pytest.approx(LIMIT_S, abs=0.1)
            await trio.testing.wait_all_tasks_blocked()
            # New ones do not begin, and what is there is read.
            for _ in range(2):
                with pytest.raises(MetadataError, match="changes are refused"):
                    await make_file(engine, b"b")
            assert await names_in(engine) == [b"a"]
            assert engine.refusal is not None
            assert not engine.uncommitted
            node.database.start()
            await trio.sleep(10)
            assert node.database.seq == 1
            assert engine.refusal is None
            await make_and_commit(engine, b"b")
            assert node.database.seq == 2

    async def test_what_reading_needs_goes_on(
        self, autojump_clock: trio.testing.MockClock, node: Node
    ) -> None:
        """A packed file gets its raw form; both are this node's alone."""
        async with node.serving() as engine:
            node.database.stop()
            await trio.sleep(BEAT_S + LIMIT_S + 1)
            intent = await engine.begin_intent(
                MoveKind.HYDRATE, ROOT_INODE, Generation(1), "7", NOW_NS
            )
            await engine.cancel_intent(intent)
            await engine.add_events([Event(0, 1, "store", "", "cut off")])
            await engine.commit()
            assert len(await engine.list_events(None, 10)) == 1
            with pytest.raises(MetadataError, match="changes are refused"):
                await engine.put_setting("a", b"b")
            node.database.start()
            await trio.sleep(10)
            assert node.database.seq == engine._outbox.number

    async def test_sync_fails_until_the_database_has_everything(self, node: Node) -> None:
        async with node.serving() as engine:
            await make_and_commit(engine, b"a")
            assert not engine.sync_waits
            await trio.to_thread.run_sync(engine.sync)
            assert engine.synced
            node.database.is_silent = True
            async with engine.change():
                await make_file(engine, b"b")
            assert engine.sync_waits
            engine._refuse(MetadataError("cut off"))
            engine._outbox.refuse(MetadataError("cut off"))
            with pytest.raises(UnconfirmedError):
                await trio.to_thread.run_sync(engine.sync)
            # On this disk it is durable all the same.
            assert SqliteEngine.synced.fget(engine)
            assert not engine.synced


class TestStart:
    def test_new_state_begins_with_its_root(self, node: Node) -> None:
        engine = node.start()
        assert [row[0] for row in node.database.base["inode"]] == [ROOT_INODE]
        assert node.database.base["dentry"] == []
        assert node.database.epoch > 0
        engine.close()

    def test_state_of_a_node_is_no_single_node_mount(self, node: Node) -> None:
        node.start().close()
        with pytest.raises(UsageError, match="belongs to a node") as caught:
            SqliteEngine.open(node.state_dir, CONFIG)
        assert caught.value.exit_code == ExitCode.STATE_UNUSABLE

    def test_changes_outside_of_a_loop_are_sent_by_close(self, node: Node) -> None:
        engine = node.start()
        run(make_file(engine, b"a"))
        run(engine.commit())
        assert node.database.seq == 0
        engine.close()
        assert node.database.seq == 1

    def test_close_without_a_database_ends_and_the_next_start_goes_on(self, node: Node) -> None:
        engine = node.start()
        engine._outbox.limit_s = 0.2
        run(make_file(engine, b"a"))
        node.database.stop()
        engine.close()
        node.database.start()
        engine = node.start()
        assert run(names_in(engine)) == [b"a"]
        engine.close()
        assert node.database.seq == 1

    @pytest.mark.parametrize("limits", [SMALL, QUIET])
    def test_killed_with_changes_that_were_not_sent(self, node: Node, limits: Limits) -> None:
        """With small limits most are in `unsent`: checkpoints have overwritten their journals."""
        engine = node.start(limits)
        names = [b"%02d" % number for number in range(30)]
        for name in names:
            run(make_file(engine, name))
            run(engine.commit())
        state_dir = killed(engine, node.state_dir)
        engine = node.start(limits, at=state_dir)
        engine.close()
        assert node.database.seq == 30
        assert sorted(node.database.changes) == list(range(1, 31))

    def test_database_that_has_more_gives_it_back(self, node: Node, tmp_path: Path) -> None:
        """As after power loss here, which leaves what was synced."""
        engine = node.start()
        run(make_file(engine, b"a"))
        engine.commit_nowait()
        engine.sync()
        shutil.copytree(node.state_dir, tmp_path / "early")
        for name in (b"b", b"c"):
            run(make_file(engine, name))
            engine.commit_nowait()
        engine._send_left()
        assert node.database.seq == 3
        abandon(engine)
        points: list[str] = []
        engine = node.start(at=tmp_path / "early", reach=points.append)
        assert run(names_in(engine)) == [b"a", b"b", b"c"]
        assert points == ["node.taken", "node.redone", "node.redone", "node.caught_up"]
        assert engine.check() == []
        assert run(engine.usage()) == run(engine.recount())
        run(make_file(engine, b"d"))
        engine.close()
        assert node.database.seq == 4
        engine = node.start(at=tmp_path / "early")
        assert run(names_in(engine)) == [b"a", b"b", b"c", b"d"]
        engine.close()


class TestRefusedStart:
    def test_without_a_database(self, node: Node) -> None:
        node.database.stop()
        with pytest.raises(UsageError, match="connection refused") as caught:
            node.start()
        assert caught.value.exit_code == ExitCode.NO_ANSWER
        assert not node.state_dir.exists()

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ("refused", "postgresql://a/b: refused"),
            (
                "no connection to postgresql://a/b: refused",
                "no connection to postgresql://a/b: ref",
            ),
        ],
    )
    def test_database_is_named_once(self, told: str, expected: str) -> None:
        refusal = str(no_answer("postgresql://a/b", DisconnectedError(told)))
        assert refusal.startswith(expected)
        assert refusal.count("postgresql://a/b") == 1

    def test_another_state_directory(self, node: Node, tmp_path: Path) -> None:
        node.start().close()
        with pytest.raises(UsageError, match="another one"):
            node.start(at=tmp_path / "second")

    def test_state_directory_of_another_mount(self, node: Node) -> None:
        node.start().close()
        node.database = other = FakeDatabase()
        other.mount_id = "o" * 32
        with pytest.raises(UsageError, match="belongs to a node of another mount"):
            node.start()
        assert other.state_id is None

    def test_single_node_state_with_files(self, node: Node) -> None:
        engine = SqliteEngine.open(node.state_dir, CONFIG, 1, QUIET)
        run(make_file(engine, b"a"))
        engine.close()
        with pytest.raises(UsageError, match="have them move there, by `memfs migrate STATE URL`"):
            node.start()
        engine = SqliteEngine.open(node.state_dir, CONFIG, 1, QUIET)
        assert run(names_in(engine)) == [b"a"]
        engine.close()

    def test_copy_that_was_not_mounted_last(self, node: Node, tmp_path: Path) -> None:
        node.start().close()
        shutil.copytree(node.state_dir, tmp_path / "copy")
        engine = node.start()
        run(make_file(engine, b"a"))
        engine.close()
        before = node.database.epoch, node.database.seq
        with pytest.raises(UsageError, match="mount the one that was mounted last") as caught:
            node.start(at=tmp_path / "copy")
        assert caught.value.exit_code == ExitCode.STATE_UNUSABLE
        assert (node.database.epoch, node.database.seq) == before

    def test_database_that_was_put_back(self, node: Node) -> None:
        engine = node.start(SMALL)
        for number in range(30):
            run(make_file(engine, b"%d" % number))
            run(engine.commit())
        engine.close()
        node.start().close()
        node.database.seq = 3
        with pytest.raises(UsageError, match="it was put back from a backup"):
            node.start()

    def test_database_that_was_made_anew(self, node: Node) -> None:
        engine = node.start()
        run(make_file(engine, b"a"))
        engine.close()
        node.database.state_id = None
        with pytest.raises(UsageError, match="it does not know this node"):
            node.start()

    def test_bodies_that_are_gone(self, node: Node, tmp_path: Path) -> None:
        engine = node.start()
        early = killed(engine, node.state_dir)
        shutil.copytree(early, tmp_path / "early")
        engine = node.start(at=early)
        for name in (b"a", b"b"):
            run(make_file(engine, name))
            run(engine.commit())
        engine.close()
        shutil.copy(early / "node", tmp_path / "early" / "node")
        del node.database.changes[1]
        before = node.database.epoch
        with pytest.raises(UsageError, match="only 1 of those between are kept"):
            node.start(at=tmp_path / "early")
        assert node.database.epoch == before


def test_copy_that_is_mounted_meanwhile_fences_the_original(node: Node, tmp_path: Path) -> None:
    engine = node.start()
    # As of a live mount.
    shutil.copytree(node.state_dir, tmp_path / "copy")

    async def main() -> None:
        async with sending(engine):
            copy = node.start(at=tmp_path / "copy")
            with pytest.raises(UnconfirmedError, match="another process has taken the place"):
                await make_and_commit(engine, b"a")
            with pytest.raises(MetadataError, match="another process has taken the place"):
                await engine.add_events([Event(0, 1, "store", "", "x")])
            assert node.database.seq == 0
            copy.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    engine.close()
    with pytest.raises(UsageError, match="mount the one that was mounted last"):
        node.start()
