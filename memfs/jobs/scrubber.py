"""Scrubber: walks over all files at a bounded rate and has each of their forms checked.

Invariant: it reads at most `rate` bytes a second, goes on where it was stopped, and never ends the
daemon: what it finds is counted, logged and told.
"""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.config import QuotasConfig
from memfs.defects import as_failure
from memfs.errors import (
    InvalidValueError,
    MemfsError,
    QuotaSpentError,
    StaleInodeError,
)
from memfs.jobs.kept_names import name_kept
from memfs.jobs.scrubbing import (
    FormCheck,
    Scrubbed,
    ScrubOutcome,
    ScrubPace,
    scrub_file,
    scrub_kept,
)
from memfs.placement.quotas import Quotas, cost_of_fetch
from memfs.signals import Signal
from memfs.stores.paced import unhurried
from memfs.types import FormKind, Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.control.methods.upkeep import ScrubReport
    from memfs.control.server import Handler
    from memfs.metadata.records import KeptContent
    from memfs.moves.attempt import MoveParts
    from memfs.policy.quotas import Cost
    from memfs.types import BlobId

log = logging.getLogger(__name__)

SETTING = "scrub"
"""Holds how far the last scrub came, as JSON."""

RATE_DEFAULT = 64 << 20
"""Bytes a second: a tenth of what a slow SSD reads, and a terabyte in five hours. Guess."""

FILES_A_STEP = 64
SAVE_FILES = 1000
"""Files between two savings of the position."""

NAMED_MAX = 20
"""Others that a finding names which share what is damaged."""

FINDINGS_MAX = 1000
"""Findings told one by one; more are counted."""


