"""An engine that suspends at each call and commits late, as one that talks to a server does.

Invariant: what it does to the engine behind it is what that could be asked by one caller after the
other: a call, or a whole change, has the engine to itself until it is committed.
"""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, cast

import trio

from memfs.errors import MemfsError
from memfs.waiting import leave

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from memfs.metadata.engine import Engine

PAUSES = (0, 0, 1, 1, 2, 5)
"""Checkpoints at a time, of which one is drawn."""


class SuspendingEngine:
    """Wraps an engine. Outside of trio nothing suspends.

    Args:
        engine: Does the work.
        rng: Draws how long each wait is; None: nothing waits but where a hook does.
        defers: Half of the calls are answered before they are committed; all, without `rng`.
    """

    def __init__(self, engine: Engine, rng: random.Random | None, *, defers: bool = False) -> None:
        self._engine = engine
        self._rng = rng
        self._defers = defers
        self._deferred = False
        """Something was answered that is not committed."""
        self._owner: trio.lowlevel.Task | None = None
        """Who has the engine to itself."""
        self._queue = trio.lowlevel.ParkingLot()
        self.calls: Counter[str] = Counter()
        """How often each method was called."""
        self._before: dict[str, Callable[[], Awaitable[None]]] = {}
        self._after: dict[str, Callable[[], Awaitable[None]]] = {}

    @property
    def as_engine(self) -> Engine:
        """This, as what it stands for."""
        return cast("Engine", self)

    def before(self, method: str, hook: Callable[[], Awaitable[None]]) -> None:
        """Await something before the next call of a method, once.

        Args:
            method: `change`: before it begins; `commit`: before whatever is committed next.
            hook: What is awaited.
        """
        self._before[method] = hook

    def after(self, method: str, hook: Callable[[], Awaitable[None]]) -> None:
        """Await something between the end of the next call of a method and its answer, once."""
        self._after[method] = hook

    def __getattr__(self, name: str) -> object:
        found = getattr(self._engine, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*arguments: object, **options: object) -> object:
            return await self._call(name, lambda: found(*arguments, **options))

        self.__dict__[name] = call
        return call

    async def _call(self, name: str, method: Callable[[], Awaitable[object]]) -> object:
        self.calls[name] += 1
        if not trio.lowlevel.in_trio_task():
            return await method()
        await self._arrive_late(name)
        try:
            answer = await self._alone(method)
        except MemfsError:
            await self._answer_late(name)
            raise
        await self._answer_late(name)
        return answer

    async def _arrive_late(self, name: str) -> None:
        await leave()
        await self._pause()
        if (hook := self._before.pop(name, None)) is not None:
            await hook()

    async def _alone(self, method: Callable[[], Awaitable[object]]) -> object:
        if self._owner is trio.lowlevel.current_task():
            return await method()
        await self._acquire()
        try:
            answer = await method()
            await self._commit_late()
        finally:
            self._release()
        return answer

    async def _answer_late(self, name: str) -> None:
        if (hook := self._after.pop(name, None)) is not None:
            await hook()
        await self._pause()

    async def _commit_late(self) -> None:
        """Others wait for their turn meanwhile; nobody was told of anything yet."""
        if not self._engine.uncommitted:
            return
        if self._defers and (self._rng is None or self._rng.random() < 0.5):
            self._deferred = True
            return
        with trio.CancelScope(shield=True):
            await self._pause()
        await self._commit_alone()

    async def _commit_alone(self) -> None:
        if (hook := self._before.pop("commit", None)) is not None:
            await hook()
        await self._engine.commit()
        self._deferred = False

    async def _pause(self) -> None:
        if self._rng is not None:
            for _ in range(self._rng.choice(PAUSES)):
                await trio.lowlevel.checkpoint()

    async def _acquire(self) -> None:
        while self._owner is not None:
            await self._queue.park()
        self._owner = trio.lowlevel.current_task()

    def _release(self) -> None:
        self._owner = None
        self._queue.unpark()

    def change(self, *, deferred: bool = False) -> _Change:
        """A change is committed at its end, as if it were not deferred."""
        return _Change(self)

    @property
    def uncommitted(self) -> bool:
        """True if a call was answered that is not committed."""
        if self._owner is None:
            return self._engine.uncommitted
        return self._deferred

    async def commit(self) -> None:
        """What others are about to do is left to them."""
        if not trio.lowlevel.in_trio_task():
            await self._engine.commit()
        elif self.uncommitted:
            assert self._owner is not trio.lowlevel.current_task(), "within a change"
            await leave()
            await self._pause()
            await self._acquire()
            try:
                await self._commit_alone()
            finally:
                self._release()
            await self._pause()


class _Change:
    """The calls of a block; no other task calls the engine until it ends."""

    def __init__(self, engine: SuspendingEngine) -> None:
        self._engine = engine
        self._inner = engine._engine.change()
        self._nested = False

    async def __aenter__(self) -> None:
        engine = self._engine
        if trio.lowlevel.in_trio_task():
            self._nested = engine._owner is trio.lowlevel.current_task()
            if not self._nested:
                await engine._arrive_late("change")
                await engine._acquire()
        await self._inner.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        engine = self._engine
        if not trio.lowlevel.in_trio_task() or self._nested:
            await self._inner.__aexit__(kind, error, traceback)
            return
        try:
            if error is None:
                with trio.CancelScope(shield=True):
                    await engine._pause()
                    if (hook := engine._before.pop("commit", None)) is not None:
                        await hook()
            await self._inner.__aexit__(kind, error, traceback)
            engine._deferred = engine._engine.uncommitted
        finally:
            engine._release()
        if error is None:
            await engine._pause()
