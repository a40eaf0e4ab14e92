"""A bucket that is adopted lazily looks as one that was listed whole, to all who look."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import PublishConfig
from memfs.errors import MemfsError, StoreError
from memfs.filesystem import demand_listing
from memfs.jobs.publish_following import Following
from memfs.jobs.publishing import Places
from memfs.moves.faults import LISTING_POINTS
from memfs.moves.publish_marks import note_root
from memfs.placement.quotas import Quotas
from memfs.policy.marks import PUBLISH_XATTR
from memfs.types import ROOT_INODE, InodeNo
from tests.property.test_adoption import _work, a_world, adopting, refresh
from tests.property.test_restore import restore, snapshot
from tests.property.world import ROOMY
from tests.unit.fakes.bucket import URL, Bucket

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.adoption import AdoptReport
    from tests.property.world import World

KEYS = ("a", "b/one", "b/two", "b/deep/er/x", "b/deep/y", "c/z", "c//odd", "d/e/f/g")


def a_bucket(*keys: str) -> Bucket:
    bucket = Bucket(page_count=2)
    for key in keys or KEYS:
        bucket.put(key, key.encode() * 50)
    return bucket


def adopt(world: World, deleted: str = "remove") -> AdoptReport:
    return _work(world, "adopt", url=URL, path="set", deleted=deleted, lazy=True)


def watch(world: World) -> None:
    """List again what was looked at, as `--watch` does."""

    async def step() -> None:
        [source] = await world.engine.list_sources()
        async with world.engine.change():
            await world.engine.put_source(source._replace(watch_s=10))
        due_ns = max(source.listed_ns, time.time_ns()) + 11 * 10**9
        await adopting(world).step(due_ns)

    world.run(step())


async def find(world: World, path: str) -> InodeNo:
    """Look a path up as a program does."""
    ino = ROOT_INODE
    for name in path.encode().split(b"/"):
        entry = await world.filesystem.lookup(ino, name)
        if entry is None:
            raise FileNotFoundError(path)
        ino = entry.inode.ino
    return ino


async def names_of(world: World, path: str) -> list[str]:
    entries = await world.filesystem.list_directory(await find(world, path), 0, 1000)
    return sorted(os.fsdecode(entry.name) for entry in entries)


async def walk(world: World, top: str = "set") -> dict[str, bytes]:
    """Return all files below a directory with their bytes, as `find` sees them."""
    found: dict[str, bytes] = {}
    for entry in await world.filesystem.list_directory(await find(world, top), 0, 1000):
        path = f"{top}/{os.fsdecode(entry.name)}"
        if stat.S_ISDIR(entry.inode.mode):
            found |= await walk(world, path)
        else:
            found[path.removeprefix("set/")] = await world.read_all(entry.inode.ino)
    return found


def expected(bucket: Bucket) -> dict[str, bytes]:
    return {key.replace("//", "/%/"): data for key, (_, data) in bucket.objects.items()}


def unlisted_count(world: World) -> int:
    [source] = world.run(world.engine.list_sources())
    counts = world.run(world.engine.count_source(source.source, 1000))
    assert counts is not None
    return counts.unlisted_count


def test_each_directory_is_listed_when_somebody_looks_into_it() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        report = adopt(world)
        assert (report["made_count"], len(bucket.listed)) == (0, 1)
        bucket.listed.clear()
        assert world.run(find(world, "set")) > ROOT_INODE
        assert bucket.listed == []
        assert world.run(names_of(world, "set")) == ["a", "b", "c", "d"]
        assert bucket.listed == ["", ""]
        assert world.run(names_of(world, "set/b/deep")) == ["er", "y"]
        assert bucket.listed == ["", "", "b/", "b/", "b/deep/"]
        assert unlisted_count(world) == 3
        with pytest.raises(FileNotFoundError):
            world.run(find(world, "set/b/missing"))
        assert len(bucket.listed) == 5
        assert world.run(walk(world)) == expected(bucket)
        assert unlisted_count(world) == 0
        count = len(bucket.listed)
        world.crash(checked=True)
        assert world.run(walk(world)) == expected(bucket)
        assert len(bucket.listed) == count


def test_all_who_look_at_once_wait_for_one_listing() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        bucket.listed.clear()

        async def look() -> None:
            bucket.gate, bucket.asked = trio.Event(), trio.Event()
            seen: list[list[str]] = []

            async def one() -> None:
                seen.append(await names_of(world, "set"))

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(one)
                # The source is opened in a thread.
                await bucket.asked.wait()
                await trio.testing.wait_all_tasks_blocked()
                assert (seen, bucket.listed) == ([], [""])
                bucket.gate.set()
            assert seen == [["a", "b", "c", "d"]] * 5

        world.run(look())
        assert bucket.listed == ["", ""]


def test_a_source_that_does_not_answer_is_an_error_and_never_an_empty_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        for pages in (0, 1):
            monkeypatch.setattr(demand_listing, "FAILURE_S", 3600.0)
            bucket.fails_after = pages
            bucket.listed.clear()
            for _ in range(3):
                with pytest.raises(StoreError, match="cut off") as caught:
                    world.run(names_of(world, "set"))
                assert caught.value.errno == errno.EIO
            # The reason is remembered for a while.
            assert bucket.listed == [""] * (pages + 1)
            assert unlisted_count(world) >= 1
            world.crash(checked=True)
        bucket.fails_after = None
        assert world.run(walk(world)) == expected(bucket)


def test_a_listing_that_takes_long_goes_on_behind_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demand_listing, "LISTING_WAIT_S", 0.01)
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)

        async def look() -> None:
            bucket.gate = trio.Event()
            for _ in range(2):
                with pytest.raises(StoreError, match="being listed still"):
                    await names_of(world, "set")
            bucket.gate.set()
            monkeypatch.setattr(demand_listing, "LISTING_WAIT_S", 3600.0)
            assert await names_of(world, "set") == ["a", "b", "c", "d"]

        world.run(look())


def test_who_sees_a_listing_sees_what_other_nodes_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing is another task's work, and is committed before it is shown."""
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        inode = world.run(world.engine.lookup(ROOT_INODE, b"set"))
        commit, events = world.engine.commit, list[str]()

        async def note_commit() -> None:
            await commit()
            listed = await world.engine.get_directory(inode.ino)
            events.append("listed" if listed is not None and listed.listed_ns else "before")

        monkeypatch.setattr(world.engine, "commit", note_commit)
        world.run(world.filesystem.list_on_demand(inode.ino))
        assert events[-1:] == ["listed"]
        events.clear()
        world.run(world.filesystem.list_on_demand(inode.ino))
        assert events == []


