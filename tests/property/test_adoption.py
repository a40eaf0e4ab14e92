"""A tree that was adopted is as its bucket and its users have made it, whatever comes in between.

The model knows which object each file was made of. A file that was written is never touched; one
that was not follows its object at the next listing; an open file has bytes of one object.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings

from memfs.content.opening import OpenMode
from memfs.content.sources import Sources
from memfs.errors import (
    InvalidValueError,
    MemfsError,
    ObjectChangedError,
    ObjectMissingError,
    StoreError,
)
from memfs.filesystem.control import Control
from memfs.fsck.check import check
from memfs.jobs import forgetting
from memfs.jobs.adopting import AdoptMethods
from memfs.jobs.refreshing import OBJECTS_A_CHANGE
from memfs.jobs.scrubbing import Scrubbed, ScrubOutcome, scrub_file
from memfs.metrics.traffic import Level
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import ADOPT_POINTS, TAKE_POINTS
from memfs.moves.hydrating import hydrate
from memfs.placement.quotas import Quotas
from memfs.stores.health import StoreHealth
from memfs.stores.metered_source import MeteredSource
from memfs.stores.remote import open_source
from memfs.stores.retry import RepeatedCalls, RetryPolicy
from memfs.stores.source import SourceStore
from memfs.types import ROOT_INODE, InodeNo
from tests.processes import outlived
from tests.property.world import ROOMY, Program, Refusal, World
from tests.unit.fakes.bucket import URL, Bucket
from tests.unit.test_mover_quotas import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.config import Config
    from memfs.control.methods.adoption import AdoptReport
    from memfs.metadata.foreign import AdoptedFile
    from tests.property.world import OpenFile

KEYS = ("a", "b", "d/a", "d/b", "d/e/a", "f/a", "f/b", "z")
NAMES = (b"a", b"b", b"moved", b"z")
OUTSIDE = "../other"
"""A directory of the users, as paths below that of the source name it."""
MADE = ("mine", "mine/deep", OUTSIDE, f"{OUTSIDE}/deep", "f", "d/deep")
"""Directories that users make and move files into; the source may make one of them as well."""
ACTS = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 7)), min_size=4, max_size=25)


class Model(NamedTuple):
    """What one file must be."""

    key: str
    """That of its object; empty: it is memfs's own."""
    etag: str
    data: bytes
    """Its bytes, where `etag` is what the bucket has, or it is memfs's own."""


class Held(NamedTuple):
    """An open file."""

    file: OpenFile
    data: bytes
    """Its bytes, all of one object."""


@contextmanager
def a_world(bucket: Bucket, config: Config = ROOMY) -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="memfs-adoption-"))
    try:
        world = World(
            root, config, passthrough=True, open_source=lambda _url, _options: bucket.open()
        )
        yield world
        world.close()
    finally:
        shutil.rmtree(root)


def adopting(world: World, quotas: Quotas | None = None, slice_s: float = 1.0) -> AdoptMethods:
    quotas = quotas or Quotas(ROOMY.quotas, world.engine)
    return AdoptMethods(world.filesystem, world.move_parts, quotas, slice_s=slice_s)


def adopt(world: World, deleted: str = "remove") -> AdoptReport:
    return _work(world, "adopt", url=URL, path="set", deleted=deleted)


def refresh(world: World, *, confirm: bool = True) -> AdoptReport:
    return _work(world, "refresh", path="set", confirm=confirm)


def _work(world: World, method: str, **parameters: object) -> AdoptReport:
    async def go_on() -> AdoptReport:
        methods = adopting(world, slice_s=0.0)
        while True:
            report: AdoptReport = await getattr(methods, method)(work="work", **parameters)
            if report["ended"]:
                return report

    return world.run(go_on())


def look(world: World) -> dict[str, tuple[InodeNo, int]]:
    """Return inode and mode of all below the directory of the source and in `OUTSIDE`, by path."""

    async def collect() -> dict[str, tuple[InodeNo, int]]:
        found: dict[str, tuple[InodeNo, int]] = {}
        top = await world.engine.find(ROOT_INODE, b"set")
        stack = [("", top.ino)] if top is not None else []
        if (other := await world.engine.find(ROOT_INODE, b"other")) is not None:
            found[OUTSIDE] = other.ino, other.mode
            stack.append((OUTSIDE, other.ino))
        while stack:
            path, directory = stack.pop()
            for entry in await world.engine.list_directory(directory, 0, 1000):
                name = f"{path}/{os.fsdecode(entry.name)}".lstrip("/")
                found[name] = entry.inode.ino, entry.inode.mode
                if stat.S_ISDIR(entry.inode.mode):
                    stack.append((name, entry.inode.ino))
        return found

    return world.run(collect())


