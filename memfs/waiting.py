"""Waiting: how a request that has to wait leaves the fast path.

A driver runs requests one after the other in its own task, by `coroutine.send(None)`; nearly all
end without suspending. One that is about to suspend awaits `leave()` first: there the driver gives
the coroutine a task of its own. An engine that talks to a server does so itself, before its I/O.

Invariant: in a task of its own `leave()` does nothing, so that it may be awaited at any time.
"""

from __future__ import annotations

import contextlib
import types
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


class _Leave:
    """The one thing that a request may yield on the fast path."""


LEAVE: Final = _Leave()

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


async def leave() -> None:
    """Go on in a task of one's own: await this before the first suspension. Checkpoint: never."""
    serving = _SERVING.get()
    if serving is not None and serving is trio.lowlevel.current_task():
        await _yield_leave()


@types.coroutine
def _yield_leave() -> Generator[_Leave, None, None]:
    yield LEAVE
