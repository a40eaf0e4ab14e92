"""Publishing: plain objects that only others may change, on a real server of conditions."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
import pytest
import trio
import trio.testing

from memfs.config import EncryptionConfig, PublishConfig, QuotasConfig
from memfs.content.forms import FormReader
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import (
    CorruptDataError,
    InvalidValueError,
    NotSupportedError,
    ObjectChangedError,
    ObjectMissingError,
    StoreUnreachableError,
    UsageError,
)
from memfs.jobs import publish_following, publishing
from memfs.jobs.publish_following import Following
from memfs.jobs.publishing import Places, PublishMethods
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.metadata.published import PublishProblem
from memfs.metadata.records import NewInode
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.publish_marks import is_allowed, list_roots, note_root, target_of
from memfs.moves.publish_uploads import list_uploads
from memfs.moves.publishing import Publication
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.marks import PUBLISH_DELETED_XATTR, PUBLISH_XATTR
from memfs.policy.quotas import Spent
from memfs.stores.counts import StoreCounts
from memfs.stores.directory_publishing import DirectoryPublicStore
from memfs.stores.publishing import (
    PublicAttributes,
    content_type_of,
    dated_metadata_of,
    metadata_of,
)
from memfs.stores.remote import open_public_store
from memfs.stores.s3_publishing import S3PublicStore
from memfs.stores.store import PART_BYTES
from memfs.types import ROOT_INODE, Generation, InodeNo
from memfs_tools.published_lines import write_lines
from tests.moving import SMALL_FRAMES, State, compressible
from tests.servers.process import READY
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from memfs.config import Config
    from memfs.stores.publishing import PublicObject
    from memfs.stores.store import ByteSource
    from tests.servers.seaweedfs import S3Server

CONTENT = compressible(70_000)
TIMEOUT_S = 60.0


async def nothing_to_list(_directory: InodeNo) -> None:
    await trio.lowlevel.checkpoint()


class Bench:
    """A state directory, a bucket behind the back of memfs, and a prefix of its own in it."""

    def __init__(self, state: State, server: S3Server, prefix: str) -> None:
        self.state = state
        self.server = server
        self.prefix = prefix
        self.url = f"s3://{READY}/{prefix}"
        self.client: Any = server.client()
        self.store = S3PublicStore(self.url, server.options, TIMEOUT_S, 4)
        self.place = Publication(state.parts, self.store, self.url)
        self.opened = [self.store]

    def get(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_object(Bucket=READY, Key=f"{self.prefix}/{key}")
        return found | {"Bytes": found["Body"].read()}

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=READY, Key=f"{self.prefix}/{key}", Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=READY, Key=f"{self.prefix}/{key}")

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=READY, Prefix=f"{self.prefix}/")
        return [item["Key"].removeprefix(f"{self.prefix}/") for item in found.get("Contents", ())]

    def _open(self, target: str, *_options: object) -> S3PublicStore:
        self.opened.append(S3PublicStore(target, self.server.options, TIMEOUT_S, 4))
        return self.opened[-1]

    def methods(self) -> PublishMethods:
        places = Places(self.state.parts, {}, self._open)
        return PublishMethods(self.state.parts, self._quotas(), places)

    def following(self, clock: Callable[[], int] = time.time_ns) -> Following:
        places, changes = Places(self.state.parts, {}, self._open), self.state.activity.changes
        return Following(self.state.parts, self._quotas(), places, changes, nothing_to_list, clock)

    def _quotas(self) -> Quotas:
        return Quotas(self.state.config.quotas, self.state.engine)


@pytest.fixture(params=["seaweedfs", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(
        "s3_server" if request.param == "seaweedfs" else "moto_server"
    )
    return found


@pytest.fixture
async def bench(tmp_path: Path, server: S3Server) -> AsyncIterator[Bench]:
    config = replace(SMALL_FRAMES, publish=PublishConfig(delete=True, quiet_s=0.0))
    state = State(tmp_path / "state", config)
    opened = Bench(state, server, tmp_path.name)
    yield opened
    for store in opened.opened:
        await store.aclose()
    opened.client.close()
    state.close()


async def test_a_file_is_a_plain_object_with_type_time_and_mode(bench: Bench) -> None:
    state = bench.state
    ino = await state.create("a.csv", CONTENT)
    result, problem = await bench.place.publish(ino, "sub/a.csv")
    assert (result.outcome, problem) == (MoveOutcome.DONE, "")
    found = bench.get("sub/a.csv")
    assert found["Bytes"] == CONTENT
    assert found["ContentType"].startswith("text/csv")
    inode = await state.engine.get_inode(ino)
    assert found["Metadata"]["mtime"] == f"{inode.mtime_ns // 10**9}.{inode.mtime_ns % 10**9:09}"
    assert stat.S_ISREG(int(found["Metadata"]["mode"], 8))
    assert bench.names() == ["sub/a.csv"]
    again, _ = await bench.place.publish(ino, "sub/a.csv")
    assert again.outcome == MoveOutcome.UNNEEDED
    await state.rewrite(ino, CONTENT[::-1])
    result, _ = await bench.place.publish(ino, "sub/a.csv")
    assert result.outcome == MoveOutcome.DONE
    assert bench.get("sub/a.csv")["Bytes"] == CONTENT[::-1]
    assert await state.leaks() == []


async def test_empty_files_and_those_in_the_object_store_are_published(bench: Bench) -> None:
    state = bench.state
    empty, far = await state.create("empty", b""), await state.create("far", CONTENT)
    await upload(state.parts, far)
    await drop_raw(state.parts, far)
    for ino, key in ((empty, "empty"), (far, "far")):
        assert (await bench.place.publish(ino, key))[0].outcome == MoveOutcome.DONE
    assert bench.get("empty")["Bytes"] == b""
    assert bench.get("far")["Bytes"] == CONTENT


async def test_what_somebody_else_has_written_is_never_replaced(bench: Bench) -> None:
    """Neither an object that was there before, nor one that has changed since."""
    state = bench.state
    ino = await state.create("a", CONTENT)
    bench.put("before", b"theirs")
    assert (await bench.place.publish(ino, "before"))[1] == PublishProblem.TAKEN
    assert (await bench.place.publish(ino, "before"))[1] == PublishProblem.TAKEN
    assert bench.get("before")["Bytes"] == b"theirs"
    await bench.place.publish(ino, "since")
    bench.put("since", b"theirs")
    await state.rewrite(ino, b"ours, new")
    for _ in range(2):
        assert (await bench.place.publish(ino, "since"))[1] == PublishProblem.TAKEN
        assert bench.get("since")["Bytes"] == b"theirs"
    known = await state.engine.get_published(bench.place.url_of("since"))
    assert known is not None
    assert (known.generation, known.problem) == (0, PublishProblem.TAKEN)
    assert await bench.place.remove(known) == PublishProblem.TAKEN
    assert bench.get("since")["Bytes"] == b"theirs"
    # They give way.
    bench.delete("since")
    assert (await bench.place.publish(ino, "since"))[0].outcome == MoveOutcome.DONE
    assert bench.get("since")["Bytes"] == b"ours, new"


async def test_an_object_that_does_not_read_back_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = await bench.state.create("a", CONTENT)
    read = bench.store.read

    async def flipped(key: str, stored: PublicObject, start: int, end: int) -> bytes:
        return bytes([(await read(key, stored, start, end))[0] ^ 1]) + CONTENT[1:]

    monkeypatch.setattr(bench.store, "read", flipped)
    with pytest.raises(CorruptDataError, match="does not read back"):
        await bench.place.publish(ino, "a")
    monkeypatch.setattr(bench.store, "read", read)
    assert (await bench.place.publish(ino, "a"))[0].outcome == MoveOutcome.DONE


async def test_a_store_that_heeds_no_conditions_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything but an object of memfs's own was written."""
    bench.put("a", b"theirs")

    async def put_if(key: str, *_arguments: object, **_more: object) -> str:
        etag: str = bench.client.put_object(Bucket=READY, Key=f"{bench.prefix}/{key}")["ETag"]
        return etag

    monkeypatch.setattr(bench.store, "put_if", put_if)
    ino = await bench.state.create("a", CONTENT)
    with pytest.raises(NotSupportedError, match="overwrites an object"):
        await bench.place.publish(ino, "a")
    assert bench.get("a")["Bytes"] == b"theirs"
    assert bench.names() == ["a"]