class Life:
    """A bucket, its tree, and what both must be."""

    def __init__(self, world: World, bucket: Bucket) -> None:
        self.world, self.bucket = world, bucket
        self.files: dict[str, Model] = {}
        self.gone: set[str] = set()
        self.made: set[str] = set()
        """Directories that only users have made."""
        self.held: list[Held] = []
        self.written: set[bytes] = set()
        """All that programs have ever written: an open file has it, whatever its name leads to."""
        self.count = 0

    def data(self) -> bytes:
        self.count += 1
        return b"%d." % self.count * (self.count * 37 % 5000 + 1)

    def do(self, act: int, which: int) -> None:
        key = KEYS[which]
        path = sorted(self.files)[which % len(self.files)] if self.files else ""
        match act:
            case 0 | 1 | 2:
                self.bucket.put(key, self.data())
            case 3:
                self.bucket.objects.pop(key, None)
            case 4 | 5:
                self.refresh()
            case 6:
                self.fail()
            case 7 if path:
                self.read(path)
            case 8 if path:
                self.write(path)
            case 9 if path:
                self.unlink(path)
            case 10 if path:
                self.rename(path, os.fsdecode(NAMES[which % len(NAMES)]))
            case 11 if path:
                self.hold(path)
            case 12 if path:
                self.move(path)
            case 13:
                self.check_held(let_go=True)
                self.world.crash(checked=True) if which % 2 else self.world.remount()
            case 14 if path:
                above = MADE[which % len(MADE)]
                self.make_directory(above)
                self.rename(path, f"{above}/{path.rpartition('/')[2]}")
        self.check_held(let_go=False)

    # --- the bucket ------------------------------------------------------------------------------
    def refresh(self) -> None:
        report = refresh(self.world)
        assert report["problem"] == ""
        objects = self.bucket.objects
        known = {model.key: path for path, model in self.files.items() if model.key}
        taken = {*self.files}
        for key, path in known.items():
            model = self.files[path]
            if key not in objects:
                if model.etag:
                    del self.files[path]
            elif model.etag:
                self.files[path] = Model(key, *objects[key])
        self.gone &= objects.keys()
        for key in objects.keys() - known.keys() - self.gone:
            if key not in taken:
                self.files[key] = Model(key, *objects[key])
            elif key in self.files:
                # Something of memfs's own has the name, and knows the key from now on.
                self.files[key] = self.files[key]._replace(key=self.files[key].key or key)
        self.check()

    def fail(self) -> None:
        """A listing is cut off: what is new may be there, and nothing is removed."""
        self.bucket.fails_after = 0
        with pytest.raises(StoreError):
            refresh(self.world)
        self.bucket.fails_after = None
        self.check()

    # --- programs --------------------------------------------------------------------------------
    def ino(self, path: str) -> InodeNo:
        return look(self.world)[path][0]

    def is_there(self, model: Model) -> bool:
        """Return whether the bucket has the bytes of a file still."""
        if not model.etag:
            return True
        found = self.bucket.objects.get(model.key)
        return found is not None and found[0] == model.etag

    def read(self, path: str) -> None:
        """Open and read; that has a file follow an object that has changed."""
        model = self.files[path]
        for _ in range(3):
            try:
                file = self.world.open(self.ino(path), os.O_RDONLY)
            except Refusal as refusal:
                assert not self.is_there(model)
                if refusal.errno != errno.ESTALE:
                    return
                self.follow(path)
                model = self.files[path]
                continue
            break
        try:
            found = self.world.read(file, 0, 1 << 20)
        except Refusal:
            assert not self.is_there(model)
            self.follow(path)
        else:
            # A local copy serves even where the bucket has another object.
            assert found == model.data
        finally:
            self.world.release(file)

    def follow(self, path: str) -> None:
        """A read has found out that the object of a file has changed."""
        model = self.files[path]
        if model.key in self.bucket.objects:
            self.files[path] = Model(model.key, *self.bucket.objects[model.key])

    def write(self, path: str) -> None:
        model, data = self.files[path], self.data()
        self.written.add(data)
        file = self.world.open(self.ino(path), os.O_WRONLY | os.O_TRUNC)
        self.world.write(file, 0, data)
        self.world.release(file)
        self.files[path] = Model(model.key, "", data)

    def unlink(self, path: str) -> None:
        model = self.files.pop(path)
        self.gone |= {model.key} - {""}
        parent, name = self.place(path)
        self.world.request(self.world.filesystem.unlink(parent, name))

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it, where they are missing."""
        if not path or path == ".." or path in look(self.world):
            return
        self.make_directory(path.rpartition("/")[0])
        if path not in ("d", "f"):
            self.made.add(path)
        filesystem = self.world.filesystem
        self.world.request(filesystem.make_directory(self.world.program, *self.place(path), 0o755))

    def rename(self, path: str, target: str) -> None:
        """Give a file another name."""
        if path == target:
            return
        self.world.request(self.world.filesystem.rename(*self.place(path), *self.place(target), 0))
        if target in self.files:
            self.gone |= {self.files[target].key} - {""}
        self.files[target] = self.files.pop(path)

    def place(self, path: str) -> tuple[InodeNo, bytes]:
        above, _, name = path.rpartition("/")
        if above == "..":
            return ROOT_INODE, os.fsencode(name)
        top = self.world.run(self.world.engine.lookup(ROOT_INODE, b"set")).ino
        return (look(self.world)[above][0] if above else top), os.fsencode(name)

    def hold(self, path: str) -> None:
        """Open a file and keep it open."""
        model = self.files[path]
        if self.is_there(model):
            self.held.append(Held(self.world.open(self.ino(path), os.O_RDONLY), model.data))

    def check_held(self, *, let_go: bool) -> None:
        """An open file has bytes of the object that it was opened for, or is stale."""
        for held in self.held:
            code, found = 0, b""
            try:
                found = self.world.read(held.file, 0, 1 << 20)
            except Refusal as refusal:
                code = refusal.errno
            assert code in (0, errno.ESTALE, errno.EIO)
            if not code:
                assert found == held.data or found in self.written
        # A read may have found out what has changed, and have had the names follow.
        self.catch_up()
        if let_go:
            for held in self.held:
                self.world.release(held.file)
            self.held.clear()

    def catch_up(self) -> None:
        for path, model in list(self.files.items()):
            if model.etag and not self.is_there(model) and model.key in self.bucket.objects:
                foreign = self.world.run(self.world.engine.get_object(self.ino(path)))
                assert foreign is not None
                if foreign.etag == self.bucket.objects[model.key][0]:
                    self.follow(path)

    def move(self, path: str) -> None:
        """Fetch a file, and let its local copy go."""
        ino = self.ino(path)

        async def there_and_back() -> None:
            try:
                await hydrate(self.world.move_parts, ino)
                await drop_raw(self.world.move_parts, ino)
            except MemfsError:
                assert not self.is_there(self.files[path])

        if not self.world.is_used(ino):
            self.world.run(there_and_back())

    def check(self) -> None:
        """The tree has the files of the model, with their bytes."""
        found = look(self.world)
        paths = {path for path, (_, mode) in found.items() if stat.S_ISREG(mode)}
        assert paths == self.files.keys()
        assert found.keys() >= self.made
        for path, model in self.files.items():
            foreign = self.world.run(self.world.engine.get_object(found[path][0]))
            if model.etag:
                assert foreign is not None
                assert (foreign.name, foreign.etag) == (model.key, model.etag)
            if self.is_there(model):
                assert self.world.run(self.world.read_all(found[path][0])) == model.data


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(ACTS)
@example([(14, 3), (3, 3), (4, 0)])
def test_the_tree_is_what_bucket_and_users_have_made_it(acts: list[tuple[int, int]]) -> None:
    bucket = Bucket()
    for key in KEYS[:5]:
        bucket.put(key, key.encode() * 100)
    with a_world(bucket) as world:
        life = Life(world, bucket)
        adopt(world)
        life.files = {key: Model(key, *found) for key, found in bucket.objects.items()}
        life.check()
        for act, which in acts:
            life.do(act, which)
        life.check_held(let_go=True)
        life.refresh()


@pytest.mark.parametrize("point", ADOPT_POINTS)
def test_a_kill_at_any_point_is_made_good_by_the_next_run(point: str) -> None:
    """It comes amid an adoption, or amid the refresh behind it."""
    bucket = Bucket(page_count=2)
    for number in range(30):
        bucket.put(f"d{number % 3}/{number:02}", b"%d" % number * 50)
    with a_world(bucket) as world:
        if point in ("adopt.replaced", "adopt.removed"):
            adopt(world)
            bucket.put("d0/00", b"other")
            del bucket.objects["d1/01"]
            del bucket.objects["d2/02"]
        world.interruptions.arm(point, world.capture)
        adopt(world)
        assert world.is_captured
        world.crash(checked=True)
        assert adopt(world)["problem"] == ""
        report = refresh(world)
        assert (report["made_count"], report["replaced_count"], report["removed_count"]) == (
            *(0, 0, 0),
        )
        life = Life(world, bucket)
        life.files = {key: Model(key, *found) for key, found in bucket.objects.items()}
        life.check()


def test_nothing_is_removed_when_much_would_go_or_a_listing_ends_early() -> None:
    bucket = Bucket(page_count=4)
    for number in range(30):
        bucket.put(f"{number:02}", b"x")
    with a_world(bucket) as world:
        adopt(world)
        for number in range(4):
            del bucket.objects[f"{number:02}"]
        for pages in range(7):
            bucket.fails_after = pages
            with pytest.raises(StoreError):
                refresh(world, confirm=True)
            assert len(look(world)) == 30
            [source] = world.run(world.engine.list_sources())
            assert "has not ended" in source.problem
        bucket.fails_after = None
        assert "tenth" in refresh(world, confirm=False)["problem"]
        assert len(look(world)) == 30
        assert refresh(world, confirm=True)["removed_count"] == 4
        [source] = world.run(world.engine.list_sources())
        assert (source.problem, len(look(world))) == ("", 26)


def _directories(world: World) -> set[str]:
    return {path for path, (_, mode) in look(world).items() if stat.S_ISDIR(mode)}


def test_a_removal_takes_only_directories_of_its_source_that_it_empties() -> None:
    """It took all up to the root of the mount, if a user had moved the file elsewhere."""
    bucket = Bucket()
    for key in ("a", "b", "c//d/a", "d/e/a", "d/f/a", "d/f/b", "kept", "m/a"):
        bucket.put(key, key.encode())
    with a_world(bucket) as world:
        adopt(world)
        life = Life(world, bucket)
        life.files = {key: Model(key, *found) for key, found in bucket.objects.items()}
        life.files["c/%/d/a"] = life.files.pop("c//d/a")
        for path in (f"{OUTSIDE}/deep", "mine/deep", "d/f/mine"):
            life.make_directory(path)
        life.rename("a", f"{OUTSIDE}/deep/a")
        life.rename("b", "mine/deep/b")
        life.rename("d/f/a", "d/f/mine/a")
        # What has an xattr stays as well: somebody has made something of it.
        world.request(
            world.filesystem.set_xattr(world.program, life.ino("m"), b"user.of", b"me", 0, False)
        )
        for key in bucket.objects.keys() - {"kept"}:
            del bucket.objects[key]
        life.refresh()
        assert life.files.keys() == {"kept"}
        assert _directories(world) == life.made | {"d", "d/f", "m"}


def test_a_removal_leaves_the_roots_of_sources() -> None:
    """One of them may be made below another one, where keys have its name later."""
    bucket = Bucket()
    with a_world(bucket) as world:
        adopt(world)
        _work(world, "adopt", url=f"{URL}/inner", path="set/sub", deleted="remove")
        life = Life(world, bucket)
        bucket.put("kept", b"kept")
        bucket.put("sub/deep/a", b"a")
        life.refresh()
        assert _directories(world) == {"sub", "sub/deep"}
        del bucket.objects["sub/deep/a"]
        life.refresh()
        assert _directories(world) == {"sub"}


def _told(world: World) -> list[tuple[str, str]]:
    """Return subject and detail of what was told of sources since the last call."""
    events = world.move_parts.events.take()
    return [(each.subject, each.detail) for each in events if each.kind == "source"]


def test_conflicts_and_failures_are_told_once_and_counted() -> None:
    bucket = Bucket()
    for key in ("changed", "gone", "kept"):
        bucket.put(key, b"x" * 100)
    with a_world(bucket) as world:
        adopt(world, deleted="keep")
        life = Life(world, bucket)
        life.files = {key: Model(key, *found) for key, found in bucket.objects.items()}
        life.write("changed")
        bucket.put("changed", b"another")
        bucket.put("late", b"late")
        del bucket.objects["gone"]
        top = world.run(world.engine.lookup(ROOT_INODE, b"set")).ino
        world.release(world.create(top, b"late", 0o644, os.O_WRONLY))
        for expected in (3, 0):
            refresh(world)
            told = _told(world)
            assert len(told) == expected
            if told:
                assert {subject for subject, _ in told} == {
                    "/set/changed",
                    "/set/gone",
                    "/set/late",
                }
                details = dict(told)
                assert details["/set/gone"] == "its object is gone: gone"
        bucket.fails_after = 0
        with pytest.raises(StoreError):
            refresh(world)
        [(_, detail)] = _told(world)
        assert "cannot be listed: the listing was cut off" in detail
        counts = world.move_parts.source_counts
        assert counts.conflicts == {"changed": 1, "gone": 1, "taken": 1}
        assert counts.failed_listing_count == 1


def test_a_scrub_and_a_check_ask_the_source_for_objects() -> None:
    bucket = Bucket()
    for key in ("same", "changed", "gone"):
        bucket.put(key, b"x" * 100)
    with a_world(bucket) as world:
        adopt(world)
        inos = {name: ino for name, (ino, _) in look(world).items()}

        def scrub(name: str) -> Scrubbed:
            return world.run(scrub_file(world.move_parts, inos[name]))

        assert {scrub(name).outcome for name in inos} == {ScrubOutcome.SOUND}
        assert world.run(_check(world, bucket)) == []
        bucket.put("changed", b"y" * 100)
        del bucket.objects["gone"]
        # A local copy is no object.
        world.run(hydrate(world.move_parts, inos["same"]))
        assert scrub("same").outcome is ScrubOutcome.SOUND
        for name, detail in (("changed", "/changed was changed"), ("gone", "/gone is gone")):
            found = scrub(name)
            assert found.outcome is ScrubOutcome.DIFFERS
            assert f"{URL}{detail}" in found.detail
        told = world.run(_check(world, bucket))
        assert [subject for subject, _ in told] == ["/set/changed", "/set/gone"]
        bucket.is_down = True
        found = scrub("changed")
        assert (found.outcome, found.checks[-1].unchecked) == (ScrubOutcome.SOUND, "it is down")
        [(subject, fault)] = world.run(_check(world, bucket))
        assert subject.startswith("source ")
        assert "3 adopted files" in fault


async def _check(world: World, bucket: Bucket) -> list[tuple[str, str]]:
    sources = Sources(world.engine, lambda _url, _options: bucket.open())
    report = await check(
        world.engine, world.raw_store, world.packed_store, None, verify=True, sources=sources
    )
    await sources.aclose()
    return [(each.subject, each.fault) for each in report.problems]


def test_what_an_object_tells_with_its_bytes_becomes_xattrs() -> None:
    """Without a request more, once, and of the object that a file was made of."""
    bucket = Bucket()
    bucket.put("small", b"s" * 100)
    bucket.put("large", b"l" * 100_000)
    bucket.put("plain", b"p")
    bucket.told_of = {
        "small": ("text/csv", (("city", "Ulm"),)),
        "large": ("image/png", ()),
        "plain": ("binary/octet-stream", ()),
    }
    with a_world(bucket) as world:
        adopt(world)
        inos = {name: ino for name, (ino, _) in look(world).items()}

        def told(name: str) -> dict[str, str]:
            async def read() -> dict[str, str]:
                names = await world.engine.list_xattrs(inos[name])
                return {
                    each.decode(): (await world.engine.get_xattr(inos[name], each)).decode()
                    for each in names
                }

            return world.run(read())

        async def set_city() -> None:
            async with world.engine.change():
                await world.engine.set_xattr(inos["small"], b"user.city", b"Bonn", 0, 1)

        world.run(set_city())
        assert [told(name) for name in ("large", "plain")] == [{}, {}]
        for name in inos:
            world.release(world.open(inos[name], os.O_RDONLY))
        # A small file is fetched by its open, a large one is read range by range.
        assert told("small") == {"user.city": "Bonn", "user.mime_type": "text/csv"}
        assert told("large") == {}
        file = world.open(inos["large"], os.O_RDONLY)
        assert world.read(file, 50_000, 10) == b"l" * 10
        assert told("large") == {"user.mime_type": "image/png"}
        assert told("plain") == {}

        async def forget() -> None:
            async with world.engine.change():
                await world.engine.remove_xattr(inos["large"], b"user.mime_type", 2)

        world.run(forget())
        assert world.read(file, 0, 10) == b"l" * 10
        world.release(file)
        assert told("large") == {}
        # What the mover fetches tells it as well.
        bucket.put("later", b"x" * 100_000)
        bucket.told_of["later"] = "text/html", ()
        refresh(world)
        inos["later"] = look(world)["later"][0]
        world.run(hydrate(world.move_parts, inos["later"]))
        world.run(world.filesystem.finish_requests())
        assert told("later") == {"user.mime_type": "text/html"}
        world.crash(checked=True)
        assert told("small") == {"user.city": "Bonn", "user.mime_type": "text/csv"}


def test_a_source_is_forgotten_page_by_page_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All requests waited until a million keys were forgotten."""
    monkeypatch.setattr(forgetting, "ROWS_A_CHANGE", 2)
    bucket = Bucket()
    for number in range(9):
        bucket.put(f"{number}", b"x")
    with a_world(bucket) as world:
        adopt(world)
        inos = [ino for _, (ino, _) in sorted(look(world).items())]
        [source] = world.run(world.engine.list_sources())
        turns = 0

        async def work() -> None:
            nonlocal turns
            methods = adopting(world, slice_s=0.0)
            await methods.own([*inos[:8]])
            with pytest.raises(InvalidValueError, match="as 8; run memfs adopt --own"):
                await methods.forget("set")
            [report] = await methods.sources()
            assert (report["object_count"], report["watch_s"]) == (9, 0)
            await world.engine.unlink(source.root, b"8", 5)

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(others)
                assert await methods.forget("set") == 8
                nursery.cancel_scope.cancel()

        world.run(work())
        assert turns > 8
        assert world.run(world.engine.list_sources()) == []
        assert world.run(world.engine.list_gone(source.source, b"", 10)) == []
        assert len(look(world)) == 8


