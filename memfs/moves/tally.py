"""The tally: what compression came to since the mount, by codec.

Invariant: numbers only grow; they are added to on the event loop's thread alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.stores.packing import PackedSummary

CODEC_COUNT_MAX = 64
"""Codecs told apart, levels and filters included; what comes after is not counted."""


@dataclass(slots=True)
class CodecTotals:
    """One codec's work."""

    file_count: int = 0
    content_bytes: int = 0
    """Uncompressed bytes of the files that were encoded."""
    stored_bytes: int = 0
    """Length of the containers."""
    elapsed_s: float = 0.0
    """Reading, encoding and writing; of files at the same time, the sum."""
    spared_count: int = 0
    """Files that were not encoded, because a sample told that it would not pay."""
    spared_bytes: int = 0


class CompressionTally:
    """Counts by codec."""

    def __init__(self) -> None:
        self._totals: dict[str, CodecTotals] = {}

    def note_packed(self, summary: PackedSummary) -> None:
        """Count a file that was encoded."""
        totals = self._of(str(summary.table.coding._replace(key_id="", table_id="")))
        totals.file_count += 1
        totals.content_bytes += summary.size
        totals.stored_bytes += summary.stored_bytes
        totals.elapsed_s += summary.elapsed_s

    def note_spared(self, codec: str, size: int) -> None:
        """Count a file of `size` bytes that a sample spared the encoding."""
        totals = self._of(codec)
        totals.spared_count += 1
        totals.spared_bytes += size

    def totals(self) -> dict[str, CodecTotals]:
        """Return the totals by codec, with the filter where there is one."""
        return dict(self._totals)

    def _of(self, codec: str) -> CodecTotals:
        if codec not in self._totals and len(self._totals) >= CODEC_COUNT_MAX:
            return CodecTotals()
        return self._totals.setdefault(codec, CodecTotals())
