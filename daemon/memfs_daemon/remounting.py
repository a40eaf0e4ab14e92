"""The daemon's part of `mount -o remount`: what the kernel leaves to it.

Invariant: the kernel's flags are changed by those who remount; nothing here asks the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.protocol import JsonValue
    from memfs.control.server import Handler
    from memfs.filesystem.shared import Features


class RemountMethods:
    """Answers `remount`.

    Args:
        features: Those of the mounted file system.
    """

    def __init__(self, features: Features) -> None:
        self._features = features

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"remount": self.remount}

    async def remount(self, atime: bool, strict_atime: bool | None = None) -> JsonValue:
        """Keep access times from now on, or do not; None: as often as before."""
        self._features.atime = atime
        if strict_atime is not None:
            self._features.strict_atime = strict_atime
        return {}