def test_what_is_empty_is_looked_at_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = a_bucket("d/x")
    with a_world(bucket) as world:
        adopt(world)
        assert world.run(names_of(world, "set")) == ["d"]
        kept = bucket.objects.pop("d/x")
        assert world.run(names_of(world, "set/d")) == []
        bucket.objects["d/x"] = kept
        count = len(bucket.listed)
        assert world.run(names_of(world, "set/d")) == []
        assert len(bucket.listed) == count
        monkeypatch.setattr(demand_listing, "EMPTY_S", 0.0)
        world.remount()
        assert world.run(names_of(world, "set/d")) == ["x"]


def test_a_page_that_is_missing_once_is_asked_for_again() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        bucket.missing_count = 1
        assert world.run(names_of(world, "set")) == ["a", "b", "c", "d"]


def test_a_prefix_that_is_missing_is_empty_as_long_as_its_source_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is looked at again after a while; a source that is missing is an error."""
    monkeypatch.setattr(demand_listing, "EMPTY_S", 0.0)
    monkeypatch.setattr(demand_listing, "FAILURE_S", 0.0)
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        world.run(names_of(world, "set"))
        bucket.missing_count = 2
        assert world.run(names_of(world, "set/b")) == []
        bucket.missing_count = 3
        with pytest.raises(StoreError, match=r"b/: it cannot be listed: .*404"):
            world.run(names_of(world, "set/b"))
        assert world.run(names_of(world, "set/b")) == ["deep", "one", "two"]


def test_an_object_without_a_size_holds_up_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no file, is told, and has one as soon as its source tells more."""
    monkeypatch.setattr(demand_listing, "EMPTY_S", 0.0)
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        world.run(names_of(world, "set"))
        bucket.unsized = {"b/two"}
        assert world.run(names_of(world, "set/b")) == ["deep", "one"]
        events = [each.detail for each in world.move_parts.events.take()]
        assert any("1 object has no size that can be, b/two" in each for each in events), events
        bucket.unsized.clear()
        assert world.run(names_of(world, "set/b")) == ["deep", "one", "two"]
        # One that has a file keeps it, whatever is told of it later.
        bucket.unsized = {"b/two", "c/z"}
        report = refresh(world)
        assert (report["failed_count"], report["gone_count"]) == (2, 0)
        assert report["failures"][0].startswith("b/two: its source tells no size")
        assert world.run(names_of(world, "set/b")) == ["deep", "one", "two"]
        bucket.unsized.clear()
        assert refresh(world)["failed_count"] == 0
        assert world.run(walk(world)) == expected(bucket)


