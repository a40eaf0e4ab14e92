"""The answers of the control socket about exports.

Invariant: an export goes on whether its caller waits or not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.control.report import ExportReport
from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods.snapshots import ExportsReport
    from memfs.control.report import LostObjectsReport
    from memfs.control.server import Handler
    from memfs.exports.exporter import Exporter


class ExportMethods:
    """Answers `snapshot.export` and `snapshot.exports`.

    Args:
        exporter: None: the mount has no object store of its own, and refuses.
    """

    def __init__(self, exporter: Exporter | None) -> None:
        self._exporter_or_none = exporter

    @property
    def _exporter(self) -> Exporter:
        if self._exporter_or_none is None:
            raise UsageError(
                "the objects of this mount lie in its state directory and are lost with it: set "
                "glacier.url to export"
            )
        return self._exporter_or_none

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"snapshot.export": self.export, "snapshot.exports": self.exports}

    async def export(self) -> int:
        """Have an export made; returns `finished_count` of `exports` once it has ended."""
        await trio.lowlevel.checkpoint()
        return self._exporter.begin_now()

    async def exports(self) -> ExportsReport:
        """Return how far an export is, and those that are complete."""
        await trio.lowlevel.checkpoint()
        progress = self._exporter.progress
        return {
            "running": progress.running,
            "row_count": progress.row_count,
            "row_total": progress.row_total,
            "stored_count": progress.stored_count,
            "stored_bytes": progress.stored_bytes,
            "finished_count": progress.finished_count,
            "error": progress.error,
            "exports": [
                {
                    "id": self._exporter.stored.name_of(note),
                    "created_ns": note.created_ns,
                    "checked_ns": note.checked_ns,
                    "file_count": note.file_count,
                    "content_bytes": note.content_bytes,
                    "missing_count": note.missing_count,
                    "missing_bytes": note.missing_bytes,
                    "key": self._exporter.stored.key_id_of(note),
                }
                for note in self._exporter.stored.notes
            ],
            "lost": [
                {"id": self._exporter.stored.name_of(note), "reason": why}
                for note, why in self._exporter.stored.lost
            ],
        }


def export_report(
    exporter: Exporter, lost_objects: tuple[LostObjectsReport, ...] = ()
) -> ExportReport:
    """Return how old the newest export is, and what it and the stores lack."""
    newest = next(iter(exporter.stored.notes), None)
    age_s = None
    if newest is not None:
        age_s = max(0.0, time.time() - newest.checked_ns / 1e9)
    later = [why for note, why in exporter.stored.lost if newest is None or note.snap > newest.snap]
    return ExportReport(
        interval_s=exporter.interval_s,
        age_s=age_s,
        file_count=newest.file_count if newest is not None else 0,
        missing_count=newest.missing_count if newest is not None else 0,
        missing_bytes=newest.missing_bytes if newest is not None else 0,
        running=exporter.progress.running,
        error=exporter.progress.error,
        refusal=exporter.refusal,
        lost=later[0] if later else None,
        lost_objects=lost_objects,
    )
