"""The answers of the control socket about the hot tier.

Invariant: an answer comes from the server itself, or says why there is no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memfs.hot.protocol import HotGoneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.config import HotConfig
    from memfs.control.protocol import JsonValue
    from memfs.control.server import Handler
    from memfs.hot.board import HotBoard
    from memfs_daemon.hot.supervisor import HotSupervisor


class HotMethods:
    """Answers `hot`, `hot_snapshots` and `hot_drop_snapshot`."""

    def __init__(self, config: HotConfig, supervisor: HotSupervisor, board: HotBoard) -> None:
        self._config = config
        self._supervisor = supervisor
        self._board = board

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "hot": self.hot,
            "hot_snapshots": self.snapshots,
            "hot_drop_snapshot": self.drop_snapshot,
        }

    async def snapshots(self) -> JsonValue:
        """Return the snapshots of all users, the largest first."""
        return cast("JsonValue", (await self._supervisor.call("snapshots"))["snapshots"])

    async def drop_snapshot(self, name: str) -> JsonValue:
        """Let a snapshot go, whosever it is.

        Raises:
            HotMissError: Nothing has that name.
        """
        await self._supervisor.call("drop_snapshot", name=name)
        return None

    async def hot(self) -> JsonValue:
        """Return devices, slabs and counters; `note` says why nothing is there.

        And `starting`, that something will be there soon.
        """
        server = self._board.server
        answer: dict[str, object] = {
            "address": None if server is None else server.address,
            "uid": None if server is None else server.uid,
            "note": self._board.note,
            "starting": self._board.is_starting,
            "pid": self._supervisor.pid,
            "start_count": self._supervisor.start_count,
            "high_watermark": self._config.high_watermark,
            "low_watermark": self._config.low_watermark,
        }
        try:
            stats = await self._supervisor.call("stats")
        except HotGoneError as error:
            answer["note"] = str(error)
        else:
            answer |= {name: value for name, value in stats.items() if name != "id"}
        return cast("JsonValue", answer)