async def test_a_file_that_is_changed_while_it_is_sent_is_not_published(bench: Bench) -> None:
    """Not a byte of it, however much was sent; the next attempt has the new ones."""
    state = bench.state
    ino = await state.create("a", CONTENT)
    put_if = bench.store.put_if

    async def meddled(key: str, source: ByteSource, *arguments: Any, **more: Any) -> str:  # noqa: ANN401
        if key == "a" and source.size_max == len(CONTENT):
            await state.rewrite(ino, CONTENT[::-1] + b"longer")
        return await put_if(key, source, *arguments, **more)

    bench.store.put_if = meddled  # type: ignore[method-assign]
    assert (await bench.place.publish(ino, "a"))[0].outcome == MoveOutcome.SUPERSEDED
    assert bench.names() == []
    assert (await bench.place.publish(ino, "a"))[0].outcome == MoveOutcome.DONE
    assert bench.get("a")["Bytes"] == CONTENT[::-1] + b"longer"


async def test_a_file_without_a_raw_file_is_sent_from_its_forms(bench: Bench) -> None:
    """It is not fetched for that, and nothing is copied on the disk."""
    state = bench.state
    ino = await state.create("far", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    reader = FormReader(state.engine, state.packed_store, state.all_stores, state.raw_store)
    place = Publication(state.parts, bench.store, bench.url, reader.read)
    assert (await place.publish(ino, "far"))[0].outcome == MoveOutcome.DONE
    assert bench.get("far")["Bytes"] == CONTENT
    assert not (await state.engine.get_inode(ino)).raw


async def test_a_damaged_file_is_not_published(bench: Bench) -> None:
    state = bench.state
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    inode = await state.engine.get_inode(ino)
    path = state.raw_store.path(inode.raw)
    status = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorruptDataError, match="nothing is published"):
        await bench.place.publish(ino, "a")
    assert bench.names() == []


