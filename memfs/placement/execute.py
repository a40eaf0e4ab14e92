"""Execution: carries one file to its goal, step by step, and says why where it cannot.

Invariant: every attempt ends in a decision, in a pending record with reason and time, or in a file
that has moved on; no step is repeated at once.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.backoff import pause_after
from memfs.defects import as_failure
from memfs.errors import (
    MemfsError,
    ObjectArchivedError,
    ObjectMissingError,
    QuotaSpentError,
    StaleInodeError,
    StoreError,
    StoreNotConfiguredError,
    pending_code,
)
from memfs.log_lines import SeldomLog
from memfs.metadata.records import Decision, PendingMove
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import pack
from memfs.moves.sharing import is_wanted_by_others
from memfs.moves.sightings import SEEN_S
from memfs.moves.uploading import upload
from memfs.placement.batcher import Batcher
from memfs.placement.candidate import observe, unpackable_rule
from memfs.placement.quotas import cost_of_step
from memfs.placement.resident import lock, unlock
from memfs.policy import rules
from memfs.policy.goals import Step, after_step, drops_last_copy, next_step
from memfs.policy.quotas import Spent
from memfs.policy.view import Goal
from memfs.types import FormKind, PendingCode, Tier

if TYPE_CHECKING:
    from memfs.placement.candidate import Observed
    from memfs.placement.context import Context
    from memfs.policy.view import Move
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

STEPS_MAX = 8
"""Steps of one placement: twice what the longest way takes, so that a race cannot make a loop."""

RESTORING_COUNT_MAX = 10_000
"""Files that are fetched by themselves once they are restored; more are when they are read."""

_OF_ONE = (ObjectMissingError, ObjectArchivedError, StoreNotConfiguredError)
"""What speaks against one file, and not against its store."""


class Wait(NamedTuple):
    """Why a move waits."""

    code: PendingCode
    """For programs."""
    reason: str
    """For people, one sentence: cause and remedy."""
    longest_s: float | None = None
    """When that is over at the latest, from now on; None: nobody knows."""

    @classmethod
    def of(cls, error: MemfsError | OSError, longest_s: float | None = None) -> Wait:
        """Return what an error has to be waited for."""
        return cls(pending_code(error), str(error), longest_s)


_OPEN = Wait(PendingCode.OPEN, "a program has the file open or mapped; it moves when that ends")

_CHANGED = Wait(
    PendingCode.OTHER, "it was changed again and again while it was to move; it is tried again"
)

_SHARED = Wait(
    PendingCode.SHARED,
    "a clone of the file shares its compressed copy, and was used later or is pinned; it goes when "
    "that one may go as well",
)


class Placer:
    """Moves files."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.batchers = {
            name: Batcher(context, self._go_on, store=name) for name in context.parts.store_names
        }
        """By the name of the store: an object is of one."""
        self._waits = SeldomLog(log)
        self.restoring: set[InodeNo] = set()
        """Files whose objects are being restored because a program or a pin wants them."""

    async def place(self, move: Move) -> bool:
        """Carry a file to its goal, or record why it waits.

        Returns:
            True if it waits for others that share an object with it; its queue is told of the end.
        """
        # An attempt would begin that nobody can take note of.
        while self._context.engine.refusal is not None:  # noqa: ASYNC110
            await trio.sleep(self._context.config.policy.interval_s)
        self.restoring.discard(move.ino)
        return await self._try(move, None)

    async def _go_on(self, move: Move, batched: MoveResult | Exception) -> None:
        """A file's batch is written, or failed."""
        try:
            await self._try(move, batched)
        finally:
            self._context.queues.end(move.ino)

    async def _try(self, move: Move, batched: MoveResult | Exception | None) -> bool:
        try:
            if isinstance(batched, Exception):
                # One error for many files: without the places where others have met it.
                raise batched.with_traceback(None)
            return await self._carry(move, batched)
        except StaleInodeError:
            pass
        except QuotaSpentError as error:
            await self.wait_for_quota(move.ino, move.goal.tier, error)
        except ObjectArchivedError as error:
            if len(self.restoring) < RESTORING_COUNT_MAX:
                self.restoring.add(move.ino)
            await self.postpone(move.ino, move.goal.tier, Wait.of(error, error.ready_estimate_s))
        except Exception as error:
            failure = as_failure(error, f"inode {move.ino} on its way to {move.goal.tier.label}")
            await self.postpone(move.ino, move.goal.tier, Wait.of(failure))
        return False

    async def _carry(self, move: Move, batched: MoveResult | None) -> bool:
        """Carry a file to its goal; returns as `place`.

        Args:
            move: The file and its goal.
            batched: What its batch has done; None: no batch yet, and after one it goes alone.
        """
        context = self._context
        moved_bytes = batched.moved_bytes if batched is not None else 0
        # The object of a batch was written just now, and one look serves all of its files.
        seen_within_s = SEEN_S if moved_bytes else 0.0
        for _ in range(STEPS_MAX):
            file = await observe(context, move.ino, context.clock())
            if file is None:
                return False
            candidate, store = file.candidate, file.store
            breaker = context.breakers.of(store)
            step = next_step(candidate, move.goal)
            if step is None:
                await self.record_done(move, moved_bytes)
                return False
            asks_store = (
                step == Step.UPLOAD
                or (step == Step.HYDRATE and not candidate.packed)
                or drops_last_copy(step, candidate)
            )
            if asks_store and breaker.wait_s:
                await self.wait_for_store(move.ino, move.goal.tier, store)
                return False
            size = candidate.ram_bytes
            batcher = self.batchers.get(store) if batched is None else None
            if step == Step.UPLOAD and batcher is not None and batcher.takes(size):
                batcher.add(move, size)
                return True
            try:
                result = await self._take_within_quotas(step, file, move, seen_within_s)
            except QuotaSpentError:
                raise
            except StoreError as error:
                # The store did all that it can for an archived object.
                if asks_store and not isinstance(error, _OF_ONE):
                    breaker.fail(str(error))
                raise
            if asks_store:
                breaker.succeed()
            if result.outcome == MoveOutcome.BUSY:
                await self.postpone(move.ino, move.goal.tier, _OPEN)
                return False
            if result.outcome == MoveOutcome.SHARED:
                await self.postpone(move.ino, move.goal.tier, _SHARED)
                return False
            if result.outcome == MoveOutcome.INCOMPRESSIBLE:
                await self._note_unpackable(move.ino, file.inode.generation)
                return False
            if result.outcome == MoveOutcome.SUPERSEDED:
                if step == Step.LOCK:
                    return False
                # It was changed meanwhile, perhaps only by a program that has fetched it, of which
                # nobody else tells: what is left to do is looked at anew.
                continue
            # Uploading it and dropping its raw file move the same bytes.
            moved_bytes = max(moved_bytes, result.moved_bytes)
            there = next_step(after_step(candidate, step), move.goal) is None
            if there and result.outcome == MoveOutcome.DONE:
                await self.record_done(move, moved_bytes)
                return False
        await self.postpone(move.ino, move.goal.tier, _CHANGED)
        return False

    async def wait_for_store(self, ino: InodeNo, wanted: Tier, store: str) -> None:
        """Have a file wait until its store is asked again, and a little longer than the first."""
        refusal = self._context.quotas.store_refusal()
        breaker = self._context.breakers.of(store)
        if refusal is not None and not breaker.wait_s:
            await self.wait_for_quota(ino, wanted, refusal)
            return
        pause_s = breaker.wait_s + self._apart_s()
        wait = Wait(PendingCode.STORE, breaker.reason or "the store is down")
        await self.postpone(ino, wanted, wait, pause_s)

    def _apart_s(self) -> float:
        """Return by how much one file waits longer, by chance: not all are due in one round."""
        return self._context.rng.uniform(0.0, 1.0) * self._context.config.policy.retry_s_min

    async def wait_for_quota(self, ino: InodeNo, wanted: Tier, error: QuotaSpentError) -> None:
        """Have a file wait until there is room in a quota, or until the longest pause is over.

        Not longer than that: by then the quota may have been raised.
        """
        policy = self._context.config.policy
        pause_s = min(max(error.wait_s, policy.retry_s_min), policy.retry_s_max)
        pause_s += self._apart_s()
        # 0 is when what is under way has ended, and infinite that no day has room.
        longest_s = error.wait_s if 0 < error.wait_s < math.inf else None
        await self.postpone(ino, wanted, Wait.of(error, longest_s), pause_s)

    async def record_done(self, move: Move, moved_bytes: int) -> None:
        """Record that a file is where it belongs, and why."""
        engine = self._context.engine
        now_ns = self._context.clock()
        if move.goal == Goal.GLACIER:
            self._context.access_stats.leave_disk(move.ino)
        try:
            async with engine.change():
                pending = await engine.get_pending(move.ino)
                # An object is no answer to what waits for RAM or for a device.
                if pending is not None and (
                    move.goal != Goal.STORED or pending.wanted == Tier.GLACIER
                ):
                    await engine.clear_pending(move.ino)
                await engine.record_decision(
                    move.ino, Decision(move.rule, move.detail, moved_bytes, now_ns)
                )
        except StaleInodeError:
            return

    async def postpone(
        self, ino: InodeNo, wanted: Tier, wait: Wait, pause_s: float | None = None
    ) -> None:
        """Record why a file waits, and when it is tried again.

        Args:
            wanted: Where it is to go.
            wait: What for.
            pause_s: Until the next attempt; None: doubling from one failure to the next.
        """
        engine, policy = self._context.engine, self._context.config.policy
        code, reason, longest_s = wait
        failed = pause_s is None
        try:
            async with engine.change():
                earlier = await engine.get_pending(ino)
                attempt_count = earlier.attempt_count if earlier is not None else 0
                if pause_s is None:
                    attempt_count += 1
                    pause_s = pause_after(
                        attempt_count, policy.retry_s_min, policy.retry_s_max, self._context.rng
                    )
                now_ns = self._context.clock()
                retry_ns = now_ns + int(pause_s * 1e9)
                until_ns = 0 if longest_s is None else now_ns + int(longest_s * 1e9)
                await engine.set_pending(
                    PendingMove(
                        ino, wanted, reason, attempt_count, retry_ns, now_ns, code, until_ns
                    )
                )
        except StaleInodeError:
            return
        except MemfsError as error:
            log.info("inode %d waits (%s), which could not be recorded: %s", ino, reason, error)
            return
        line = f"inode {ino}: not {wanted.label} yet, next try in {pause_s:.0f} s: {reason}"
        if failed:
            log.info("%s", line)
            path = os.fsdecode(await engine.get_path(ino))
            self._context.parts.events.note("move", path, f"not {wanted.label} yet: {reason}")
        else:
            # It waits for nothing that went wrong: each read of a pinned file would leave a line.
            self._waits.info(reason, line)

    async def _note_unpackable(self, ino: InodeNo, generation: Generation) -> None:
        engine = self._context.engine
        inode = await engine.get_inode(ino)
        if inode.generation != generation:
            # What was tried is not what the file is now.
            return
        codec = await engine.effective_codec(ino) or self._context.config.cold.codec
        detail = f"generation {generation} does not shrink with {codec}; it stays raw"
        decision = Decision(unpackable_rule(inode, codec), detail, 0, self._context.clock())
        async with engine.change():
            await engine.clear_pending(ino)
            await engine.record_decision(ino, decision)

    async def _take_within_quotas(
        self, step: Step, file: Observed, move: Move, seen_within_s: float
    ) -> MoveResult:
        cost = cost_of_step(step, file.candidate)
        with self._context.quotas.reserved(cost) as actual:
            result = await self._take(step, file, move, seen_within_s)
            if Spent.DISK_WRITES in actual:
                actual[Spent.DISK_WRITES] = min(actual[Spent.DISK_WRITES], result.moved_bytes)
            return result

    async def _take(
        self, step: Step, file: Observed, move: Move, seen_within_s: float
    ) -> MoveResult:
        context, parts, ino = self._context, self._context.parts, move.ino
        match step:
            case Step.HYDRATE:
                inode = await hydrate(parts, ino)
                return MoveResult(MoveOutcome.DONE, inode.size)
            case Step.PACK:
                return await pack(parts, ino, seen=file.inode)
            case Step.UPLOAD:
                return await upload(parts, ino, seen=file.inode)
            case Step.DROP_RAW:
                return await drop_raw(parts, ino, seen=file.inode, seen_within_s=seen_within_s)
            case Step.DROP_PACKED:
                if await is_wanted_by_others(parts, file.inode):
                    return MoveResult(MoveOutcome.SHARED)
                return await drop_form(
                    parts, ino, FormKind.PACKED, seen=file.inode, seen_within_s=seen_within_s
                )
            case Step.UNLOCK:
                # Under mere pressure of the quota the kernel may keep the pages while it can.
                drop_pages = move.rule != rules.WATERMARK
                return MoveResult(
                    MoveOutcome.DONE, await unlock(context, ino, drop_pages=drop_pages)
                )
            case Step.LOCK:
                if await lock(context, file):
                    return MoveResult(MoveOutcome.DONE, file.candidate.ram_bytes)
                return MoveResult(MoveOutcome.SUPERSEDED)
