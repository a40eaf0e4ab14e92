"""The writer: groups, exactly once, cut off and back, fenced."""

from __future__ import annotations

import marshal
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import MetadataError, UnconfirmedError
from memfs.metadata.shared import bodies, writer
from memfs.metadata.shared.outbox import Outbox
from memfs.metadata.shared.writer import (
    BEAT_S,
    GROUP_COUNT_MAX,
    LOCAL_S,
    RETRIES_MAX,
    Node,
    Writer,
)
from memfs.metadata.sqlite.database import MARSHAL_VERSION
from tests.fake_database import FakeDatabase, FakeSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from memfs.metadata.shared.writer import Statement
    from memfs.metadata.sqlite.tables import Record

LIMIT_S = 10.0
SHARED_NUMBER, LOCAL_NUMBER = 3, 4
TOTALS = (1,) * 9


def translate(records: Iterable[Record]) -> list[Statement]:
    return [(f"shared {number}", values) for number, values in records if number == SHARED_NUMBER]


class Site:
    """A writer on a fake database."""

    def __init__(self, database: FakeDatabase | None = None) -> None:
        self.database = database or FakeDatabase()
        self.outbox = Outbox(
            self.database.seq,
            (),
            lambda records: bool(translate(records)),
            LIMIT_S,
            trio.current_time,
        )
        self.refusals: list[str | None] = []
        self.durable = 0
        self.is_broken = False
        self.epochs: list[tuple[int, int]] = []
        self.points: list[str] = []
        self.sequence = 0
        self.writer = self.new_writer(1)
        session = FakeSession(self.database, 1000)
        self.database.sessions.append(session)
        self.writer.begin(session, self.database.epoch)

    def new_writer(self, seed: int) -> Writer:
        return Writer(
            Node(1, "a", "postgresql://db"),
            self.outbox,
            self.database.connect,
            self._translate,
            self.epochs.append,
            lambda: self.durable,
            self._refuse,
            random.Random(seed),
            self.points.append,
        )

    def _translate(self, records: Iterable[Record]) -> list[Statement]:
        if self.is_broken:
            raise KeyError(7)
        return translate(records)

    def _refuse(self, refusal: MetadataError | None) -> None:
        self.refusals.append(None if refusal is None else str(refusal))

    def add(self, *, shared: bool = True) -> int:
        """Append an entry to the journal; returns its number."""
        self.sequence += 2
        number = SHARED_NUMBER if shared else LOCAL_NUMBER
        records: list[Record] = [(number, (self.outbox.number + 1, b"x"))]
        payload = marshal.dumps((records, list(TOTALS)), MARSHAL_VERSION)
        self.outbox.note(self.sequence, records, payload)
        return self.outbox.number

    def told(self) -> list[object]:
        """Return the numbers of the changes that reached the shared tables, in order."""
        return [values[0] for _, values in self.database.applied]


@asynccontextmanager
async def serving(site: Site | None = None) -> AsyncIterator[Site]:
    site = site or Site()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        yield site
        nursery.cancel_scope.cancel()


