"""Waiting: how a request that has to wait leaves the fast path.

A driver runs requests one after the other in its own task, by `coroutine.send(None)`; nearly all
end without suspending. One that is about to suspend awaits `leave()` first: there the driver gives
the coroutine a task of its own. An engine that talks to a server does so itself, before its I/O.

One that waits for a single call of the disk, an fsync, awaits `call_in_thread`: a driver can have a
thread make the call and answer the program by itself, so that nobody waits for the driver's task.

Invariant: in a task of its own `leave()` does nothing, so that it may be awaited at any time.
"""

from __future__ import annotations

import contextlib
import types
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator


T = TypeVar("T")


class _Leave:
    """The one thing that a request may yield on the fast path."""


LEAVE: Final = _Leave()


class Call(NamedTuple):
    """The other thing: a call for a thread to make; the driver sends its result back."""

    work: Callable[[], float]
    answers: bool
    """The request succeeds, without a payload, if the call does: the thread may say so at once."""


_SERVING: ContextVar[trio.lowlevel.Task | None] = ContextVar("serving", default=None)
"""The task that runs requests by `send(None)`. Tasks that are started from there inherit the value,
and differ from it."""


@contextlib.contextmanager
def fast_path() -> Iterator[None]:
    """For the block, this task runs requests by `send(None)`, and they yield `LEAVE` to it."""
    token = _SERVING.set(trio.lowlevel.current_task())
    try:
        yield
    finally:
        _SERVING.reset(token)


def run_at_once(work: Coroutine[object, object, T]) -> T:
    """Return the result of a coroutine that never suspends, as those of the SQLite engine.

    Raises:
        RuntimeError: It has suspended.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a coroutine has suspended that never does")


async def leave() -> None:
    """Go on in a task of one's own: await this before the first suspension. Checkpoint: never."""
    if _is_served():
        await _yield_leave()


async def call_in_thread(
    work: Callable[[], float], limiter: trio.CapacityLimiter, *, answers: bool
) -> float:
    """Have a thread make a call that waits for the disk. Checkpoint: not on the fast path.

    Where `answers`, the program may have the answer before this returns; but no request that came
    after it is served before.

    Args:
        work: The call; touches nothing that the event loop changes.
        limiter: That of the threads, where it is not the driver that provides one.
        answers: If the call succeeds, so does the request, with an empty reply.
    """
    if _is_served():
        return await _yield_call(Call(work, answers))
    return await trio.to_thread.run_sync(work, limiter=limiter)


def is_request() -> bool:
    """Return whether this task serves a request of a driver, or was started by one that does."""
    return _SERVING.get() is not None


def _is_served() -> bool:
    serving = _SERVING.get()
    return serving is not None and serving is trio.lowlevel.current_task()


@types.coroutine
def _yield_leave() -> Generator[_Leave, None, None]:
    yield LEAVE


@types.coroutine
def _yield_call(call: Call) -> Generator[Call, float, float]:
    return (yield call)
