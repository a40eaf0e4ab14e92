"""Blocking calls of stores, run in threads under a deadline.

Invariant: nobody waits longer than the deadline, and threads that outlive it are bounded: each
keeps its token until it really ends, so a store that hangs costs `thread_count_max` threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TransferStoppedError(StoreError):
    """Raised in a transfer's thread once nobody waits for it any more; seen by no caller."""


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

    async def run(self, what: str, function: Callable[[], T], timeout_s: float | None = None) -> T:
        """Return what a function returns that makes one request.

        Cancel: at once; the thread is abandoned and its result dropped.

        Args:
            what: The call with its key, for messages: `get packs/1f`.
            function: Touches no object of the event loop.
            timeout_s: Deadline of this call; None: that of all calls.

        Raises:
            StoreUnavailableError: No answer by the deadline.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with trio.move_on_after(limit_s):
            return await trio.to_thread.run_sync(
                function, abandon_on_cancel=True, limiter=self._limiter
            )
        raise self._late(what, limit_s)

    async def transfer(
        self, what: str, function: Callable[[TransferProgress], T], stall_s: float
    ) -> T:
        """Return what a function returns that moves many bytes and reports its progress.

        Cancel: at once; the thread ends at its next `TransferProgress.beat`.

        Raises:
            StoreUnavailableError: No progress for `stall_s` seconds.
        """
        with trio.CancelScope() as scope:
            progress = TransferProgress(scope, stall_s)
            try:
                return await trio.to_thread.run_sync(
                    function, progress, abandon_on_cancel=True, limiter=self._limiter
                )
            finally:
                progress.stop()
        raise self._late(what, stall_s)

    def _late(self, what: str, waited_s: float) -> StoreUnavailableError:
        waiting = self._limiter.borrowed_tokens
        return StoreUnavailableError(
            f"store {self._url}: {what}: no answer within {waited_s:g} s ({waiting} calls are "
            "under way); check the store and the network, or raise glacier.timeout_s"
        )
