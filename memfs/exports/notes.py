"""Notes: the exports of a mount as its state remembers them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memfs.types import SnapshotId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.exports.description import Description

SETTING = "exports"
LOST_SETTING = "exports.lost"
"""Holds, as JSON, why exports of the other setting cannot be used, by their snapshots."""


class ExportNote(NamedTuple):
    """An export as the state remembers it."""

    snap: SnapshotId
    created_ns: int
    is_done: bool
    checked_ns: int = 0
    """When all was still as it is in this export, by the wall clock."""
    file_count: int = 0
    content_bytes: int = 0
    missing_count: int = 0
    """Files whose bytes had no object."""
    missing_bytes: int = 0

    @classmethod
    def of(cls, description: Description) -> ExportNote:
        """Return the note of a complete export."""
        return cls(
            description.snap,
            description.created_ns,
            True,
            description.created_ns,
            description.file_count,
            description.content_bytes,
            description.missing_count,
            description.missing_bytes,
        )


def load_notes(setting: bytes | None) -> list[ExportNote]:
    """Return the exports of a setting, oldest first."""
    if setting is None:
        return []
    notes = [ExportNote(*fields) for fields in json.loads(setting)]
    return sorted(notes)


def dump_notes(notes: Sequence[ExportNote]) -> bytes | None:
    """Return the setting of some exports."""
    return json.dumps([[*note] for note in notes]).encode() if notes else None


def load_lost(setting: bytes | None) -> dict[SnapshotId, str]:
    """Return why exports cannot be used, by their snapshots."""
    return {} if setting is None else {SnapshotId(snap): why for snap, why in json.loads(setting)}


def dump_lost(lost: Mapping[SnapshotId, str]) -> bytes | None:
    """Return the setting that `load_lost` reads."""
    return json.dumps(sorted(lost.items())).encode() if lost else None