def test_a_command_waits_for_a_listing_that_is_under_way() -> None:
    """It was refused, and so a bucket that is listed all the time could not be left alone."""
    bucket = Bucket()
    for number in range(9):
        bucket.put(f"{number:04}", b"x")
    with a_world(bucket) as world:
        adopt(world)

        async def two() -> list[AdoptReport]:
            methods = adopting(world, slice_s=0.0)
            first = await methods.refresh(path="set", work="first", confirm=True)
            assert not first["ended"]
            second = await methods.refresh(path="set", work="second", watch_s=600)
            assert (second["ended"], second["waiting"], second["listed_count"]) == (False, True, 0)
            while not first["ended"]:
                first = await methods.refresh(path="set", work="first", confirm=True)
            while not second["ended"]:
                second = await methods.refresh(path="set", work="second", watch_s=600)
            return [first, second]

        for report in world.run(two()):
            assert (report["waiting"], report["listed_count"]) == (False, 9)
        [source] = world.run(world.engine.list_sources())
        assert source.watch_s == 600


class Metered(Bucket):
    """A bucket whose requests are counted against quotas."""

    quotas: Quotas

    def open(self) -> SourceStore:
        policy = RetryPolicy(deadline_s=3600.0)
        calls = RepeatedCalls(URL, policy, random.Random(1), StoreHealth())
        return SourceStore(MeteredSource(self, self.quotas), calls)


