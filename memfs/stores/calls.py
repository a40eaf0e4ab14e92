"""Blocking calls of stores, run in threads under a deadline.

Invariant: nobody waits longer than the deadline, and no thread does by much: once nobody waits for
a call, the wait that its thread is in ends (`ended_by`), whatever a server sends meanwhile. Each
thread keeps its token until it really ends, so a store that hangs costs `thread_count_max` threads.
No two of them write one object at a time.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class TransferStoppedError(StoreError):
    """Raised in a transfer's thread once nobody waits for it any more; seen by no caller."""


_threads = threading.local()


class _Call:
    """A call, for its thread and for those who wait for it.

    Args:
        grace_s: What is left to a wait of the thread when nobody waits for the call any more.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._end: Callable[[float], object] | None = None
        self._is_given_up = False

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Have `ended_by` be about this call, in this thread and for the block."""
        _threads.call = self
        try:
            yield
        finally:
            _threads.call = None

    @contextlib.contextmanager
    def waiting(self, end: Callable[[float], object]) -> Iterator[None]:
        """See `ended_by`."""
        with self._lock:
            if self._is_given_up and not self._grace_s:
                raise TransferStoppedError("the call was given up")
            outer, self._end = self._end, end
            if self._is_given_up:
                # What is to be put in order after a transfer that was given up.
                end(self._grace_s)
        try:
            yield
        finally:
            with self._lock:
                self._end = outer

    def give_up(self) -> None:
        """Have the thread's wait end: nobody waits for the call, or it has ended."""
        with self._lock:
            self._is_given_up = True
            if self._end is not None:
                self._end(self._grace_s)


@contextlib.contextmanager
def ended_by(end: Callable[[float], object]) -> Iterator[None]:
    """Have a wait of this thread, the block, end once nobody waits for the call that it is in.

    Time-outs of sockets do not do that: a server that sends a byte a second meets no such limit.

    Args:
        end: Ends the wait after so many seconds. It returns at once, and is safe for all threads.

    Raises:
        TransferStoppedError: Nobody waits for the call by now.
    """
    call: _Call | None = getattr(_threads, "call", None)
    if call is None:
        yield
        return
    with call.waiting(end):
        yield


class TransferProgress:
    """A transfer's signs of life, given from any thread; each one puts the deadline off.

    Args:
        scope: Cancelled when no sign came for `stall_s` seconds.
        stall_s: Longest silence.
    """

    def __init__(self, scope: trio.CancelScope, stall_s: float) -> None:
        self._scope = scope
        self._stall_s = stall_s
        self._token = trio.lowlevel.current_trio_token()
        self._stopped = threading.Event()
        self._postpone()

    def beat(self, _position: int = 0) -> None:
        """Report progress; raises `TransferStoppedError` once the transfer was given up."""
        if self._stopped.is_set():
            raise TransferStoppedError("the transfer was given up")
        try:
            self._token.run_sync_soon(self._postpone, idempotent=True)
        except trio.RunFinishedError as error:
            raise TransferStoppedError("the daemon has ended") from error

    def stop(self) -> None:
        """Make the next `beat` raise, so that a thread that nobody waits for ends by itself."""
        self._stopped.set()

    def _postpone(self) -> None:
        self._scope.deadline = trio.current_time() + self._stall_s


class _Turns:
    """Lets one thread at a time write or remove an object, those included that nobody waits for.

    A `KeyedLock` is for tasks; here a thread holds the key, which outlives the task that gave up.

    An upload that was given up may still end in the store. A second attempt beside it could have
    its object cut after it was read back, and a removal could come before the object does, which
    then stays for ever.

    Args:
        url: The store, for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, key: str | None, wait_s: float) -> Iterator[None]:
        """Hold a key for the block; None: nothing is written."""
        if key is None:
            yield
            return
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._taken, wait_s):
                raise StoreUnavailableError(
                    f"store {self._url}: an earlier upload of {key} has not ended after "
                    f"{wait_s:g} s; check the store and the network"
                )
            self._taken.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(key)
                self._changed.notify_all()

    def wait_for_threads(self, wait_s: float) -> bool:
        """Wait until no thread writes any more; returns whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._taken, wait_s)


class BlockingCalls:
    """Runs one store's blocking calls.

    Args:
        url: The store, for messages.
        timeout_s: Deadline of a call, waiting for a thread included.
        thread_count_max: Threads at a time, abandoned ones included.
    """

    def __init__(self, url: str, timeout_s: float, thread_count_max: int) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._limiter = trio.CapacityLimiter(thread_count_max)
        self._turns = _Turns(url)

    async def run(
        self,
        what: str,
        function: Callable[[], T],
        timeout_s: float | None = None,
        writes: str | None = None,
    ) -> T:
        """Return what a function returns that makes one request.

        Cancel: at once; the thread is abandoned, and ends. Its result is dropped.

        Args:
            what: The call with its key, for messages: `get packs/1f`.
            function: Touches no object of the event loop.
            timeout_s: Deadline of this call; None: that of all calls.
            writes: Key of the object that it writes or removes; it begins when no thread does so
                any more.

        Raises:
            StoreUnavailableError: No answer by the deadline.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        # What writes may be about to end well.
        begun = _Call(0.0 if writes is None else self._timeout_s)

        def call() -> T:
            with self._turns.of(writes, limit_s), begun.current():
                return function()

        try:
            with trio.move_on_after(limit_s):
                return await trio.to_thread.run_sync(
                    call, abandon_on_cancel=True, limiter=self._limiter
                )
        finally:
            begun.give_up()
        raise self._late(what, limit_s)

    async def transfer(
        self,
        what: str,
        function: Callable[[TransferProgress], T],
        stall_s: float,
        writes: str | None = None,
    ) -> T:
        """Return what a function returns that moves many bytes and reports its progress.

        Cancel: at once; the thread ends at its next `TransferProgress.beat`, or the time-out later.

        Args:
            what: As for `run`.
            function: As for `run`.
            stall_s: Longest silence.
            writes: As for `run`.

        Raises:
            StoreUnavailableError: No progress for `stall_s` seconds.
        """
        with trio.CancelScope() as scope:
            progress = TransferProgress(scope, stall_s)
            begun = _Call(self._timeout_s)

            def call() -> T:
                with self._turns.of(writes, stall_s), begun.current():
                    # Given up while it waited: the store must not see it any more.
                    progress.beat()
                    return function(progress)

            try:
                return await trio.to_thread.run_sync(
                    call, abandon_on_cancel=True, limiter=self._limiter
                )
            finally:
                progress.stop()
                begun.give_up()
        raise self._late(what, stall_s)

    async def wait_for_threads(self, wait_s: float) -> bool:
        """Wait until given-up threads have stopped writing; returns whether they ended."""
        return await trio.to_thread.run_sync(
            self._turns.wait_for_threads,
            wait_s,
            abandon_on_cancel=True,
            limiter=trio.CapacityLimiter(1),
        )

    def _late(self, what: str, waited_s: float) -> StoreUnavailableError:
        waiting = self._limiter.borrowed_tokens
        return StoreUnavailableError(
            f"store {self._url}: {what}: no answer within {waited_s:g} s ({waiting} calls are "
            "under way); check the store and the network, or raise glacier.timeout"
        )
