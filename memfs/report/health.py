"""Health: what is wrong with a mount now, out of its status.

Invariant: it asks for the status and what waits, and for nothing else, so that a probe of an
orchestrator costs little; what is bad needs a person or the store, and what is doubtful may be as
it is meant.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from memfs.sizes import format_count, format_duration, format_size
from memfs.types import READER, PendingCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.control.report import PendingReport, StatusReport

ATTEMPTS_MANY = 10
"""A move that was tried so often waits for something that does not come by itself. Guess."""


class Level(enum.StrEnum):
    """How bad something is."""

    BAD = "bad"
    DOUBTFUL = "doubtful"


class Finding(NamedTuple):
    """Something that is not as it should be."""

    level: Level
    name: str
    """One word, for programs: `database`,
    `store`, `disk`, `damage`, `export`, `waiting`, `lost`, `ram`."""
    text: str
    """One sentence."""


def findings(
    status: StatusReport, pending: Sequence[PendingReport], export_age_s: float
) -> list[Finding]:
    """Return what is wrong, what is bad first.

    Args:
        status: As it is now.
        pending: Moves that wait.
        export_age_s: An export that is older is doubtful.
    """
    found = [
        *_database(status),
        *_store(status),
        *_disk(status),
        *_waiting(pending),
        *_export(status, export_age_s),
    ]
    return sorted(found, key=lambda each: list(Level).index(each.level))


def _database(status: StatusReport) -> Iterator[Finding]:
    database = status.database
    if database is None or database.reason is None:
        return
    if database.cut_off_s is None:
        yield Finding(Level.DOUBTFUL, "database", f"{database.address}: {database.reason}")
        return
    lasts = format_duration(database.cut_off_s)
    if database.role == READER:
        yield Finding(
            Level.BAD,
            "database",
            f"{database.address}: what node {database.writer} changes has not come in for {lasts}, "
            f"and files cannot be opened: {database.reason}",
        )
        return
    count = format_count(database.unconfirmed_count, "change")
    yield Finding(
        Level.BAD,
        "database",
        f"{database.address} does not answer for {lasts}, and changes are refused: "
        f"{database.reason}; {count} in this node's journal alone, and follow when it answers",
    )


def _store(status: StatusReport) -> Iterator[Finding]:
    store = status.store
    if store is not None and store.well is False:
        lasts = "" if store.lasts_s is None else f" for {format_duration(store.lasts_s)}"
        yield Finding(Level.BAD, "store", f"the object store fails{lasts}: {store.reason}")


def _disk(status: StatusReport) -> Iterator[Finding]:
    for tier in status.tiers:
        if tier.tier == "cold" and tier.capacity_bytes is not None:
            if tier.used_bytes >= tier.capacity_bytes:
                used, size = format_size(tier.used_bytes), format_size(tier.capacity_bytes)
                yield Finding(Level.BAD, "disk", f"the disk tier is full: {used} of {size}")
            elif tier.note is not None:
                yield Finding(Level.DOUBTFUL, "disk", f"disk tier: {tier.note}")
        elif tier.tier in ("hot", "warm") and tier.note is not None:
            yield Finding(Level.DOUBTFUL, "ram", f"{tier.tier} tier: {tier.note}")
    work = status.work
    if work.lost_count:
        count, size = format_count(work.lost_count, "item"), format_size(work.lost_bytes)
        yield Finding(
            Level.DOUBTFUL, "lost", f"lost+found has {count} ({size}): see `memfs gc --lost-found`"
        )


def _waiting(pending: Sequence[PendingReport]) -> Iterator[Finding]:
    for move in pending:
        if move.code in (PendingCode.DAMAGE, PendingCode.KEY):
            yield Finding(Level.BAD, "damage", f"{move.path}: {move.reason}")
        elif move.attempt_count >= ATTEMPTS_MANY:
            yield Finding(
                Level.DOUBTFUL,
                "waiting",
                f"{move.path} waits since {move.since or 'long ago'}: {move.reason}",
            )


def _export(status: StatusReport, age_s: float) -> Iterator[Finding]:
    export = status.export
    if export is None:
        return
    if (trouble := export.error or export.refusal or export.lost) is not None:
        yield Finding(Level.DOUBTFUL, "export", f"the metadata are not exported: {trouble}")
    elif export.interval_s is not None and export.age_s is not None and export.age_s > age_s:
        yield Finding(
            Level.DOUBTFUL,
            "export",
            f"the newest export of the metadata is {format_duration(export.age_s)} old",
        )
    if export.missing_count:
        count = format_count(export.missing_count, "file")
        yield Finding(Level.DOUBTFUL, "export", f"the export lacks the bytes of {count}")
    for each in export.lost_objects:
        count = format_count(each.lost_count - each.mended_count, "object")
        told = f"store {each.store} has lost {count} that files need, such as {each.example}"
        yield Finding(Level.BAD, "objects", told)
