"""The answers of the control socket about snapshots: make, list, show, delete.

Invariant: a snapshot that was reported is on stable storage.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.content.sealing import SEALS_A_STEP_MAX
from memfs.control.report import COUNT_MAX
from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memfs.content.sealing import Sealer
    from memfs.control.methods import SnapshotMade, SnapshotReport
    from memfs.control.server import Handler
    from memfs.jobs.snapshot_removal import SnapshotRemoval
    from memfs.metadata.records import Snapshot
    from memfs.moves.attempt import MoveParts

OWN_LABEL_PREFIX = "memfs."
"""Labels that begin with this are memfs's own; users cannot give them."""

DESCRIPTION_LENGTH_MAX = 4096
LABEL_COUNT_MAX = 64
LABEL_LENGTH_MAX = 255
"""Letters of a key, or of a value; guess, as the others: what is longer belongs into a file."""


class SnapshotMethods:
    """Answers `snapshot.create`, `snapshot.list`, `snapshot.show` and `snapshot.delete`.

    Args:
        removal: Told of deleted snapshots.
        clock: Wall clock, nanoseconds.
    """

    def __init__(
        self,
        parts: MoveParts,
        removal: SnapshotRemoval,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._parts = parts
        self._removal = removal
        self._clock = clock

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "snapshot.create": self.create,
            "snapshot.list": self.list_all,
            "snapshot.show": self.show,
            "snapshot.delete": self.delete,
        }

    async def create(
        self,
        name: str,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        kept_until_ns: int | None = None,
    ) -> SnapshotMade:
        """Keep the present instant under a name, durably; see `client.snapshots`.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidValueError, NameTooLongError: It is no name of a file; or a label or the
                description cannot be kept.
        """
        labels = labels or {}
        check_labels(labels)
        if len(description) > DESCRIPTION_LENGTH_MAX:
            raise InvalidValueError(
                f"the description has {len(description)} letters; {DESCRIPTION_LENGTH_MAX} are "
                "allowed"
            )
        engine = self._parts.engine
        await seal_all(self._parts.sealer)
        async with engine.change():
            made = await engine.create_snapshot(
                name, self._clock(), description, tuple(labels.items()), kept_until_ns
            )
            open_count = (await engine.count_work(COUNT_MAX)).unsealed_count
        await trio.to_thread.run_sync(engine.sync, limiter=self._parts.prompt_threads)
        return {"snapshot": report_of(made), "open_count": open_count}

    async def list_all(self) -> list[SnapshotReport]:
        """Return all snapshots, oldest first."""
        return [report_of(snapshot) for snapshot in await self._parts.engine.list_snapshots()]

    async def show(self, name: str) -> SnapshotReport:
        """Return one snapshot; `NotFoundError` if it is missing."""
        return report_of(await self._parts.engine.get_snapshot(name))

    async def delete(self, names: Sequence[str]) -> None:
        """Remove snapshots from sight, all or nothing.

        Raises:
            NotFoundError: There is no snapshot of one of the names.
        """
        engine = self._parts.engine
        async with engine.change():
            for name in dict.fromkeys(names):
                await engine.delete_snapshot((await engine.get_snapshot(name)).snap)
        self._removal.begin()
        await trio.to_thread.run_sync(engine.sync, limiter=self._parts.prompt_threads)


async def seal_all(sealer: Sealer) -> None:
    """Seal the files that have no writer, in one pass over those that may be such.

    Checkpoint: always.
    """
    for _ in range(sealer.candidate_count // SEALS_A_STEP_MAX + 1):
        await trio.lowlevel.checkpoint()
        await sealer.seal_all()


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
