"""A state directory with its stores and moves, as tests of moves and of the mover use it.

Invariant: everything is the real thing; the object store is a directory behind the decorator that
injects faults.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

from memfs.addresses import address_of, key_within
from memfs.config import ColdConfig, Config, GlacierConfig, MetadataConfig, PolicyConfig, WarmConfig
from memfs.content.activity import Activity
from memfs.content.file_syncs import FileSyncs
from memfs.content.opentable import OpenTable
from memfs.content.residency import Residency
from memfs.content.sealing import Sealer
from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.exports.description import PREFIX as EXPORTS_PREFIX
from memfs.fsck.files import FileCheck
from memfs.metadata.records import InodeFlags, NewInode, Seal
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.moves.attempt import MoveParts
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.garbage import GarbageCollector
from memfs.moves.generation import PREFIX
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.recovery import Recovery
from memfs.moves.uploading import upload
from memfs.placement.context import Context
from memfs.stores.directory import DirectoryStore
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.stores.remote import together
from memfs.types import ROOT_INODE, FormKind, Generation, InodeNo
from tests.faulty_store import FaultScript, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from memfs.fsck.report import Report
    from memfs.metadata.records import Form, Inode
    from memfs.metadata.sqlite.migration import Migration
    from memfs.placement.quotas import Quotas
    from memfs.policy.access_stats import AccessStats
    from memfs.stores.store import RemoteStore

STORE_THREADS_MAX = 4

MOVES_BY_NAME: dict[str, Callable[[MoveParts, InodeNo], Coroutine[Any, Any, Any]]] = {
    "pack": pack,
    "upload": upload,
    "hydrate": hydrate,
    "drop_raw": drop_raw,
}
"""The moves that take a file alone, by the names that their fault points begin with."""

SMALL_FRAMES = Config(
    metadata=MetadataConfig(),
    warm=WarmConfig(size_bytes=64 << 20),
    cold=ColdConfig(frame_bytes=4096),
    glacier=GlacierConfig(),
    policy=PolicyConfig(),
)


SHORT_JOURNALS = Limits(
    checkpoint_bytes=64 << 10, journal_bytes=256 << 10, reserve_bytes=256 << 10, late_bytes=16 << 10
)
"""Room for some hundred changes: to allocate the usual 24 MiB, and to read 8 of them at each start,
takes longer than most tests."""


class State:
    """An opened state directory.

    Args:
        state_dir: Created if it is missing.
        config: What a test needs; frames are small by default.
        faults: Told of the points that moves reach.
        keys: Those of encrypted forms.
        migration: That of a state directory of an older format; None: it is refused.
        first_settings: What it has from the beginning, if it is made here.
    """

    def __init__(
        self,
        state_dir: Path,
        config: Config = SMALL_FRAMES,
        faults: FaultPoints | None = None,
        keys: KeyRing = NO_KEYS,
        migration: Migration | None = None,
        first_settings: Mapping[str, bytes] = NO_SETTINGS,
    ) -> None:
        self.state_dir = state_dir
        self.engine = SqliteEngine.open(
            state_dir,
            config.metadata,
            limits=SHORT_JOURNALS,
            migration=migration,
            first_settings=first_settings,
        )
        self.raw_store = RawStore(state_dir)
        self.packed_store = PackedStore(state_dir)
        self.faults = FaultScript()
        self.objects_dir = state_dir / "glacier"
        self.remote = FaultyStore(
            DirectoryStore(self.objects_dir, 30.0, STORE_THREADS_MAX), self.faults, deadline_s=30.0
        )
        self.named_faults = {name: FaultScript() for name in config.stores}
        self.named_stores = {
            name: FaultyStore(
                DirectoryStore(state_dir / f"store-{name}", 30.0, STORE_THREADS_MAX),
                script,
                deadline_s=30.0,
            )
            for name, script in self.named_faults.items()
        }
        self.all_stores: RemoteStore = (
            together({"": self.remote, **self.named_stores}) if self.named_stores else self.remote
        )
        """What moves have; `remote` is the default one of them."""
        self.open_table = OpenTable(self.raw_store, None)
        self.residency = Residency(self.raw_store, config.warm)
        self.config = config
        self.activity = Activity()
        self.sealer = Sealer(self.engine, self.raw_store, self.open_table, self.activity)
        self.parts = MoveParts(
            engine=self.engine,
            raw_store=self.raw_store,
            packed_store=self.packed_store,
            remote=self.all_stores,
            config=config,
            open_table=self.open_table,
            residency=self.residency,
            file_syncs=FileSyncs(self.engine, self.raw_store, self.open_table, self.sealer),
            sealer=self.sealer,
            lost_found=LostFound(state_dir),
            faults=faults or FaultPoints(),
            keys=keys,
        )
        self.garbage = GarbageCollector(self.parts, random.Random(1))
        self.recovery = Recovery(self.parts)

    def placement(
        self,
        activity: Activity | None = None,
        *,
        access_stats: AccessStats | None = None,
        quotas: Quotas | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> Context:
        """Return what placement works with, as after a start."""
        return Context.of(
            self.parts,
            self.garbage,
            self.recovery,
            activity or self.activity,
            self.state_dir,
            access_stats=access_stats,
            quotas=quotas,
            rng=random.Random(1),
            clock=clock,
        )

    def close(self) -> None:
        self.residency.close()
        self.open_table.close()
        self.engine.close()
        self.raw_store.close()

    async def create(self, name: str, content: bytes) -> InodeNo:
        """Create a sealed file below the root."""
        ino, raw = self.engine.reserve_ids()
        fd = self.raw_store.create(raw)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)
        new = NewInode(ino, 0o100644, 0, 0, time.time_ns(), raw=raw)
        await self.engine.create(ROOT_INODE, name.encode(), new)
        await self.seal(ino)
        return ino

    async def rewrite(self, ino: InodeNo, content: bytes) -> None:
        """Open a file for writing, replace what it holds, and seal it."""
        inode = await self.engine.get_inode(ino)
        raw = inode.raw
        if not raw:
            _, raw = self.engine.reserve_ids()
            os.close(self.raw_store.create(raw))
        await self.engine.unseal(ino, raw)
        self.engine.commit_nowait()
        self.raw_store.path(raw).write_bytes(content)
        await self.seal(ino)

    async def seal(self, ino: InodeNo) -> None:
        inode = await self.engine.get_inode(ino)
        status = self.raw_store.stat(inode.raw)
        seal = Seal(
            ino,
            inode.generation,
            status.st_size,
            status.st_blocks,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        await self.engine.seal([seal])
        self.engine.commit_nowait()

    async def unlink(self, name: str) -> None:
        inode = await self.engine.unlink(ROOT_INODE, name.encode(), time.time_ns())
        await self.engine.reap([inode.ino])
        self.engine.commit_nowait()

    async def forms(self, ino: InodeNo) -> set[FormKind]:
        inode = await self.engine.get_inode(ino)
        kinds = {form.kind for form in await self.engine.list_forms(inode.blob)}
        return kinds | ({FormKind.RAW} if inode.raw else set())

    async def form(self, ino: InodeNo, kind: FormKind) -> Form:
        inode = await self.engine.get_inode(ino)
        return next(form for form in await self.engine.list_forms(inode.blob) if form.kind == kind)

    async def content(self, ino: InodeNo) -> bytes:
        """Return a file's bytes, hydrating it if need be."""
        inode = await self.engine.get_inode(ino)
        if not inode.raw and not inode.blob and not inode.size:
            return b""
        inode = await hydrate(self.parts, ino)
        return self.raw_store.path(inode.raw).read_bytes()

    async def check_files(self, *, verify: bool = True, keys: KeyRing | None = None) -> Report:
        """Compare all forms with what the engine has of them.

        Args:
            verify: Read their bytes.
            keys: Those of encrypted forms; None: those of the state.
        """
        return await FileCheck(
            self.engine,
            self.raw_store,
            self.packed_store,
            self.all_stores,
            verify=verify,
            progress=lambda *_: None,
            keys=self.parts.keys if keys is None else keys,
            stores=self.parts.store_names,
        ).run()

    async def leaks(self) -> list[str]:
        """Return what lies in the state directory or in the store that nothing refers to."""
        raws, locations, keys = await self._referenced()

        def known(key: str) -> bool:
            return key in keys or key_within(key).startswith((PREFIX, EXPORTS_PREFIX))

        found = [f"raw {raw}" for raw in self.raw_store.iterate() if raw not in raws]
        found += [name for name in self.packed_store.iterate() if name not in locations]
        for name in self.parts.store_names:
            listed = self.all_stores.list(address_of(name, ""))
            found += [stat.key async for stat in listed if not known(stat.key)]
        found += [str(path) for path in (self.state_dir / "tmp").iterdir()]
        found += [f"intent {intent}" for intent in await self.engine.list_intents()]
        return found

    async def _referenced(self) -> tuple[set[int], set[str], set[str]]:
        raws: set[int] = set()
        locations: set[str] = set()
        keys: set[str] = set()
        for kept in await self.engine.list_kept((InodeNo(0), Generation(0)), 1000):
            raws.add(int(kept.raw))
            forms = await self.engine.list_forms(kept.blob)
            locations.update(each.place.key for each in forms if each.kind == FormKind.PACKED)
            keys.update(each.place.key for each in forms if each.kind == FormKind.REMOTE)
        after = InodeNo(0)
        while inodes := await self.engine.list_files(after, 1000):
            for inode in inodes:
                raws.add(int(inode.raw))
                for form in await self.engine.list_forms(inode.blob):
                    if form.kind == FormKind.PACKED:
                        locations.add(form.place.key)
                    else:
                        keys.add(form.place.key)
            after = inodes[-1].ino
        return raws, locations, keys


def sealed(inode: Inode) -> bool:
    return not inode.flags & InodeFlags.UNSEALED


def compressible(size: int, seed: int = 1) -> bytes:
    """Return bytes that zstd makes some 4 times smaller, different for every seed."""
    letters = random.Random(seed).choices(b"abcd", k=size)
    return bytes(letters)


def incompressible(size: int, seed: int = 1) -> bytes:
    """Return bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)
