"""The retrying decorator: what may pass is tried again, for a bounded time.

Invariant: only errors that say so (`transient`) are tried again, and nothing else in memfs loops on
an error of a store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.backoff import pause_after
from memfs.errors import MemfsError, StoreUnavailableError, StoreUnreachableError
from memfs.stores.health import StoreHealth

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore

T = TypeVar("T")


UNREACHABLE_RETRIES = 1
"""Where nobody listens, and nobody did lately, programs need not wait for the deadline."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often a call is tried."""

    deadline_s: float
    """A small call ends by then, whatever happens; a transfer is not begun again after it."""
    pause_s_min: float = 0.2
    """First pause; doubles each time."""
    pause_s_max: float = 5.0
    """Longest pause."""

    def pause_s(self, attempt: int, rng: random.Random) -> float:
        """Return the pause after a failed attempt (0-based)."""
        return pause_after(attempt + 1, self.pause_s_min, self.pause_s_max, rng)


class RepeatedCalls:
    """Repeats the calls to one store.

    Args:
        url: The store, for messages.
        policy: When to stop.
        rng: For jitter; seeded in tests.
        health: Told how each attempt ended.
    """

    def __init__(
        self, url: str, policy: RetryPolicy, rng: random.Random, health: StoreHealth
    ) -> None:
        self._url = url
        self._policy = policy
        self._rng = rng
        self._health = health

    async def bounded(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call returns, repeated while its failures may pass, by the deadline.

        Args:
            what: The call with its key, for messages.
            call: Idempotent.
        """
        with trio.move_on_after(self._policy.deadline_s):
            return await self.repeat(call)
        error = StoreUnavailableError(
            f"store {self._url}: {what}: no answer within {self._policy.deadline_s:g} s, retries "
            "and waiting included; check the store and the network, or raise glacier.timeout"
        )
        self._health.note(error)
        raise error

    async def repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call returns; it is begun again within the deadline."""
        deadline = trio.current_time() + self._policy.deadline_s
        attempt = 0
        while True:
            try:
                result = await call()
            except MemfsError as error:
                if not await self.wait(error, attempt, deadline):
                    raise
            else:
                self._health.note()
                return result
            attempt += 1

    async def wait(self, error: MemfsError, attempt: int, deadline: float) -> bool:
        """Pause before the next attempt; False if no attempt is left."""
        self._health.note(error)
        if (
            isinstance(error, StoreUnreachableError)
            and attempt >= UNREACHABLE_RETRIES
            and not self._health.was_well_lately
        ):
            return False
        pause_s = self._policy.pause_s(attempt, self._rng) if error.transient else math.inf
        if trio.current_time() + pause_s >= deadline:
            return False
        await trio.sleep(pause_s)
        return True


class RetryingStore:
    """A store that repeats transient failures with growing pauses.

    Args:
        inner: The store; its calls are idempotent, as the contract says.
        policy: When to stop.
        rng: For jitter; seeded in tests.
        health: Told how each attempt ended; None: of its own.
    """

    def __init__(
        self,
        inner: RemoteStore,
        policy: RetryPolicy,
        rng: random.Random,
        health: StoreHealth | None = None,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._health = health or StoreHealth()
        self._calls = RepeatedCalls(inner.url, policy, rng, self._health)

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    @property
    def slots(self) -> PartSlots:
        """The inner store's."""
        return self._inner.slots

    def of(self, address: str) -> RemoteStore:
        """Itself."""
        return self

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store; begun again within the deadline."""
        await self._calls.repeat(lambda: self._inner.put_file(key, source))

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store: bytes that come once are sent once."""
        try:
            await self._inner.put_stream(key, source)
        except MemfsError as error:
            self._health.note(error)
            raise
        self._health.note()

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store; ends by the deadline."""
        return await self._calls.bounded(f"list {prefix}", lambda: self._inner.list_uploads(prefix))

    async def abort_uploads(self, key: str) -> int:
        """As the inner store; ends by the deadline."""
        return await self._calls.bounded(f"abort {key}", lambda: self._inner.abort_uploads(key))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store; ends by the deadline."""
        return await self._calls.bounded(
            f"get {key}", lambda: self._inner.get_range(key, start, end)
        )

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store; begun again within the deadline."""
        await self._calls.repeat(lambda: self._inner.get_file(key, target))

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store; ends by the deadline."""
        return await self._calls.bounded(f"stat {key}", lambda: self._inner.stat(key))

    async def delete(self, key: str) -> None:
        """As the inner store; ends by the deadline."""
        await self._calls.bounded(f"delete {key}", lambda: self._inner.delete(key))

    async def archive(self, key: str) -> None:
        """As the inner store; begun again within the deadline."""
        await self._calls.repeat(lambda: self._inner.archive(key))

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store; begun again only until the first object came.

        Later failures are the caller's: beginning again would yield objects twice.
        """
        deadline = trio.current_time() + self._policy.deadline_s
        attempt = 0
        begun = False
        while True:
            try:
                async for stat in self._inner.list(prefix):
                    begun = True
                    yield stat
                self._health.note()
            except MemfsError as error:
                if begun or not await self._calls.wait(error, attempt, deadline):
                    raise
                attempt += 1
            else:
                return

    async def aclose(self) -> None:
        """Close the inner store."""
        await self._inner.aclose()
