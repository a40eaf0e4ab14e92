"""A store that fails on purpose, for tests: a decorator that injects faults.

Invariant: the same script or the same seed gives the same faults at the same calls; each fault is
one that a real store has shown, and stays within the store contract unless its text says otherwise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from memfs.errors import (
    NoSpaceError,
    ObjectArchivedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore


class FaultKind(enum.StrEnum):
    """What goes wrong."""

    UNAVAILABLE = "unavailable"
    """Refused for now, before anything happened."""
    REFUSED = "refused"
    """Refused for good, as with wrong credentials."""
    MISSING = "missing"
    """The object is said not to exist. Breaks the contract: stands for an object that was lost."""
    DELAY = "delay"
    """Answers late, but does."""
    HANG = "hang"
    """Never answers: `StoreUnavailableError` after the deadline, as the contract demands."""
    TORN = "torn"
    """put_file: half of the object arrives, then the connection breaks."""
    CUT = "cut"
    """put_file: half of the object arrives and success is reported. Breaks the contract."""
    LOST_ANSWER = "lost_answer"
    """The call is done, but its answer is lost."""
    BIT_FLIP = "bit_flip"
    """get_range, get_file: one bit of the bytes differs. Breaks the contract."""
    FULL = "full"
    """put_file, put_stream: the store has no room left, as a directory on a full disk."""
    STALE_LIST = "stale_list"
    """list: as it was before the last changes through this decorator: new objects are missing, and
    removed ones are there. Breaks the contract."""
    ARCHIVED = "archived"
    """get_range, get_file: the object has to be restored first."""


STALE_COUNT_MAX = 64
"""Changes that a stale list does not know of."""

FLIP_STRIDE = 7919
"""Bits from one flip to the next; a prime, so that no bit comes again soon."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a script."""

    kind: FaultKind
    operation: str = ""
    """Method that it hits, as `put_file`; empty: any."""
    key_prefix: str = ""
    """What the keys that it hits begin with."""
    skip_count: int = 0
    """Calls that match and are let through first."""
    count: int | None = 1
    """Calls that are hit; None: all from then on."""


class FaultScript:
    """Decides which call fails how, from a list of faults or from a seed.

    Args:
        faults: The first that matches a call and is not used up hits it.
        rng: With `rates`: for faults at random; None: no such faults.
        rates: Probability of each kind at each call; sums to at most 1.
    """

    def __init__(
        self,
        faults: Sequence[Fault] = (),
        rng: random.Random | None = None,
        rates: Mapping[FaultKind, float] | None = None,
    ) -> None:
        self._faults = list(faults)
        self._seen_counts = [0] * len(self._faults)
        self._rng = rng
        self._rates = dict(rates or {})
        self.hit_counts: dict[FaultKind, int] = dict.fromkeys(FaultKind, 0)
        """How often each kind was injected: a test that never reached its fault can tell."""

    def add(self, fault: Fault) -> None:
        """Append a fault, to be counted from now on."""
        self._faults.append(fault)
        self._seen_counts.append(0)

    def clear(self) -> None:
        """Drop all faults, those at random included."""
        self._faults.clear()
        self._seen_counts.clear()
        self._rates.clear()

    def next_fault(self, operation: str, key: str) -> FaultKind | None:
        """Return what happens to a call, and count it."""
        kind = self._scripted(operation, key) or self._random()
        if kind is None or not _applies(kind, operation):
            return None
        self.hit_counts[kind] += 1
        return kind

    def _scripted(self, operation: str, key: str) -> FaultKind | None:
        for index, fault in enumerate(self._faults):
            if fault.operation not in ("", operation) or not key.startswith(fault.key_prefix):
                continue
            if not _applies(fault.kind, operation):
                continue
            number = self._seen_counts[index] - fault.skip_count
            if fault.count is not None and number >= fault.count:
                continue
            self._seen_counts[index] += 1
            if number >= 0:
                return fault.kind
        return None

    def _random(self) -> FaultKind | None:
        if self._rng is None or not self._rates:
            return None
        point = self._rng.random()
        for kind, rate in self._rates.items():
            point -= rate
            if point < 0:
                return kind
        return None


def _applies(kind: FaultKind, operation: str) -> bool:
    if kind in (FaultKind.TORN, FaultKind.CUT):
        return operation == "put_file"
    if kind is FaultKind.FULL:
        return operation in ("put_file", "put_stream")
    if kind is FaultKind.STALE_LIST:
        return operation == "list"
    if kind in (FaultKind.BIT_FLIP, FaultKind.ARCHIVED):
        return operation in ("get_range", "get_file")
    return kind is not FaultKind.LOST_ANSWER or operation != "list"


