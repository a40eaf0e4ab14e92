"""The files of `.memfs`: what the mount says of itself, made anew for each open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

from memfs.config_text import config_text
from memfs.control.typed import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from memfs.config import Config
    from memfs.control.report import PendingReport, StatusReport


class InsideFiles:
    """Makes their contents.

    Args:
        config: Returns that in force.
        status: As of the control socket.
        pending: Likewise.
        metrics: Likewise.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        status: Callable[[], Awaitable[StatusReport]],
        pending: Callable[[], Awaitable[Sequence[PendingReport]]],
        metrics: Callable[[], Awaitable[str]],
    ) -> None:
        self._config = config
        self._status = status
        self._pending = pending
        self._metrics = metrics

    def producers(self) -> Mapping[bytes, Callable[[], Awaitable[bytes]]]:
        """Return what makes each file's content, by name."""
        return {
            b"config.toml": self.config_toml,
            b"metrics": self.metrics,
            b"pending": self.pending,
            b"status.json": self.status_json,
        }

    async def status_json(self) -> bytes:
        """Return what `memfs status --json` prints."""
        return _json(encode(await self._status()), indent=2)

    async def metrics(self) -> bytes:
        """Return what `memfs metrics` prints."""
        return (await self._metrics()).encode()

    async def config_toml(self) -> bytes:
        """Return the configuration in force, without secrets."""
        await trio.lowlevel.checkpoint()
        return config_text(self._config()).encode()

    async def pending(self) -> bytes:
        """Return the moves that wait, as a line of JSON each."""
        return b"".join(_json(encode(each)) for each in await self._pending())


def _json(content: object, indent: int | None = None) -> bytes:
    # DEL is the one control character that JSON leaves as it is.
    return json.dumps(content, indent=indent).replace("\x7f", "\\u007f").encode() + b"\n"