async def test_a_store_without_conditions_needs_a_permission(tmp_path: Path) -> None:
    fsspec.filesystem("memory").makedirs(f"/{tmp_path.name}")
    state = State(tmp_path / "state", SMALL_FRAMES)
    url = f"memory://{tmp_path.name}"
    store = open_public_store(url, {}, TIMEOUT_S)
    place = Publication(state.parts, store, url)
    ino = await state.create("a", CONTENT)
    with pytest.raises(NotSupportedError, match=r"publish\.unconditional = true"):
        await place.publish(ino, "a")
    assert await store.find("a") is None
    for content in (CONTENT, b"another"):
        await state.rewrite(ino, content)
        result, _ = await place.publish(ino, "a", unconditional=True)
        assert result.outcome == MoveOutcome.DONE
        assert fsspec.filesystem("memory").cat(f"/{tmp_path.name}/a") == content
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a", b"theirs")
    await state.rewrite(ino, b"ours")
    assert (await place.publish(ino, "a", unconditional=True))[1] == PublishProblem.TAKEN
    assert fsspec.filesystem("memory").cat(f"/{tmp_path.name}/a") == b"theirs"
    assert fsspec.filesystem("memory").ls(f"/{tmp_path.name}", detail=False) == [
        f"/{tmp_path.name}/a"
    ]
    await place.aclose()
    state.close()


async def test_what_was_written_into_a_file_after_a_cut_off_attempt_stays(tmp_path: Path) -> None:
    """Its token is there still, and the bytes are others."""
    there = tmp_path / "there"
    there.mkdir()
    state = State(tmp_path / "state", SMALL_FRAMES)
    store = DirectoryPublicStore(there, TIMEOUT_S, 4)
    place = Publication(state.parts, store, store.url)
    ino = await state.create("a", CONTENT)
    for is_theirs in (False, True):
        await place.publish(ino, "a")
        known = await state.engine.get_published(place.url_of("a"))
        assert known is not None
        # A kill after the file has appeared, and before that was recorded.
        async with state.engine.change():
            await state.engine.put_published(known._replace(etag="", generation=Generation(0)))
        if is_theirs:
            with (there / "a").open("r+b") as file:
                file.write(b"T")
        await state.rewrite(ino, b"ours" * 100)
        expected = PublishProblem.TAKEN if is_theirs else PublishProblem.NONE
        assert (await place.publish(ino, "a"))[1] == expected
    assert (there / "a").read_bytes() == b"T" + (b"ours" * 100)[1:]
    await place.aclose()
    state.close()


async def test_a_store_without_conditions_for_parts_gets_no_large_objects(
    tmp_path: Path, moto_server: S3Server
) -> None:
    """Small ones go there: a request alone has its condition."""
    state, url = State(tmp_path / "state", SMALL_FRAMES), f"s3://{READY}/{tmp_path.name}"
    store = open_public_store(url, moto_server.options, TIMEOUT_S)
    place = Publication(state.parts, store, url, in_parts_above_bytes=len(CONTENT) - 1)
    large, small = await state.create("large", CONTENT), await state.create("small", b"small")
    with pytest.raises(NotSupportedError, match="overwrites an object"):
        await place.publish(large, "large")
    assert (await place.publish(small, "small"))[0].outcome == MoveOutcome.DONE
    assert (await place.publish(large, "large", unconditional=True))[0].outcome == MoveOutcome.DONE
    assert await list_uploads(state.engine) == []
    await place.aclose()
    state.close()


