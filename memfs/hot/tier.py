"""The hot tier: which files are loaded into GPU memory, and which leave it again.

Invariant: a file is published only if its generation is the one whose raw file was read, and it is
sealed; what is resident and has changed or gone in the engine leaves within a round.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from memfs.backoff import pause_after
from memfs.bounded import BoundedDict
from memfs.defects import as_failure
from memfs.errors import MemfsError, StaleInodeError, pending_code
from memfs.hot.board import ResidentFile
from memfs.hot.pool import HotTierFullError
from memfs.hot.protocol import HotGoneError, HotMissError, error_reply, number_in, shorten
from memfs.hot.tensors import FormatError
from memfs.metadata.records import Decision, InodeFlags, PendingMove
from memfs.metrics.traffic import Level
from memfs.moves.hydrating import hydrate
from memfs.policy import rules
from memfs.policy.ages import AGE_SETTING, parse_ages
from memfs.policy.marks import (
    AGES_XATTR,
    PRIORITY_XATTR,
    TENSOR_DTYPE_XATTR,
    TENSOR_SHAPE_XATTR,
    parse_priority,
)
from memfs.policy.view import PRIORITY_DEFAULT
from memfs.sizes import format_duration
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from memfs.hot.board import HotBoard, Want
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import Generation

log = logging.getLogger(__name__)

AGES_PAUSE_S = 60.0
"""Between two looks for files that no program uses; shorter where an age is shorter."""

RESIDENTS_A_ROUND = 256
"""Looked at whether they still belong where they are: some 20 ms."""

REMEMBERED_COUNT_MAX = 4096
"""Files of which failures are remembered."""

WORKERS = 2
"""Files brought at a time: one is fetched while the other one is copied to a device. Guess."""


class HotCaller(Protocol):
    """Calls the hot server."""

    async def call(self, op: str, *fds: int, **fields: object) -> dict[str, object]:
        """Return its answer; `HotGoneError` if no server answers."""
        ...


class _Failure(NamedTuple):
    """What is remembered of a file that could not be loaded."""

    generation: Generation
    attempts: int


class HotTier:
    """Loads and evicts, for one mount.

    Args:
        board: What is wanted and what is resident.
    """

    def __init__(self, parts: MoveParts, board: HotBoard, server: HotCaller) -> None:
        self._engine = parts.engine
        self._raw_store = parts.raw_store
        self._sealer = parts.sealer
        self._parts = parts
        self._board = board
        self._server = server
        self._failures: BoundedDict[InodeNo, _Failure] = BoundedDict(REMEMBERED_COUNT_MAX)
        self._busy: set[InodeNo] = set()
        self._again: dict[InodeNo, Want] = {}
        """Files that were wanted while they were brought."""
        self._after = 0
        """The last resident that was looked at."""
        self._expired_s = -math.inf
        """When the files were looked at last that no program uses."""

    async def run(self) -> None:
        """Bring what is wanted and let go of what has changed, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._run_worker)
            while True:
                await trio.sleep(self._parts.config.policy.interval_s)
                await self._guarded_review()

    async def _run_worker(self) -> None:
        while True:
            want = self._board.take_wanted()
            if want is None:
                await self._board.wait()
                continue
            if want.ino in self._busy:
                # Another worker has it: it is looked at again when that one is done.
                if want.generation is not None or want.ino not in self._again:
                    self._again[want.ino] = want
                continue
            self._busy.add(want.ino)
            try:
                await self.bring(want)
            except Exception as error:
                reason = as_failure(error, f"inode {want.ino} for the hot tier")
                log.warning(
                    "inode %d could not be looked at for the hot tier: %s", want.ino, reason
                )
            finally:
                self._busy.discard(want.ino)
                again = self._again.pop(want.ino, None)
                if again is not None:
                    self._board.want(again)

    async def _guarded_review(self) -> None:
        try:
            await self.review()
        except HotGoneError:
            return
        except Exception as error:
            reason = as_failure(error, "the hot tier")
            log.warning("the hot tier could not be looked at: %s", reason)

    # --- bringing --------------------------------------------------------------------------------
    async def bring(self, want: Want) -> None:
        """Load a file if it is pinned hot or a program waits for it, and tell who waits.

        Raises:
            MemfsError: That of the engine.
        """
        try:
            error = await self._bring(want)
        except StaleInodeError:
            error = HotMissError(f"inode {want.ino} is gone")
        except HotGoneError:
            return
        if want.generation is not None:
            await self._answer(want, error)

    async def _answer(self, want: Want, error: MemfsError | None) -> None:
        """Tell the programs that wait for a file how it ended."""
        try:
            if error is None:
                await self._server.call("publish", ino=want.ino, generation=want.generation)
            else:
                await self._server.call(
                    "refuse", ino=want.ino, generation=want.generation, **error_reply(error)
                )
        except HotMissError as gone:
            await self._server.call(
                "refuse", ino=want.ino, generation=want.generation, **error_reply(gone)
            )
        except HotGoneError:
            return

    async def _bring(self, want: Want) -> MemfsError | None:
        """Return why a file is not loaded; None if it is, or need not be."""
        ino, engine = want.ino, self._engine
        await self._sealer.seal(ino)
        inode = await engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED or not inode.nlink:
            # When it is sealed, it is looked at again.
            return HotMissError(f"inode {ino} is open for writing")
        if want.generation is not None and want.generation != inode.generation:
            return HotMissError(f"inode {ino} was rewritten")
        pinned = (await engine.effective_pin(ino)).tier == Tier.HOT
        if want.generation is None and not pinned:
            return None
        if self._board.devices(ino, inode.generation):
            return None
        if want.generation is None and await self._must_wait(inode):
            return None
        try:
            await self._load(inode, want.device, pinned=pinned)
        except FormatError as error:
            reason = shorten(str(error))
            self._board.note_refusal(ino, inode.generation, reason)
            await self._record(ino, Decision(rules.NOT_TENSORS, reason, 0, time.time_ns()))
            return error
        except (StaleInodeError, HotGoneError):
            raise
        except Exception as error:
            caught = as_failure(error, f"inode {ino} on its way to the hot tier")
            failure = caught if isinstance(caught, MemfsError) else MemfsError(str(caught))
            if isinstance(failure, HotTierFullError):
                self._board.note_full(ino, inode.generation)
            else:
                self._board.clear_full(ino)
            if pinned:
                await self._postpone(inode, caught)
            return failure
        return None

    async def _must_wait(self, inode: Inode) -> bool:
        """Return whether a pinned file is known to hold no tensors, or its time has not come."""
        pending = await self._engine.get_pending(inode.ino)
        if pending is not None and pending.wanted == Tier.HOT:
            return pending.retry_ns > time.time_ns()
        return self._board.refusal(inode.ino, inode.generation) is not None

    async def _load(self, inode: Inode, device: str | None, *, pinned: bool) -> None:
        """Load a generation, and publish it if it still is the one.

        Raises:
            FormatError: It holds no tensors.
            HotTierFullError: It has no room.
            HotGoneError: The server has ended.
            HotMissError: It was rewritten meanwhile.
            MemfsError, OSError: It could not be fetched or read.
        """
        ino, generation = inode.ino, inode.generation
        if not inode.size:
            raise FormatError("an empty file holds no tensors")
        if not inode.raw:
            inode = await hydrate(self._parts, ino)
        fd = self._raw_store.open(inode.raw, os.O_RDONLY)
        try:
            answer = await self._server.call(
                "load",
                fd,
                ino=ino,
                generation=generation,
                # For messages only, and a path has no limit to its length.
                name=shorten(os.fsdecode(await self._engine.get_path(ino))),
                tensor_dtype=await self._text(ino, TENSOR_DTYPE_XATTR),
                tensor_shape=await self._text(ino, TENSOR_SHAPE_XATTR),
                priority=await self._priority(ino),
                pinned=pinned,
                device=device,
            )
        finally:
            os.close(fd)
        now = await self._engine.get_inode(ino)
        if now.generation != generation or now.flags & InodeFlags.UNSEALED or not now.nlink:
            await self._server.call("discard", ino=ino, generation=generation)
            raise HotMissError(f"inode {ino} was rewritten while it was loaded")
        await self._server.call("publish", ino=ino, generation=generation)
        size_bytes = number_in(answer, "size_bytes")
        uuid = str(answer.get("device"))
        self._parts.traffic.note_move(Level.COLD, Level.HOT, inode.size)
        self._board.residents[ino] = ResidentFile(generation, uuid, size_bytes, pinned)
        self._failures.pop(ino, None)
        self._board.clear_full(ino)
        why = "pinned to hot" if pinned else "a program asked for it on a device"
        detail = f"{why}: {answer.get('tensor_count')} tensors on {uuid}"
        await self._record(ino, Decision(rules.HOT, detail, size_bytes, time.time_ns()))

    async def _record(self, ino: InodeNo, decision: Decision) -> None:
        async with self._engine.change():
            await self._engine.clear_pending(ino)
            await self._engine.record_decision(ino, decision)

    async def _postpone(self, inode: Inode, failure: MemfsError | OSError) -> None:
        count = self._note_failure(inode)
        policy = self._parts.config.policy
        pause_s = pause_after(count, policy.retry_s_min, policy.retry_s_max)
        now_ns = time.time_ns()
        retry_ns = now_ns + int(pause_s * 1e9)
        reason = str(failure)
        pending = PendingMove(
            inode.ino, Tier.HOT, reason, count, retry_ns, now_ns, pending_code(failure)
        )
        async with self._engine.change():
            await self._engine.set_pending(pending)
        log.info("inode %d: not hot yet, next try in %.0f s: %s", inode.ino, pause_s, reason)

    def _note_failure(self, inode: Inode) -> int:
        """Return how often a generation has failed, this time included."""
        known = self._failures.get(inode.ino)
        count = known.attempts + 1 if known and known.generation == inode.generation else 1
        self._failures[inode.ino] = _Failure(inode.generation, count)
        return count

    async def _text(self, ino: InodeNo, name: bytes) -> str | None:
        value = await self._engine.effective_xattr(ino, name)
        return None if value is None else value.decode()

    async def _priority(self, ino: InodeNo) -> int:
        value = await self._engine.effective_xattr(ino, PRIORITY_XATTR)
        return PRIORITY_DEFAULT if value is None else parse_priority(value.decode())

    # --- reviewing -------------------------------------------------------------------------------
    async def review(self) -> None:
        """Let go of files that were rewritten, removed or pinned elsewhere; note changed pins.

        Raises:
            HotGoneError: The server has ended.
        """
        residents = sorted(ino for ino in self._board.residents if ino > self._after)
        slice_ = residents[:RESIDENTS_A_ROUND]
        self._after = slice_[-1] if len(residents) > RESIDENTS_A_ROUND else 0
        for ino in slice_:
            known = self._board.residents.get(ino)
            if known is not None and ino not in self._busy:
                await self._review(ino, known)
        await self._expire()

    async def _review(self, ino: InodeNo, known: ResidentFile) -> None:
        try:
            inode = await self._engine.get_inode(ino)
            pin = (await self._engine.effective_pin(ino)).tier
        except StaleInodeError:
            await self._evict(ino)
            return
        changed = inode.generation != known.generation or not inode.nlink
        if changed or (pin is not None and pin != Tier.HOT):
            await self._evict(ino)
        elif (pin == Tier.HOT) != known.pinned:
            self._board.residents[ino] = known._replace(pinned=pin == Tier.HOT)
            await self._server.call(
                "mark", ino=ino, priority=await self._priority(ino), pinned=pin == Tier.HOT
            )

    async def _expire(self) -> None:
        """Let files go that no program has had on a device for longer than their age.

        Raises:
            HotGoneError: The server has ended.
        """
        shortest_s = self._parts.config.policy.hot_to_warm_s
        marked = await self._engine.get_setting(AGE_SETTING)
        if marked is not None:
            shortest_s = min(shortest_s, int(marked) / 1e9)
        if trio.current_time() < self._expired_s + min(AGES_PAUSE_S, shortest_s / 4):
            return
        self._expired_s = trio.current_time()
        answer = await self._server.call("idle", idle_s_min=shortest_s)
        inos = answer.get("inos")
        for number in inos if isinstance(inos, list) else ():
            ino = InodeNo(number)
            known = self._board.residents.get(ino)
            if known is None or known.pinned or ino in self._busy:
                continue
            with contextlib.suppress(StaleInodeError):
                if (await self._engine.effective_pin(ino)).tier == Tier.HOT:
                    # It was pinned just now.
                    continue
                age_s, key = await self._age(ino)
                reply = await self._server.call("expire", ino=ino, idle_s_min=age_s)
                if reply.get("left"):
                    self._board.residents.pop(ino, None)
                    detail = f"no program had it on a device for {format_duration(age_s)} ({key})"
                    decision = Decision(rules.AGE, detail, known.size_bytes, time.time_ns())
                    async with self._engine.change():
                        await self._engine.record_decision(ino, decision)

    async def _age(self, ino: InodeNo) -> tuple[float, str]:
        """Return after how many seconds without use a file leaves, and what says so."""
        mark = await self._engine.effective_xattr(ino, AGES_XATTR)
        age_ns = None if mark is None else parse_ages(mark.decode()).hot_to_warm_ns
        if age_ns is not None:
            return age_ns / 1e9, "user.memfs.policy hot_to_warm"
        return self._parts.config.policy.hot_to_warm_s, "policy.hot_to_warm"

    async def _evict(self, ino: InodeNo) -> None:
        del self._board.residents[ino]
        await self._server.call("evict", ino=ino)
