"""Random calls, commits, crashes and reopenings, against a model that is a few dicts."""

from __future__ import annotations

import copy
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from memfs.errors import MemfsError
from memfs.metadata.records import InodeFlags, MoveKind
from memfs.types import ROOT_INODE, FormKind, Generation, InodeNo, RawId
from tests.contract.engine.making import (
    NOW_NS,
    adopt,
    garbage_in,
    make_directory,
    make_file,
    new_directory,
    publish,
    seal,
)
from tests.contract.engine.model import ADOPTED, Model
from tests.contract.engine.postgres_site import PostgresSite
from tests.contract.engine.site import SqliteSite, SuspendingSite, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from memfs.metadata.engine import Engine

T = TypeVar("T")

INDEXES = st.integers(0, 11)
"""Taken modulo what there is."""
NAMES = st.sampled_from([b"a", b"b", b"\xff\xfe", b"d" * 255])
XATTRS = st.sampled_from([b"user.a", b"user.b"])
SETTINGS = st.sampled_from(["clock", "cursor"])
KINDS = st.sampled_from([FormKind.PACKED, FormKind.REMOTE])
FLAGS = st.sampled_from([0, 1, 2])


class GivenUpError(Exception):
    """What a step raises that is to leave nothing."""


def outcome(call: Callable[[], T]) -> T | type[MemfsError]:
    """Return what a call returns, or the class of what it raises."""
    try:
        return call()
    except MemfsError as error:
        return type(error)


