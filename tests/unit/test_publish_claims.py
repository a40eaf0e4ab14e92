"""Claims: directories that publish to one URL, or one inside the other, leave each other alone."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import PublishConfig
from memfs.jobs import publish_claims
from memfs.jobs.publish_claims import ALONE, Claim, note_claim
from memfs.jobs.publish_following import Following
from memfs.jobs.publishing import Places, PublishMethods
from memfs.metadata.records import NewInode
from memfs.moves.publish_marks import note_root
from memfs.moves.publish_tokens import LIFE_SETTING
from memfs.placement.quotas import Quotas
from memfs.policy.marks import PUBLISH_DELETED_XATTR, PUBLISH_XATTR
from memfs.types import ROOT_INODE, InodeNo
from tests.moving import SMALL_FRAMES, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.control.methods.trees import RemovedReport, WorkReport


class Bench:
    """A state, and a directory that is published to."""

    def __init__(self, directory: Path) -> None:
        self.there = directory / "there"
        (self.there / "deep").mkdir(parents=True)
        self.url = f"file://{self.there}"
        config = replace(SMALL_FRAMES, publish=PublishConfig(quiet_s=0.0, targets=(self.url,)))
        self.state = State(directory / "state", config)
        self.engine = self.state.engine
        self.places = Places(self.state.parts, {})
        self.quotas = Quotas(config.quotas, self.engine)
        self.methods = PublishMethods(self.state.parts, self.quotas, self.places)

    async def make(self, name: str, *files: str, parent: InodeNo = ROOT_INODE) -> InodeNo:
        """Make a directory with files, whose content is their path."""
        number, _ = self.engine.reserve_ids()
        await self.engine.create(
            parent, name.encode(), NewInode(number, stat.S_IFDIR | 0o755, 0, 0, 1)
        )
        for file in files:
            await self.put(number, file, f"{name}/{file}")
        return number

    async def put(self, directory: InodeNo, name: str, content: str) -> InodeNo:
        ino = await self.state.create("new", content.encode())
        await self.engine.rename(ROOT_INODE, b"new", directory, name.encode(), 0, 1)
        return ino

    async def files_in(self, directory: InodeNo) -> list[int]:
        entries = await self.engine.list_directory(directory, 0, 100)
        return [int(each.inode.ino) for each in entries if stat.S_ISREG(each.inode.mode)]

    async def publish(
        self, root: InodeNo, url: str | None = None, *, replaces: bool = False
    ) -> WorkReport:
        is_directory = stat.S_ISDIR((await self.engine.get_inode(root)).mode)
        inos = await self.files_in(root) if is_directory else [int(root)]
        return await self.methods.publish(inos, int(root), url or self.url, replaces=replaces)

    async def remove_gone(
        self, root: InodeNo, url: str | None = None, deleted: str = "remove"
    ) -> RemovedReport:
        return await self.methods.publish_removed(int(root), url or self.url, deleted)

    async def mark(self, root: InodeNo, deleted: str = "remove", url: str | None = None) -> None:
        async with self.engine.change():
            await self.engine.set_xattr(root, PUBLISH_XATTR, (url or self.url).encode(), 0, 1)
            await self.engine.set_xattr(root, PUBLISH_DELETED_XATTR, deleted.encode(), 0, 1)
            await note_root(self.engine, root)

    def names(self) -> dict[str, str]:
        found = (path for path in self.there.rglob("*") if path.is_file())
        return {str(path.relative_to(self.there)): path.read_text() for path in found}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    opened = Bench(tmp_path)
    yield opened
    await opened.places.aclose()
    opened.state.close()


@pytest.mark.parametrize("inside", ["", "/deep"])
async def test_a_directory_removes_no_object_of_another_one(bench: Bench, inside: str) -> None:
    """Published by commands, to the same URL or to one inside; each said to remove."""
    one, two = await bench.make("one", "a", "b"), await bench.make("two", "c")
    for _ in range(2):
        for root, url in ((one, bench.url), (two, bench.url + inside)):
            await bench.publish(root, url)
            report = await bench.remove_gone(root, url)
            assert report == {"removed_count": 0, "left_count": 0, "problems": []}
    below = f"{inside}/c".removeprefix("/")
    assert bench.names() == {"a": "one/a", "b": "one/b", below: "two/c"}
    await bench.engine.unlink(one, b"a", 2)
    assert (await bench.remove_gone(one))["removed_count"] == 1
    assert bench.names() == {"b": "one/b", below: "two/c"}


async def test_a_directory_that_keeps_keeps_for_all_who_publish_to_its_url(bench: Bench) -> None:
    """Whose an object without a file was is not known."""
    one, two = await bench.make("one", "a"), await bench.make("two", "b")
    await bench.publish(one)
    await bench.publish(two)
    await bench.engine.unlink(two, b"b", 2)
    report = await bench.remove_gone(two)
    assert (report["removed_count"], report["left_count"]) == (0, 1)
    assert report["problems"] == [
        f"{bench.url}/b: /one is published there too, and keeps objects without a file: publish "
        "it with --deleted remove as well"
    ]
    await bench.remove_gone(one)
    assert bench.names() == {"a": "one/a"}


@pytest.mark.parametrize("inside", ["", "/deep"])
async def test_two_files_do_not_take_turns_under_one_url(bench: Bench, inside: str) -> None:
    """The second one is refused, with the path of the first, unless a command says otherwise."""
    one = await bench.make("one")
    above = await bench.make("deep", "x", parent=one) if inside else one
    if not inside:
        await bench.put(one, "x", "one/x")
    two = await bench.make("two", "x")
    first = f"/one{inside}/x"
    was = (await bench.methods.publish(await bench.files_in(above), int(one), bench.url))[
        "outcomes"
    ]
    assert was == {"done": 1}
    content = bench.names()
    report = await bench.publish(two, bench.url + inside)
    [(outcome, reason)] = report["left"].values()
    assert outcome == "failed"
    assert reason.startswith(f"{bench.url}{inside}/x: {first} is published there")
    assert bench.names() == content
    report = await bench.publish(two, bench.url + inside, replaces=True)
    assert report["outcomes"] == {"done": 1}
    assert bench.names() == {f"{inside}/x".removeprefix("/"): "two/x"}
    # Now it is the other way round.
    again = await bench.methods.publish(await bench.files_in(above), int(one), bench.url)
    assert "/two/x is published there" in next(iter(again["left"].values()))[1]
    # The first one gives way.
    await bench.engine.unlink(two, b"x", 2)
    again = await bench.methods.publish(await bench.files_in(above), int(one), bench.url)
    assert again["outcomes"] == {"done": 1}
    assert bench.names() == content


async def test_directories_that_follow_do_not_take_turns(bench: Bench) -> None:
    """The one that was marked first has the object, also after its file was saved anew."""
    one, two = await bench.make("one", "x"), await bench.make("two", "x", "y")
    for root in (one, two):
        await bench.mark(root)
    changes = bench.state.activity.changes
    following = Following(bench.state.parts, bench.quotas, bench.places, changes, nothing_to_list)

    async def look() -> tuple[int, dict[str, str]]:
        changes.note_all()
        await following.step()
        return (bench.there / "x").stat().st_ino, bench.names()

    first = await look()
    assert first[1] == {"x": "one/x", "y": "two/y"}
    assert await look() == first
    await bench.put(one, "x", "one/x anew")
    saved = await look()
    assert saved[1] == {"x": "one/x anew", "y": "two/y"}
    assert await look() == saved
    await bench.engine.unlink(one, b"x", 2)
    await look()
    assert bench.names() == {"x": "two/x", "y": "two/y"}


@pytest.mark.parametrize("words", [("keep", "remove"), ("remove", "keep"), ("remove", "remove")])
async def test_an_object_without_a_file_goes_where_all_that_follow_say_so(
    bench: Bench, words: tuple[str, str]
) -> None:
    one, two = await bench.make("one", "a"), await bench.make("two", "b")
    for root, word in zip((one, two), words, strict=True):
        await bench.mark(root, word)
    changes = bench.state.activity.changes
    following = Following(bench.state.parts, bench.quotas, bench.places, changes, nothing_to_list)
    await following.step()
    for root, name in ((one, b"a"), (two, b"b")):
        await bench.engine.unlink(root, name, 2)
    changes.note_all()
    await following.step()
    assert sorted(bench.names()) == ([] if "keep" not in words else ["a", "b"])


async def test_a_file_that_was_published_alone_is_no_object_without_a_file(bench: Bench) -> None:
    """Not for a directory, nor for another such file; one that has left a directory is."""
    one = await bench.make("one", "a", "left")
    alone, other = (
        await bench.put(ROOT_INODE, "alone", "1"),
        await bench.put(ROOT_INODE, "other", "2"),
    )
    await bench.publish(one)
    for ino in (alone, other):
        await bench.publish(ino)
        await bench.remove_gone(ino)
    await bench.remove_gone(one)
    assert sorted(bench.names()) == ["a", "alone", "left", "other"]
    two = await bench.make("two")
    await bench.engine.rename(one, b"left", two, b"away", 0, 2)
    await bench.engine.rename(ROOT_INODE, b"alone", ROOT_INODE, b"renamed", 0, 2)
    assert (await bench.remove_gone(alone))["removed_count"] == 1
    await bench.remove_gone(one)
    assert sorted(bench.names()) == ["a", "other"]


async def test_a_part_of_a_published_directory_is_no_rival_of_it(bench: Bench) -> None:
    one = await bench.make("one", "a")
    deep = await bench.make("deep", "b", parent=one)
    files = await bench.files_in(one) + await bench.files_in(deep)
    assert (await bench.methods.publish(files, int(one), bench.url))["outcomes"] == {"done": 2}
    assert (await bench.publish(deep, f"{bench.url}/deep"))["outcomes"] == {"unneeded": 1}
    await bench.state.rewrite(InodeNo((await bench.files_in(deep))[0]), b"new")
    assert (await bench.publish(deep, f"{bench.url}/deep"))["outcomes"] == {"done": 1}
    for root, url in ((one, bench.url), (deep, f"{bench.url}/deep")):
        assert (await bench.remove_gone(root, url))["removed_count"] == 0
    assert bench.names() == {"a": "one/a", "deep/b": "new"}


async def test_what_was_published_before_an_import_stays_while_its_file_is_there(
    bench: Bench,
) -> None:
    """An export does not tell by which directory a command has published it."""
    one, two = await bench.make("one", "a", "b"), await bench.make("two", "c")
    await bench.publish(one)
    async with bench.engine.change():
        await bench.engine.put_setting(LIFE_SETTING, b"0001cafecafe")
        await bench.engine.put_setting(publish_claims.SETTING, None)
    await bench.publish(two)
    await bench.remove_gone(two)
    assert sorted(bench.names()) == ["a", "b", "c"]


async def test_directories_that_are_gone_have_no_claims(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_claims, "CLAIM_COUNT_MAX", 3)
    one, two = await bench.make("one"), await bench.make("two")

    async def told() -> list[tuple[str, int]]:
        stored = json.loads(await bench.engine.get_setting(publish_claims.SETTING) or b"[]")
        return [(target.removeprefix(bench.url), ino) for target, ino, _ in stored]

    for inside, root in (("", one), ("/deep", two), ("-other", ALONE), ("", one)):
        await note_claim(bench.engine, bench.url + inside, root)
    assert await told() == [("", one), ("/deep", two), ("-other", ALONE)]
    # The one that meets no other claim goes first where there are too many.
    await note_claim(bench.engine, bench.url, two)
    assert await told() == [("", one), ("/deep", two), ("", two)]
    await bench.engine.rmdir(ROOT_INODE, b"one", 3)
    await note_claim(bench.engine, bench.url, ALONE)
    assert await told() == [("/deep", two), ("", two), ("", ALONE)]


def test_the_claim_that_meets_no_other_one_is_the_least_needed() -> None:
    def least(*targets: str) -> str:
        return publish_claims._least_needed([Claim(each, InodeNo(9)) for each in targets]).target

    assert least("s3://b/a", "s3://b/a/x", "s3://b/a/z", "s3://b/ab") == "s3://b/ab"
    assert least("s3://b/a", "s3://b/a") == "s3://b/a"
    assert least("s3://b/a/x", "s3://b/c", "s3://b/a") == "s3://b/c"


async def nothing_to_list(_directory: InodeNo) -> None:
    await trio.lowlevel.checkpoint()