async def marked(bench: Bench, name: bytes = b"results") -> InodeNo:
    """Make a directory that is published by itself."""
    state, engine = bench.state, bench.state.engine
    number, _ = engine.reserve_ids()
    new = NewInode(number, stat.S_IFDIR | 0o755, 0, 0, 1)
    await engine.create(ROOT_INODE, name, new)
    state.parts.config = replace(
        state.config, publish=replace(state.config.publish, targets=(f"s3://{READY}",))
    )
    async with engine.change():
        await engine.set_xattr(number, PUBLISH_XATTR, bench.url.encode(), 0, 1)
        await note_root(engine, number)
    return number


async def test_a_tree_is_published_by_its_mark_and_its_removal(bench: Bench) -> None:
    """As often as it is looked at; nothing is published twice, nor above the directory."""
    state, engine = bench.state, bench.state.engine
    for text in ("a", "b", "outside"):
        await state.create(text, CONTENT + text.encode())
    number = await marked(bench)
    for name in (b"a", b"b"):
        await engine.rename(ROOT_INODE, name, number, name, 0, 1)
    following = bench.following()

    async def look() -> None:
        state.activity.changes.note_all()
        await following.step()

    await look()
    assert bench.names() == ["a", "b"]
    stored = [bench.get(key)["ETag"] for key in bench.names()]
    await look()
    assert [bench.get(key)["ETag"] for key in bench.names()] == stored
    told = (await bench.methods().published(bench.url))["objects"]
    assert [(each["key"], each["current"]) for each in told] == [("a", True), ("b", True)]
    bench.put("b", b"theirs")
    for name in (b"a", b"b"):
        await engine.unlink(number, name, 2)
    await look()
    assert bench.names() == ["b"]
    assert bench.get("b")["Bytes"] == b"theirs"
    assert await list_roots(engine) == [number]
    async with engine.change():
        await engine.remove_xattr(number, PUBLISH_XATTR, 1)
    await look()
    assert await list_roots(engine) == []
    assert not state.activity.changes.followed


async def test_why_a_file_is_not_published_by_itself_is_told(bench: Bench) -> None:
    """Only the log had it, by the number of the inode."""
    state, engine = bench.state, bench.state.engine
    number = await marked(bench)
    inos = {name: await state.create(name, CONTENT) for name in ("theirs", "large")}
    await state.rewrite(inos["large"], CONTENT * 10)
    for name in inos:
        await engine.rename(ROOT_INODE, name.encode(), number, name.encode(), 0, 1)
    bench.put("theirs", b"theirs")
    quotas = replace(state.config.quotas, upload_bytes_per_day=2 * len(CONTENT))
    state.config = replace(state.parts.config, quotas=quotas)
    following = bench.following()
    state.activity.changes.note_all()
    await following.step()
    told = state.parts.unpublished
    assert told[inos["theirs"]] == f"{bench.url}/theirs: changed by someone else"
    assert "quotas.upload_per_day" in told[inos["large"]]
    bench.delete("theirs")
    for name, ino in inos.items():
        await state.rewrite(ino, name.encode())
        state.activity.changes.note(ino)
    await following.step()
    assert bench.names() == ["large", "theirs"]
    assert not told
    told[inos["large"]] = "of before"
    async with engine.change():
        await engine.remove_xattr(number, PUBLISH_XATTR, 1)
    state.activity.changes.note_all()
    await following.step()
    assert not told


