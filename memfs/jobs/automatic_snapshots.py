"""Automatic snapshots: made and removed by rules, and dropped where the disk is full.

Invariant: nothing that a user has made is removed, nor what is protected; each removal is a line in
the log.
"""

from __future__ import annotations

import fnmatch
import logging
import time
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from memfs.config import SnapshotRule
from memfs.content.space import measure_cold_space
from memfs.errors import AlreadyExistsError, MemfsError
from memfs.policy.retention import (
    AUTOMATIC_LABEL,
    BY_RULE,
    KeptSnapshot,
    RetentionRule,
    first_to_drop,
    is_due,
    list_expired,
    next_due_ns,
)
from memfs.types import NOW, ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memfs.jobs.snapshots import SnapshotMethods
    from memfs.metadata.records import Snapshot
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

DEFAULT_RULES = (SnapshotRule(3600.0, 24), SnapshotRule(86400.0, 7))
DEFAULT_SETTING = "snapshots.default_rules"
"""Setting of a state that was new when this version of memfs made it."""

SETTINGS_OF_NEW_STATE = MappingProxyType({DEFAULT_SETTING: b"1"})

LOOK_S = 10.0
"""Between two looks at the clock and at the disk."""

AGAIN_S = 60.0
"""Pause after an error."""

COMMAND_KEPT_S = 7 * 86400.0
"""So long rules keep what a command has made for its user, such as before a restore."""

_INODES_A_PAGE = 50


class AutomaticSnapshots:
    """Makes and removes snapshots of one mount.

    Args:
        snapshots: Makes and deletes them.
        state_dir: On the disk that may be full.
        clock: Wall clock, nanoseconds.
    """

    def __init__(
        self,
        parts: MoveParts,
        snapshots: SnapshotMethods,
        state_dir: Path,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._snapshots = snapshots
        self._state_dir = state_dir
        self._clock = clock
        self._looked_ns = 0
        """When nothing was found to have changed."""

    async def run(self) -> None:
        """Make and remove until cancelled."""
        rules = await self._rules()
        while True:
            try:
                await self.look(rules)
            except MemfsError as error:
                log.warning("automatic snapshots are tried again later: %s", error)
                await trio.sleep(AGAIN_S)
                continue
            due_ns = next_due_ns(_retention(rules), self._clock())
            wait_s = LOOK_S if due_ns is None else (due_ns - self._clock()) / 1e9
            await trio.sleep(min(LOOK_S, max(0.0, wait_s)))

    async def _rules(self) -> Sequence[SnapshotRule]:
        """Return the rules in force."""
        rules = self._parts.config.snapshots.rule
        if rules is not None:
            return rules
        return DEFAULT_RULES if await self._engine.get_setting(DEFAULT_SETTING) else ()

    async def look(self, rules: Sequence[SnapshotRule]) -> None:
        """Make one if it is due, and remove what is to be removed now."""
        await self._drop_if_full()
        if not rules:
            return
        now_ns = self._clock()
        found = await self._engine.list_snapshots()
        root = await self._engine.get_inode(ROOT_INODE)
        made = [each.created_ns for each in found if dict(each.labels).get(AUTOMATIC_LABEL)]
        last_ns = max(root.btime_ns, self._looked_ns, *made)
        if is_due(_retention(rules), last_ns, now_ns):
            if await self._has_changed(found):
                await self._make(now_ns)
            self._looked_ns = now_ns
        await self._remove_expired(rules, now_ns)

    async def _has_changed(self, found: Sequence[Snapshot]) -> bool:
        """Return whether the tree differs from the newest snapshot, or is not empty without one."""
        if not found:
            return (await self._engine.usage()).inode_count > 1
        position: InodeNo | None = InodeNo(0)
        while position is not None:
            page = await self._engine.diff(
                found[-1].snap, NOW, ROOT_INODE, position, _INODES_A_PAGE
            )
            if page.differences:
                return True
            position = page.position
            await trio.lowlevel.checkpoint()
        return False

    async def _make(self, now_ns: int) -> None:
        instant = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
        name = f"auto-{instant:%Y-%m-%dT%H-%M-%SZ}"
        try:
            await self._snapshots.make(name, "", ((AUTOMATIC_LABEL, BY_RULE),))
        except AlreadyExistsError:
            log.info("there is a snapshot %s already", name)

    async def _remove_expired(self, rules: Sequence[SnapshotRule], now_ns: int) -> None:
        found = await self._engine.list_snapshots()
        seen = [_as_kept(each, rules, now_ns) for each in found]
        names = {int(each.snap): each.name for each in found}
        for snap in list_expired(_retention(rules), seen, now_ns):
            log.info("snapshot %s is removed: no rule keeps it any longer", names[snap])
            await self._snapshots.delete([names[snap]])

    async def _drop_if_full(self) -> None:
        """Drop the oldest automatic snapshot where the disk is beyond its high watermark."""
        usage = await self._engine.snapshot_usage()
        if not usage.snapshot_count or usage.leaving_count or not usage.kept_raw_bytes:
            return
        totals = await self._engine.usage()
        cold = self._parts.config.cold
        space = measure_cold_space(self._state_dir, cold, totals)
        if space.used_bytes <= space.capacity_bytes * cold.high_watermark or totals.garbage_count:
            return
        found = await self._engine.list_snapshots()
        seen = [_as_kept(each, (), self._clock()) for each in found]
        snap = first_to_drop(seen, self._clock())
        if snap is None:
            return
        [name] = [each.name for each in found if each.snap == snap]
        log.info(
            "snapshot %s is dropped: the disk is beyond its high watermark, and snapshots keep %d "
            "bytes on it",
            name,
            usage.kept_raw_bytes,
        )
        await self._snapshots.delete([name])


def _retention(rules: Sequence[SnapshotRule]) -> list[RetentionRule]:
    return [RetentionRule(rule.every_s, rule.keep, rule.keep_within_s) for rule in rules]


def _as_kept(snapshot: Snapshot, rules: Sequence[SnapshotRule], now_ns: int) -> KeptSnapshot:
    labels = dict(snapshot.labels)
    maker = labels.get(AUTOMATIC_LABEL)
    age_s = (now_ns - snapshot.created_ns) / 1e9
    is_labelled = any(
        key in labels and fnmatch.fnmatchcase(labels[key], pattern)
        for rule in rules
        for key, pattern in rule.keep_label
    )
    if rules and maker not in (None, BY_RULE) and age_s < COMMAND_KEPT_S:
        is_labelled = True
    return KeptSnapshot(
        snapshot.snap,
        snapshot.created_ns,
        maker is not None,
        snapshot.kept_until_ns,
        is_labelled,
    )