def test_a_directory_that_nobody_has_looked_into_is_not_removed_as_empty() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)

        async def remove() -> None:
            top = await find(world, "set")
            for request in (
                world.filesystem.remove_directory(top, b"b"),
                world.filesystem.rename(top, b"c", top, b"d", 0),
            ):
                with pytest.raises(MemfsError) as caught:
                    await request
                assert caught.value.errno == errno.ENOTEMPTY

        world.run(remove())
        assert world.run(walk(world)) == expected(bucket)


def test_what_was_removed_or_renamed_here_stays_so() -> None:
    bucket = a_bucket("d/x", "e/y", "keep/z")
    with a_world(bucket) as world:
        adopt(world)

        async def change() -> None:
            top = await find(world, "set")
            await find(world, "set/d/x")
            await world.filesystem.unlink(await find(world, "set/d"), b"x")
            await world.filesystem.remove_directory(top, b"d")
            await world.filesystem.rename(top, b"e", top, b"moved", 0)

        world.run(change())
        bucket.put("e/new", b"new")
        watch(world)
        assert world.run(names_of(world, "set")) == ["keep", "moved"]
        # Nobody had looked into it: it is listed under its new name, with what is there by now.
        assert world.run(names_of(world, "set/moved")) == ["new", "y"]
        bucket.put("d/new", b"new")
        bucket.put("e/newer", b"newer")
        refresh(world)
        assert sorted(world.run(walk(world))) == [
            *("d/new", "keep/z", "moved/new", "moved/newer", "moved/y"),
        ]


def test_a_watch_follows_what_was_looked_at_and_removes_nothing_else() -> None:
    names = [f"b/{number:02}" for number in range(30)]
    bucket = a_bucket("a", *names, "c/z", "late/x", "never/x")
    with a_world(bucket) as world:
        adopt(world)
        assert len(world.run(names_of(world, "set/b"))) == 30
        world.run(names_of(world, "set/late"))
        bucket.listed.clear()
        del bucket.objects["b/07"], bucket.objects["never/x"]
        bucket.put("b/08", b"other")
        bucket.put("b/new/x", b"new")
        bucket.put("c/new", b"not looked into")
        watch(world)
        assert set(bucket.listed) == {"", "b/", "late/"}
        [source] = world.run(world.engine.list_sources())
        assert (source.problem, source.listed_ns > 0) == ("", True)
        assert world.run(names_of(world, "set")) == ["a", "b", "c", "late"]
        assert world.run(walk(world)) == expected(bucket)
        # One listing that ends early: nothing goes, wherever it was gone.
        del bucket.objects["late/x"]
        bucket.fails_after = 3
        watch(world)
        [source] = world.run(world.engine.list_sources())
        assert "has not ended" in source.problem
        assert world.run(names_of(world, "set/late")) == ["x"]
        bucket.fails_after = None
        watch(world)
        assert world.run(walk(world)) == expected(bucket)


def test_a_removal_takes_directories_of_the_source_under_whatever_name() -> None:
    """One that was renamed is known by its prefix; those of users stay, as does all elsewhere."""
    bucket = a_bucket("a", "b/deep/x", "c/deep/x", "d/x", "kept")
    with a_world(bucket) as world:
        adopt(world)

        async def change() -> None:
            filesystem, top = world.filesystem, await find(world, "set")
            for above, name in ((top, b"mine"), (ROOT_INODE, b"other")):
                await filesystem.make_directory(world.program, above, name, 0o755)
            mine, other = await find(world, "set/mine"), await find(world, "other")
            for path in ("b/deep/x", "c/deep/x", "d/x"):
                await find(world, f"set/{path}")
            await filesystem.rename(top, b"a", other, b"a", 0)
            await filesystem.rename(top, b"b", mine, b"moved", 0)
            await filesystem.rename(await find(world, "set/c"), b"deep", other, b"deep", 0)
            await filesystem.rename(await find(world, "set/d"), b"x", mine, b"x", 0)

        world.run(change())
        world.run(walk(world))
        for key in bucket.objects.keys() - {"kept"}:
            del bucket.objects[key]
        # More than a tenth of the files goes, which a watch does not allow.
        refresh(world)
        assert world.run(names_of(world, "set")) == ["c", "d", "kept", "mine"]
        assert world.run(names_of(world, "set/mine")) == []
        assert world.run(names_of(world, "other")) == ["deep"]