async def test_what_is_told_is_published_without_a_look_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seal, a new name and a removal are each followed; what has no mark is not."""
    state, engine = bench.state, bench.state.engine
    number = await marked(bench)
    following = bench.following()
    await following.step()
    changes = state.activity.changes
    assert changes.followed

    async def looks() -> None:
        raise AssertionError("everything was looked at")

    monkeypatch.setattr(following, "look", looks)
    inside, outside = await state.create("a", CONTENT), await state.create("outside", CONTENT)
    await engine.rename(ROOT_INODE, b"a", number, b"a", 0, 1)
    for ino in (inside, outside):
        changes.note(ino)
    await following.step()
    assert bench.names() == ["a"]
    await engine.rename(number, b"a", number, b"b", 0, 2)
    changes.note(inside)
    await following.step()
    assert bench.names() == ["b"]
    await state.rewrite(inside, CONTENT[::-1])
    changes.note(inside)
    await following.step()
    assert bench.get("b")["Bytes"] == CONTENT[::-1]
    await engine.unlink(number, b"b", 3)
    changes.note(inside)
    await following.step()
    assert bench.names() == []


async def test_what_was_not_published_before_the_end_is_found_after_the_start(
    bench: Bench,
) -> None:
    state, engine = bench.state, bench.state.engine
    number = await marked(bench)
    await bench.following().step()
    ino = await state.create("a", CONTENT)
    await engine.rename(ROOT_INODE, b"a", number, b"a", 0, 1)
    state.activity.changes.note(ino)
    # Nobody takes the notice: the daemon has ended.
    state.activity.changes.take()
    await bench.following().step()
    assert bench.names() == ["a"]


async def test_a_file_is_left_alone_until_nobody_changes_it(bench: Bench) -> None:
    state, engine = bench.state, bench.state.engine
    number = await marked(bench)
    ino = await state.create("a", CONTENT)
    await engine.rename(ROOT_INODE, b"a", number, b"a", 0, time.time_ns())
    changed_ns = (await engine.get_inode(ino)).ctime_ns
    config = state.parts.config

    def following(quiet_s: float, now_ns: int) -> Following:
        state.parts.config = replace(config, publish=replace(config.publish, quiet_s=quiet_s))
        return bench.following(lambda: now_ns)

    await following(3600.0, changed_ns + 3599 * 10**9).step()
    assert bench.names() == []
    # It comes again by itself; the clock stands still, so that it is as fresh as before.
    early = following(0.01, changed_ns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(early.run)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert bench.names() == []
    late = bench.following(time.time_ns)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.run)
            while not bench.names():  # noqa: ASYNC110  the object is in the store
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()


async def test_places_that_nobody_uses_are_closed_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is in use stays the only one of its target: it knows what it is sending."""
    monkeypatch.setattr(publishing, "PLACES_MAX", 2)
    opened: list[str] = []
    closed: list[str] = []

    class Place(DirectoryPublicStore):
        async def aclose(self) -> None:
            closed.append(self.url)
            await super().aclose()

    def open_place(target: str, *_options: object) -> Place:
        opened.append(target)
        return Place(Path(urlsplit(target).path), TIMEOUT_S, 2)

    state, urls = State(tmp_path / "state", SMALL_FRAMES), []
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        urls.append(f"file://{tmp_path}/{number}")
    places = Places(state.parts, {}, open_place)
    async with places.at(urls[0]) as first:
        for url in (*urls[1:], urls[1]):
            async with places.at(url), places.at(url) as same:
                assert same.target == url
        async with places.at(urls[0]) as again:
            assert again is first
        assert closed == [urls[1], urls[2], urls[3]]
    assert opened == [*urls, urls[1]]
    await places.aclose()
    assert sorted(closed) == sorted(opened)

    async def use() -> None:
        async with places.at(urls[0]):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use)
    assert len(opened) == 7
    await places.aclose()
    assert sorted(closed) == sorted(opened)
    state.close()


