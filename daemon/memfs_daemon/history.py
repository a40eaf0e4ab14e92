"""History: what a mount measured of itself, in rings, and who is used most.

Invariant: a mount in which nothing happens writes nothing: a row that is missing says that all was
as before. Coarser rows are made when a finer one is written, before that can take a place of one
that they need.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import time
from base64 import b64encode
from typing import TYPE_CHECKING

import trio

from memfs.errors import InvalidValueError, MemfsError, StaleInodeError
from memfs.metadata.records import Event, MetricRow
from memfs.metrics.heat import ENTRY_COUNT, HeatSketch
from memfs.metrics.numbers import PLACES, Combine, combine, decode, encode
from memfs.metrics.rings import BY_RESOLUTION, RINGS, begin_of
from memfs.metrics.rolling import Period, roll_up
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.content.activity import Activity
    from memfs.control.methods.mount import (
        ColdFileReport,
        EventReport,
        HeatReport,
        HistoryReport,
        HotFileReport,
    )
    from memfs.control.server import Handler
    from memfs.metadata.engine import Engine
    from memfs.metrics.events import EventLog
    from memfs.metrics.numbers import Numbers
    from memfs.stores.health import StoreHealth

log = logging.getLogger(__name__)

STEP_S = RINGS[0].resolution_s
LATE_S = 0.1
"""So long after the end of a period it is measured: pauses are by another clock than periods, and
one that ends too early would measure the period before once more."""
LISTED_COUNT_MAX = 1000
"""Files and events that an answer lists: some 20 ms."""
PARENTS_COUNT_MAX = 500
"""Files a step whose directories are counted, those that were used most: some 3 ms."""
SAVE_S = 300.0
"""A daemon that is killed forgets the uses of so long. Guess."""
_HEAT_SETTING = "metrics.heat.files"
_DIRECTORIES_SETTING = "metrics.heat.directories"
_UNSTEADY = frozenset({"memory_bytes"} | {name for name in PLACES if name.startswith("capacity.")})
"""States that change while nothing happens here: others fill the disk."""
_ALL = 1 << 30


class History:
    """Measures, keeps and tells.

    Args:
        engine: Keeps the rows.
        take: Returns all numbers as of now; see `Readings.take`.
        activity: Tells which files were opened.
        events: What people did and what went wrong.
        healths: Those of the object stores by name; that of the default one is empty.
        clock: Wall clock, nanoseconds.
    """

    def __init__(
        self,
        engine: Engine,
        take: Callable[[], Awaitable[dict[str, int]]],
        activity: Activity,
        events: EventLog,
        healths: Mapping[str, StoreHealth],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._engine = engine
        self._take = take
        self._activity = activity
        self._events = events
        self._healths = healths
        self._clock = clock
        self._before: dict[str, int] | None = None
        """The reading before; None: this is the first one."""
        self._start_count = 1
        """Starts that no row tells yet."""
        self._failing: set[str] = set()
        """Names of the stores that failed at the last look."""
        self._rolled: dict[int, int] = {}
        """When the last period begins that was rolled up, by resolution."""
        self._files = HeatSketch()
        self._directories = HeatSketch()
        self._loaded = self._unsaved = False
        self._saved_s = 0.0
        self._stepping = trio.Lock()
        """Two steps at once would count the same twice."""

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"history": self.history, "heat": self.heat, "events": self.events}

    # --- life ------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Measure every ten seconds until cancelled."""
        try:
            await self.begin()
            while True:
                await trio.sleep(STEP_S - self._now_s() % STEP_S + LATE_S)
                await self._guarded(self.step)
        finally:
            # The engine answers at once; nothing waits here for a store or a disk.
            with trio.CancelScope(shield=True):
                await self._guarded(self.step)
                await self._guarded(self._save)

    async def begin(self) -> None:
        """Take the first reading, which the first row is compared with."""
        if not self._loaded:
            self._loaded = True
            self._saved_s = self._now_s()
            await self._load()
        if self._before is None:
            self._before = await self._take()

    async def step(self) -> None:
        """Store what has happened since the step before, if anything has.

        It goes into the row of the period before the current one, also amid a period.
        """
        async with self._stepping:
            await self._step()

    async def _step(self) -> None:
        await self.begin()
        assert self._before is not None
        now = await self._take()
        row = self._row(self._before, now)
        uses = self._activity.take_uses()
        self._note_store()
        told = self._events.take()
        if row is None and not uses and not told:
            return
        await self._count_uses(uses)
        async with self._engine.change():
            if row is not None:
                await self._put(row)
            await self._engine.add_events([Event(0, *each) for each in told])
        self._before, self._start_count = now, 0
        is_due = self._now_s() - self._saved_s >= SAVE_S
        if self._unsaved and is_due and self._engine.refusal is None:
            await self._save()

    def _row(self, before: Numbers, now: Numbers) -> dict[str, int] | None:
        """Return what is to be stored; None: nothing has happened."""
        row = {"starts": self._start_count}
        is_steady = not self._start_count
        for name, (_, how) in PLACES.items():
            value, former = now.get(name, 0), before.get(name, 0)
            if how == Combine.SUM:
                if value != former:
                    row[name] = max(0, value - former)
                    is_steady = False
            else:
                row[name] = value
                is_steady = is_steady and (value == former or name in _UNSTEADY)
        return None if is_steady else row

    async def _put(self, row: Numbers) -> None:
        at_s = begin_of(STEP_S, self._now_s()) - STEP_S
        # It is there already where the daemon started anew, or the clock was set back.
        there = await self._engine.list_metrics(STEP_S, at_s - 1, 1)
        if there and there[0].at_s == at_s:
            row = combine([decode(there[0].numbers), row])
        await self._roll_up(at_s)
        await self._engine.put_metrics([MetricRow(STEP_S, at_s, encode(row))])

    async def _roll_up(self, at_s: int) -> None:
        """Make the coarser rows of all periods that are over."""
        for finer, coarser in itertools.pairwise(RINGS):
            resolution_s = coarser.resolution_s
            begin_s = begin_of(resolution_s, at_s)
            last_s = self._rolled.get(resolution_s, begin_s)
            if last_s == begin_s - resolution_s:
                continue
            if last_s >= begin_s:
                # Not known yet; or its rows are of the future, since the clock was set back.
                lately_s = begin_s - 8 * resolution_s
                made = await self._engine.list_metrics(resolution_s, lately_s, _ALL)
                made = made or await self._engine.list_metrics(resolution_s, -1, _ALL)
                last_s = max((each.at_s for each in made if each.at_s < begin_s), default=-1)
            found = await self._engine.list_metrics(finer.resolution_s, last_s, _ALL)
            periods = [Period(each.at_s, decode(each.numbers)) for each in found]
            rows = roll_up(periods, resolution_s, after_s=last_s, before_s=begin_s)
            await self._engine.put_metrics(
                [MetricRow(resolution_s, begun_s, encode(numbers)) for begun_s, numbers in rows]
            )
            self._rolled[resolution_s] = begin_s - resolution_s

    def _note_store(self) -> None:
        for name, health in self._healths.items():
            if (fails := health.well is False) == (name in self._failing):
                continue
            (self._failing.add if fails else self._failing.discard)(name)
            self._events.note(
                "store", name, f"fails: {health.reason}" if fails else "answers again"
            )

    # --- heat ------------------------------------------------------------------------------------
    async def _count_uses(self, uses: Mapping[InodeNo, int]) -> None:
        if not uses:
            return
        now_s = self._now_s()
        self._files.add(uses, now_s)
        most = sorted(uses, key=lambda ino: -uses[ino])[:PARENTS_COUNT_MAX]
        directories: dict[int, int] = {}
        for ino in most:
            try:
                dentry = await self._engine.get_dentry(ino)
            except StaleInodeError:
                # Removed since. What else has happened is to be kept all the same.
                continue
            if dentry is not None:
                directories[dentry[0]] = directories.get(dentry[0], 0) + uses[ino]
        self._directories.add(directories, now_s)
        self._unsaved = True

    async def _load(self) -> None:
        for name, sketch in self._sketches():
            stored = await self._engine.get_setting(name)
            try:
                if stored is not None:
                    sketch.decode(stored)
            except MemfsError as error:
                log.warning("%s: %s; files count as not used so far", name, error)

    async def _save(self) -> None:
        if not self._unsaved:
            return
        self._unsaved, self._saved_s = False, self._now_s()
        async with self._engine.change():
            for name, sketch in self._sketches():
                await self._engine.put_setting(name, sketch.encode())

    def _sketches(self) -> tuple[tuple[str, HeatSketch], ...]:
        return (_HEAT_SETTING, self._files), (_DIRECTORIES_SETTING, self._directories)

    # --- answers ---------------------------------------------------------------------------------
    async def history(self, resolution_s: int, after_s: int = -1) -> HistoryReport:
        """Return the rows of a ring; that of the finest one tells what happened until now."""
        if resolution_s == STEP_S:
            await self._guarded(self.step)
        now_s = self._now_s()
        if resolution_s not in BY_RESOLUTION:
            known = ", ".join(map(str, BY_RESOLUTION))
            raise InvalidValueError(f"there is no ring of {resolution_s} s; there are {known}")
        first_s = int(now_s) - BY_RESOLUTION[resolution_s].span_s - resolution_s
        rows = await self._engine.list_metrics(resolution_s, max(after_s, first_s), _ALL)
        return {
            "rows": [
                (row.at_s, b64encode(row.numbers).decode()) for row in rows if row.at_s <= now_s
            ]
        }

    async def heat(self, limit: int = 100) -> HeatReport:
        """Return what is used most, and what is used least of what is on the disk."""
        limit = max(0, min(limit, LISTED_COUNT_MAX))
        return {
            "files": await self._hottest(self._files, limit),
            "directories": await self._hottest(self._directories, limit),
            "coldest": await self._coldest(limit),
        }

    async def events(self, before: int | None = None, limit: int = 100) -> list[EventReport]:
        """Return events, the latest first."""
        limit = max(0, min(limit, LISTED_COUNT_MAX))
        found = await self._engine.list_events(before, limit)
        return [
            {
                "number": each.number,
                "at_ns": each.at_ns,
                "kind": each.kind,
                "subject": each.subject,
                "detail": each.detail,
            }
            for each in found
        ]

    async def _hottest(self, sketch: HeatSketch, limit: int) -> list[HotFileReport]:
        found: list[HotFileReport] = []
        # Some may have been removed since.
        for number, uses, error in sketch.hottest(self._now_s(), ENTRY_COUNT):
            if len(found) >= limit:
                break
            try:
                inode = await self._engine.get_inode(InodeNo(number))
                path = await self._engine.get_path(InodeNo(number))
            except StaleInodeError:
                sketch.forget(number)
                continue
            if inode.nlink:
                size = inode.size if stat.S_ISREG(inode.mode) else 0
                found.append(
                    {"path": os.fsdecode(path), "size": size, "uses": uses, "error": error}
                )
        return found

    async def _coldest(self, limit: int) -> list[ColdFileReport]:
        now_ns = self._clock()
        raw = await self._engine.list_raw_by_access(now_ns, (0, 0), limit)
        packed = await self._engine.list_packed_by_access(now_ns, (0, 0), limit)
        oldest = {each.ino: each for each in sorted((*raw, *packed), key=lambda e: e.accessed_ns)}
        return [
            {
                "path": os.fsdecode(await self._engine.get_path(inode.ino)),
                "size": inode.size,
                "accessed_ns": inode.accessed_ns,
            }
            for inode in list(oldest.values())[:limit]
            if inode.nlink
        ]

    def _now_s(self) -> float:
        return self._clock() / 1e9

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; a full disk or the like costs its events at most."""
        try:
            await step()
        except MemfsError as error:
            log.info("what was measured could not be kept: %s", error)