def test_a_refresh_lists_all_and_removes_what_is_gone() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        world.run(names_of(world, "set/b"))
        bucket.fails_after = 2
        with pytest.raises(StoreError):
            refresh(world)
        assert unlisted_count(world) > 0
        bucket.fails_after = None
        del bucket.objects["b/one"]
        report = refresh(world)
        assert (report["removed_count"], unlisted_count(world)) == (1, 0)
        bucket.listed.clear()
        assert world.run(walk(world)) == expected(bucket)
        assert bucket.listed == []
        # It is an ordinary source now.
        bucket.put("new/x", b"new")
        watch(world)
        assert set(bucket.listed) == {None}
        assert world.run(walk(world)) == expected(bucket)


def test_a_restore_leaves_what_nobody_had_looked_at_when_the_snapshot_was_made() -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        assert world.run(names_of(world, "set/c")) == ["%", "z"]
        snapshot(world)
        assert world.run(walk(world)) == expected(bucket)
        bucket.put("c/new", b"new")
        watch(world)
        mine = world.run(find(world, "set/b"))
        world.release(world.create(mine, b"mine", 0o644, os.O_RDWR))
        assert "c/new" in world.run(walk(world))
        report = restore(world, path="set", delete=True)
        assert report["failures"] == []
        del bucket.objects["c/new"]
        assert world.run(walk(world)) == expected(bucket)


def test_a_tree_that_is_published_by_itself_is_listed_for_that(tmp_path: Path) -> None:
    """One that cannot be listed loses nothing at the place: its files may be there."""
    there, bucket = tmp_path / "there", a_bucket()
    there.mkdir()
    url = f"file://{there}"
    config = replace(ROOMY, publish=PublishConfig(targets=(url,), delete=True, quiet_s=0.0))

    def published() -> dict[str, bytes]:
        return {
            os.fspath(file.relative_to(there)): file.read_bytes()
            for file in there.rglob("*")
            if file.is_file()
        }

    with a_world(bucket, config) as world:
        adopt(world)
        places = Places(world.move_parts, {}, read_form=world.form_reader.read)
        quotas = Quotas(config.quotas, world.engine)
        changes = world.activity.changes
        filesystem = world.filesystem

        def following() -> Following:
            return Following(world.move_parts, quotas, places, changes, filesystem.list_on_demand)

        async def mark() -> None:
            root = await find(world, "set")
            async with world.engine.change():
                await world.engine.set_xattr(root, PUBLISH_XATTR, url.encode(), 0, 1)
                await note_root(world.engine, root)

        world.run(mark())
        bucket.is_down = True
        world.run(following().step())
        assert published() == {}
        assert unlisted_count(world) == 1
        bucket.is_down = False
        # A listing that has failed is not repeated at once.
        filesystem._ended.clear()
        world.run(following().step())
        assert published() == expected(bucket)
        assert unlisted_count(world) == 0

        # As if the directory had been made anew, with what is in it not known yet.
        async def unlist() -> None:
            async with world.engine.change():
                await world.engine.set_listed(await find(world, "set/b"), 0)
                for entry in await world.engine.list_directory(await find(world, "set/b"), 0, 9):
                    if stat.S_ISREG(entry.inode.mode):
                        await world.engine.unlink(await find(world, "set/b"), entry.name, 1)

        world.run(unlist())
        bucket.is_down = True
        world.run(following().look())
        assert published() == expected(bucket)
        bucket.is_down = False
        world.run(places.aclose())


@pytest.mark.parametrize("point", LISTING_POINTS)
def test_a_kill_amid_a_listing_leaves_no_part_of_a_directory_as_the_whole(point: str) -> None:
    bucket = a_bucket()
    with a_world(bucket) as world:
        adopt(world)
        world.interruptions.arm(point, world.capture)
        world.run(names_of(world, "set"))
        assert world.is_captured
        world.crash(checked=True)
        assert world.run(walk(world)) == expected(bucket)
