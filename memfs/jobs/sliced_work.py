"""Sliced work: long work of a command, done for some seconds a call.

The client names its work, and asks for it again and again until it has ended. What is under way
between two calls is kept here, but for work that nobody asks for any more.

Invariant: work that a client has left ends within `IDLE_S_MAX` of the next call of anybody, and
there is a bound on how much is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from memfs.errors import InvalidValueError, NotSupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SLICE_S = 1.0
"""No step is begun in a call after so long, so that its caller can show how far it is."""

IDLE_S_MAX = 60.0
WORK_COUNT_MAX = 16
"""Guess: people and scripts, not load."""


Tally = TypeVar("Tally")
"""What some work counts while it is done, or whatever else is told of it."""


@dataclass(slots=True)
class _Work(Generic[Tally]):
    tally: Tally
    steps: AsyncGenerator[None, None]
    used_s: float = field(default_factory=time.monotonic)
    scope: trio.CancelScope | None = None
    """That of the call under way."""


class SlicedWork(Generic[Tally]):
    """The work of one kind of command, with a tally each.

    Args:
        slice_s: How long the steps of one call take.
    """

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._works: dict[str, _Work[Tally]] = {}

    async def go_on(
        self, name: str, begin: Callable[[], tuple[Tally, AsyncGenerator[None, None]]]
    ) -> tuple[Tally, bool]:
        """Do a slice of some work.

        Checkpoint: always. Cancel: safe.

        Args:
            name: As the client chose it, unique.
            begin: Makes the tally and the steps, if the work is new.

        Returns:
            The tally of all slices, and whether the work has ended.

        Raises:
            InvalidValueError: Another call does a slice of it.
            NotSupportedError: There is too much else to do, or it was cancelled.
            Exception: What a step raised; the work has ended then.
        """
        await self._drop_idle()
        work = self._works.get(name)
        if work is None:
            if len(self._works) >= WORK_COUNT_MAX:
                raise NotSupportedError("too many commands work on trees already: try again later")
            work = self._works[name] = _Work(*begin())
        if work.scope is not None:
            raise InvalidValueError(f"the work {name!r} is under way")
        ended = True
        try:
            with trio.CancelScope() as work.scope:
                ended = await _take_steps(work.steps, self._slice_s)
                return work.tally, ended
            raise NotSupportedError("it was cancelled; run it again to go on")
        finally:
            work.scope, work.used_s = None, time.monotonic()
            if ended:
                self._works.pop(name, None)

    async def cancel(self, name: str) -> None:
        """End some work before its next step, or amid a long one; nothing, if it has ended."""
        work = self._works.get(name)
        if work is not None:
            if work.scope is not None:
                work.scope.cancel()
            else:
                del self._works[name]
                await work.steps.aclose()
        await trio.lowlevel.checkpoint()

    async def _drop_idle(self) -> None:
        now_s = time.monotonic()
        for name, work in list(self._works.items()):
            if work.scope is None and now_s - work.used_s > IDLE_S_MAX:
                del self._works[name]
                await work.steps.aclose()


async def _take_steps(steps: AsyncGenerator[None, None], slice_s: float) -> bool:
    """Take steps for so long, at least one; True if that was all."""
    end_s = time.monotonic() + slice_s
    while True:
        # Requests of programs come first.
        await trio.lowlevel.checkpoint()
        try:
            await anext(steps)
        except StopAsyncIteration:
            return True
        if time.monotonic() > end_s:
            return False