class TestGroups:
    async def test_what_waits_goes_together(self, autojump_clock: trio.testing.MockClock) -> None:
        async with serving() as site:
            site.database.latency_s = 1.0
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(site.outbox.wait, site.add())
                await trio.sleep(0.1)
                for _ in range(5):
                    nursery.start_soon(site.outbox.wait, site.add())
            assert site.database.group_sizes == [3, 5]
            assert site.told() == list(range(1, 9))
            # The second group left when the first one was committed.
            assert trio.current_time() == pytest.approx(2.0, abs=0.01)

    async def test_bodies_are_those_of_the_journal(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            await site.outbox.wait(site.add())
            body = bodies.decode(site.database.changes[1])
            assert body == (((SHARED_NUMBER, (1, b"x")),), TOTALS)

    async def test_who_waits_is_told_only_when_its_group_is_committed(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.latency_s = 3.0
            await site.outbox.wait(site.add())
            assert site.database.seq == 1
            assert trio.current_time() == 3.0

    async def test_entry_of_this_node_alone_is_not_waited_for_and_goes_within_a_second(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.add(shared=False)
            assert not site.outbox.waits
            await trio.sleep(LOCAL_S / 2)
            assert site.database.seq == 0
            await trio.sleep(LOCAL_S)
            assert site.database.seq == 1
            assert site.database.applied == []

    async def test_entry_of_this_node_alone_goes_with_the_next_group(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.add(shared=False)
            await trio.sleep(LOCAL_S / 4)
            await site.outbox.wait(site.add())
            assert site.database.group_sizes == [2]

    async def test_large_backlog_goes_in_bounded_groups(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        site = Site()
        for _ in range(2 * GROUP_COUNT_MAX + 1):
            site.add()
        async with serving(site):
            await site.outbox.wait(site.outbox.number)
        assert site.database.group_sizes == [GROUP_COUNT_MAX, GROUP_COUNT_MAX, 1]

    async def test_bodies_go_once_they_are_durable_here(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            for _ in range(3):
                await site.outbox.wait(site.add())
            assert list(site.database.changes) == [1, 2, 3]
            site.durable = 2
            await trio.sleep(BEAT_S + 1)
            assert list(site.database.changes) == [3]

    async def test_bodies_stay_until_all_nodes_that_read_have_them(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            for _ in range(3):
                await site.outbox.wait(site.add())
            site.durable, site.database.applied_by_reader = 3, 1
            await trio.sleep(BEAT_S + 1)
            assert list(site.database.changes) == [2, 3]
            assert site.writer.applied_by_readers == 1
            # Nothing more gets durable here, but the reader goes on.
            site.durable, site.database.applied_by_reader = 0, 2
            await trio.sleep(BEAT_S + 1)
            assert list(site.database.changes) == [3]
            assert site.writer.applied_by_readers == 2
            site.database.applied_by_reader = None
            await trio.sleep(BEAT_S + 1)
            assert site.database.changes == {}

    async def test_bodies_of_changes_that_are_durable_before_they_are_confirmed_go_too(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.latency_s = 1.0
            site.add()
            site.durable = 1
            await trio.sleep(0.1)
            # Asked once, and nothing is confirmed yet.
            site.durable = 0
            await trio.sleep(2 * BEAT_S)
            assert site.database.changes == {}

    async def test_reader_that_lacks_too_many_changes_is_left_behind(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "KEPT_COUNT_MAX", 5)
        async with serving() as site:
            site.database.applied_by_reader = 1
            for _ in range(6):
                await site.outbox.wait(site.add())
            site.durable = 6
            await trio.sleep(BEAT_S + 1)
            assert list(site.database.changes) == [2, 3, 4, 5, 6]
            await site.outbox.wait(site.add())
            await trio.sleep(BEAT_S + 1)
            assert site.database.changes.keys() == {7}


class TestExactlyOnce:
    async def test_lost_answers_lose_and_double_nothing(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A group whose answer is lost may be committed, which the next connection tells."""
        rng = random.Random(1)
        async with serving() as site:
            async with trio.open_nursery() as nursery:
                for _ in range(300):
                    nursery.start_soon(site.outbox.wait, site.add())
                    await trio.sleep(0.01)
                    site.database.is_answering = rng.random() < 0.7
                    if rng.random() < 0.1:
                        site.database.sessions[-1].close()
                site.database.is_answering = True
            assert site.told() == list(range(1, 301))
            assert site.database.seq == 300
            assert dict(site.writer.report().retries)["lost"] > 20

    @pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
    async def test_refused_for_a_conflict_comes_again(
        self, autojump_clock: trio.testing.MockClock, sqlstate: str
    ) -> None:
        async with serving() as site:
            site.database.failures = [sqlstate] * RETRIES_MAX
            await site.outbox.wait(site.add())
            assert site.told() == [1]
            assert site.database.attempt_count == 0
            assert site.writer.report().retries == ((sqlstate, RETRIES_MAX),)

    async def test_refused_for_another_reason_comes_again_with_a_new_connection(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.failures = ["57P01", "53100"]
            await site.outbox.wait(site.add())
            assert site.told() == [1]
            assert site.database.attempt_count == 2

    async def test_lost_answer_of_an_epoch_is_no_fence(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.lost_epoch_count = 3
            site.database.sessions[-1].close()
            await site.outbox.wait(site.add())
            assert site.told() == [1]
            assert site.database.attempt_count == 4
            # What the row may have was noted each time before it could.
            assert site.database.epoch in site.epochs[-1]
            assert len(set(site.epochs)) == len(site.epochs) > 1


class TestCutOff:
    async def test_silent_database_is_an_error_after_the_limit_and_not_an_undoing(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.is_silent = True
            with pytest.raises(UnconfirmedError, match="1 changes are in this node's journal"):
                await site.outbox.wait(site.add())
            assert trio.current_time() == pytest.approx(LIMIT_S, abs=0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert site.refusals == [
                "changes are refused: postgresql://db has not answered for 10 s"
            ]
            # Who comes now does not wait at all.
            with pytest.raises(UnconfirmedError, match="has not answered"):
                await site.outbox.wait(1)
            assert trio.current_time() == pytest.approx(LIMIT_S, abs=0.02)

    async def test_what_was_not_confirmed_follows(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.stop()
            for _ in range(3):
                site.add()
            await trio.sleep(LIMIT_S + 1)
            report = site.writer.report()
            assert report.cut_off_since is not None
            assert (report.unconfirmed_count, report.connected) == (3, False)
            assert report.reason == "connection refused"
            assert report.unconfirmed_age_s == pytest.approx(LIMIT_S + 1)
            site.database.start()
            await trio.sleep(10)
            assert site.told() == [1, 2, 3]
            assert site.refusals[-1] is None
            report = site.writer.report()
            assert (report.cut_off_since, report.reason) == (None, None)

    async def test_idle_node_without_a_database_is_cut_off_before_anybody_waits(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.stop()
            await trio.sleep(BEAT_S + LIMIT_S + 1)
            assert len(site.refusals) == 1
            site.database.start()
            await trio.sleep(10)
            assert site.refusals[-1] is None

    async def test_change_that_a_defect_keeps_back_cuts_the_node_off(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What comes after it could not be sent either: it would pile up."""
        site = Site()
        site.is_broken = True
        async with serving(site):
            with pytest.raises(UnconfirmedError):
                await site.outbox.wait(site.add())
            await trio.sleep(60)
            assert "is a defect of memfs" in str(site.refusals[0])
            assert caplog.text.count("Traceback") == 1
            # As after a start with a version that can send it.
            site.is_broken = False
            await trio.sleep(10)
            assert site.told() == [1]
            assert site.refusals[-1] is None

    async def test_short_outage_is_only_a_wait(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.stop()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.outbox.wait, site.add())
                await trio.sleep(LIMIT_S / 2)
                site.database.start()
            assert site.refusals == []
            assert site.told() == [1]

    async def test_attempts_to_connect_become_rare(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.database.stop()
            site.add()
            await trio.sleep(1000)
            assert 200 <= site.database.attempt_count <= 450

    async def test_thread_is_told_as_well(self) -> None:
        async with serving() as site:
            wait = site.outbox.wait_in_thread
            await trio.to_thread.run_sync(wait, site.add())
            assert site.told() == [1]
            site.database.is_silent = True
            number = site.add()
            site.outbox.refuse(MetadataError("cut off"))
            with pytest.raises(UnconfirmedError, match="cut off"):
                await trio.to_thread.run_sync(wait, number)

    async def test_loop_does_not_wait_for_itself(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            with pytest.raises(UnconfirmedError):
                site.outbox.wait_in_thread(site.add())


class TestFenced:
    async def test_taken_epoch_ends_all_changes_and_says_so(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            await site.outbox.wait(site.add())
            site.database.epoch += 1
            with pytest.raises(UnconfirmedError, match="another process has taken the place"):
                await site.outbox.wait(site.add())
            assert site.told() == [1]
            assert "place of node a of postgresql://db" in str(site.refusals[-1])
            await trio.sleep(100)
            assert len(site.refusals) == 1

    async def test_database_that_forgot_what_it_confirmed_is_refused(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            for _ in range(3):
                await site.outbox.wait(site.add())
            site.database.seq = 1
            with pytest.raises(UnconfirmedError, match="was put back from a backup"):
                await site.outbox.wait(site.add())
            assert site.database.seq == 1


class TestEnd:
    async def test_end_waits_for_nothing_that_need_not_wait(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.add(shared=False)
            await site.writer.finish()
            assert site.database.seq == 1
            assert trio.current_time() < LOCAL_S / 10

    async def test_end_leaves_no_bodies_that_nobody_needs(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            site.add()
            site.add()
            site.durable = 1
            await site.outbox.wait(2)
            site.durable = 3
            site.add(shared=False)
            await site.writer.finish()
            assert (site.database.seq, site.database.changes) == (3, {})
            assert trio.current_time() < LOCAL_S / 10

    async def test_end_waits_for_no_bodies_of_a_database_that_is_gone(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with serving() as site:
            await site.outbox.wait(site.add())
            site.database.stop()
            await site.writer.finish()
            assert trio.current_time() <= LIMIT_S + 0.1

    async def test_end_is_bounded(self, autojump_clock: trio.testing.MockClock) -> None:
        async with serving() as site:
            site.database.is_silent = True
            site.add()
            await site.writer.finish()
            assert trio.current_time() == pytest.approx(LIMIT_S, abs=0.1)

    async def test_what_is_left_is_sent_without_a_task(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        site = Site()
        site.add()
        site.add(shared=False)
        await site.writer.send_all()
        assert site.database.seq == 2
        assert site.outbox.count == 0

    async def test_what_cannot_be_sent_ends_in_time(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        site = Site()
        site.add()
        site.database.stop()
        with pytest.raises(MetadataError, match="has not answered"):
            await site.writer.send_all()
        assert trio.current_time() == pytest.approx(LIMIT_S, abs=0.1)
        assert site.outbox.count == 1
