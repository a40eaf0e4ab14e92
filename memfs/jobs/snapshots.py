"""The answers of the control socket about snapshots: make, list, show, size, delete.

Invariant: a snapshot that was reported is on stable storage.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

import trio

from memfs.content.sealing import RELEASE_S, SEALS_A_STEP_MAX
from memfs.content.sources import unlisted_notes
from memfs.errors import FilesOpenError, InvalidValueError, StaleInodeError
from memfs.moves.open_files import OpenState
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memfs.content.sealing import Sealer
    from memfs.control.methods.snapshots import (
        HeldBytesReport,
        OpenFileReport,
        SnapshotMade,
        SnapshotReport,
        SnapshotSizesReport,
    )
    from memfs.control.server import Handler
    from memfs.jobs.snapshot_removal import SnapshotRemoval
    from memfs.metadata.records import OpenContent, Snapshot
    from memfs.moves.attempt import MoveParts
    from memfs.moves.open_files import OpenCopy, OpenFiles

OWN_LABEL_PREFIX = "memfs."
"""Labels that begin with this are memfs's own; users cannot give them."""

COPY_S_MAX = 5.0
"""How long a call waits for copies of files that are open for writing; they go on after it."""

HELD_A_STEP = 128
"""Kept contents that are counted before the event loop is given back: 1 ms of CPU."""

OPEN_SHOWN_MAX = 1000
NAMED_MAX = 3
"""Files that a message names."""

DESCRIPTION_LENGTH_MAX = 4096
LABEL_COUNT_MAX = 64
INSTANT_NS_END = 1 << 63
"""Instants are stored in 64 bits."""
LABEL_LENGTH_MAX = 255
"""Letters of a key, or of a value; guess, as the others: what is longer belongs into a file."""


_STATES: dict[OpenState, Literal["open", "copying", "absent"]] = {
    OpenState.OPEN: "open",
    OpenState.COPYING: "copying",
    OpenState.ABSENT: "absent",
}


class SnapshotMethods:
    """Answers `snapshot.create`, `list`, `show`, `sizes` and `delete`.

    Args:
        removal: Told of deleted snapshots.
        open_files: Copies files that are open for writing.
        clock: Wall clock, nanoseconds.
    """

    def __init__(
        self,
        parts: MoveParts,
        removal: SnapshotRemoval,
        open_files: OpenFiles,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._parts = parts
        self._removal = removal
        self._open_files = open_files
        self._clock = clock

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "snapshot.create": self.create,
            "snapshot.list": self.list_all,
            "snapshot.show": self.show,
            "snapshot.sizes": self.sizes,
            "snapshot.delete": self.delete,
        }

    async def create(
        self,
        name: str,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        kept_until_ns: int | None = None,
        strict: bool = False,
    ) -> SnapshotMade:
        """Keep the present instant under a name, durably; see `client.snapshots`.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidValueError, NameTooLongError: It is no name of a file; or a label or the
                description cannot be kept.
            FilesOpenError: `strict`, and a file is open for writing, or mapped.
        """
        labels = labels or {}
        check_labels(labels)
        _check_description(description)
        if kept_until_ns is not None and not 0 <= kept_until_ns < INSTANT_NS_END:
            raise InvalidValueError("a snapshot is kept until 2262 at most")
        made, copies = await self.keep(
            name, description, tuple(labels.items()), kept_until_ns, strict=strict
        )
        self._parts.events.note("snapshot", name, "made")
        states = Counter(copy.state for copy in copies)
        return {
            "snapshot": report_of(made),
            "open_count": len(copies),
            "absent_count": states[OpenState.ABSENT],
            "copying_count": states[OpenState.COPYING],
            "open_files": [await self._describe(copy) for copy in copies[:OPEN_SHOWN_MAX]],
            "notes": [*await unlisted_notes(self._parts.engine, "the snapshot shows them empty")],
        }

    async def keep(
        self,
        name: str,
        description: str,
        labels: Sequence[tuple[str, str]],
        kept_until_ns: int | None = None,
        *,
        strict: bool = False,
    ) -> tuple[Snapshot, Sequence[OpenCopy]]:
        """Make a snapshot as `make` does, durably; waits for copies for `COPY_S_MAX`."""
        made, copies = await self.make(name, description, labels, kept_until_ns, strict=strict)
        with trio.move_on_after(COPY_S_MAX):
            for copy in copies:
                await copy.done.wait()
        await self._sync()
        return made, copies

    async def make(
        self,
        name: str,
        description: str,
        labels: Sequence[tuple[str, str]],
        kept_until_ns: int | None = None,
        *,
        strict: bool = False,
    ) -> tuple[Snapshot, Sequence[OpenCopy]]:
        """Make a snapshot, with labels of memfs's own too; raises as `create`.

        Returns:
            It, and the files that were open for writing, whose copies may still be under way. What
            is known of it is durable after the next sync.
        """
        engine = self._parts.engine
        await seal_all(self._parts.sealer)
        if await self._open_files.find():
            await trio.sleep(RELEASE_S)
            await seal_all(self._parts.sealer)
        async with engine.change():
            made = await engine.create_snapshot(
                name, self._clock(), description, labels, kept_until_ns
            )
            files = await self._open_files.find()
            if strict and files:
                raise FilesOpenError(await self._name_all(files))
            copies = await self._open_files.part(files)
        self._open_files.begin(copies)
        return made, copies

    async def _name_all(self, files: Sequence[OpenContent]) -> str:
        """Return why a strict snapshot is not made."""
        paths = [await self._path(file.ino) for file in files[:NAMED_MAX]]
        more = f" and {len(files) - NAMED_MAX} more" if len(files) > NAMED_MAX else ""
        return (
            f"files are open for writing, or mapped: {', '.join(paths)}{more}; close them, or make "
            "the snapshot without --strict"
        )

    async def _describe(self, copy: OpenCopy) -> OpenFileReport:
        return {
            "path": await self._path(copy.inode.ino),
            "state": _STATES[copy.state],
            "reason": copy.reason,
        }

    async def _path(self, ino: InodeNo) -> str:
        """Return where a file is now, for people."""
        try:
            return os.fsdecode(await self._parts.engine.get_path(ino))
        except StaleInodeError:
            return f"<inode {ino}, removed since>"

    async def _sync(self) -> None:
        engine = self._parts.engine
        await trio.to_thread.run_sync(engine.sync, limiter=self._parts.prompt_threads)

    async def list_all(self) -> list[SnapshotReport]:
        """Return all snapshots, oldest first."""
        return [report_of(snapshot) for snapshot in await self._parts.engine.list_snapshots()]

    async def show(self, name: str) -> SnapshotReport:
        """Return one snapshot; `NotFoundError` if it is missing."""
        return report_of(await self._parts.engine.get_snapshot(name))

    async def sizes(self) -> SnapshotSizesReport:
        """Return what snapshots hold; a look at all that they keep, in steps."""
        engine = self._parts.engine
        names = {each.snap: each.name for each in await engine.list_snapshots()}
        alone = {name: [0, 0] for name in names.values()}
        shared = [0, 0]
        after = (InodeNo(0), Generation(0))
        while page := await engine.list_held(after, HELD_A_STEP):
            for held in page:
                after = (held.ino, held.generation)
                if held.oldest is None:
                    continue
                name = names.get(held.oldest) if held.oldest == held.newest else None
                sums = shared if name is None else alone[name]
                sums[0] += held.raw_bytes + held.packed_bytes
                sums[1] += held.remote_bytes
            await trio.lowlevel.checkpoint()
        return {
            "alone": {name: _held_bytes(sums) for name, sums in alone.items()},
            "shared": _held_bytes(shared),
        }

    async def delete(self, names: Sequence[str]) -> None:
        """Remove snapshots from sight, all or nothing.

        Raises:
            NotFoundError: There is no snapshot of one of the names.
        """
        engine = self._parts.engine
        async with engine.change():
            for name in dict.fromkeys(names):
                await engine.delete_snapshot((await engine.get_snapshot(name)).snap)
        for name in dict.fromkeys(names):
            self._parts.events.note("snapshot", name, "deleted")
        self._removal.begin()
        await self._sync()


