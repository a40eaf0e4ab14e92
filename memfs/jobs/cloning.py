"""The answers of the control socket to `memfs clone`: a file or a tree once more.

A tree is built under a hidden name beside its place, which is marked, and gets its own name when it
is whole. One that was cut off is found there by the next command with the same target.

Invariant: what has the name of the target is whole.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import aclosing
from typing import TYPE_CHECKING

from memfs.errors import AlreadyExistsError, InvalidValueError, NoSpaceError
from memfs.filesystem.tree_changes import Name
from memfs.jobs.paths import find_parent, find_path
from memfs.jobs.sliced_work import SLICE_S, SlicedWork
from memfs.jobs.tree_copying import CopyTally, TreeCopying
from memfs.policy.marks import AGES_XATTR, POOL_XATTR, PRIORITY_XATTR
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from memfs.control.methods.copies import CopyReport
    from memfs.control.server import Handler
    from memfs.filesystem.tree_changes import TreeChanges
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts

BUILDING_MARK = b"trusted.memfs.building"
"""Xattr of a directory that is being built; its value is the path of the original."""

PLACEMENT_MARKS = frozenset((PRIORITY_XATTR, POOL_XATTR, AGES_XATTR))
"""Xattrs that say where bytes are to be, as a pin does: a copy does not get them."""


class CloneMethods:
    """Answers `clone` and `clone_cancel`.

    Args:
        slice_s: How long one call works.
    """

    def __init__(self, changes: TreeChanges, parts: MoveParts, *, slice_s: float = SLICE_S) -> None:
        self._changes = changes
        self._parts = parts
        self._works = SlicedWork[CopyTally](slice_s)

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"clone": self.clone, "clone_cancel": self.cancel}

    async def clone(self, source: str, target: str, work: str, replace: bool = False) -> CopyReport:
        """Clone for a second; see `client.Mount.clone`.

        Returns:
            What was done since the work began.

        Raises:
            AlreadyExistsError: The target exists, and `replace` is not set.
            InvalidValueError: The paths make no sense.
            NotFoundError, NotADirectoryInodeError: One of them does not lead anywhere.
            NoSpaceError: The disk is full.
        """

        def begin() -> tuple[CopyTally, AsyncGenerator[None, None]]:
            tally = CopyTally()
            return tally, self._clone(
                os.fsencode(source), os.fsencode(target), tally, replace=replace
            )

        tally, ended = await self._works.go_on(work, begin)
        return tally.report(ended=ended)

    async def cancel(self, work: str) -> None:
        """End some work before its next file, or amid a copy; nothing, if it has ended."""
        await self._works.cancel(work)

    async def _clone(
        self, source: bytes, target: bytes, tally: CopyTally, *, replace: bool
    ) -> AsyncGenerator[None, None]:
        engine, changes = self._parts.engine, self._changes
        original = await find_path(engine, source)
        place = await find_parent(engine, target)
        await self._check_apart(original, place)
        found = await changes.find_name(place)
        if found is not None and not replace:
            raise AlreadyExistsError(f"{os.fsdecode(target)} exists; --replace replaces it")
        copying = TreeCopying(
            changes,
            self._parts,
            tally,
            left_out=PLACEMENT_MARKS,
            hidden=(BUILDING_MARK,),
            delete=True,
        )
        if not stat.S_ISDIR(original.mode):
            file = await copying.original(original.ino)
            await copying.put(file, [place], {}, target, replace=replace)
        else:
            hidden = building_name(place)
            try:
                async with aclosing(self._build(copying, original, place, source)) as steps:
                    async for _ in steps:
                        self._parts.faults.reach("clone.step")
                        yield
            except NoSpaceError as error:
                # No listing of users shows what takes the room.
                built = os.path.join(os.path.dirname(target), hidden.name)
                raise NoSpaceError(
                    f"{error}; what was copied is in {os.fsdecode(built)}: run the command again "
                    "once there is room, or remove that"
                ) from error
            exchange = found is not None
            await changes.move_into_place(hidden, place, BUILDING_MARK, exchange=exchange)
            self._parts.faults.reach("clone.moved")
            if exchange:
                async with aclosing(copying.remove(hidden, source)) as steps:
                    async for _ in steps:
                        self._parts.faults.reach("clone.removed")
                        yield
        await changes.wait_told()

    async def _build(
        self, copying: TreeCopying, original: Inode, place: Name, source: bytes
    ) -> AsyncGenerator[None, None]:
        """Make the copy of a directory under its hidden name."""
        changes, hidden = self._changes, building_name(place)
        like = await copying.original(original.ino)
        found = await changes.find_name(hidden)
        if found is None:
            mark = ((BUILDING_MARK, source),)
            marked = like._replace(xattrs=like.xattrs + mark)
            found = await changes.put_directory(marked, hidden, None)
            copying.tally.directory_count += 1
        elif BUILDING_MARK not in await self._parts.engine.list_xattrs(found.ino):
            raise AlreadyExistsError(
                f"{os.fsdecode(hidden.name)}, where the copy is to be built, is something else; "
                "remove it"
            )
        else:
            await changes.set_likeness(found.ino, like, (BUILDING_MARK,))
        yield
        async with aclosing(copying.copy_below(original.ino, found.ino, source)) as steps:
            async for _ in steps:
                yield

    async def _check_apart(self, original: Inode, place: Name) -> None:
        """See that a directory is not copied into itself."""
        above = place.parent
        while above != ROOT_INODE and above != original.ino:
            above = await self._parts.engine.get_parent(above)
        if above == original.ino:
            raise InvalidValueError("a directory cannot be cloned into itself")


def building_name(place: Name) -> Name:
    """Return the hidden name under which the copy for a place is built."""
    digest = hashlib.blake2b(place.name, digest_size=8).hexdigest()
    return Name(place.parent, b".memfs-clone-" + digest.encode())
