"""The live policy: values of `[policy]` that are changed while a mount serves, and stay.

Invariant: a value that was set is in force until it is reset, over mounts and configuration files;
one that no mount can have is refused, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

from memfs.config_file import with_policy
from memfs.config_text import policy_texts
from memfs.errors import InvalidValueError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.content.activity import Activity
    from memfs.control.methods.mount import PolicyValueReport
    from memfs.control.server import Handler
    from memfs.moves.attempt import MoveParts
    from memfs.policy.access_stats import AccessStats

log = logging.getLogger(__name__)

SETTING = "policy.set"
"""Setting of the engine: the values that were set, as texts by name, in JSON."""

LIVE_NAMES = (
    *("hot_to_warm", "warm_to_cold", "pack_after", "cold_to_glacier"),
    *("promote_count", "promote_window", "interval", "give_way"),
)
"""Keys that are read anew in each round. The others are read when a mount begins."""


class LivePolicy:
    """Answers `policy_values`, `policy_set` and `policy_reset`.

    Args:
        parts: Have the configuration in force.
        access_stats: Told of what they count by.
        activity: Wakes the mover.
    """

    def __init__(self, parts: MoveParts, access_stats: AccessStats, activity: Activity) -> None:
        self._parts = parts
        self._access_stats = access_stats
        self._activity = activity
        self._configured = parts.config.policy
        self._set: dict[str, str] = {}
        """Texts by name, in the order in which they were set."""

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "policy_values": self.values,
            "policy_set": self.set,
            "policy_reset": self.reset,
        }

    async def load(self) -> None:
        """Put in force what was set in an earlier mount."""
        stored = await self._parts.engine.get_setting(SETTING)
        if stored is None:
            return
        try:
            self._apply({str(name): str(text) for name, text in json.loads(stored).items()})
        except (ValueError, AttributeError, UsageError, InvalidValueError) as error:
            # A version with other keys or bounds may have stored it.
            log.warning("values of memfs policy set are not in force: %s", error)

    async def values(self) -> list[PolicyValueReport]:
        """Return all values that can be set, as they are in force."""
        now, configured = policy_texts(self._parts.config.policy), policy_texts(self._configured)
        return [
            {
                "name": name,
                "value": now[name],
                "configured": configured[name],
                "is_set": name in self._set,
            }
            for name in LIVE_NAMES
        ]

    async def set(self, values: dict[str, str]) -> list[PolicyValueReport]:
        """Put values in force, all of them or not one."""
        for name in values:
            _require_live(name)
        await self._put({**self._set, **values})
        for name, text in values.items():
            log.info("policy.%s is set to %s", name, text)
            self._parts.events.note("policy", name, f"set to {text}")
        return await self.values()

    async def reset(self, names: Sequence[str]) -> list[PolicyValueReport]:
        """Have values be as the configuration has them; without names, all of them."""
        for name in names:
            _require_live(name)
        gone = [name for name in self._set if not names or name in names]
        await self._put({name: text for name, text in self._set.items() if name not in gone})
        for name in gone:
            log.info("policy.%s is as configured", name)
            self._parts.events.note("policy", name, "as configured")
        return await self.values()

    async def _put(self, texts: dict[str, str]) -> None:
        before = self._set
        self._apply(texts)
        try:
            engine = self._parts.engine
            async with engine.change():
                await engine.put_setting(SETTING, json.dumps(texts).encode() if texts else None)
        except BaseException:
            self._apply(before)
            raise
        self._activity.wake()

    def _apply(self, texts: dict[str, str]) -> None:
        policy = with_policy(self._configured, texts)
        self._parts.config = dataclasses.replace(self._parts.config, policy=policy)
        self._set = texts
        stats = self._access_stats
        stats.promote_count = policy.promote_count
        stats.promote_window_s = policy.promote_window_s


def _require_live(name: str) -> None:
    if name in LIVE_NAMES:
        return
    if name in policy_texts():
        raise InvalidValueError(
            f"policy.{name} is read when a mount begins: write it into the configuration, and "
            "mount again"
        )
    raise InvalidValueError(f"there is no {name!r} in [policy]; known: {', '.join(LIVE_NAMES)}")