async def test_files_that_wait_for_a_place_are_bounded_and_all_of_them_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the place does not answer, files are changed on and on."""
    monkeypatch.setattr(publish_following, "DUE_COUNT_MAX", 4)
    monkeypatch.setattr(publish_following, "RETRY_S_MIN", 0.0)
    monkeypatch.setattr(publish_following, "RETRY_S_MAX", 0.0)
    target, is_there = tmp_path / "target", False
    target.mkdir()
    url = f"file://{target}"
    published = PublishConfig(targets=(url,), quiet_s=0.0)
    state = State(tmp_path / "state", replace(SMALL_FRAMES, publish=published))
    engine, changes = state.engine, state.activity.changes
    number, _ = engine.reserve_ids()
    await engine.create(ROOT_INODE, b"results", NewInode(number, stat.S_IFDIR | 0o755, 0, 0, 1))
    async with engine.change():
        await engine.set_xattr(number, PUBLISH_XATTR, url.encode(), 0, 1)
        await note_root(engine, number)

    def open_place(_target: str, *_options: object) -> DirectoryPublicStore:
        if not is_there:
            raise StoreUnreachableError("the place does not answer")
        return DirectoryPublicStore(target, TIMEOUT_S, 2)

    places = Places(state.parts, {}, open_place)
    quotas = Quotas(state.config.quotas, engine)
    following = Following(state.parts, quotas, places, changes, nothing_to_list)
    await following.step()
    for text in "abcdefghij":
        ino = await state.create(text, text.encode())
        await engine.rename(ROOT_INODE, text.encode(), number, text.encode(), 0, 1)
        changes.note(ino)
        await following.step()
        assert len(following._due) <= 4
    is_there = True
    for _ in range(10):
        await following.step()
    assert sorted(each.name for each in target.iterdir() if each.is_file()) == [*"abcdefghij"]
    await places.aclose()
    state.close()


async def test_what_is_published_counts_against_the_quotas(tmp_path: Path) -> None:
    """As what goes to memfs's own store; a directory of this machine costs nothing."""
    fsspec.filesystem("memory").makedirs(f"/{tmp_path.name}")
    (tmp_path / "there").mkdir()
    config = replace(
        SMALL_FRAMES,
        quotas=QuotasConfig(
            requests_per_day=1000, upload_bytes_per_day=1 << 20, egress_bytes_per_day=1 << 20
        ),
    )
    state, counts = State(tmp_path / "state", config), StoreCounts()
    quotas = Quotas(config.quotas, state.engine)
    places = Places(state.parts, {}, meter=quotas, counts=counts)

    def used() -> dict[Spent, int]:
        return {use.spent: use.used for use in quotas.uses()}

    ino = await state.create("a", CONTENT)
    async with places.at(f"file://{tmp_path}/there") as place:
        await place.publish(ino, "a")
    assert set(used().values()) == {0}
    async with places.at(f"memory://{tmp_path.name}") as place:
        result, _ = await place.publish(ino, "a", unconditional=True)
    assert result.outcome == MoveOutcome.DONE
    size = len(CONTENT)
    # Sent, and read back.
    assert (used()[Spent.UPLOAD], used()[Spent.EGRESS]) == (size, size)
    assert used()[Spent.REQUESTS] == sum(counts.requests.values()) >= 5
    assert (counts.sent_bytes, counts.received_bytes) == (size, size)
    await places.aclose()
    state.close()


async def test_two_directories_with_one_target_leave_each_other_alone(bench: Bench) -> None:
    state, engine = bench.state, bench.state.engine
    for name in ("one", "two"):
        number = await marked(bench, name.encode())
        await state.create(f"of-{name}", CONTENT)
        await engine.rename(ROOT_INODE, f"of-{name}".encode(), number, f"of-{name}".encode(), 0, 1)
    following = bench.following()
    for _ in range(2):
        state.activity.changes.note_all()
        await following.step()
        assert bench.names() == ["of-one", "of-two"]


async def test_what_becomes_of_objects_without_files_is_said_for_each_directory(
    tmp_path: Path,
) -> None:
    """And for each call; only what memfs has put there, and nobody has changed since."""
    there = tmp_path / "there"
    there.mkdir()
    state, url = State(tmp_path / "state", SMALL_FRAMES), f"file://{there}"
    engine, places = state.engine, Places(state.parts, {})
    methods = PublishMethods(state.parts, Quotas(state.config.quotas, engine), places)
    inos = [await state.create(name, CONTENT) for name in ("a", "b", "c")]
    await methods.publish([int(ino) for ino in inos], int(ROOT_INODE), url)
    os.setxattr(there / "a", "user.of-others", b"")
    (there / "a").write_bytes(b"theirs")
    for name in (b"a", b"b"):
        await engine.unlink(ROOT_INODE, name, 1)
    await engine.rename(ROOT_INODE, b"c", ROOT_INODE, b"d", 0, 1)
    report = await methods.publish_removed(int(ROOT_INODE), url)
    assert (report["removed_count"], report["left_count"]) == (0, 3)
    async with engine.change():
        await engine.set_xattr(ROOT_INODE, PUBLISH_DELETED_XATTR, b"remove", 0, 1)
    report = await methods.publish_removed(int(ROOT_INODE), url, "keep")
    assert (report["removed_count"], report["left_count"]) == (0, 3)
    assert sorted(os.listdir(there)) == ["a", "b", "c"]
    report = await methods.publish_removed(int(ROOT_INODE), url)
    assert (report["removed_count"], report["left_count"]) == (2, 1)
    assert report["problems"] == [f"{url}/a: {PublishProblem.TAKEN}"]
    assert os.listdir(there) == ["a"]
    assert (there / "a").read_bytes() == b"theirs"
    with pytest.raises(InvalidValueError, match="keep or remove"):
        await methods.publish_removed(int(ROOT_INODE), url, "perhaps")
    await places.aclose()
    state.close()


