"""A state that was made of an export goes on publishing: it knows its own objects, no others."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import PublishConfig, QuotasConfig
from memfs.errors import NotSupportedError
from memfs.exports.importing import take_over
from memfs.jobs.publish_following import Following
from memfs.jobs.publishing import Places, PublishMethods
from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.metadata.records import IndexState, NewInode
from memfs.moves.mending import fill_from_published
from memfs.moves.outcome import MoveOutcome
from memfs.moves.progress import MoveProgress
from memfs.moves.publish_marks import ROOTS_SETTING, list_roots, note_root
from memfs.moves.publish_tokens import Sender, sender_of
from memfs.moves.publishing import Publication
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.marks import PUBLISH_XATTR
from memfs.stores.directory_publishing import DirectoryPublicStore
from memfs.stores.s3_publishing import S3PublicStore
from memfs.types import ROOT_INODE, Generation, InodeNo
from tests.contract.engine.asking import ask, build
from tests.moving import SMALL_FRAMES, compressible
from tests.servers.process import READY
from tests.unit.test_exports import World, bring, mounted
from tests.unit.test_publishing import nothing_to_list

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

CONTENT = compressible(20_000)
TIMEOUT_S = 60.0


class Bucket:
    """Where files are published, and what others see and do there."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        self.server, self.prefix = server, prefix
        self.url = f"s3://{READY}/{prefix}"
        self.client: Any = server.client()
        self.opened: list[S3PublicStore] = []

    def open(self, target: str, *_options: object) -> S3PublicStore:
        self.opened.append(S3PublicStore(target, self.server.options, TIMEOUT_S, 4))
        return self.opened[-1]

    def place(self, world: World) -> Publication:
        return Publication(world.state.parts, self.open(self.url), self.url)

    def following(self, world: World) -> Following:
        parts = world.state.parts
        quotas = Quotas(QuotasConfig(), parts.engine)
        changes = world.state.activity.changes
        return Following(parts, quotas, Places(parts, {}, self.open), changes, nothing_to_list)

    def methods(self, world: World) -> PublishMethods:
        parts = world.state.parts
        quotas = Quotas(QuotasConfig(), parts.engine)
        return PublishMethods(parts, quotas, Places(parts, {}, self.open))

    def objects(self) -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket=READY, Prefix=f"{self.prefix}/")
        return {
            item["Key"].removeprefix(f"{self.prefix}/"): self.client.get_object(
                Bucket=READY, Key=item["Key"]
            )["Body"].read()
            for item in found.get("Contents", ())
        }

    def token(self, key: str) -> str:
        head = self.client.head_object(Bucket=READY, Key=f"{self.prefix}/{key}")
        token: str = head["Metadata"]["memfs-token"]
        return token

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=READY, Key=f"{self.prefix}/{key}", Body=data)


@pytest.fixture
async def bucket(tmp_path: Path, moto_server: S3Server) -> AsyncIterator[Bucket]:
    made = Bucket(moto_server, tmp_path.name)
    yield made
    for store in made.opened:
        await store.aclose()
    made.client.close()


def open_world(root: Path, name: str = "state") -> World:
    targets = (f"s3://{READY}",)
    config = replace(SMALL_FRAMES, publish=PublishConfig(delete=True, quiet_s=0.0, targets=targets))
    return World(root, name, config=config)


async def take(root: Path, name: str = "new") -> None:
    """Have an imported state take its store over, while it is not mounted."""
    world = World(root, name)
    try:
        temporary = world.state.packed_store.temporary_path
        await take_over(world.state.engine, {"": world.store}, temporary)
    finally:
        world.close()


async def make(world: World, directory: InodeNo, name: str, content: bytes) -> InodeNo:
    """Make a file below a directory, with an object where that can be."""
    ino = await world.state.create(name, content)
    await world.state.engine.rename(ROOT_INODE, name.encode(), directory, name.encode(), 0, 1)
    if world.state.parts.source is None:
        await upload(world.state.parts, ino)
    return ino


async def marked(world: World, url: str) -> InodeNo:
    engine = world.state.engine
    number = engine.reserve_ids()[0]
    await engine.create(
        ROOT_INODE, b"results", NewInode(number, stat.S_IFDIR | 0o755, 0, 0, time.time_ns())
    )
    async with engine.change():
        await engine.set_xattr(number, PUBLISH_XATTR, url.encode(), 0, 1)
        await note_root(engine, number)
    return number


async def look(world: World, following: Following) -> None:
    world.state.activity.changes.note_all()
    await following.step()