async def seal_all(sealer: Sealer) -> None:
    """Seal the files that have no writer, in one pass over those that may be such.

    Checkpoint: always.
    """
    for _ in range(sealer.candidate_count // SEALS_A_STEP_MAX + 1):
        await trio.lowlevel.checkpoint()
        await sealer.seal_all()


def _check_description(description: str) -> None:
    if len(description) > DESCRIPTION_LENGTH_MAX:
        raise InvalidValueError(
            f"the description has {len(description)} letters; {DESCRIPTION_LENGTH_MAX} are allowed"
        )
    try:
        description.encode()
    except UnicodeEncodeError:
        raise InvalidValueError("the description has bytes that are no text") from None


def check_labels(labels: Mapping[str, str]) -> None:
    """See that users may give these labels.

    Raises:
        InvalidValueError: They may not.
    """
    if len(labels) > LABEL_COUNT_MAX:
        raise InvalidValueError(f"{len(labels)} labels; {LABEL_COUNT_MAX} are allowed")
    for key, value in labels.items():
        if key.startswith(OWN_LABEL_PREFIX):
            raise InvalidValueError(
                f"label {key!r}: those that begin with {OWN_LABEL_PREFIX!r} are memfs's own; "
                "choose another key"
            )
        if not key or not key.isprintable() or not value.isprintable():
            raise InvalidValueError(f"label {key!r}: key and value must be text in one line")
        if max(len(key), len(value)) > LABEL_LENGTH_MAX:
            raise InvalidValueError(f"label {key!r}: {LABEL_LENGTH_MAX} letters are allowed")


def _held_bytes(sums: Sequence[int]) -> HeldBytesReport:
    local_bytes, remote_bytes = sums
    return {"local_bytes": local_bytes, "remote_bytes": remote_bytes}


def report_of(snapshot: Snapshot) -> SnapshotReport:
    """Return a snapshot as clients are told of it."""
    return {
        "name": snapshot.name,
        "number": snapshot.snap,
        "created_ns": snapshot.created_ns,
        "description": snapshot.description,
        "labels": dict(snapshot.labels),
        "kept_until_ns": snapshot.kept_until_ns,
    }
