"""What went on with adopted files: counts since the daemon started.

Invariant: numbers only grow; they are added to on the event loop's thread alone.
"""

from __future__ import annotations

from collections import Counter


class SourceCounts:
    """Counts in what files and their objects came to differ, and listings that failed."""

    def __init__(self) -> None:
        self.conflicts: Counter[str] = Counter()
        """Files by `metadata.foreign.Conflict`."""
        self.failed_listing_count = 0