async def test_a_recovered_mount_goes_on_publishing(tmp_path: Path, bucket: Bucket) -> None:
    """What it sent before and after the export is its own, and what others wrote is theirs."""
    async with mounted(open_world(tmp_path)) as world:
        directory = await marked(world, bucket.url)
        inos = {name: await make(world, directory, name, CONTENT) for name in ("a", "b", "gone")}
        inos["theirs"] = await make(world, directory, "theirs", b"ours")
        following = bucket.following(world)
        await look(world, following)
        await world.exporter.export()
        # What comes now is lost with the disk.
        await world.state.rewrite(inos["b"], b"of later")
        await make(world, directory, "new", b"later")
        await look(world, following)
        before = {key: bucket.token(key) for key in bucket.objects()}
    shutil.rmtree(tmp_path / "state")
    bucket.put("theirs", b"of somebody else")
    await bring(tmp_path)
    # The former state may live: nothing is changed at its places, by itself or by hand.
    async with mounted(open_world(tmp_path, "new")) as world:
        engine, place = world.state.engine, bucket.place(world)
        assert await list_roots(engine) == [directory]
        following = bucket.following(world)
        await world.state.rewrite(inos["a"], b"elsewhere")
        await engine.unlink(directory, b"gone", 5)
        await look(world, following)
        assert not world.state.activity.changes.look_at_all
        with pytest.raises(NotSupportedError, match="take the store over"):
            await place.publish(inos["a"], "a")
        known = await engine.get_published(place.url_of("gone"))
        assert known is not None
        assert await place.remove(known) == PublishProblem.FORMER
        new = await make(world, directory, "new", b"x")
        assert (await place.publish(new, "new"))[1] == PublishProblem.TAKEN
        assert (await place.publish(new, "of this life"))[0].outcome == MoveOutcome.DONE
        await engine.unlink(directory, b"new", 6)
        unchanged = {key: token for key, token in before.items() if key != "theirs"}
        assert {key: bucket.token(key) for key in unchanged} == unchanged
    await take(tmp_path)
    async with mounted(open_world(tmp_path, "new")) as world:
        engine, following = world.state.engine, bucket.following(world)
        await world.state.rewrite(inos["theirs"], b"ours, of later")
        await make(world, directory, "new", b"made again")
        await look(world, following)
        found = bucket.objects()
        assert found == {
            "a": b"elsewhere",
            # Nobody has changed it since the export, here: what it became there is replaced.
            "b": b"of later",
            "new": b"made again",
            "theirs": b"of somebody else",
        }
        await world.state.rewrite(inos["b"], b"anew")
        await engine.rename(directory, b"new", directory, b"renamed", 0, 9)
        await look(world, following)
        found = bucket.objects()
        assert (found["b"], found["renamed"]) == (b"anew", b"made again")
        assert "new" not in found
        told = (await bucket.methods(world).published(bucket.url))["objects"]
        problems = {each["key"]: each["problem"] for each in told if each["problem"]}
        assert problems == {"theirs": PublishProblem.TAKEN}


async def test_a_recovered_mount_knows_its_files_in_a_directory(tmp_path: Path) -> None:
    """By the digest beside the token: a program that writes into one of them leaves the token."""
    there = tmp_path / "there"
    there.mkdir()
    url = f"file://{there}"

    def place_in(world: World) -> Publication:
        return Publication(world.state.parts, DirectoryPublicStore(there, TIMEOUT_S, 4), url)

    async with mounted(open_world(tmp_path)) as world:
        place = place_in(world)
        inos = {name: await world.state.create(name, CONTENT) for name in ("a", "gone", "theirs")}
        for name, ino in inos.items():
            await upload(world.state.parts, ino)
            await place.publish(ino, name)
        await world.exporter.export()
        # What comes now is lost with the disk.
        inos["new"] = await world.state.create("new", b"")
        for name, ino in inos.items():
            await world.state.rewrite(ino, name.encode() * 100)
            assert (await place.publish(ino, name))[0].outcome == MoveOutcome.DONE
    shutil.rmtree(tmp_path / "state")
    with (there / "theirs").open("r+b") as file:
        file.write(b"T")
    await bring(tmp_path)
    await take(tmp_path)
    async with mounted(open_world(tmp_path, "new")) as world:
        place, engine = place_in(world), world.state.engine
        inos["new"] = await world.state.create("new", b"")
        for name in ("a", "new", "theirs"):
            await world.state.rewrite(inos[name], b"made again")
            _, problem = await place.publish(inos[name], name)
            is_theirs = name == "theirs"
            assert problem == (PublishProblem.TAKEN if is_theirs else PublishProblem.NONE), name
        known = await engine.get_published(place.url_of("gone"))
        assert known is not None
        assert await place.remove(known) == PublishProblem.NONE
        found = {path.name: path.read_bytes() for path in there.iterdir()}
        assert found == {
            "a": b"made again",
            "new": b"made again",
            "theirs": b"T" + (b"theirs" * 100)[1:],
        }


