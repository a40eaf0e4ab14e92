"""The answers of the control socket about scrubbing.

Invariant: no call waits for the scrub itself, which takes hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memfs.errors import InvalidValueError
from memfs.mover.scrubber import RATE_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.protocol import JsonValue
    from memfs.control.server import Method
    from memfs.mover.scrubber import Scrubber


class ScrubMethods:
    """Answers `scrub`, `scrub_progress` and `scrub_stop`."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber

    def methods(self) -> Mapping[str, Method]:
        """Return the methods of the control socket by name."""
        return {
            "scrub": self.scrub,
            "scrub_progress": self.progress,
            "scrub_stop": self.stop,
        }

    async def scrub(self, rate: int = RATE_DEFAULT, restart: bool = False) -> JsonValue:
        """Begin, or go on where the last scrub was stopped.

        Args:
            rate: Bytes a second, > 0; one that runs gets the new rate with its next file.
            restart: From the first file.

        Returns:
            As `scrub_progress`.
        """
        if not isinstance(rate, int) or not isinstance(restart, bool):
            raise InvalidValueError("rate is a number of bytes, restart true or false")
        await self._scrubber.start(rate, restart)
        return await self.progress()

    async def progress(self) -> JsonValue:
        """Return how far it is, and what it found."""
        return cast("JsonValue", self._scrubber.status())

    async def stop(self) -> JsonValue:
        """Stop; the next scrub goes on from there. Returns its progress."""
        await self._scrubber.stop()
        return await self.progress()