async def test_a_large_file_is_sent_and_read_back_in_parts(tmp_path: Path) -> None:
    """An object that is exchanged while it is read back does not count as published."""
    there = tmp_path / "there"
    there.mkdir()
    state, url = State(tmp_path / "state", SMALL_FRAMES), f"file://{there}"
    store = open_public_store(url, {}, TIMEOUT_S)
    place = Publication(state.parts, store, url)
    content = os.urandom(2 * PART_BYTES + 5)
    ino = await state.create("a", content)
    assert (await place.publish(ino, "a"))[0].outcome == MoveOutcome.DONE
    assert (there / "a").read_bytes() == content
    await state.rewrite(ino, content[::-1])
    read = store.read

    async def meddled(key: str, stored: PublicObject, start: int, end: int) -> bytes:
        if start:
            (there / "new").write_bytes(content)
            os.rename(there / "new", there / "a")
        return await read(key, stored, start, end)

    store.read = meddled  # type: ignore[method-assign]
    with pytest.raises(ObjectChangedError):
        await place.publish(ino, "a")
    store.read = read  # type: ignore[method-assign]
    assert (await place.publish(ino, "a")).problem == PublishProblem.TAKEN
    assert (there / "a").read_bytes() == content
    state.close()


async def test_an_upload_that_is_cancelled_leaves_no_parts(
    tmp_path: Path, s3_server: S3Server
) -> None:
    """Neither in the bucket, once its connections are released, nor in the list of uploads."""
    state, url = State(tmp_path / "state", SMALL_FRAMES), f"s3://{READY}/{tmp_path.name}"
    store = open_public_store(url, s3_server.options, TIMEOUT_S)
    place = Publication(state.parts, store, url, in_parts_above_bytes=0)
    ino = await state.create("a", CONTENT)
    scope = trio.CancelScope()

    class Cancels(FaultPoints):
        def reach(self, point: str) -> None:
            if point == "publishing.begun":
                trio.from_thread.run_sync(scope.cancel)

    state.parts.faults = Cancels()
    with scope:
        await place.publish(ino, "a")
    assert scope.cancelled_caught
    await place.aclose()
    with contextlib.closing(s3_server.client()) as client:
        made: Any = client
        left = made.list_multipart_uploads(Bucket=READY, Prefix=f"{tmp_path.name}/")
        assert left.get("Uploads", []) == []
    place = Publication(state.parts, open_public_store(url, s3_server.options, TIMEOUT_S), url)
    await place.end_uploads()
    assert await list_uploads(state.engine) == []
    await place.aclose()
    state.close()


async def mendable(tmp_path: Path, config: Config = SMALL_FRAMES) -> tuple[State, InodeNo, Path]:
    """Return a file that is in the object store alone, and was published."""
    there = tmp_path / "there"
    there.mkdir()
    state = State(tmp_path / "state", config)
    places = Places(state.parts, {})
    state.parts.published = places.fetch
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    async with places.at(f"file://{there}") as place:
        assert (await place.publish(ino, "a")).problem == ""
    await drop_raw(state.parts, ino)
    return state, ino, there / "a"


async def objects_of(state: State) -> list[Path]:
    return [path for path in state.objects_dir.rglob("*") if path.is_file()]


async def test_a_file_that_has_lost_its_own_forms_is_made_from_its_published_object(
    tmp_path: Path,
) -> None:
    state, ino, _ = await mendable(tmp_path)
    for path in await objects_of(state):
        path.unlink()
    await hydrate(state.parts, ino)
    assert await state.content(ino) == CONTENT
    state.close()


async def test_a_scrub_makes_a_damaged_object_anew_from_the_published_one(tmp_path: Path) -> None:
    state, ino, _ = await mendable(tmp_path)
    for path in await objects_of(state):
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    scrubbed = await scrub_file(state.parts, ino)
    assert scrubbed.outcome is ScrubOutcome.REPAIRED
    assert "its published object" in scrubbed.detail
    state.close()