class Watched(NamedTuple):
    """A bucket that is watched, and may be asked so often in a day."""

    world: World
    quotas: Quotas
    methods: AdoptMethods
    clock: HandClock

    def step(self, days: float) -> None:
        """Look what is due after so long."""
        self.world.run(self.methods.step(int((time.time() + days * 86400) * 1e9)))

    def told(self) -> tuple[str, object]:
        """Return why it waits, as the list of sources and `why` of a file tell."""
        [source] = self.world.run(self.methods.sources())
        ino = look(self.world)["a"][0]
        why = self.world.run(Control(self.world.parts).get(Program(), ino, b"user.memfs.why"))
        root = self.world.run(self.world.engine.find(ROOT_INODE, b"set"))
        assert root is not None
        above = self.world.run(
            Control(self.world.parts).get(Program(), root.ino, b"user.memfs.why")
        )
        assert json.loads(above)["source"].get("waits") == json.loads(why)["source"].get("waits")
        return source["waits"], json.loads(why)["source"].get("waits", "")


@contextmanager
def watched(bucket: Metered, requests_per_day: int) -> Iterator[Watched]:
    with a_world(bucket) as world:
        config, clock = replace(ROOMY.quotas, requests_per_day=requests_per_day), HandClock()
        bucket.quotas = Quotas(config, world.engine, clock)
        methods = adopting(world, bucket.quotas)
        _work(world, "adopt", url=URL, path="set", deleted="remove", watch_s=10)
        yield Watched(world, bucket.quotas, methods, clock)
        assert [use.reserved for use in bucket.quotas.uses()] == [0]


