"""Repair: damaged metadata are rebuilt, and what they no longer name goes to lost+found.

1. The metadata are copied to `lost+found/metadata-N/`, durably. *Killed before*: nothing changes.
2. A file tells that a repair has begun. *Killed from here on*: all mounts are refused, and the next
   repair begins from what is there, beside a copy of its own.
3. The metadata are rebuilt (`metadata.sqlite.rebuild`, which numbers its own windows).
4. Files without a record go to `lost+found/`, one after the other; each is in one place or in both.
5. The file of 2 is removed.

Invariant: the metadata are copied to `lost+found/` before the first change, and no file that has
bytes is removed.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import ObjectMissingError
from memfs.linux.files import open_regular, sync_directory
from memfs.metadata.records import MoveKind
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import begin_repair, end_repair, refuse_shared
from memfs.metadata.sqlite.rebuild import metadata_files, rebuild
from memfs.moves.faults import FaultPoints
from memfs.stores.disk import disk_errors
from memfs.types import FormKind, Generation, InodeNo, RawId

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.config import MetadataConfig
    from memfs.metadata.engine import Engine
    from memfs.stores.lost_found import LostFound
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore

BATCH_COUNT = 1000


class Repaired(NamedTuple):
    """What a repair did."""

    actions: list[str]
    """What was damaged, and what was made of it, a sentence each."""
    lost: list[str]
    """Paths of files whose bytes are gone here; another form or a backup may have them."""
    moved: list[str]
    """Files that have no record, as they are called in lost+found now."""
    copy: str
    """Where the metadata were copied to before."""


async def repair(
    state_dir: Path,
    config: MetadataConfig,
    raw_store: RawStore,
    packed_store: PackedStore,
    lost_found: LostFound,
    now_ns: int,
    faults: FaultPoints | None = None,
) -> Repaired:
    """Rebuild the metadata of a state directory that no daemon has mounted.

    Raises:
        UsageError: It is of another version or engine, or a node's of a shared mount.
        MetadataError: Nothing helps; the copy is as it was.
        StoreError: The disk refuses.
    """
    refuse_shared(state_dir)
    reach = (faults or FaultPoints()).reach
    copy = _copy_away(state_dir, lost_found)
    reach("repair.copied")
    with disk_errors(str(state_dir)):
        begin_repair(state_dir)
    reach("repair.begun")
    highest = max(raw_store.iterate(), default=0)
    actions, names = rebuild(state_dir, config, highest, now_ns, reach)
    engine = SqliteEngine.open(state_dir, config, now_ns, complain=actions.append)
    try:
        known_raws, known_packed, lost = await _look_at_files(engine, raw_store)
        moved: list[str] = []
        for raw in list(raw_store.iterate()):
            if raw in known_raws or _is_empty(raw_store, raw):
                continue
            name = names.get(raw, "")
            note = "-" + name.replace("/", "_")[:100] if name else ""
            path = raw_store.path(raw)
            lost_found.take([path], note)
            reach("repair.moved")
            moved.append(f"raw-{path.name}{note}")
        for location in list(packed_store.iterate()):
            if location not in known_packed:
                path = packed_store.path(location)
                lost_found.take([path])
                moved.append(f"packed-{path.name}")
    finally:
        engine.close()
    with disk_errors(str(state_dir)):
        end_repair(state_dir)
    return Repaired(actions, lost, moved, str(copy))


def _copy_away(state_dir: Path, lost_found: LostFound) -> Path:
    with disk_errors(str(lost_found.root)):
        lost_found.root.mkdir(mode=0o700, exist_ok=True)
        number = 1
        while (lost_found.root / f"metadata-{number}").exists():
            number += 1
        copy = lost_found.root / f"metadata-{number}"
        copy.mkdir(mode=0o700)
        for path in metadata_files(state_dir):
            opened = open_regular(path, os.O_RDONLY)
            with open(opened, "rb") as source, (copy / path.name).open("xb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
        for directory in (copy, lost_found.root, state_dir):
            sync_directory(directory)
    return copy


async def _look_at_files(
    engine: Engine, raw_store: RawStore
) -> tuple[set[int], set[str], list[str]]:
    """Return the raw and packed files that something names, and the paths that lack their bytes."""
    raws: set[int] = set()
    packed: set[str] = set()
    lost: list[str] = []
    after = InodeNo(0)
    while inodes := await engine.list_files(after, BATCH_COUNT):
        for inode in inodes:
            forms = await engine.list_all_forms(inode)
            packed.update(form.place.key for form in forms if form.kind == FormKind.PACKED)
            gone = inode.size > 0
            if inode.raw:
                raws.add(inode.raw)
                gone = not raw_store.exists(inode.raw)
            if gone and not forms:
                path = await engine.get_path(inode.ino)
                lost.append(os.fsdecode(path))
        after = inodes[-1].ino
    await _look_at_kept(engine, raw_store, raws, packed, lost)
    for item in await engine.list_garbage(2**31):
        if item.kind == FormKind.RAW:
            raws.add(int(item.location))
        elif item.kind == FormKind.PACKED:
            packed.add(item.location)
    for intent in await engine.list_intents():
        if intent.kind == MoveKind.HYDRATE:
            raws.add(int(intent.location))
        elif intent.kind == MoveKind.PACK:
            packed.add(intent.location)
    return raws, packed, lost


async def _look_at_kept(
    engine: Engine, raw_store: RawStore, raws: set[int], packed: set[str], lost: list[str]
) -> None:
    """Add the files that only snapshots need, and what of these lacks its bytes."""
    position = (InodeNo(0), Generation(0))
    while kept := await engine.list_kept(position, BATCH_COUNT):
        for each in kept:
            position = (each.ino, each.generation)
            forms = await engine.list_forms(each.blob) if each.blob else []
            packed.update(form.place.key for form in forms if form.kind == FormKind.PACKED)
            if each.raw:
                raws.add(each.raw)
                if each.size and not raw_store.exists(each.raw):
                    lost.append(
                        f"generation {each.generation} of inode {each.ino}, as snapshots show it"
                    )


def _is_empty(raw_store: RawStore, raw: RawId) -> bool:
    """Tell whether a raw file was made ahead, and no program had it: the next mount removes it."""
    try:
        return raw_store.stat(raw).st_size == 0
    except ObjectMissingError:
        return True
