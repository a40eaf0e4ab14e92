"""The engine keeps what is known of published objects, whatever becomes of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine

TARGET = "s3://bucket/results"


def record(key: str, generation: int = 1) -> PublishedObject:
    return PublishedObject(
        f"{TARGET}/{key}",
        TARGET,
        InodeNo(7),
        Generation(generation),
        '"etag"',
        "token",
        3,
        1 << 60,
        bytes(32),
        PublishProblem.NONE,
    )


async def test_a_record_takes_the_place_of_the_one_before(engine: Engine) -> None:
    url = record("a").url
    assert await engine.get_published(url) is None
    for generation in (1, 0):
        async with engine.change():
            await engine.put_published(record("a", generation))
        assert await engine.get_published(url) == record("a", generation)
    async with engine.change():
        await engine.forget_published([url, record("b").url])
    assert await engine.get_published(url) is None


async def test_records_are_listed_by_target_in_order(engine: Engine) -> None:
    other = record("x")._replace(url="s3://bucket/other/x", target="s3://bucket/other")
    async with engine.change():
        for each in (record("c"), other, record("a"), record("b")):
            await engine.put_published(each)
    assert await engine.list_published(TARGET, "", 2) == [record("a"), record("b")]
    assert await engine.list_published(TARGET, record("b").url, 2) == [record("c")]
    assert await engine.list_published(other.target, "", 9) == [other]


async def test_the_records_of_a_file_are_found_by_it(engine: Engine) -> None:
    other = record("x")._replace(ino=InodeNo(8))
    async with engine.change():
        for each in (record("b"), other, record("a")):
            await engine.put_published(each)
    assert await engine.list_published_of(InodeNo(7)) == [record("a"), record("b")]
    assert await engine.list_published_of(InodeNo(9)) == []


async def test_records_outlive_a_crash_with_the_journal(engine: Engine) -> None:
    """What was committed is there, as all else."""
    async with engine.change():
        await engine.put_published(record("a"))
    engine.sync()
    engine.maintain()
    assert await engine.list_published(TARGET, "", 9) == [record("a")]