def test_a_spent_quota_of_requests_holds_back_a_watch_and_says_so() -> None:
    """One that somebody has asked for is made; what is held back goes on when there is room."""
    bucket = Metered(page_count=1000)
    bucket.put("a", b"1")
    with watched(bucket, 4) as each:
        assert len(bucket.listed) == 2
        bucket.put("new", b"2")
        each.step(1)
        assert len(bucket.listed) == 3
        assert "new" in look(each.world)
        bucket.put("newer", b"3")
        each.step(2)
        each.step(3)
        assert len(bucket.listed) == 3
        waits = each.told()[0]
        assert "quotas.requests_per_day: 3 of 4 used, 2 needed; more at" in waits
        assert each.told() == (waits, waits)
        refresh(each.world)
        assert "newer" in look(each.world)
        assert each.told() == ("", "")
        bucket.put("newest", b"4")
        each.clock.wait(26 * 3600)
        each.step(4)
        assert "newest" in look(each.world)


def test_a_watch_that_needs_more_requests_than_are_left_removes_nothing() -> None:
    bucket = Metered(page_count=1)
    for key in "abcdefghijkl":
        bucket.put(key, b"1")
    with watched(bucket, 17) as each:
        assert len(bucket.listed) == 13
        del bucket.objects["b"]
        each.step(1)
        assert len(bucket.listed) == 17
        assert "b" in look(each.world)
        assert "quotas.requests_per_day" in each.told()[0]
        [source] = each.world.run(each.methods.sources())
        assert "nothing was removed" in source["problem"]
        each.clock.wait(26 * 3600)
        each.step(2)
        assert "b" not in look(each.world)
        assert each.told() == ("", "")