@pytest.mark.parametrize("how", ["changed", "gone", "off"])
async def test_a_published_object_stands_in_only_with_the_bytes_of_the_file(
    tmp_path: Path, how: str
) -> None:
    """Nor where that is turned off; nothing is dropped because of it."""
    publish = PublishConfig(mend=how != "off")
    state, ino, published = await mendable(tmp_path, replace(SMALL_FRAMES, publish=publish))
    if how == "gone":
        published.unlink()
    elif how == "changed":
        published.write_bytes(CONTENT[::-1])
    objects = await objects_of(state)
    aside = [path.with_suffix(".aside") for path in objects]
    for path, other in zip(objects, aside, strict=True):
        path.rename(other)
    with pytest.raises(ObjectMissingError):
        await hydrate(state.parts, ino)
    for path, other in zip(objects, aside, strict=True):
        other.rename(path)
    await hydrate(state.parts, ino)
    assert await state.content(ino) == CONTENT
    state.close()


def test_a_manifest_without_pyarrow_is_lines_of_json(tmp_path: Path) -> None:
    told = {"key": "a", "size": 3, "mtime_ns": 5, "etag": '"e"', "digest": "00", "mode": 0o644}
    told |= {"uid": 1, "gid": 2, "xattrs": {"city": "Köln"}, "problem": "", "of_manifest": False}
    objects = [told | {"current": True}, told | {"key": "b", "current": False}]
    assert write_lines(tmp_path / "table", objects) == 1
    [line] = (tmp_path / "table").read_text().splitlines()
    wanted = {name: value for name, value in told.items() if name not in ("problem", "of_manifest")}
    assert json.loads(line) == wanted | {"etag": "e"}


async def test_a_file_is_asked_for_by_its_name_below_the_directory(bench: Bench) -> None:
    ino = await bench.state.create("a", CONTENT)
    answer = await bench.methods().publish([int(ino)], int(ROOT_INODE), f"{bench.url}/{{path}}")
    assert answer["outcomes"] == {"done": 1}
    alone = await bench.methods().publish([int(ino)], int(ino), f"{bench.url}/alone/")
    assert alone["outcomes"] == {"done": 1}
    assert bench.names() == ["a", "alone/a"]
    assert await bench.methods().publish_removed(int(ROOT_INODE), bench.url) == {
        "removed_count": 0,
        "left_count": 0,
        "problems": [],
    }


async def test_an_encrypted_mount_publishes_in_clear_only_where_that_is_said(
    tmp_path: Path,
) -> None:
    config = replace(SMALL_FRAMES, encryption=EncryptionConfig(keys=("env:X",)))
    keys = KeyRing([Key(bytes(32), "test")])
    state = State(tmp_path / "state", config, keys=keys)
    store = S3PublicStore("s3://b", {}, 1.0, 1)
    with pytest.raises(NotSupportedError, match=r"publish\.plain = true"):
        Publication(state.parts, store, "s3://b")
    state.parts.config = replace(config, publish=PublishConfig(plain=True))
    Publication(state.parts, store, "s3://b")
    state.close()


def test_only_what_is_configured_may_be_published_by_an_xattr() -> None:
    config = replace(SMALL_FRAMES, publish=PublishConfig(targets=("s3://b/results/",)))
    assert is_allowed("s3://b/results", config)
    assert is_allowed("s3://b/results/2026", config)
    assert not is_allowed("s3://b/results-of-others", config)
    assert not is_allowed("s3://b", config)
    assert target_of("s3://user:secret@b/x/{path}") == "s3://b/x"
    for url in ("results", "s3://", "s3://b/{date}/x", "file:///"):
        with pytest.raises(InvalidValueError, match="no place to publish"):
            target_of(url)
    assert target_of("file:///srv/x/") == "file:///srv/x"
    with pytest.raises(UsageError, match="is no directory"):
        open_public_store("file:///no/such/directory", {}, 1.0)
    with pytest.raises(UsageError, match=r"nosuch://b/x: Protocol not known"):
        open_public_store("nosuch://b/x", {}, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "text/csv"),
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.csv.gz", "application/gzip"),
        ("a.json", "application/json"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_content_type_is_told_by_the_name(name: str, kind: str) -> None:
    assert content_type_of(name) == kind


def test_times_and_modes_are_written_as_rclone_has_them() -> None:
    attributes = PublicAttributes(1_700_000_000_000_000_005, 0o100644, 0, 0, "text/plain", "t")
    told = {"mtime": "1700000000.000000005", "mode": "100644", "memfs-token": "t"}
    assert metadata_of(attributes) == told
    dated = {"mtime": "2023-11-14T22:13:20.000000005Z"}
    assert dated_metadata_of(attributes) == told | dated
