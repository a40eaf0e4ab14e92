"""Accepting a raw file that somebody changed on purpose while nothing was mounted.

*Killed*, or power lost before the sync: each file is accepted or as it was; the next run goes on.

Invariant: a file is accepted by one transaction, which begins a new generation whose bytes are the
raw file's: as after a write whose end the daemon did not see, so that the next mount seals it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError, ObjectMissingError, UsageError
from memfs.exit_codes import ExitCode
from memfs.fsck.files import BATCH_COUNT
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags
from memfs.moves.faults import FaultPoints
from memfs.types import ROOT_INODE, InodeNo, RawId

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.stores.raw import RawStore


class Change(NamedTuple):
    """What accepting a raw file means."""

    ino: InodeNo
    raw: RawId
    path: str
    """That of the file in the mount."""
    raw_path: Path
    size_before: int
    mtime_ns_before: int
    size: int
    mtime_ns: int
    form_count: int
    """Packed and remote forms of the former content, which are removed."""

    @property
    def differs(self) -> bool:
        """Whether the raw file is another one than the metadata tell."""
        return (self.size, self.mtime_ns) != (self.size_before, self.mtime_ns_before)


async def find_change(engine: Engine, raw_store: RawStore, name: str) -> Change:
    """Return what is to be accepted.

    Args:
        engine: That of a state directory that is not mounted.
        name: A path in the mount, with or without the slash before it; the path of a raw file; or
            the number of one.

    Raises:
        UsageError: There is no such file, or no raw file that could be accepted.
    """
    inode = await _find(engine, raw_store, name)
    path = os.fsdecode(await engine.get_path(inode.ino))
    if not stat.S_ISREG(inode.mode):
        raise _refusal(f"{path} is no regular file")
    if not inode.raw:
        raise _refusal(f"{path} has no raw file: its content is packed or in the object store")
    try:
        status = raw_store.stat(inode.raw)
    except ObjectMissingError:
        raise _refusal(f"{path}: its raw file {raw_store.path(inode.raw)} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(f"{path}: {raw_store.path(inode.raw)} is no plain file")
    forms = await engine.list_forms(inode.blob) if inode.blob else []
    unsealed = bool(inode.flags & InodeFlags.UNSEALED)
    size, mtime_ns = status.st_size, storable_ns(status.st_mtime_ns)
    return Change(
        inode.ino,
        inode.raw,
        path,
        raw_store.path(inode.raw),
        # The raw file of a file that is being written is the truth already.
        size if unsealed else inode.size,
        mtime_ns if unsealed else inode.mtime_ns,
        size,
        mtime_ns,
        len(forms),
    )


async def accept_changes(
    engine: Engine, changes: list[Change], faults: FaultPoints | None = None
) -> None:
    """Take raw files as the content of their files, durably."""
    reach = (faults or FaultPoints()).reach
    for change in changes:
        async with engine.change():
            await engine.unseal(change.ino, change.raw, overwritten=True)
        reach("accept.accepted")
    engine.sync()
    reach("accept.synced")


async def _find(engine: Engine, raw_store: RawStore, name: str) -> Inode:
    if name.isdigit():
        return await _find_by_raw(engine, int(name), name)
    if (raw := _raw_of(raw_store, name)) is not None:
        return await _find_by_raw(engine, raw, name)
    inode = await engine.get_inode(ROOT_INODE)
    try:
        for part in filter(None, os.fsencode(name).split(b"/")):
            inode = await engine.lookup(inode.ino, part)
    except MemfsError:
        raise _refusal(f"there is no file {name} in this state directory") from None
    return inode


def _raw_of(raw_store: RawStore, name: str) -> int | None:
    """Return a raw file's number by its path, 0 for another file; None: it lies elsewhere."""
    if not os.path.abspath(name).startswith(f"{os.path.abspath(raw_store.root)}/"):
        return None
    last = name.rpartition("/")[2]
    return int(last, 16) if last and set(last) <= set("0123456789abcdef") else 0


async def _find_by_raw(engine: Engine, raw: int, name: str) -> Inode:
    after = InodeNo(0)
    while inodes := await engine.list_files(after, BATCH_COUNT):
        for inode in inodes:
            if inode.raw == raw:
                return inode
        after = inodes[-1].ino
    raise _refusal(f"no file of this state directory has raw file {name}")


def _refusal(message: str) -> UsageError:
    return UsageError(message, ExitCode.USAGE)
