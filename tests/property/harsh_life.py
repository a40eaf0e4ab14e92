"""A harsh life: besides what fails by itself, somebody damages and exchanges what lies at rest.

Invariant: after each step the model is what a mount must show, whatever was damaged before.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from memfs.config import MetadataConfig
from memfs.errors import MemfsError, MetadataError, UsageError
from memfs.fsck.repair import repair
from memfs.jobs.scrubbing import scrub_file
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import FAULT_POINTS
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, FormKind, InodeNo
from tests.property.damages import damage, digests_of_files, put_back, read_metadata
from tests.property.life import LEFT_BYTES, Life
from tests.property.tree import FileContent, Tree
from tests.property.world import Refusal

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memfs.config import Config
    from memfs.metadata.records import DirectoryEntry
    from memfs.moves.attempt import MoveParts
    from tests.property.damages import Files

REQUEST_STEPS_MAX = [2, 5, 12]
"""Most requests have few steps that need the disk; those that fetch a file first have more."""

READ_BYTES = 7000
"""No multiple of a frame."""

PAIR_SIZES = [300, 20_000]

COPY_COUNT_MAX = 4


class HarshLife(Life):
    """A life in which metadata are damaged, containers exchanged, and the disk fills up midway."""

    def __init__(
        self, root: Path, config: Config, *, passthrough: bool, encrypted: bool, small_disk: bool
    ) -> None:
        super().__init__(
            root, config, passthrough=passthrough, encrypted=encrypted, small_disk=small_disk
        )
        self._copies: list[Files] = []
        """Those of the metadata, as they were at some times; the newest is last."""

    # --- the disk --------------------------------------------------------------------------------
    def fill_in_move(self, rng: random.Random) -> None:
        """The disk becomes full when a move has come to some point."""
        ino = self.pick_file(rng)
        if ino is None or not self._small_disk or self.world.is_full:
            return
        self._run(self.world.filesystem.finish_requests())
        left_bytes = rng.choice(LEFT_BYTES)
        self.world.interruptions.arm(
            rng.choice(FAULT_POINTS), lambda: self.world.fill_disk(left_bytes)
        )
        self._run(self._draw_move(rng, ino))
        self.world.interruptions.disarm()
        self._see_full_disk(rng)

    def fill_in_request(self, rng: random.Random) -> None:
        """The disk becomes full within a request, of a file that is near or of one that is not.

        Where the journals are full too, the request is refused at its commit, and the next ones:
        what it did to files before is lost then, or must be taken back.
        """
        if not self._small_disk or self.world.is_full:
            return
        if rng.random() < 0.3:
            self.demote(rng)
        left_bytes, journals = rng.choice(LEFT_BYTES), rng.random() < 0.5
        request = rng.choice(
            [
                self.write_new,
                self.overwrite,
                self.truncate,
                self.read,
                self.sync,
                self.rename,
                self.link,
                self.unlink,
                self.make_directory,
                self.pin,
            ]
        )
        count = rng.randint(1, rng.choice(REQUEST_STEPS_MAX))
        self.world.steps.arm(count, lambda: self.world.fill_disk(left_bytes, journals=journals))
        request(rng)
        self.world.steps.disarm()
        self._see_full_disk(rng)

    def _see_full_disk(self, rng: random.Random) -> None:
        if not self.world.is_full:
            return
        self.compare()
        if rng.random() < 0.7:
            self.world.free_disk()

    # --- containers ------------------------------------------------------------------------------
    def exchange_objects(self, rng: random.Random) -> None:
        """Two objects lie in each other's places for a while."""
        self._make_pair(rng, upload)
        self._exchange(self.world.state_dir / "glacier", rng)

    def exchange_packed(self, rng: random.Random) -> None:
        """Two packed files do."""
        self._make_pair(rng, pack)
        self._exchange(self.world.state_dir / "packed", rng)

    def _make_pair(
        self, rng: random.Random, move: Callable[[MoveParts, InodeNo], Awaitable[object]]
    ) -> None:
        """Give two files contents that nothing but a digest tells apart, and one form."""
        size = rng.choice(PAIR_SIZES)
        for ino in self.pick_some(rng)[:2]:
            file = self._open(ino, os.O_WRONLY | os.O_TRUNC)
            if file is None:
                return
            self.tree.contents[ino].truncate(0)
            self._write(file, 0, rng.randbytes(size))
            self.world.release(file)
            self._run(self.world.filesystem.finish_requests())
            self._run(move(self.world.move_parts, ino))
            self._run(drop_raw(self.world.move_parts, ino))

    def _exchange(self, root: Path, rng: random.Random) -> None:
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        by_size: dict[int, list[Path]] = {}
        for path in paths:
            by_size.setdefault(path.stat().st_size, []).append(path)
        equal = [same for same in by_size.values() if len(same) > 1]
        if equal and rng.random() < 0.7:
            paths = rng.choice(equal)
        if len(paths) < 2:
            return
        self.world.free_disk()
        one, other = rng.sample(paths, 2)
        contents = {one: one.read_bytes(), other: other.read_bytes()}
        with self.weather.shelter():
            one.write_bytes(contents[other])
            other.write_bytes(contents[one])
            self.world.is_exchanged = True
            self._meet_exchanged(rng)
            self.world.is_exchanged = False
            for path, content in contents.items():
                # A move may have given it up.
                if path.exists():
                    path.write_bytes(content)
            self.world.run(self._scrub_all())
        self.compare()

    def _meet_exchanged(self, rng: random.Random) -> None:
        """See that no other bytes are read, before moves have looked at the files and after."""
        for _ in range(2):
            for ino in self.pick_some(rng):
                self._read_right_or_not(ino)
            for ino in self.pick_some(rng)[:3]:
                self._run(scrub_file(self.world.move_parts, ino))
            for ino in self.pick_some(rng)[:1]:
                self._run(self._draw_move(rng, ino))

    def _read_right_or_not(self, ino: InodeNo) -> None:
        expected = bytes(self.tree.contents[ino].data)
        with suppress(MemfsError):
            assert expected == self.world.run(self.world.read_all(ino)), f"inode {ino}: other bytes"
        file = self._open(ino, os.O_RDONLY)
        if file is None:
            return
        for offset in range(0, len(expected), READ_BYTES):
            with suppress(Refusal):
                found = self.world.read(file, offset, READ_BYTES)
                assert expected[offset : offset + READ_BYTES] == found, f"inode {ino}: other bytes"
        self.world.release(file)

    # --- metadata --------------------------------------------------------------------------------
    def keep_copy(self, _rng: random.Random) -> None:
        """Somebody copies the metadata, as a backup does."""
        self.world.sqlite.wait_for_checkpoint()
        self._keep(read_metadata(self.world.state_dir))

    def _keep(self, files: Files) -> None:
        self._copies = [*self._copies, files][-COPY_COUNT_MAX:]

    def damage_metadata(self, rng: random.Random) -> None:
        """Metadata are damaged between two lives: a refusal, or a mount that lacks nothing."""
        self.world.free_disk()
        with self.weather.shelter():
            world = self.world
            self._ask_all_to_sync()
            self.world.end(killed=rng.random() < 0.7)
            sound = read_metadata(world.state_dir)
            older = rng.choice(self._copies) if self._copies else None
            what = damage(world.state_dir, older, rng)
            damaged = read_metadata(world.state_dir)
            names = {path for path in world.state_dir.rglob("*") if path.parent != world.state_dir}
            try:
                world.begin()
            except (UsageError, MetadataError) as error:
                self._meet_refusal(f"{what}: {error}", damaged, names)
                if rng.random() < 0.5 and self._repair(what):
                    self._keep(read_metadata(world.state_dir))
                    return
                put_back(world.state_dir, sound)
                world.begin()
            for ino in self.tree.nameless:
                self.tree.forget(ino)
            try:
                self.compare()
            except AssertionError as error:
                error.add_note(f"what was damaged: {what}")
                raise
        self._keep(sound)

    def _ask_all_to_sync(self) -> None:
        filesystem = self.world.filesystem
        self.world.request(filesystem.sync())

    def _meet_refusal(self, what: str, damaged: Files, names: set[Path]) -> None:
        """See that nothing was touched."""
        now = read_metadata(self.world.state_dir)
        changed = sorted(name for name in damaged if now.get(name) != damaged[name])
        assert changed in ([], ["metadata.db-shm"]), f"{what}: {changed} changed"
        assert names <= set(self.world.state_dir.rglob("*")), f"{what}: files are gone"

    def _repair(self, what: str) -> bool:
        """Repair the metadata and go on from there; False if nothing helps."""
        world = self.world
        before = digests_of_files(world.state_dir)
        raw_store = RawStore(world.state_dir)
        lost_found = LostFound(world.state_dir)
        try:
            repaired = world.run(
                repair(
                    world.state_dir,
                    MetadataConfig(),
                    raw_store,
                    PackedStore(world.state_dir),
                    lost_found,
                    time.time_ns(),
                )
            )
        except UsageError:
            # The format file became another file, say.
            return False
        finally:
            raw_store.close()
        assert repaired.actions, f"{what}: the mount was refused, and the repair found nothing"
        lacking = before - digests_of_files(world.state_dir)
        assert not lacking, f"{what}: the repair has removed {len(lacking)} files"
        world.begin()
        world.run(self._adopt())
        lost_found.clear()
        self.compare()
        return True

    async def _adopt(self) -> None:
        """Take what a repaired state directory shows for the model; what it cannot read goes."""
        former, self.tree = self.tree, Tree()
        await self._adopt_directory(ROOT_INODE, former)
        await self.world.filesystem.commit()
        names = set()
        for inode in await self.world.engine.list_files(InodeNo(0), 10_000):
            for form in await self.world.engine.list_forms(inode.blob) if inode.blob else ():
                if form.kind == FormKind.REMOTE:
                    names.add(form.place.key)
        garbage = {item.location for item in await self.world.engine.list_garbage(10_000)}
        async for found in self.world.remote.list(""):
            if found.key not in names | garbage:
                await self.world.remote.delete(found.key)

    async def _adopt_directory(self, where: InodeNo, former: Tree) -> None:
        filesystem = self.world.filesystem
        for entry in await filesystem.list_directory(where, 0, 1000):
            ino = entry.inode.ino
            if stat.S_ISDIR(entry.inode.mode):
                self.tree.plant(where, entry.name, ino, None)
                await self._adopt_directory(ino, former)
            elif ino in self.tree.nodes:
                self.tree.link(ino, where, entry.name)
            else:
                await self._adopt_file(where, entry, former)

    async def _adopt_file(self, where: InodeNo, entry: DirectoryEntry, former: Tree) -> None:
        ino = entry.inode.ino
        try:
            content = await self.world.read_all(ino)
        except (MemfsError, OSError):
            await self.world.filesystem.unlink(where, entry.name)
            self.world.filesystem.forget([ino])
            return
        known = former.contents.get(ino)
        assert known is not None, f"inode {ino} was never made"
        assert content == known.data, f"inode {ino}: other bytes after a repair"
        self.tree.plant(where, entry.name, ino, FileContent(bytearray(content)))