class Scrubber:
    """The scrub of one mount; at most one runs at a time.

    Answers `scrub`, `scrub_progress` and `scrub_stop`; no call waits for the scrub itself, which
    takes hours.

    Args:
        quotas: The quotas; None: nothing is limited.
    """

    def __init__(self, parts: MoveParts, quotas: Quotas | None = None) -> None:
        self._parts = parts
        self._quotas = quotas or Quotas(QuotasConfig(), parts.engine)
        self._changed = Signal()
        """`_running` has."""
        self._scope: trio.CancelScope | None = None
        self._running = False
        self._stopping = False
        """It is to stop, also where it has not begun to look at files."""
        self._after = InodeNo(0)
        self._rate = RATE_DEFAULT
        self._total_count = 0
        self._file_count = 0
        self._read_bytes = 0
        self._unchecked_count = 0
        self._unchecked_reason: str | None = None
        self._pace = ScrubPace()
        self._outcomes = dict.fromkeys(ScrubOutcome, 0)
        self._findings: list[dict[str, str]] = []
        self._error: str | None = None

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "scrub": self.start,
            "scrub_progress": self.progress,
            "scrub_stop": self.stop,
        }

    async def start(self, rate: int = RATE_DEFAULT, restart: bool = False) -> ScrubReport:
        """Begin, or go on where the last one was stopped; returns how far it is.

        Args:
            rate: Bytes a second, > 0; one that runs gets the new rate with its next file.
            restart: From the first file.

        Raises:
            InvalidValueError: The rate is not positive.
        """
        if rate <= 0:
            raise InvalidValueError(f"a rate of {rate} bytes a second; it must be above 0")
        self._rate = rate
        if not self._running:
            await self._begin(restart)
        return await self.progress()

    async def _begin(self, restart: bool) -> None:
        self._after = InodeNo(0) if restart else await self._load()
        if not self._after:
            self._file_count = self._read_bytes = self._unchecked_count = 0
            self._unchecked_reason = None
            self._outcomes = dict.fromkeys(ScrubOutcome, 0)
            self._findings = []
        self._error = None
        self._stopping = False
        self._running = True
        self._changed.set()

    async def stop(self) -> ScrubReport:
        """Stop in the middle of a file; `start` goes on with it. Returns how far it came."""
        self._stopping = True
        if self._scope is not None:
            self._scope.cancel()
        await self.wait()
        return await self.progress()

    async def wait(self) -> None:
        """Return when no scrub runs."""
        await trio.lowlevel.checkpoint()
        while self._running:
            await self._changed.wait(self._changed.count)

    async def progress(self) -> ScrubReport:
        """Return how far it is and what it found.

        `read_bytes` grows within a file; `unchecked_count` files have forms that could not be
        checked, and `unchecked_reason` is the first reason that a restore of an archived object
        would not mend.
        """
        return {
            "running": self._running,
            "file_count": self._file_count,
            "total_count": max(self._total_count, self._file_count),
            "read_bytes": self._read_bytes + self._pace.read_bytes,
            "rate": self._rate,
            "unchecked_count": self._unchecked_count,
            "unchecked_reason": self._unchecked_reason,
            "outcomes": {str(outcome): count for outcome, count in self._outcomes.items()},
            "findings": list(self._findings),
            "error": self._error,
        }

    async def run(self) -> None:
        """Scrub whenever it was started, until cancelled."""
        while True:
            while not self._running:
                await self._changed.wait(self._changed.count)
            with trio.CancelScope() as self._scope, unhurried():
                if self._stopping:
                    self._scope.cancel()
                try:
                    await self._walk()
                except (MemfsError, OSError) as error:
                    self._error = str(error)
                    log.warning("the scrub stopped: %s", error)
            self._scope = None
            await self._save()
            self._running = False
            self._changed.set()

    async def _walk(self) -> None:
        engine = self._parts.engine
        self._total_count = (await engine.usage()).inode_count
        while inodes := await engine.list_files(self._after, FILES_A_STEP):
            for inode in inodes:
                began_s = trio.current_time()
                scrubbed = await self._scrub(inode.blob, partial(self._scrub_file, inode.ino))
                self._count(scrubbed)
                if scrubbed.detail:
                    await self._tell(inode.ino, scrubbed)
                self._after = inode.ino
                # For what was fetched from the store; local forms were read at the rate.
                spent_s = trio.current_time() - began_s
                await trio.sleep(max(0.0, scrubbed.read_bytes / self._rate - spent_s))
                if self._file_count % SAVE_FILES == 0:
                    await self._save()
        await self._walk_kept()
        self._after = InodeNo(0)
        log.info("scrub: %d files, %d bytes read", self._file_count, self._read_bytes)

    async def _walk_kept(self) -> None:
        """Go over the bytes that only snapshots show; from the first of them whenever it begins."""
        engine = self._parts.engine
        after = (InodeNo(0), Generation(0))
        while rows := await engine.list_kept(after, FILES_A_STEP):
            for kept in rows:
                after = (kept.ino, kept.generation)
                began_s = trio.current_time()
                scrubbed = await self._scrub(kept.blob, partial(self._scrub_kept, kept))
                self._count(scrubbed)
                if scrubbed.detail:
                    self._add_finding(await name_kept(engine, kept), scrubbed)
                spent_s = trio.current_time() - began_s
                await trio.sleep(max(0.0, scrubbed.read_bytes / self._rate - spent_s))

    async def _scrub_file(self, ino: InodeNo) -> Scrubbed:
        return await scrub_file(self._parts, ino, self._pace)

    async def _scrub_kept(self, kept: KeptContent) -> Scrubbed:
        return await scrub_kept(self._parts, kept, self._pace)

    async def _scrub(self, blob: BlobId, scrub: Callable[[], Awaitable[Scrubbed]]) -> Scrubbed:
        """Check one content, as soon as the quotas have room for what it has in the store."""
        forms = await self._parts.engine.list_forms(blob) if blob else []
        cost: Cost = {}
        for form in forms:
            if form.kind == FormKind.REMOTE:
                cost = cost_of_fetch(form.stored_bytes)
        while True:
            self._pace = ScrubPace(self._rate)
            try:
                with self._quotas.reserved(cost):
                    return await _guarded(scrub, f"a scrub of blob {blob}")
            except QuotaSpentError as error:
                if math.isinf(error.wait_s):
                    log.info("blob %d is not scrubbed: %s", blob, error)
                    check = FormCheck(FormKind.REMOTE, 0, None, unchecked=str(error))
                    return Scrubbed(ScrubOutcome.SKIPPED, (check,))
                policy = self._parts.config.policy
                await trio.sleep(min(max(error.wait_s, policy.retry_s_min), policy.retry_s_max))

    def _count(self, scrubbed: Scrubbed) -> None:
        self._file_count += 1
        self._read_bytes += scrubbed.read_bytes
        self._pace = ScrubPace(self._rate)
        self._outcomes[scrubbed.outcome] += 1
        unchecked = [check for check in scrubbed.checks if check.unchecked]
        self._unchecked_count += bool(unchecked)
        if self._unchecked_reason is None:
            self._unchecked_reason = next(
                (check.unchecked for check in unchecked if not check.archived), None
            )

    async def _tell(self, ino: InodeNo, scrubbed: Scrubbed) -> None:
        try:
            path = (await self._parts.engine.get_path(ino)).decode("utf-8", "backslashreplace")
        except StaleInodeError:
            # Deleted during its repair.
            return
        self._add_finding(path, scrubbed)

    def _add_finding(self, path: str, scrubbed: Scrubbed) -> None:
        detail = scrubbed.detail
        if names := scrubbed.needed_by:
            more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
            detail += f"; shared with {', '.join(names[:NAMED_MAX])}{more}"
        log.warning("%s: %s: %s", path, scrubbed.outcome, detail)
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(
                {"path": path, "outcome": str(scrubbed.outcome), "detail": detail}
            )

    async def _load(self) -> InodeNo:
        saved = await self._parts.engine.get_setting(SETTING)
        if saved is None:
            return InodeNo(0)
        try:
            return InodeNo(int(json.loads(saved)["after"]))
        except (ValueError, KeyError, TypeError):
            log.info("the position of the last scrub cannot be read; it begins anew")
            return InodeNo(0)

    async def _save(self) -> None:
        value = json.dumps({"after": self._after}).encode() if self._after else None
        try:
            async with self._parts.engine.change():
                await self._parts.engine.put_setting(SETTING, value)
        except MemfsError as error:
            log.info("the position of the scrub is not kept: %s", error)


async def _guarded(scrub: Callable[[], Awaitable[Scrubbed]], what: str) -> Scrubbed:
    """Check one content; one that a defect keeps from being checked keeps no other from it."""
    try:
        return await scrub()
    except (MemfsError, OSError):
        raise
    except Exception as error:
        check = FormCheck(FormKind.RAW, 0, None, unchecked=str(as_failure(error, what)))
        return Scrubbed(ScrubOutcome.SKIPPED, (check,))