async def test_records_of_an_export_hold_for_what_it_shows(tmp_path: Path, bucket: Bucket) -> None:
    """A later generation is not that of the file here; a file that is not in it has no object."""
    async with mounted(open_world(tmp_path)) as world:
        engine, place = world.state.engine, bucket.place(world)
        kept = await world.state.create("kept", CONTENT)
        changed = await world.state.create("changed", CONTENT)
        for ino, key in ((kept, "kept"), (changed, "changed")):
            await upload(world.state.parts, ino)
            await place.publish(ino, key)
        part = tmp_path / "part"
        part.write_bytes(b"of a manifest")
        await place.publish_part("_SUCCESS", part)
        read = world.exporter._writer._reader.read_parts
        later: list[InodeNo] = []

        async def publish_first(*arguments: Any) -> dict[str, Any]:  # noqa: ANN401
            if not later:
                later.append(await world.state.create("later", b"later"))
                await world.state.rewrite(changed, CONTENT[::-1])
                for ino, key in ((later[0], "later"), (changed, "changed")):
                    await place.publish(ino, key)
                engine.commit_nowait()
                await world.exporter._writer._reader.publish()
            return await read(*arguments)

        world.exporter._writer._reader.read_parts = publish_first  # type: ignore[assignment,method-assign]
        await world.exporter.export()
        former = {each.url: each for each in await engine.list_published(bucket.url, "", 9)}
        assert len(former) == 4
    await bring(tmp_path)
    async with mounted(open_world(tmp_path, "new")) as world:
        records = await world.state.engine.list_published(bucket.url, "", 9)
        assert {each.url.rpartition("/")[2] for each in records} == {"_SUCCESS", "changed", "kept"}
        for each in records:
            before = former[each.url]
            was_later = each.ino == changed
            assert each == (before._replace(generation=Generation(0)) if was_later else before)
        assert world.state.engine.check() == []


async def test_an_object_with_the_etag_of_the_export_but_no_token_is_somebody_elses(
    tmp_path: Path, bucket: Bucket
) -> None:
    """An export in clear could name any object as one to be replaced, or removed."""
    async with mounted(open_world(tmp_path)) as world:
        ino = await world.state.create("a", CONTENT)
        await upload(world.state.parts, ino)
        await bucket.place(world).publish(ino, "a")
        await world.exporter.export()
    await bring(tmp_path)
    await take(tmp_path)
    bucket.put("a", CONTENT)
    async with mounted(open_world(tmp_path, "new")) as world:
        engine, place = world.state.engine, bucket.place(world)
        known = await engine.get_published(place.url_of("a"))
        assert known is not None
        found = await bucket.opened[-1].find("a")
        assert found is not None
        assert found.etag == known.etag
        await world.state.rewrite(ino, b"ours, of later")
        assert (await place.publish(ino, "a"))[1] == PublishProblem.TAKEN
        assert await place.remove(known) == PublishProblem.TAKEN
        assert bucket.objects() == {"a": CONTENT}


async def test_the_state_before_an_import_takes_nothing_from_the_one_after(
    tmp_path: Path, bucket: Bucket
) -> None:
    """It may have been only out of reach."""
    async with mounted(open_world(tmp_path)) as world:
        ino = await world.state.create("a", CONTENT)
        await upload(world.state.parts, ino)
        await bucket.place(world).publish(ino, "a")
        await world.exporter.export()
        await bring(tmp_path)
        await take(tmp_path)
        async with mounted(open_world(tmp_path, "new")) as other:
            await other.state.rewrite(ino, b"of the one after")
            assert (await bucket.place(other).publish(ino, "a"))[0].outcome == MoveOutcome.DONE
        await world.state.rewrite(ino, b"of the one before")
        assert (await bucket.place(world).publish(ino, "a"))[1] == PublishProblem.TAKEN
        assert bucket.objects() == {"a": b"of the one after"}


