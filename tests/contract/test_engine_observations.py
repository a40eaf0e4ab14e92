"""Rings of metrics and events are bounded, and as durable as names."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.errors import InvalidValueError, TooBigError
from memfs.metadata.records import Event, MetricRow
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.observations import DETAIL_LENGTH_MAX
from memfs.metrics.rings import EVENT_COUNT, RINGS
from memfs.types import METRIC_BYTES_MAX
from tests.contract.engine.making import make_file
from tests.contract.engine.site import local_only, run

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from tests.contract.engine.site import SqliteSite

ALL = 100_000


def event(detail: str, number: int = 0) -> Event:
    return Event(number, 5, "pin", "/a", detail)


async def test_rows_of_a_ring_are_listed_in_order_of_time(engine: Engine) -> None:
    rows = [MetricRow(10, at_s, b"%d" % at_s) for at_s in (30, 10, 20)]
    await engine.put_metrics([*rows, MetricRow(60, 60, b"minute")])
    assert await engine.list_metrics(10, -1, ALL) == sorted(rows)
    assert await engine.list_metrics(10, 10, 1) == [rows[2]]
    assert await engine.list_metrics(60, -1, ALL) == [MetricRow(60, 60, b"minute")]
    assert await engine.list_metrics(900, -1, ALL) == []


async def test_a_row_of_the_same_time_takes_the_place_of_the_first(engine: Engine) -> None:
    """A daemon that starts anew within ten seconds measures them again."""
    await engine.put_metrics([MetricRow(10, 50, b"first")])
    await engine.put_metrics([MetricRow(10, 50, b"")])
    assert await engine.list_metrics(10, -1, ALL) == [MetricRow(10, 50, b"")]


@pytest.mark.parametrize("ring", RINGS, ids=lambda each: f"{each.resolution_s} s")
async def test_a_ring_is_never_longer_than_it_was_made(
    engine: Engine, ring: tuple[int, int]
) -> None:
    resolution_s, count = ring
    for begin in range(0, 2 * count + 7, 500):
        numbers = range(begin, min(begin + 500, 2 * count + 7))
        await engine.put_metrics([MetricRow(resolution_s, n * resolution_s, b"x") for n in numbers])
    rows = await engine.list_metrics(resolution_s, -1, ALL)
    assert [row.at_s // resolution_s for row in rows] == [*range(count + 7, 2 * count + 7)]


async def test_what_fits_no_ring_is_refused_whole(engine: Engine) -> None:
    sound = MetricRow(10, 10, b"")
    for unfit in (MetricRow(11, 11, b""), MetricRow(10, 15, b""), MetricRow(10, -10, b"")):
        with pytest.raises(InvalidValueError):
            await engine.put_metrics([sound, unfit])
    with pytest.raises(TooBigError):
        await engine.put_metrics([sound, MetricRow(10, 20, bytes(METRIC_BYTES_MAX + 1))])
    assert await engine.list_metrics(10, -1, ALL) == []


async def test_nothing_to_store_is_no_change(engine: Engine) -> None:
    await engine.put_metrics([])
    await engine.add_events([])
    assert not engine.uncommitted


async def test_events_are_numbered_and_the_latest_come_first(engine: Engine) -> None:
    await engine.add_events([event("one"), event("two")])
    await engine.add_events([event("three")])
    assert await engine.list_events(None, ALL) == [
        event("three", 3),
        event("two", 2),
        event("one", 1),
    ]
    assert await engine.list_events(3, 1) == [event("two", 2)]


async def test_the_ring_of_events_keeps_the_latest(engine: Engine) -> None:
    total = EVENT_COUNT + 5
    for begin in range(0, total, 1000):
        await engine.add_events([event("")] * min(1000, total - begin))
    events = await engine.list_events(None, ALL)
    assert [each.number for each in events] == [*range(total, 5, -1)]


async def test_an_event_of_a_name_that_is_no_text_is_kept(engine: Engine) -> None:
    """With the bytes that are no UTF-8 spelled; nothing else of it is another."""
    await engine.add_events([Event(0, 5, "pin", "/caf\udce9 \u202e", "\ud800")])
    [kept] = await engine.list_events(None, ALL)
    assert (kept.subject, kept.detail) == (r"/caf\xe9 " + "\u202e", r"\ud800")


async def test_long_texts_of_events_are_cut(engine: Engine) -> None:
    await engine.add_events([event("x" * 10 * DETAIL_LENGTH_MAX)])
    [stored] = await engine.list_events(None, 1)
    assert stored.detail == "x" * DETAIL_LENGTH_MAX


@local_only
async def test_committed_rows_survive_a_crash_and_others_do_not(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    await engine.put_metrics([MetricRow(10, 10, b"kept")])
    await engine.add_events([event("kept")])
    await engine.commit()
    await engine.put_metrics([MetricRow(10, 20, b"lost")])
    await engine.add_events([event("lost")])
    engine = engine_site.crash()
    assert [row.numbers for row in await engine.list_metrics(10, -1, ALL)] == [b"kept"]
    assert [each.detail for each in await engine.list_events(None, ALL)] == ["kept"]
    await engine.add_events([event("next")])
    assert [each.number for each in await engine.list_events(None, ALL)] == [2, 1]


def test_a_state_from_before_there_were_rings_opens_and_gets_them(tmp_path: Path) -> None:
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    file = run(make_file(engine, b"file"))
    engine.close()
    connection = sqlite3.connect(tmp_path / "metadata.db")
    connection.executescript("drop table metric; drop table event")
    connection.close()
    (tmp_path / "metadata.sums").unlink(missing_ok=True)
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    run(engine.put_metrics([MetricRow(86_400, 0, b"day")]))
    run(engine.add_events([event("one")]))
    engine.close()
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    assert run(engine.list_metrics(86_400, -1, ALL)) == [MetricRow(86_400, 0, b"day")]
    assert run(engine.list_events(None, ALL)) == [event("one", 1)]
    assert run(engine.get_inode(file.ino)).ino == file.ino
    assert engine.check() == []
    engine.close()
