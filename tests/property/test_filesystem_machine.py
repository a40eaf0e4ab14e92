"""Random requests, moves, crashes and remounts, against a model that is a few dicts."""

from __future__ import annotations

import enum
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memfs.content.opening import OpenMode
from memfs.errors import MemfsError, NotFoundError, StaleInodeError
from memfs.filesystem.operations import AttributeRequest
from memfs.linux.files import FallocateMode
from memfs.linux.times import TIME_NS_MAX, TIME_NS_MIN, storable_ns
from memfs.moves.dropping import drop_form
from memfs.types import ROOT_INODE, FormKind, InodeNo
from tests.moving import MOVES_BY_NAME
from tests.property.tree import FileContent, Tree
from tests.property.world import (
    CRAMPED,
    HASTY,
    HYDRATE_BYTES_MAX,
    IDLE_ROUNDS_MAX,
    ROOMY,
    Refusal,
    World,
    WouldWait,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.config import Config
    from tests.property.world import OpenFile

INDEXES = st.integers(0, 7)
"""Taken modulo what there is."""
NAMES = st.sampled_from([b"a", b"b", b"\xff\xfe", b"d" * 255])
SIZES = st.sampled_from([0, 1, 100, 4096, HYDRATE_BYTES_MAX, HYDRATE_BYTES_MAX + 1, 40_000])
OFFSETS = st.sampled_from([0, 1, 4095, 4096, 10_000, 30_000])
SEEDS = st.integers(0, 255)
SET_NS = 1_000_000_000_000_000_000
"""A time that no clock shows during the test."""
TIMES_NS = st.integers(0, 1000).map(lambda second: SET_NS + second * 10**9 + 1) | st.sampled_from(
    [0, -1, TIME_NS_MIN, TIME_NS_MIN - 1, TIME_NS_MAX, TIME_NS_MAX + 1, 1 << 93, -(1 << 93)]
)
"""Times that a program sets, those beyond what can be stored among them."""
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
XATTRS = st.sampled_from([b"user.a", b"user.b", b"trusted.c"])
TIERS = st.sampled_from([b"warm", b"cold", b"glacier", b"auto"])
CODECS = st.sampled_from([b"none", b"lz4", b"snappy", b"zstd:1"])
FLAGS = st.sampled_from([0, 0, 1, 2])

POINTS = st.sampled_from(
    [
        "pack.begun",
        "pack.written",
        "pack.verified",
        "upload.begun",
        "upload.prepared",
        "upload.stored",
        "upload.verified",
        "hydrate.begun",
        "hydrate.created",
        "hydrate.written",
        "hydrate.verified",
    ]
)
"""Instants of a move with a suspension just before, where a request can come in."""


IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Syncing costs nothing there, and what survives a process does not depend on it."""


def pattern(size: int, seed: int) -> bytes:
    """Return bytes that compress well, different for every seed."""
    unit = bytes((seed + step * step) % 256 for step in range(199))
    return (unit * (size // len(unit) + 1))[:size]


def error_of(call: Callable[[], object]) -> int:
    """Return the errno of what a call raises, 0 if it does not."""
    try:
        call()
    except (MemfsError, Refusal) as error:
        return error.errno
    return 0


class Interruption(enum.Enum):
    """What comes in between two steps of a move."""

    WRITE = enum.auto()
    HOLD = enum.auto()
    TRUNCATE = enum.auto()
    SET_MTIME = enum.auto()
    UNLINK = enum.auto()
    SET_CODEC = enum.auto()
    KILL = enum.auto()


class FilesystemMachine(RuleBasedStateMachine):
    """Every rule makes one request or one step of the daemon, and the model follows."""

    passthrough: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="memfs-property-", dir=IN_MEMORY))
        self.tree = Tree()

    @initialize(config=st.sampled_from([ROOMY, CRAMPED, HASTY]))
    def assemble(self, config: Config) -> None:
        """Start with a few directories and files: nearly all rules need some."""
        self.world = World(self.root, config, passthrough=self.passthrough)
        self.make_directory(0, b"a")
        self.make_directory(1, b"a")
        self.write_new(0, b"b", 40_000, 7)
        self.write_new(1, b"b", 100, 8)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.close()
        finally:
            shutil.rmtree(self.root)

    # --- picking ---------------------------------------------------------------------------------
    def pick_directory(self, index: int) -> InodeNo:
        directories = self.tree.directories
        return InodeNo(directories[index % len(directories)])

    def pick_file(self, index: int) -> InodeNo:
        """Return a regular file that programs can still reach."""
        files = [ino for ino in self.tree.files if self.is_reachable(ino)]
        return InodeNo(files[index % len(files)])

    def pick_entry(self, index: int) -> tuple[InodeNo, bytes]:
        """Return an existing dentry, or a name that is free if there is no dentry."""
        entries = [(d, name) for d, names in self.tree.entries.items() for name in names]
        if not entries:
            return ROOT_INODE, b"none"
        directory, name = entries[index % len(entries)]
        return InodeNo(directory), name

    def pick_open(self, index: int) -> OpenFile:
        return self.world.files[index % len(self.world.files)]

    def is_reachable(self, ino: int) -> bool:
        return self.tree.nodes[ino].nlink > 0 or self.world.is_used(InodeNo(ino))

    def is_mapped(self, ino: InodeNo) -> bool:
        return any(mapped == ino for mapped, _ in self.world.mappings)

    @property
    def has_file(self) -> bool:
        return any(self.is_reachable(ino) for ino in self.tree.files)

    @property
    def has_open_file(self) -> bool:
        return bool(self.world.files)

    def content_of(self, ino: InodeNo) -> FileContent:
        return self.tree.contents[ino]

    # --- names -----------------------------------------------------------------------------------
    @rule(parent=INDEXES, name=NAMES, mode=st.sampled_from([0o644, 0o600]), flags=ACCESS)
    def create(self, parent: int, name: bytes, mode: int, flags: int) -> None:
        self.create_file(parent, name, mode, flags)

    def create_file(self, parent: int, name: bytes, mode: int, flags: int) -> OpenFile | None:
        where = self.pick_directory(parent)
        if name in self.tree.entries[where]:
            return None
        file = self.world.create(where, name, mode, flags)
        self.tree.plant(where, name, file.ino, FileContent(mode=mode))
        return file

    @rule(parent=INDEXES, name=NAMES, size=SIZES, seed=SEEDS)
    def write_new(self, parent: int, name: bytes, size: int, seed: int) -> None:
        file = self.create_file(parent, name, 0o644, os.O_WRONLY)
        if file is not None:
            self.write_to(file, 0, pattern(size, seed))
            self.world.release(file)

    @rule(parent=INDEXES, name=NAMES)
    def make_directory(self, parent: int, name: bytes) -> None:
        where = self.pick_directory(parent)
        filesystem, program = self.world.filesystem, self.world.program

        def make() -> None:
            making = filesystem.make_directory(program, where, name, 0o755)
            self.made = self.world.request(making).inode.ino

        actual = error_of(make)
        number = self.made if not actual else InodeNo(-1)
        assert error_of(lambda: self.tree.plant(where, name, number, None)) == actual

    @rule(parent=INDEXES, name=NAMES, text=st.binary(min_size=1, max_size=300))
    def make_symlink(self, parent: int, name: bytes, text: bytes) -> None:
        where = self.pick_directory(parent)
        if name in self.tree.entries[where]:
            return
        making = self.world.filesystem.make_symlink(self.world.program, where, name, text)
        ino = self.world.request(making).inode.ino
        self.tree.plant(where, name, ino, FileContent(mode=0o777, target=text))

    @rule(index=INDEXES, parent=INDEXES, name=NAMES)
    @precondition(lambda self: self.has_file)
    def link(self, index: int, parent: int, name: bytes) -> None:
        ino, where = self.pick_file(index), self.pick_directory(parent)
        expected = error_of(lambda: self.tree.link(ino, where, name))
        linking = self.world.filesystem.link(ino, where, name)
        assert expected == error_of(lambda: self.world.request(linking))

    @rule(index=INDEXES)
    def unlink(self, index: int) -> None:
        where, name = self.pick_entry(index)
        expected = error_of(lambda: self.tree.unlink(where, name))
        unlinking = self.world.filesystem.unlink(where, name)
        assert expected == error_of(lambda: self.world.request(unlinking))

    @rule(index=INDEXES)
    def remove_directory(self, index: int) -> None:
        where, name = self.pick_entry(index)
        expected = error_of(lambda: self.tree.rmdir(where, name))
        removing = self.world.filesystem.remove_directory(where, name)
        assert expected == error_of(lambda: self.world.request(removing))

    @rule(index=INDEXES, new_index=INDEXES, flags=FLAGS)
    def rename_onto(self, index: int, new_index: int, flags: int) -> None:
        self.rename(*self.pick_entry(index), *self.pick_entry(new_index), flags)

    @rule(index=INDEXES, new_parent=INDEXES, new_name=NAMES, flags=FLAGS)
    def rename_to(self, index: int, new_parent: int, new_name: bytes, flags: int) -> None:
        self.rename(*self.pick_entry(index), self.pick_directory(new_parent), new_name, flags)

    def rename(
        self, source: InodeNo, name: bytes, target: InodeNo, new_name: bytes, flags: int
    ) -> None:
        expected = error_of(lambda: self.tree.rename(source, name, target, new_name, flags))
        renaming = self.world.filesystem.rename(source, name, target, new_name, flags)
        assert expected == error_of(lambda: self.world.request(renaming))

    @rule()
    def forget(self) -> None:
        """The kernel drops the inodes that have no name and no user."""
        unused = [
            InodeNo(ino) for ino in self.tree.nameless if not self.world.is_used(InodeNo(ino))
        ]
        self.world.filesystem.forget(unused)
        for ino in unused:
            self.tree.forget(ino)

    # --- attributes ------------------------------------------------------------------------------
    @rule(index=INDEXES, size=SIZES)
    @precondition(lambda self: self.has_file)
    def truncate(self, index: int, size: int) -> None:
        ino = self.pick_file(index)
        if self.is_mapped(ino):
            return  # Touching a mapping beyond the end is SIGBUS, for programs as for us.
        self.set_attributes(ino, AttributeRequest(size=size))
        self.content_of(ino).truncate(size)

    @rule(index=INDEXES, mtime_ns=TIMES_NS)
    @precondition(lambda self: self.has_file)
    def set_mtime(self, index: int, mtime_ns: int) -> None:
        ino = self.pick_file(index)
        self.set_attributes(ino, AttributeRequest(mtime_ns=mtime_ns, atime_ns=mtime_ns))
        self.content_of(ino).mtime_ns = storable_ns(mtime_ns)

    @rule(index=INDEXES, size=st.sampled_from([-1, -(1 << 63)]))
    @precondition(lambda self: self.has_file)
    def refuse_size(self, index: int, size: int) -> None:
        with pytest.raises(Refusal):
            self.set_attributes(self.pick_file(index), AttributeRequest(size=size))

    @rule(index=INDEXES, mode=st.sampled_from([0o644, 0o600, 0o4755]))
    @precondition(lambda self: self.has_file)
    def change_mode(self, index: int, mode: int) -> None:
        ino = self.pick_file(index)
        self.set_attributes(ino, AttributeRequest(mode=mode))
        self.content_of(ino).mode = mode

    def set_attributes(self, ino: InodeNo, request: AttributeRequest) -> None:
        filesystem = self.world.filesystem
        self.world.request(filesystem.set_attributes(self.world.program, ino, request))

    @rule(index=INDEXES, name=XATTRS, value=st.binary(max_size=5000), flags=FLAGS)
    @precondition(lambda self: self.has_file)
    def set_xattr(self, index: int, name: bytes, value: bytes, flags: int) -> None:
        ino = self.pick_file(index)
        expected = error_of(lambda: self.tree.set_xattr(ino, name, value, flags))
        setting = self.world.filesystem.set_xattr(
            self.world.program, ino, name, value, flags, False
        )
        assert expected == error_of(lambda: self.world.request(setting))

    @rule(index=INDEXES, name=XATTRS)
    @precondition(lambda self: self.has_file)
    def remove_xattr(self, index: int, name: bytes) -> None:
        ino = self.pick_file(index)
        expected = error_of(lambda: self.tree.remove_xattr(ino, name))
        removing = self.world.filesystem.remove_xattr(self.world.program, ino, name)
        assert expected == error_of(lambda: self.world.request(removing))

    @rule(index=INDEXES, tier=TIERS, of_directory=st.booleans())
    def pin(self, index: int, tier: bytes, of_directory: bool) -> None:
        ino = self.pick_holder(index, of_directory)
        self.set_control(ino, b"user.memfs.tier", tier)
        self.tree.pins[ino] = tier.decode()

    @rule(index=INDEXES, codec=CODECS, of_directory=st.booleans())
    def set_codec(self, index: int, codec: bytes, of_directory: bool) -> None:
        ino = self.pick_holder(index, of_directory)
        self.set_control(ino, b"user.memfs.codec", codec)
        self.tree.codecs[ino] = codec.decode()

    def pick_holder(self, index: int, of_directory: bool) -> InodeNo:
        if of_directory or not self.has_file:
            return self.pick_directory(index)
        return self.pick_file(index)

    def set_control(self, ino: InodeNo, name: bytes, value: bytes) -> None:
        self.world.request(
            self.world.filesystem.set_xattr(self.world.program, ino, name, value, 0, False)
        )

    @rule(index=INDEXES)
    @precondition(lambda self: self.has_file)
    def ask(self, index: int) -> None:
        """Reading what the control xattrs tell changes nothing that a program sees."""
        ino, filesystem = self.pick_file(index), self.world.filesystem
        for name in (b"tier", b"pin", b"state", b"residency", b"why", b"codec"):
            self.world.request(filesystem.get_xattr(self.world.program, ino, b"user.memfs." + name))
        if ino in self.tree.codecs:
            told = self.world.request(
                filesystem.get_xattr(self.world.program, ino, b"user.memfs.codec")
            )
            assert self.tree.codecs[ino] == told.decode()
        if self.tree.pins.get(ino, "auto") != "auto":
            told = self.world.request(
                filesystem.get_xattr(self.world.program, ino, b"user.memfs.pin")
            )
            assert self.tree.pins[ino] == told.decode()

    # --- content ---------------------------------------------------------------------------------
    @rule(index=INDEXES, flags=ACCESS, truncate=st.booleans())
    @precondition(lambda self: self.has_file)
    def open(self, index: int, flags: int, truncate: bool) -> None:
        self.open_file(index, flags, truncate=truncate)

    def open_file(self, index: int, flags: int, *, truncate: bool) -> OpenFile:
        ino = self.pick_file(index)
        cut = truncate and flags != os.O_RDONLY and not self.is_mapped(ino)
        file = self.world.open(ino, flags | (os.O_TRUNC if cut else 0))
        if cut:
            self.content_of(ino).truncate(0)
        return file

    @rule(index=INDEXES, offset=OFFSETS, size=SIZES)
    @precondition(lambda self: self.has_open_file)
    def read(self, index: int, offset: int, size: int) -> None:
        file = self.pick_open(index)
        if file.readable and size:
            expected = bytes(self.content_of(file.ino).data[offset : offset + size])
            assert expected == self.world.read(file, offset, size)

    @rule(index=INDEXES, offset=OFFSETS, size=SIZES, seed=SEEDS)
    @precondition(lambda self: self.has_open_file)
    def write(self, index: int, offset: int, size: int, seed: int) -> None:
        file = self.pick_open(index)
        if file.writable:
            self.write_to(file, offset, pattern(size, seed))

    def write_to(self, file: OpenFile, offset: int, data: bytes) -> None:
        if data:
            self.world.write(file, offset, data)
            self.content_of(file.ino).write(offset, data)

    @rule(index=INDEXES, offset=OFFSETS, seed=SEEDS)
    @precondition(lambda self: self.has_file)
    def append_once(self, index: int, offset: int, seed: int) -> None:
        """Open, change and close, as most programs do."""
        file = self.open_file(index, os.O_WRONLY, truncate=False)
        self.write_to(file, offset, pattern(300, seed))
        self.world.release(file)

    @rule(index=INDEXES, offset=OFFSETS, size=SIZES)
    @precondition(lambda self: self.has_open_file)
    def punch(self, index: int, offset: int, size: int) -> None:
        file = self.pick_open(index)
        if not file.writable or not size:
            return
        mode = FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE
        filesystem = self.world.filesystem
        self.world.request(filesystem.allocate(file.ino, mode, offset, size))
        content = self.content_of(file.ino)
        kept = len(content.data)
        content.write(offset, bytes(size))
        content.truncate(kept)

    @rule(source_index=INDEXES, index=INDEXES, size=SIZES)
    @precondition(lambda self: self.has_open_file)
    def copy_range(self, source_index: int, index: int, size: int) -> None:
        source, target = self.pick_open(source_index), self.pick_open(index)
        if not source.readable or not target.writable or source.ino == target.ino or not size:
            return
        copying = self.world.filesystem.copy_range(source.ino, 0, target.ino, 0, size)
        try:
            count = self.world.request(copying)
        except Refusal:
            inode = self.world.run(self.world.engine.get_inode(source.ino))
            assert not inode.raw, "copy_file_range failed between two local files"
            return
        if count:
            data = bytes(self.content_of(source.ino).data[:count])
            self.content_of(target.ino).write(0, data)

    @rule(index=INDEXES)
    @precondition(lambda self: self.has_open_file)
    def sync_file(self, index: int) -> None:
        file = self.pick_open(index)
        self.world.request(self.world.filesystem.fsync(self.world.program, file.ino, False))

    @rule(index=INDEXES)
    @precondition(lambda self: self.has_open_file)
    def release(self, index: int) -> None:
        self.world.release(self.pick_open(index))

    @rule(index=INDEXES)
    @precondition(lambda self: self.has_open_file)
    def map(self, index: int) -> None:
        """Map a passed-through file and close it: only a lease tells of the mapping."""
        file = self.pick_open(index)
        size = len(self.content_of(file.ino).data)
        if file.mode == OpenMode.PASSTHROUGH and file.readable and size:
            self.world.map(file, size)
            self.world.release(file)

    @rule(index=INDEXES, seed=SEEDS)
    @precondition(lambda self: bool(self.world.mappings))
    def use_mapping(self, index: int, seed: int) -> None:
        ino, mapping = self.world.mappings[index % len(self.world.mappings)]
        content = self.content_of(ino)
        assert content.data[: len(mapping)] == mapping[:], "a mapping shows other bytes"
        try:
            mapping[0] = seed
        except TypeError:
            return  # It is for reading only.
        content.write(0, bytes([seed]))

    @rule(index=INDEXES)
    @precondition(lambda self: bool(self.world.mappings))
    def unmap(self, index: int) -> None:
        self.world.unmap(*self.world.mappings[index % len(self.world.mappings)])

    # --- the daemon ------------------------------------------------------------------------------
    @rule()
    def settle(self) -> None:
        self.world.run(self.world.filesystem.finish_requests())

    @rule()
    def fill_pool(self) -> None:
        self.world.run(self.world.raw_pool.refill())

    @rule()
    def mover_step(self) -> None:
        self.world.step()

    @rule(index=INDEXES, move=st.sampled_from(["pack", "upload", "hydrate", "drop_raw"]))
    @precondition(lambda self: self.has_file)
    def move(self, index: int, move: str) -> None:
        self.try_move(self.pick_file(index), move)

    @rule(index=INDEXES, kind=st.sampled_from([FormKind.PACKED, FormKind.REMOTE]))
    @precondition(lambda self: self.has_file)
    def drop_form(self, index: int, kind: FormKind) -> None:
        self.world.run(drop_form(self.world.move_parts, self.pick_file(index), kind))

    @rule(index=INDEXES)
    @precondition(lambda self: self.has_file)
    def demote(self, index: int) -> None:
        """All the way to the object store, if users let it."""
        ino = self.pick_file(index)
        self.world.run(self.world.filesystem.finish_requests())
        for move in ("pack", "upload", "drop_raw"):
            self.try_move(ino, move)
        self.world.run(drop_form(self.world.move_parts, ino, FormKind.PACKED))

    def try_move(self, ino: InodeNo, move: str) -> None:
        try:
            self.world.run(MOVES_BY_NAME[move](self.world.move_parts, ino))
        except StaleInodeError:
            assert self.tree.nodes[ino].nlink == 0, "a file with a name is gone"
        except NotFoundError:
            raise AssertionError("a move met what is not there") from None
        except MemfsError:
            # A file without forms cannot be hydrated, and so on: nothing may have changed.
            assert self.content_of(ino).data == self.world.run(self.world.read_all(ino))

    @rule(index=INDEXES, point=POINTS, request=st.sampled_from(Interruption))
    @precondition(lambda self: self.has_file)
    def interrupt(self, index: int, point: str, request: Interruption) -> None:
        """A request for a file, or SIGKILL, comes in between two steps of a move of that file."""
        ino = self.pick_file(index)
        move = point.partition(".")[0]
        if move == "hydrate":
            self.demote(index)
        else:
            self.world.run(self.world.filesystem.finish_requests())

        def come_in() -> None:
            with suppress(WouldWait):
                self.come_in(ino, request)

        self.world.interruptions.arm(point, come_in)
        try:
            self.world.run(MOVES_BY_NAME[move](self.world.move_parts, ino))
        except MemfsError:
            pass  # The file changed under the move; what it holds is compared after every rule.
        finally:
            self.world.interruptions.disarm()
        if self.world.is_captured:
            self.world.crash(checked=True)
            self.programs_are_gone()

    def come_in(self, ino: InodeNo, request: Interruption) -> None:
        content = self.content_of(ino)
        match request:
            case Interruption.WRITE:
                file = self.world.open(ino, os.O_WRONLY)
                self.write_to(file, 10_000, pattern(300, 3))
                self.world.release(file)
            case Interruption.HOLD:
                self.world.open(ino, os.O_RDONLY)
            case Interruption.TRUNCATE:
                if not self.is_mapped(ino):
                    self.set_attributes(ino, AttributeRequest(size=0))
                    content.truncate(0)
            case Interruption.SET_MTIME:
                self.set_attributes(ino, AttributeRequest(mtime_ns=SET_NS))
                content.mtime_ns = SET_NS
            case Interruption.UNLINK:
                for where, names in self.tree.entries.items():
                    for name in [name for name, found in names.items() if found == ino]:
                        self.tree.unlink(where, name)
                        self.world.request(self.world.filesystem.unlink(InodeNo(where), name))
                self.forget()
            case Interruption.SET_CODEC:
                self.set_control(ino, b"user.memfs.codec", b"lz4")
                self.tree.codecs[ino] = "lz4"
            case Interruption.KILL:
                self.world.capture()

    @rule()
    def go_idle(self) -> None:
        """With time, nothing is left over on the disk."""
        self.world.raw_pool.close()
        for _ in range(IDLE_ROUNDS_MAX):
            self.world.step()
            usage = self.world.run(self.world.engine.usage())
            if usage.garbage_count == 0 and self.world.recovery.done:
                break
        else:
            raise AssertionError(f"garbage is never removed: {usage.garbage_count}")
        inodes = self.world.run(self.world.engine.list_files(InodeNo(0), 10_000))
        named = {inode.raw for inode in inodes}
        assert set(self.world.raw_store.iterate()) <= named

    @rule()
    def remount(self) -> None:
        self.world.remount()
        self.programs_are_gone()

    @rule(checked=st.booleans(), creating=st.booleans())
    def crash(self, checked: bool, creating: bool) -> None:
        if creating:
            # The raw file of a create whose commit did not come.
            os.close(self.world.raw_store.create(self.world.engine.reserve_ids()[1]))
        self.world.crash(checked=checked)
        self.programs_are_gone()

    def programs_are_gone(self) -> None:
        for ino in self.tree.nameless:
            self.tree.forget(ino)

    # --- comparing -------------------------------------------------------------------------------
    @invariant()
    def all_is_as_in_the_tree(self) -> None:
        self.world.run(self.compare())

    async def compare(self) -> None:
        engine = self.world.engine
        for number in self.tree.nodes:
            await self.compare_inode(InodeNo(number))
        assert await engine.recount() == await engine.usage()

    async def compare_inode(self, ino: InodeNo) -> None:
        filesystem, node, content = (
            self.world.filesystem,
            self.tree.nodes[ino],
            self.content_of(ino),
        )
        inode = (await filesystem.get_attributes(ino)).inode
        assert node.nlink == inode.nlink
        assert content.mode == stat.S_IMODE(inode.mode)
        if node.directory:
            listed = await filesystem.list_directory(ino, 0, 1000)
            assert self.tree.entries[ino] == {entry.name: entry.inode.ino for entry in listed}
        elif content.target is not None:
            assert content.target == await filesystem.read_link(ino)
        else:
            assert len(content.data) == inode.size
            assert content.mtime_ns in (None, inode.mtime_ns)
            assert content.data == await self.world.read_all(ino)
        own = await self.world.engine.list_xattrs(ino)
        assert node.xattrs == {
            name: await filesystem.get_xattr(self.world.program, ino, name) for name in own
        }


class PassthroughMachine(FilesystemMachine):
    """The kernel moves the bytes."""

    passthrough = True


class ServedMachine(FilesystemMachine):
    """The daemon moves the bytes."""

    passthrough = False


QUICK = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=25, stateful_step_count=80)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("machine", [PassthroughMachine, ServedMachine])
def test_random_requests_moves_and_crashes_leave_the_tree_as_it_has_to_be(
    machine: type[FilesystemMachine],
) -> None:
    """What was committed is there whatever happens, and nothing else is."""
    run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [PassthroughMachine, ServedMachine])
def test_longer_histories_do_so_too(machine: type[FilesystemMachine]) -> None:
    """Twice as many requests between the start and the end; each run of it draws the same."""
    run_state_machine_as_test(machine, settings=LONG)
