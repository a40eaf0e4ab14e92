"""The answers of the control socket about scrubbing.

Invariant: no call waits for the scrub itself, which takes hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memfs.jobs.scrubber import RATE_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods import ScrubReport
    from memfs.control.server import Handler
    from memfs.jobs.scrubber import Scrubber


class ScrubMethods:
    """Answers `scrub`, `scrub_progress` and `scrub_stop`."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "scrub": self.scrub,
            "scrub_progress": self.progress,
            "scrub_stop": self.stop,
        }

    async def scrub(self, rate: int = RATE_DEFAULT, restart: bool = False) -> ScrubReport:
        """Begin, or go on where the last scrub was stopped.

        Args:
            rate: Bytes a second, > 0; one that runs gets the new rate with its next file.
            restart: From the first file.

        Returns:
            As `scrub_progress`.
        """
        await self._scrubber.start(rate, restart)
        return await self.progress()

    async def progress(self) -> ScrubReport:
        """Return how far it is, and what it found."""
        return cast("ScrubReport", self._scrubber.status())

    async def stop(self) -> ScrubReport:
        """Stop; the next scrub goes on from there. Returns its progress."""
        await self._scrubber.stop()
        return await self.progress()