class EngineMachine(RuleBasedStateMachine):
    """Every rule runs one call on the engine and on the model, and compares the outcome."""

    site_class: ClassVar[type[SqliteSite]] = SqliteSite

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="memfs-engine-"))
        self.site = self.site_class(self.root)
        self.model = Model()
        self.committed = Model()
        self.location_count = 0

    @property
    def engine(self) -> Engine:
        return self.site.engine

    def teardown(self) -> None:
        try:
            with suppress(MemfsError):
                self.site.run(self.engine.commit())
            self.committed = self.model
            self.compare_all()
            self.site.close()
        finally:
            self.engine.close()
            shutil.rmtree(self.root)

    def both(self, call: Coroutine[None, None, object], model: Callable[[], object]) -> None:
        expected = outcome(model)
        actual = outcome(lambda: self.site.run(call))
        if isinstance(expected, type) or isinstance(actual, type):
            assert expected == actual
        elif isinstance(expected, bool):
            assert expected is actual

    def pick(self, index: int) -> InodeNo:
        numbers = sorted(self.model.nodes)
        return InodeNo(numbers[index % len(numbers)])

    def pick_file(self, index: int) -> InodeNo:
        """Return a regular file; the root if there is no file: every call has to refuse it."""
        numbers = sorted(n for n, node in self.model.nodes.items() if not node.directory)
        return InodeNo(numbers[index % len(numbers)]) if numbers else ROOT_INODE

    def pick_entry(self, index: int) -> tuple[InodeNo, bytes]:
        """Return an existing dentry, or a name that is free if there is no dentry."""
        entries = [(d, name) for d, names in self.model.entries.items() for name in names]
        if not entries:
            return ROOT_INODE, b"none"
        directory, name = entries[index % len(entries)]
        return InodeNo(directory), name

    # --- names -----------------------------------------------------------------------------------
    @initialize()
    def plant(self) -> None:
        """Start with directories in directories: most ways to go wrong need them."""
        for parent in (0, 0, 1):
            for name in (b"a", b"b"):
                self.create(parent, name, directory=True)
        self.create(2, b"b", directory=False)

    @rule(parent=INDEXES, name=NAMES, directory=st.booleans())
    def create(self, parent: int, name: bytes, directory: bool) -> None:
        where = self.pick(parent)
        make = make_directory if directory else make_file
        made: list[InodeNo] = []

        async def create() -> None:
            made.append((await make(self.engine, name, where)).ino)

        actual = outcome(lambda: self.site.run(create()))
        # A refused number is lost, so the model gets one that nothing else has.
        number = made[0] if made else -1
        expected = outcome(lambda: self.model.create(where, name, number, directory=directory))
        assert expected == actual

    @rule(target_index=INDEXES, parent=INDEXES, name=NAMES)
    def link(self, target_index: int, parent: int, name: bytes) -> None:
        ino, where = self.pick(target_index), self.pick(parent)
        # Which of two errors comes first is nobody's promise.
        if self.model.nodes[ino].directory:
            return
        self.both(
            self.engine.link(ino, where, name, NOW_NS), lambda: self.model.link(ino, where, name)
        )

    @rule(index=INDEXES)
    def unlink(self, index: int) -> None:
        where, name = self.pick_entry(index)
        self.both(self.engine.unlink(where, name, NOW_NS), lambda: self.model.unlink(where, name))

    @rule(index=INDEXES)
    def rmdir(self, index: int) -> None:
        where, name = self.pick_entry(index)
        self.both(self.engine.rmdir(where, name, NOW_NS), lambda: self.model.rmdir(where, name))

    @rule(index=INDEXES, new_index=INDEXES, flags=FLAGS)
    def rename_onto(self, index: int, new_index: int, flags: int) -> None:
        self.rename(*self.pick_entry(index), *self.pick_entry(new_index), flags)

    @rule(index=INDEXES, new_parent=INDEXES, new_name=NAMES, flags=FLAGS)
    def rename_to(self, index: int, new_parent: int, new_name: bytes, flags: int) -> None:
        self.rename(*self.pick_entry(index), self.pick(new_parent), new_name, flags)

    def rename(
        self, source: InodeNo, name: bytes, target: InodeNo, new_name: bytes, flags: int
    ) -> None:
        self.both(
            self.engine.rename(source, name, target, new_name, flags, NOW_NS),
            lambda: self.model.rename(source, name, target, new_name, flags),
        )

    @rule(index=INDEXES)
    def reap(self, index: int) -> None:
        ino = self.pick(index)
        self.both(self.engine.reap([ino]), lambda: self.model.reap(ino))

    # --- xattrs ----------------------------------------------------------------------------------
    @rule(index=INDEXES, name=XATTRS, value=st.binary(max_size=5000), flags=FLAGS)
    def set_xattr(self, index: int, name: bytes, value: bytes, flags: int) -> None:
        ino = self.pick(index)
        self.both(
            self.engine.set_xattr(ino, name, value, flags, NOW_NS),
            lambda: self.model.set_xattr(ino, name, value, flags),
        )

    @rule(index=INDEXES, name=XATTRS)
    def remove_xattr(self, index: int, name: bytes) -> None:
        ino = self.pick(index)
        self.both(
            self.engine.remove_xattr(ino, name, NOW_NS), lambda: self.model.remove_xattr(ino, name)
        )

    # --- settings --------------------------------------------------------------------------------
    @rule(name=SETTINGS, value=st.none() | st.binary(max_size=5000))
    def put_setting(self, name: str, value: bytes | None) -> None:
        self.site.run(self.engine.put_setting(name, value))
        self.model.settings.pop(name, None)
        if value is not None:
            self.model.settings[name] = value

    # --- contents --------------------------------------------------------------------------------
    @rule(index=INDEXES, fresh=st.booleans())
    def unseal(self, index: int, fresh: bool) -> None:
        ino = self.pick_file(index)
        raw = self.model.nodes[ino].raw
        if fresh or raw == 0:
            raw = self.engine.reserve_ids()[1]
        self.both(self.unseal_kept(ino, RawId(raw)), lambda: self.model.unseal(ino, raw))

    async def unseal_kept(self, ino: InodeNo, raw: RawId) -> None:
        """Unseal, after a copy for snapshots if they need one."""
        inode = await self.engine.get_inode(ino)
        if raw == inode.raw and await self.engine.needs_copy(ino):
            before = await self.engine.unseal(ino, raw)
            assert before == inode
            copied = self.engine.reserve_ids()[1]
            kind = MoveKind.HYDRATE
            intent = await self.engine.begin_intent(kind, ino, inode.generation, str(copied), 1)
            assert await self.engine.keep_copy(ino, inode.generation, copied, intent)
            self.model.garbage.add(("raw", str(copied)))
        await self.engine.unseal(ino, raw)

    @rule(index=INDEXES, size=st.integers(0, 1 << 40))
    def seal(self, index: int, size: int) -> None:
        ino = self.pick_file(index)
        inode = self.site.run(self.engine.get_inode(ino))
        self.both(seal(self.engine, inode, size), lambda: self.model.seal(ino, size))

    @rule(index=INDEXES, kind=KINDS)
    def publish_form(self, index: int, kind: FormKind) -> None:
        ino = self.pick_file(index)
        self.location_count += 1
        location = f"{kind.value}/{self.location_count}"
        inode = self.site.run(self.engine.get_inode(ino))
        self.both(
            publish(self.engine, inode, kind, location),
            lambda: self.model.publish_form(ino, kind.value, location),
        )

    @rule(index=INDEXES)
    def adopt(self, index: int) -> None:
        ino = self.pick_file(index)
        self.location_count += 1
        location = f"{ADOPTED}a@{self.location_count}"
        inode = self.site.run(self.engine.get_inode(ino))
        self.both(
            adopt(self.engine, inode, location),
            lambda: self.model.publish_form(ino, FormKind.REMOTE.value, location),
        )

    @rule(index=INDEXES)
    def publish_raw(self, index: int) -> None:
        ino = self.pick_file(index)
        inode = self.site.run(self.engine.get_inode(ino))
        raw = self.engine.reserve_ids()[1]

        async def publish_raw() -> bool:
            intent = await self.engine.begin_intent(
                MoveKind.HYDRATE, ino, inode.generation, str(raw), NOW_NS
            )
            after = await self.engine.publish_raw(ino, inode.generation, raw, 7, intent)
            return after is not None

        self.both(publish_raw(), lambda: self.model.publish_raw(ino, raw))

    @rule(index=INDEXES)
    def drop_raw(self, index: int) -> None:
        ino = self.pick_file(index)
        inode = self.site.run(self.engine.get_inode(ino))
        self.both(self.engine.drop_raw(ino, inode.generation), lambda: self.model.drop_raw(ino))

    @rule(index=INDEXES, kind=KINDS)
    def drop_form(self, index: int, kind: FormKind) -> None:
        ino = self.pick_file(index)
        inode = self.site.run(self.engine.get_inode(ino))
        self.both(
            self.engine.drop_form(ino, inode.generation, kind),
            lambda: self.model.drop_form(ino, kind.value),
        )

    # --- transactions ----------------------------------------------------------------------------
    @rule(index=INDEXES, name=NAMES, value=st.binary(max_size=50), kept=st.booleans())
    def change(self, index: int, name: bytes, value: bytes, kept: bool) -> None:
        """A step of several calls, some of which are refused, is kept or given up."""
        where, ino = self.pick(index), self.pick_file(index)
        directory, entry = self.pick_entry(index)
        before = copy.deepcopy(self.model)
        model = self.model

        async def step() -> None:
            engine = self.engine
            with suppress(MemfsError):
                model.create(where, name, number := engine.reserve_ids()[0], directory=True)
                await engine.create(where, name, new_directory(engine)._replace(ino=number))
            with suppress(MemfsError):
                model.unlink(directory, entry)
                await engine.unlink(directory, entry, NOW_NS)
            with suppress(MemfsError):
                model.unseal(ino, raw := engine.reserve_ids()[1])
                await engine.unseal(ino, raw)
            await engine.put_setting("cursor", value)
            model.settings["cursor"] = value
            if not kept:
                raise GivenUpError

        async def change() -> None:
            with suppress(GivenUpError):
                async with self.engine.change():
                    await step()

        self.site.run(change())
        if kept:
            self.committed = copy.deepcopy(self.model)
        else:
            self.model = before
            assert self.engine.check() == []

    @rule(name=NAMES)
    def churn(self, name: bytes) -> None:
        """Fill the journal until it goes through a checkpoint."""
        for index in range(20):
            value = b"%d" % index * 100
            self.set_xattr(0, b"user." + name[:1], value, 0)
            self.commit()

    @rule()
    def commit(self) -> None:
        self.site.run(self.engine.commit())
        self.committed = copy.deepcopy(self.model)

    @rule()
    def maintain(self) -> None:
        self.engine.maintain()

    @rule()
    @precondition(lambda self: not self.engine.uncommitted)
    def sync(self) -> None:
        self.engine.sync()

    @rule()
    def reopen(self) -> None:
        self.site.reopen()
        self.committed = copy.deepcopy(self.model)
        assert self.engine.unrecorded_raw_range()[0] == self.engine.unrecorded_raw_range()[1]

    @rule()
    def crash(self) -> None:
        if self.site.commits_each_call:
            self.committed = copy.deepcopy(self.model)
        self.site.crash()
        self.model = copy.deepcopy(self.committed)
        start, end = self.engine.unrecorded_raw_range()
        assert start < end
        self.engine.clear_unrecorded_raw_range()
        self.compare_all()

    # --- comparing -------------------------------------------------------------------------------
    @invariant()
    def links_are_counted(self) -> None:
        for number, node in self.model.nodes.items():
            assert node.nlink == run(self.engine.get_inode(InodeNo(number))).nlink

    @invariant()
    def totals_are_exact(self) -> None:
        assert run(self.engine.recount()) == run(self.engine.usage())

    def compare_all(self) -> None:
        assert self.engine.check() == []
        for number, node in self.model.nodes.items():
            ino = InodeNo(number)
            inode = run(self.engine.get_inode(ino))
            assert node.directory == stat.S_ISDIR(inode.mode)
            assert node.nlink == inode.nlink
            assert (node.raw, node.generation) == (inode.raw, inode.generation)
            assert node.unsealed == bool(inode.flags & InodeFlags.UNSEALED)
            assert node.size == inode.size
            forms = run(self.engine.list_forms(inode.blob)) if inode.blob else []
            assert node.forms == {form.kind.value: form.place.key for form in forms}
            xattrs = {
                name: run(self.engine.get_xattr(ino, name))
                for name in run(self.engine.list_xattrs(ino))
            }
            assert node.xattrs == xattrs
            if node.directory:
                listed = run(self.engine.list_directory(ino, 0, 1000))
                assert self.model.entries[number] == {e.name: e.inode.ino for e in listed}
        for name in ("clock", "cursor"):
            assert self.model.settings.get(name) == run(self.engine.get_setting(name))
        assert len(self.model.nodes) == run(self.engine.usage()).inode_count
        kept = self.kept_for_snapshots()
        garbage = {(k.value, where) for k, where in run(garbage_in(self.engine))}
        assert not kept & garbage
        assert self.model.garbage ^ (kept | garbage) == set()

    def kept_for_snapshots(self) -> set[tuple[str, str]]:
        """Return what would be garbage if there were no snapshots."""
        kept: set[tuple[str, str]] = set()
        for each in run(self.engine.list_kept((InodeNo(0), Generation(0)), 1000)):
            if each.raw:
                kept.add(("raw", str(each.raw)))
            elif each.blob or not each.open:
                forms = run(self.engine.list_forms(each.blob))
                assert forms
                kept.update((form.kind.value, form.place.key) for form in forms if form.owned)
        return kept


class SuspendingMachine(EngineMachine):
    """The engine suspends at random and commits late."""

    site_class = SuspendingSite


class PostgresMachine(EngineMachine):
    """The engine of a node, whose changes a database has as well."""

    site_class = PostgresSite


QUICK = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
EngineMachine.TestCase.settings = QUICK
TestEngineMachine = EngineMachine.TestCase
SuspendingMachine.TestCase.settings = settings(QUICK, max_examples=30)
TestSuspendingMachine = SuspendingMachine.TestCase
PostgresMachine.TestCase.settings = settings(QUICK, max_examples=15)
TestPostgresMachine = pytest.mark.usefixtures("postgres_mount")(PostgresMachine.TestCase)