class FaultyStore:
    """A store whose calls fail as a script says.

    Args:
        inner: The store.
        script: Decides.
        delay_s: How long a `DELAY` takes.
        deadline_s: After which a `HANG` is given up.
    """

    def __init__(
        self,
        inner: RemoteStore,
        script: FaultScript,
        delay_s: float = 1.0,
        deadline_s: float = 30.0,
    ) -> None:
        self._inner = inner
        self.script = script
        self._delay_s = delay_s
        self._deadline_s = deadline_s
        self.before: Callable[[str, str], Awaitable[object]] | None = None
        """Awaited before each call, with its name and key."""
        self._flip_count = 0
        self._changes: dict[str, ObjectStat | None] = {}
        """By key what there was before one of the last changes; None: no object."""

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
        """As the inner store, unless a fault hits."""
        fault = await self._begin("put_file", key)
        await self._note_change(key)
        if fault in (FaultKind.TORN, FaultKind.CUT):
            await self._put_half(key, source)
        else:
            await self._inner.put_file(key, source)
        if fault in (FaultKind.TORN, FaultKind.LOST_ANSWER):
            raise StoreUnavailableError(f"store {self.url}: put {key}: injected: {fault}")

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("put_stream", key)
        await self._note_change(key)
        await self._inner.put_stream(key, source)
        self._end(fault, f"put {key}")

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store, unless a fault hits."""
        await self._begin("list_uploads", prefix)
        return await self._inner.list_uploads(prefix)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("abort_uploads", key)
        count = await self._inner.abort_uploads(key)
        self._end(fault, f"abort {key}")
        return count

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("get_range", key)
        data = await self._inner.get_range(key, start, end)
        self._end(fault, f"get {key}")
        return self._flip_bit(data) if fault is FaultKind.BIT_FLIP else data

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("get_file", key)
        await self._inner.get_file(key, target)
        if fault is FaultKind.BIT_FLIP:
            flipped = self._flip_bit(await trio.to_thread.run_sync(target.read_bytes))
            await trio.to_thread.run_sync(target.write_bytes, flipped)
        if fault is FaultKind.LOST_ANSWER:
            # A failed get_file leaves no target.
            await trio.to_thread.run_sync(target.unlink)
        self._end(fault, f"get {key}")

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("stat", key)
        stat = await self._inner.stat(key)
        self._end(fault, f"stat {key}")
        return stat

    async def delete(self, key: str) -> None:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("delete", key)
        await self._note_change(key)
        await self._inner.delete(key)
        self._end(fault, f"delete {key}")

    async def archive(self, key: str) -> None:
        """As the inner store, unless a fault hits."""
        fault = await self._begin("archive", key)
        await self._inner.archive(key)
        self._end(fault, f"archive {key}")

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store, unless a fault hits before the first object."""
        fault = await self._begin("list", prefix)
        before = dict(self._changes) if fault is FaultKind.STALE_LIST else {}
        async for stat in self._inner.list(prefix):
            if stat.key not in before:
                yield stat
        for old in before.values():
            if old is not None and old.key.startswith(prefix):
                yield old

    async def aclose(self) -> None:
        """Close the inner store; never fails."""
        await self._inner.aclose()

    async def _begin(self, operation: str, key: str) -> FaultKind | None:
        """Let the faults happen that come before the call; returns what is still to happen."""
        if self.before is not None:
            await self.before(operation, key)
        fault = self.script.next_fault(operation, key)
        what = f"store {self.url}: {operation} {key}: injected: {fault}"
        match fault:
            case FaultKind.UNAVAILABLE:
                raise StoreUnavailableError(what)
            case FaultKind.REFUSED:
                raise StoreError(what)
            case FaultKind.MISSING:
                raise ObjectMissingError(what)
            case FaultKind.FULL:
                raise NoSpaceError(what)
            case FaultKind.ARCHIVED:
                raise ObjectArchivedError(what, self._delay_s)
            case FaultKind.DELAY:
                await trio.sleep(self._delay_s)
            case FaultKind.HANG:
                await trio.sleep(self._deadline_s)
                raise StoreUnavailableError(what)
            case _:
                pass
        return fault

    async def _note_change(self, key: str) -> None:
        try:
            before = await self._inner.stat(key)
        except (ObjectMissingError, StoreUnavailableError):
            before = None
        self._changes.pop(key, None)
        self._changes[key] = before
        if len(self._changes) > STALE_COUNT_MAX:
            del self._changes[next(iter(self._changes))]

    def _end(self, fault: FaultKind | None, what: str) -> None:
        if fault is FaultKind.LOST_ANSWER:
            raise StoreUnavailableError(f"store {self.url}: {what}: injected: {fault}")

    def _flip_bit(self, data: bytes) -> bytes:
        """Return the data with one bit changed: each time another one, so that no two cancel."""
        if not data:
            return data
        self._flip_count += 1
        byte, bit = divmod(len(data) * 4 + self._flip_count * FLIP_STRIDE, 8)
        byte %= len(data)
        return data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :]

    async def _put_half(self, key: str, source: Path) -> None:
        half = source.with_name(f"{source.name}.half")
        try:
            await trio.to_thread.run_sync(_copy_half, source, half)
            await self._inner.put_file(key, half)
        finally:
            half.unlink(missing_ok=True)


def _copy_half(source: Path, target: Path) -> None:
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])
