"""Running requests: at once where nothing suspends, as tasks where something waits.

Invariant: no reply leaves while `Operations.uncommitted`; replies that wait share one commit. A
thread that has made a request's call (`Callers`) answers it in between: such a request has
committed before, and covers all that was answered before it was read.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from memfs.errors import MemfsError
from memfs.linux.processes import is_dying
from memfs.metrics.latency import UNIT_BITS, Latencies
from memfs.waiting import LEAVE, Call, fast_path
from memfs_daemon.kernel.callers import Callers
from memfs_daemon.kernel.channel import ConnectionClosedError
from memfs_daemon.kernel.poller import AdaptivePoller
from memfs_daemon.kernel.protocol import HEADER_BYTES, INTERRUPT_IN, Opcode
from memfs_daemon.kernel.request import Outcome, Request, resume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from memfs.filesystem.operations import Operations
    from memfs_daemon.kernel.channel import Channel
    from memfs_daemon.kernel.handlers.table import HandlerTable

log = logging.getLogger(__name__)

BATCH_COUNT_MAX = 64
"""Requests served under one commit; guess."""
POLLED_COUNT = 2
"""Requests of a batch after which the next one is looked for before it is read: a read that finds
no request takes 5.5 us, most of it for the exception, and a look 1.5 us. Programs that are many
have more requests waiting, and a look for each of those would only add to them."""
HELD_BYTES_MAX = 4 << 20
"""Replies that may wait for a commit; beyond it the commit comes at once. Bounds memory only."""
ERRNO_END = 512
"""The kernel takes no reply with this errno or a greater one (fs/fuse/dev.c, fuse_dev_do_write),
and the program would wait for ever."""
TURN_S = 0.002
"""Time after which trio's other tasks get their turn although requests keep coming. Guess: the way
through the loop then takes 1 % of the time."""

ENDED_S_MAX = 0.1
"""So long after a call of a thread that has answered its request the rest of it is done, where no
request comes before. Guess: it holds a descriptor."""

_INTERRUPT = int(Opcode.INTERRUPT)
_OPCODES = frozenset(int(opcode) for opcode in Opcode)
_now_ns = time.monotonic_ns
_DELIBERATE = MemfsError, OSError
"""A tuple: a union takes three times as long to be made and asked, for each refusal."""


class _Durations(dict[int, list[int]]):
    """The rows of `Latencies` by opcode; an operation gets its row with its first request."""

    def __init__(self, latencies: Latencies) -> None:
        super().__init__()
        self._latencies = latencies

    def __missing__(self, opcode: int) -> list[int]:
        name = Opcode(opcode).name.lower() if opcode in _OPCODES else "other"
        row = self[opcode] = self._latencies.row(name)
        return row


class _Waiting(NamedTuple):
    """A request that waits in a task of its own."""

    scope: trio.CancelScope
    pid: int
    """Thread id of the program that made it."""


class Runner:
    """Serves the requests of one mount.

    Args:
        channel: The mount's descriptor, after INIT.
        operations: What the requests mean.
        table: The handlers, bound to the same operations.
        is_dying: Tells whether the program behind a thread id is being killed.
        latencies: Told how long each answered request took.
    """

    def __init__(
        self,
        channel: Channel,
        operations: Operations,
        table: HandlerTable,
        is_dying: Callable[[int], bool] = is_dying,
        latencies: Latencies | None = None,
    ) -> None:
        self._channel = channel
        self._poller = AdaptivePoller(channel.wait)
        self._is_dying = is_dying
        self._operations = operations
        self._answered, self._silent = table
        self._held: list[tuple[Request, Outcome]] = []
        self._held_bytes = 0
        self._detached: dict[int, _Waiting] = {}
        self._commit_count = 0
        """Commits under way that have to wait."""
        self._bugs_seen: set[tuple[int, str]] = set()
        self._durations = _Durations(latencies or Latencies())
        self._callers = Callers(self._answer_early, self._wake)
        self._pause = trio.CancelScope()
        """It ends the present wait for a request, while threads make calls."""
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Serve until the mount is gone.

        Checkpoint: always. Cancel: requests under way stay unanswered until the descriptor closes.
        """
        wait_readable = trio.lowlevel.wait_readable
        fd = self._channel.fd
        callers = self._callers
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with fast_path():
                        while True:
                            if callers.under_way_count:
                                await self._wait_for_calls(nursery)
                            else:
                                await wait_readable(fd)
                            await self._serve_burst(nursery)
                except ConnectionClosedError:
                    log.debug("the mount is gone")
                    # Nobody waits for what the tasks would answer; they undo or finish by
                    # themselves.
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(callers.close)
            self._end_calls(None)
            await self._flush_in_task()

    async def _wait_for_calls(self, nursery: trio.Nursery) -> None:
        """Wait for a request, or until a call has ended that is more than answered."""
        self._end_calls(nursery)
        self._flush(nursery)
        # What ends from here on cancels it once the loop runs, which is when this is waiting.
        with trio.move_on_after(ENDED_S_MAX) as self._pause:
            await trio.lowlevel.wait_readable(self._channel.fd)

    def _answer_early(self, unique: int) -> None:
        """Answer with success. Called by threads."""
        self._channel.write(unique, 0, b"")

    def _wake(self) -> None:
        """End the loop's wait for a request. Called by threads."""
        assert self._token is not None
        self._token.run_sync_soon(self._end_pause)

    def _end_pause(self) -> None:
        self._pause.cancel()

    def _end_calls(self, nursery: trio.Nursery | None) -> None:
        """Go on with the requests whose calls have ended.

        Args:
            nursery: For what has to wait again; None: the mount is gone.
        """
        for ended in self._callers.take_ended():
            request, coroutine = ended.request, ended.coroutine
            outcome: Outcome
            try:
                if ended.error is None:
                    trap = coroutine.send(ended.result)
                else:
                    trap = coroutine.throw(ended.error)
            except StopIteration as stop:
                outcome = stop.value
            except Exception as error:
                outcome = self._errno_of(request, error)
            else:
                if nursery is None:
                    coroutine.close()
                else:
                    self._detach(nursery, request, coroutine, trap)
                continue
            if ended.answered:
                self._note_duration(request)
            else:
                self._hold(request, outcome)

    async def _serve_burst(self, nursery: trio.Nursery) -> None:
        """Serve requests until they pause for a while. Checkpoint: every `TURN_S`."""
        wait = self._channel.wait
        clock = time.monotonic
        turn_end_s = clock() + TURN_S
        batch_count_max = BATCH_COUNT_MAX
        while True:
            self._serve_waiting(nursery, batch_count_max)
            if self._has_tasks or clock() >= turn_end_s:
                await trio.lowlevel.checkpoint()
                turn_end_s = clock() + TURN_S
            if wait(0):
                batch_count_max = BATCH_COUNT_MAX
                continue
            # A program that is alone has no second request waiting: that need not be looked for.
            batch_count_max = 1
            if not self._poller.find_next(may_sleep=not self._has_tasks):
                return

    def _serve_waiting(self, nursery: trio.Nursery, count_max: int) -> None:
        """Serve the requests that are waiting now, at most so many, under one commit."""
        read, wait = self._channel.read_nowait, self._channel.wait
        operations = self._operations
        answered = self._answered
        is_alone = self._is_alone
        callers = self._callers
        count = 0
        try:
            while count < count_max:
                if 0 < count <= POLLED_COUNT and not wait(0):
                    break
                data = read()
                if data is None:
                    break
                count += 1
                if callers.under_way_count:
                    self._end_calls(nursery)
                request = Request(data, is_alone)
                handler = answered.get(request.opcode)
                if handler is None:
                    self._serve_unanswered(request)
                    continue
                coroutine = handler(request)
                outcome: Outcome
                try:
                    trap = coroutine.send(None)
                except StopIteration as stop:
                    outcome = stop.value
                except Exception as error:
                    outcome = self._errno_of(request, error)
                else:
                    self._detach(nursery, request, coroutine, trap)
                    continue
                if self._held or operations.uncommitted:
                    self._hold(request, outcome)
                    if self._held_bytes > HELD_BYTES_MAX:
                        self._flush(nursery)
                else:
                    self._answer(request, outcome)
        finally:
            # Also when the mount is gone: what was done stays done.
            self._flush(nursery)

    @property
    def _has_tasks(self) -> bool:
        """True if tasks of trio's wait for what makes them go on."""
        return bool(self._detached or self._commit_count)

    def _is_alone(self) -> bool:
        """Return whether no other request is under way, waiting, or held for a commit."""
        return not (
            self._has_tasks or self._callers.under_way_count or self._held or self._channel.wait(0)
        )

    def _serve_unanswered(self, request: Request) -> None:
        if request.opcode == _INTERRUPT:
            # Interrupts come after the request that they name was read. Where it is not waiting, it
            # is answered, or about to be: nothing is left to interrupt.
            (unique,) = INTERRUPT_IN.unpack_from(request.data, HEADER_BYTES)
            waiting = self._detached.get(unique)
            # The kernel sends it for any signal. EINTR of a read, write or fsync, or SIGBUS of a
            # mapping, is nothing that a program with a timer expects of a file (signal(7)).
            if waiting is not None and self._is_dying(waiting.pid):
                waiting.scope.cancel()
            return
        silent = self._silent.get(request.opcode)
        if silent is None:
            log.debug("request %d: opcode %d is not served", request.unique, request.opcode)
            self._hold(request, errno.ENOSYS)
            return
        try:
            silent(request)
        except Exception as error:
            self._errno_of(request, error)

    def _detach(
        self,
        nursery: trio.Nursery,
        request: Request,
        coroutine: Coroutine[Any, Any, Outcome],
        trap: object,
    ) -> None:
        """Let a coroutine that has to wait go on in a task of its own, or after a thread's call."""
        if isinstance(trap, Call):
            self._callers.begin(trap, request, coroutine)
            return
        if trap is LEAVE:
            request.detached = True
            scope = trio.CancelScope()
            self._detached[request.unique] = _Waiting(scope, request.pid)
            nursery.start_soon(self._run_detached, request, coroutine, scope)
            return
        # It waits for trio inside of the loop's own task: nothing can wake it there.
        coroutine.close()
        bug = RuntimeError(f"suspended at {trap!r} without leave()")
        self._hold(request, self._errno_of(request, bug))

    async def _run_detached(
        self, request: Request, coroutine: Coroutine[Any, Any, Outcome], scope: trio.CancelScope
    ) -> None:
        outcome: Outcome = errno.EINTR
        try:
            with scope:
                try:
                    outcome = await resume(coroutine)
                except Exception as error:
                    outcome = self._errno_of(request, error)
        finally:
            del self._detached[request.unique]
        self._hold(request, outcome)
        await self._flush_in_task()

    def _hold(self, request: Request, outcome: Outcome) -> None:
        self._held.append((request, outcome))
        if not isinstance(outcome, int):
            self._held_bytes += len(outcome)

    def _take_held(self) -> list[tuple[Request, Outcome]]:
        held = self._held
        if held:
            self._held, self._held_bytes = [], 0
        return held

    def _flush(self, nursery: trio.Nursery) -> None:
        """Commit what is uncommitted, then send the replies that waited for it.

        A commit that has to wait does so in a task of its own, and the replies with it.
        """
        failure = 0
        if self._operations.uncommitted:
            commit = self._operations.commit()
            try:
                trap = commit.send(None)
            except StopIteration:
                pass
            except Exception as error:
                failure = self._commit_errno(error, len(self._held))
            else:
                if trap is LEAVE:
                    self._commit_count += 1
                    nursery.start_soon(self._end_commit, commit, self._take_held())
                    return
                commit.close()
                bug = RuntimeError(f"a commit suspended at {trap!r} without leave()")
                failure = self._commit_errno(bug, len(self._held))
        if self._held:
            self._answer_all(self._take_held(), failure)

    async def _end_commit(
        self, commit: Coroutine[Any, Any, None], held: list[tuple[Request, Outcome]]
    ) -> None:
        """Wait for a commit that has left the fast path, and send the replies."""
        try:
            await self._wait_and_answer(resume(commit), held)
        finally:
            self._commit_count -= 1

    async def _flush_in_task(self) -> None:
        """Do as `_flush` where the fast path does not run."""
        held = self._take_held()
        if self._operations.uncommitted:
            await self._wait_and_answer(self._operations.commit(), held)
        else:
            self._answer_all(held, 0)

    async def _wait_and_answer(
        self, commit: Awaitable[None], held: list[tuple[Request, Outcome]]
    ) -> None:
        failure = 0
        # What was done stays done, also when the mount is gone.
        with trio.CancelScope(shield=True):
            try:
                await commit
            except Exception as error:
                failure = self._commit_errno(error, len(held))
        self._answer_all(held, failure)

    def _answer_all(self, held: list[tuple[Request, Outcome]], failure: int) -> None:
        for request, outcome in held:
            self._answer(request, failure or outcome)

    def _answer(self, request: Request, outcome: Outcome) -> None:
        if isinstance(outcome, int):
            arrived = self._channel.write(request.unique, outcome, b"") and outcome == 0
        else:
            arrived = self._channel.write(request.unique, 0, outcome)
        self._note_duration(request)
        if not arrived and request.opened is not None:
            # The kernel sends no RELEASE for an open that it never learned of.
            try:
                self._operations.release(*request.opened)
            except Exception as error:
                self._errno_of(request, error)

    def _note_duration(self, request: Request) -> None:
        """Count an answer. The clock and this take 0.27 us of each request (2 vCPU), of 15-50."""
        elapsed_ns = _now_ns() - request.begun_ns
        # As `Latencies.note`, without its look-up by name.
        row = self._durations[request.opcode]
        row[(elapsed_ns >> UNIT_BITS).bit_length()] += 1
        row[-1] += elapsed_ns

    def _commit_errno(self, error: Exception, reply_count: int) -> int:
        deliberate = isinstance(error, MemfsError | OSError)
        number = error.errno if isinstance(error, MemfsError | OSError) else None
        log.error(
            "commit failed, %d replies become errors: %s",
            reply_count,
            error,
            exc_info=None if deliberate else error,
        )
        return number or errno.EIO

    def _errno_of(self, request: Request, error: Exception) -> int:
        """Return what the program sees; log what no program should have to see."""
        if isinstance(error, _DELIBERATE) and 0 < (error.errno or 0) < ERRNO_END:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("inode %d: opcode %d: %s", request.node, request.opcode, error)
            return error.errno or errno.EIO
        bug = request.opcode, type(error).__qualname__
        log.error(
            "inode %d: opcode %d: %r is a bug; answered EIO",
            request.node,
            request.opcode,
            error,
            exc_info=None if bug in self._bugs_seen else error,
        )
        self._bugs_seen.add(bug)
        return errno.EIO