async def test_a_place_that_an_export_alone_has_named_mends_nothing(tmp_path: Path) -> None:
    """But for buckets: a mount must not ask what anybody has named on its machine."""
    async with mounted(World(tmp_path)) as world:
        ino = await world.state.create("a", CONTENT)
        await upload(world.state.parts, ino)
        await world.exporter.export()
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        parts, engine = world.state.parts, world.state.engine
        asked: list[str] = []

        async def fetch(known: PublishedObject, fd: int, advance: Callable[[int], None]) -> None:
            asked.append(known.target)
            os.pwrite(fd, CONTENT, 0)
            advance(len(CONTENT))
            await trio.lowlevel.checkpoint()

        parts.published = fetch
        inode = await engine.get_inode(ino)
        blob = await engine.get_blob(inode.blob)
        own = (await sender_of(engine)).make_token()
        cases = (
            ("file:///srv", "of before", False),
            ("file:///srv", own, True),
            ("file:///allowed", "of before", True),
            ("s3://bucket", "of before", True),
        )
        parts.config = replace(parts.config, publish=PublishConfig(targets=("file:///allowed",)))
        path = tmp_path / "filled"
        for target, token, is_asked in cases:
            asked.clear()
            numbers = (len(CONTENT), 1, blob.digest, PublishProblem.NONE)
            record = PublishedObject(
                f"{target}/a", target, ino, inode.generation, "etag", token, *numbers
            )
            async with engine.change():
                await engine.put_published(record)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                progress = MoveProgress("hydrate", ino, len(CONTENT))
                found = await fill_from_published(parts, inode, blob, fd, progress)
            finally:
                os.close(fd)
            assert (found, asked) == (is_asked, [target] if is_asked else [])
            async with engine.change():
                await engine.forget_published([record.url])


def test_lives_are_known_by_their_order() -> None:
    first, second, rival = Sender("s" * 16, "000011"), Sender("s" * 16, "000122"), "x-y-000011"
    for sender in (first, second):
        token = sender.make_token()
        assert sender.has_sent(token)
        assert not sender.had_sent(token)
        assert not sender.inherits(token)
    assert second.had_sent(first.make_token())
    assert second.inherits(first.make_token())
    assert not first.had_sent(second.make_token())
    assert not first.inherits("a" * 32)
    other = Sender("s" * 16, "000133")
    assert not second.had_sent(other.make_token())
    for text in ("", "-", "--", rival, "a" * 32, f"0-{'s' * 16}"):
        assert not second.had_sent(text)


async def test_an_import_has_the_indexes_of_the_former_state(tmp_path: Path) -> None:
    """The mount builds them in steps, and questions are led by them then."""
    async with mounted(World(tmp_path)) as world:
        engine = world.state.engine
        ino = await world.state.create("holiday", b"")
        await world.state.create("other", b"")
        await engine.set_xattr(ino, b"user.note", b"Ships in the harbour", 0, 1)
        for field in ("$size", "$mtime", "$name", "user.note", "user.gone"):
            async with engine.change():
                await engine.add_index(field)
        await build(engine)
        await engine.drop_index("user.gone")
        await world.exporter.export()
        assert (await sender_of(engine)).number == 0
    chosen = await bring(tmp_path)
    assert chosen.imported.indexes == ("$mtime", "$name", "$size", "user.note")
    async with mounted(World(tmp_path, "new")) as world:
        engine = world.state.engine
        assert {each.state for each in engine.field_indexes()} == {IndexState.BUILDING}
        assert engine.check() == []
        # A change while they are built, and a start amid that.
        later = await world.state.create("later holiday", b"")
        await engine.build_indexes(1)
        engine.commit_nowait()
        await engine.set_xattr(later, b"user.note", b"no ships", 0, 2)
    async with mounted(World(tmp_path, "new")) as world:
        engine = world.state.engine
        while not (await engine.index_attributes(1)).is_whole:
            engine.commit_nowait()
        await build(engine, 1)
        assert {each.state for each in engine.field_indexes()} == {IndexState.WHOLE}
        assert engine.check() == []
        assert await ask(engine, {"$name": {"$text": "holi"}}) == ([ino, later], "$name")
        found = await ask(engine, {"note": {"$contains": "ships"}})
        assert found == ([later], "texts of user.note")
        assert (await ask(engine, {"$size": 7}))[1] == "$size"
        assert (await sender_of(engine)).number == 1
        assert await engine.get_setting(ROOTS_SETTING) is None


async def test_a_state_that_has_never_published_is_exported_as_before(tmp_path: Path) -> None:
    async with mounted(World(tmp_path)) as world:
        await world.state.create("a", b"")
        await world.exporter.export()
        [(done, description)] = world.exporter.stored._known.values()
        assert {part.kind for part in description.parts} == {"inodes", "contents", "dentries"}
        assert json.loads(description.encode())["format"] == 1
        assert done.snap == description.snap