def test_requests_come_between_two_changes_of_a_listing() -> None:
    """A page of 1000 objects was made in one go, and 100,000 objects held the loop for seconds."""
    bucket = Bucket(page_count=1000)
    for number in range(2500):
        bucket.put(f"d{number % 3}/{number:04}", b"x")
    with a_world(bucket) as world:
        turn_count = 0
        made: list[tuple[int, int]] = []
        adopt_files = world.engine.adopt_files

        async def counted(files: Sequence[AdoptedFile]) -> list[bool]:
            made.append((turn_count, len(files)))
            return await adopt_files(files)

        async def take_turns() -> None:
            nonlocal turn_count
            while True:
                turn_count += 1
                await trio.lowlevel.checkpoint()

        async def work() -> None:
            methods = adopting(world, slice_s=3600.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_turns)
                report = await methods.adopt(URL, "set", "work")
                assert (report["ended"], report["made_count"]) == (True, 2500)
                nursery.cancel_scope.cancel()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.engine, "adopt_files", counted)
            world.run(work())
        turns = [turn for turn, _ in made]
        # Which of two tasks is first in a turn is open: two changes may come together.
        assert all(first < third for first, third in zip(turns, turns[2:], strict=False))
        assert max(count for _, count in made) <= OBJECTS_A_CHANGE


# --- directories ---------------------------------------------------------------------------------
def _in_directory(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _in_mount(world: World) -> dict[str, bytes]:
    """Return what has its bytes in the mount, or can be read where it is."""
    found: dict[str, bytes] = {}
    for path, (ino, mode) in look(world).items():
        if stat.S_ISREG(mode):
            with suppress(ObjectChangedError, ObjectMissingError):
                found[path] = world.run(world.read_all(ino))
    return found


def take(world: World, data: Path) -> AdoptReport:
    return _work(world, "adopt", url=f"file://{data}", path="set", take="move")


def _world_of(root: Path) -> World:
    return World(
        root,
        ROOMY,
        passthrough=True,
        open_source=lambda url, _options: open_source(url, {}, 30.0),
    )


@pytest.mark.parametrize("how", ["copy", "reference"])
def test_a_release_leaves_what_the_directory_has_no_more(tmp_path: Path, how: str) -> None:
    """It took the last copy away, since a record said that the directory had one."""
    data, root = tmp_path / "data", tmp_path / "world"
    (data / "deep").mkdir(parents=True)
    contents = {"kept": b"k" * 5000, "lost": b"l" * 5000, "deep/lost": b"d", "changed": b"c" * 100}
    for name, content in contents.items():
        (data / name).write_bytes(content)
    (data / "link").symlink_to("kept")
    root.mkdir()
    world = _world_of(root)
    report = _work(world, "adopt", url=f"file://{data}", path="set", take=how)
    assert report["failures"] == []
    assert _in_mount(world) == contents
    (data / "lost").unlink()
    shutil.rmtree(data / "deep")
    (data / "changed").write_bytes(b"another")
    (data / "link").unlink()
    report = _work(world, "release", path="set")
    staying = {"lost", "deep/lost", "changed", "link"}
    assert {told.split(":")[0] for told in report["failures"]} == staying
    assert {path for path, (_, mode) in look(world).items() if not stat.S_ISDIR(mode)} == staying
    if how == "copy":
        assert _in_mount(world) == {path: contents[path] for path in staying - {"link"}}
    world.close()


@pytest.mark.parametrize("how", ["copy", "reference"])
def test_a_release_leaves_directories_that_were_made_here(tmp_path: Path, how: str) -> None:
    data, root = tmp_path / "data", tmp_path / "world"
    (data / "deep/er").mkdir(parents=True)
    (data / "deep/file").write_bytes(b"file")
    root.mkdir()
    world = _world_of(root)
    _work(world, "adopt", url=f"file://{data}", path="set", take=how)
    life = Life(world, Bucket())
    life.make_directory("mine/deep")
    report = _work(world, "release", path="set")
    assert [told.split(":")[0] for told in report["failures"]] == ["mine/deep"]
    assert (report["taken_count"], report["taken_bytes"]) == (1, 4)
    assert _directories(world) == {"mine", "mine/deep"}
    world.close()


def test_a_release_gives_files_back_under_the_names_that_they_have_now(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "world"
    (data / "sub").mkdir(parents=True)
    root.mkdir()
    for name in ("a", "sub/b", "sub/c"):
        (data / name).write_bytes(name.encode() * 1000)
    world = _world_of(root)
    assert take(world, data)["failures"] == []

    async def change() -> None:
        top = await world.engine.find(ROOT_INODE, b"set")
        assert top is not None
        sub = await world.engine.find(top.ino, b"sub")
        assert sub is not None
        await world.filesystem.rename(top.ino, b"a", top.ino, b"renamed", 0)
        await world.filesystem.rename(sub.ino, b"b", top.ino, b"a", 0)
        found = await world.engine.find(sub.ino, b"c")
        assert found is not None
        await world.filesystem.link(found.ino, top.ino, b"other")

    world.run(change())
    assert _work(world, "release", path="set")["failures"] == []
    assert _in_directory(data) == {
        "renamed": b"a" * 1000,
        "a": b"sub/b" * 1000,
        "sub/c": b"sub/c" * 1000,
        "other": b"sub/c" * 1000,
    }
    assert os.path.samefile(data / "other", data / "sub/c")
    world.close()


def test_a_move_removes_no_name_that_leads_elsewhere_by_now(tmp_path: Path) -> None:
    """Any file with a second name was taken for the one that memfs had linked."""
    data, root = tmp_path / "data", tmp_path / "world"
    data.mkdir()
    root.mkdir()
    (data / "file").write_bytes(b"f" * 5000)
    another = tmp_path / "another"
    another.write_bytes(b"another")
    another.chmod(0o640)
    world = _world_of(root)

    def replace() -> None:
        (data / "file").unlink()
        os.link(another, data / "file")

    world.interruptions.arm("take.published", replace)
    report = take(world, data)
    assert [told.split(":")[0] for told in report["failures"]] == ["file"]
    assert "it stays in the directory" in report["failures"][0]
    assert (data / "file").read_bytes() == b"another"
    assert (stat.S_IMODE(another.stat().st_mode), another.stat().st_nlink) == (0o640, 2)
    assert _in_mount(world) == {"file": b"f" * 5000}
    world.close()


def test_a_file_that_is_referred_to_is_passed_through_and_never_written(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "world"
    data.mkdir()
    root.mkdir()
    for name in ("small", "large"):
        (data / name).write_bytes(name.encode() * 5000)
    before = _in_directory(data)
    world = _world_of(root)
    _work(world, "adopt", url=f"file://{data}", path="set", take="reference")
    traffic = world.move_parts.traffic
    for name, content in before.items():
        ino, opened = look(world)[name][0], traffic.opens()[Level.COLD]
        reader = world.open(ino, os.O_RDONLY)
        assert reader.mode is OpenMode.PASSTHROUGH
        assert os.path.samestat(os.fstat(reader.kernel_fd), os.stat(data / name))
        assert world.read(reader, 0, 1 << 20) == content
        assert traffic.opens()[Level.COLD].file_count == opened.file_count + 1
        # Fetched meanwhile, it is passed through as before; the kernel would refuse another file.
        world.run(hydrate(world.move_parts, ino))
        second = world.open(ino, os.O_RDONLY)
        assert os.path.sameopenfile(reader.kernel_fd, second.kernel_fd)
        # A writer is sent to another inode by ESTALE, and the readers keep theirs.
        for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(Refusal) as caught:
                world.open(ino, flags)
            assert caught.value.errno == errno.ESTALE
        now = look(world)[name][0]
        assert now != ino
        writer = world.open(now, os.O_RDWR)
        assert writer.mode is OpenMode.PASSTHROUGH
        world.write(writer, 0, b"written")
        assert world.read(second, 0, 1 << 20) == content
        for file in (reader, second, writer):
            world.release(file)
        assert world.run(world.read_all(now)) == b"written" + content[7:]
    # Nothing was read from an object store, nor copied out of one.
    assert traffic.opens()[Level.GLACIER].file_count == 0
    assert traffic.moves() == {}
    assert _in_directory(data) == before
    world.remount()
    world.close()


def test_a_file_that_is_referred_to_and_has_changed_is_opened_as_it_is_now(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "world"
    data.mkdir()
    root.mkdir()
    (data / "file").write_bytes(b"1" * 20_000)
    world = _world_of(root)
    _work(world, "adopt", url=f"file://{data}", path="set", take="reference")
    ino = look(world)["file"][0]
    world.release(world.open(ino, os.O_RDONLY))
    (data / "new").write_bytes(b"2" * 30_000)
    (data / "new").rename(data / "file")
    with pytest.raises(Refusal) as caught:
        world.open(ino, os.O_RDONLY)
    assert caught.value.errno == errno.ESTALE
    reader = world.open(look(world)["file"][0], os.O_RDONLY)
    assert (reader.mode, world.read(reader, 0, 1 << 20)) == (OpenMode.PASSTHROUGH, b"2" * 30_000)
    world.release(reader)
    (data / "file").unlink()
    with pytest.raises(Refusal):
        world.open(look(world)["file"][0], os.O_RDONLY)
    world.close()


def _die_at(root: Path, data: Path, point: str) -> None:
    """Take the directory, or give it back, up to a point."""
    world = _world_of(root)
    world.interruptions.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if point.startswith("release"):
        _work(world, "release", path="set")
    else:
        take(world, data)


def _take_all(root: Path, data: Path) -> None:
    world = _world_of(root)
    assert take(world, data)["failures"] == []
    world.close()


@pytest.mark.parametrize("point", TAKE_POINTS)
def test_a_kill_amid_a_move_or_its_way_back_loses_no_file(tmp_path: Path, point: str) -> None:
    """Each file is in the directory or in the mount, and in the end where it was to be."""
    data, root = tmp_path / "data", tmp_path / "world"
    (data / "deep").mkdir(parents=True)
    expected = {"a": b"a" * 5000, "deep/b": b"b" * 70_000, "deep/c": b"c", "z": b""}
    for name, content in expected.items():
        (data / name).write_bytes(content)
    root.mkdir()
    is_release = point.startswith("release")
    if is_release:
        _take_all(root, data)
        assert _in_directory(data) == {}
    assert outlived(lambda: _die_at(root, data, point)) == signal.SIGKILL
    world = _world_of(root)
    assert {**_in_directory(data), **_in_mount(world)} == expected
    # The name that a move was about to give is garbage first.
    world.step()
    report = _work(world, "release", path="set") if is_release else take(world, data)
    assert report["failures"] == []
    # Raw files that have names in the directory lose their own with the garbage.
    for _ in range(3):
        world.step()
    assert _in_directory(data) == (expected if is_release else {})
    if not is_release:
        assert _in_mount(world) == expected
    world.close()
