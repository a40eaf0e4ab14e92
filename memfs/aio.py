"""`MemoryManager` for programs with an event loop, of asyncio or trio.

```python
from memfs.aio import MemoryManager

async with MemoryManager() as memory:
    await memory.store("experiments/7/weights", array)
    async for key in memory.keys("experiments/"):
        print(key)
```

Each method is that of `memfs.MemoryManager`, called in a thread: it checkpoints, and a call that is
cancelled ends first, so that nothing is half done.

Invariant: nothing is done here but to call the synchronous manager.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

try:
    from anyio import AsyncFile, to_thread, wrap_file
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "memfs.aio needs the package anyio: pip install 'memfs-tiers[aio]'", name="anyio"
    ) from None

from memfs.manager import manager as synchronous
from memfs.manager import results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from memfs.manager.entries import Entry
    from memfs.manager.paths import MemPath
    from memfs.manager.snapshots import KeyChange

P = ParamSpec("P")
R = TypeVar("R")
Wrapped_co = TypeVar("Wrapped_co", covariant=True)
Item = TypeVar("Item")

_ITEMS_A_CALL = 256
"""Items that one call in a thread takes of an iterator: a call costs some ten microseconds."""


class _Wrapper(Generic[Wrapped_co]):
    """Has the synchronous object."""

    sync: Wrapped_co


def _in_thread(
    method: Callable[Concatenate[Wrapped_co, P], R],
) -> Callable[Concatenate[_Wrapper[Wrapped_co], P], Coroutine[Any, Any, R]]:
    """Return a method that calls one of the synchronous object in a thread."""

    @functools.wraps(method)
    async def call(self: _Wrapper[Wrapped_co], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await to_thread.run_sync(functools.partial(method, self.sync, *args, **kwargs))

    return call


async def _items(iterator: Iterator[Item]) -> AsyncIterator[Item]:
    """Yield what an iterator yields, which is asked in threads."""

    def take() -> list[Item]:
        return list(itertools.islice(iterator, _ITEMS_A_CALL))

    while items := await to_thread.run_sync(take):
        for item in items:
            yield item


class Results(_Wrapper[results.Results]):
    """Entries that a filter finds; see `memfs.manager.results.Results`."""

    def __init__(self, found: results.Results) -> None:
        self.sync = found

    def __aiter__(self) -> AsyncIterator[Entry]:
        """Yield all entries, fetching them page by page."""
        return _items(iter(self.sync))

    @property
    def cursor(self) -> str | None:
        """Where the next page begins; None once all is fetched."""
        return self.sync.cursor

    count = _in_thread(results.Results.__len__)
    keys = _in_thread(results.Results.keys)
    paths = _in_thread(results.Results.paths)
    rows = _in_thread(results.Results.rows)
    arrow = _in_thread(results.Results.arrow)
    pandas = _in_thread(results.Results.pandas)


class MemoryManager(_Wrapper[synchronous.MemoryManager]):
    """Values by key, for programs with an event loop.

    A context manager: its mount is found or started when the block begins. Without a block, wrap a
    manager that is there by `MemoryManager.of`.

    Args:
        arguments: Those of `memfs.MemoryManager`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        self._make = functools.partial(synchronous.MemoryManager, *arguments, **named)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - never
        """Say what is missing where nothing was entered yet."""
        if name == "sync":
            raise RuntimeError(
                "enter it first: `async with MemoryManager() as memory:`; MemoryManager.of wraps a "
                "manager that is there"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def directory(self) -> Path:
        """That of all keys."""
        return self.sync.directory

    @classmethod
    def of(cls, manager: synchronous.MemoryManager) -> Self:
        """Return the twin of a manager."""
        made = cls()
        made.sync = manager
        return made

    async def __aenter__(self) -> Self:
        """Find or start the mount."""
        self.sync = await to_thread.run_sync(self._make)
        return self

    async def __aexit__(self, *error: object) -> None:
        """As `close`."""
        await self.close()

    store = _in_thread(synchronous.MemoryManager.store)
    retrieve = _in_thread(synchronous.MemoryManager.retrieve)
    exists = _in_thread(synchronous.MemoryManager.exists)
    delete = _in_thread(synchronous.MemoryManager.delete)
    entry = _in_thread(synchronous.MemoryManager.entry)
    get_metadata = _in_thread(synchronous.MemoryManager.get_metadata)
    set_metadata = _in_thread(synchronous.MemoryManager.set_metadata)
    batch_store = _in_thread(synchronous.MemoryManager.batch_store)
    batch_retrieve = _in_thread(synchronous.MemoryManager.batch_retrieve)
    batch_delete = _in_thread(synchronous.MemoryManager.batch_delete)
    move = _in_thread(synchronous.MemoryManager.move)
    why = _in_thread(synchronous.MemoryManager.why)
    prefetch = _in_thread(synchronous.MemoryManager.prefetch)
    compress = _in_thread(synchronous.MemoryManager.compress)
    get_metrics = _in_thread(synchronous.MemoryManager.get_metrics)
    create_snapshot = _in_thread(synchronous.MemoryManager.create_snapshot)
    list_snapshots = _in_thread(synchronous.MemoryManager.list_snapshots)
    restore_snapshot = _in_thread(synchronous.MemoryManager.restore_snapshot)
    delete_snapshot = _in_thread(synchronous.MemoryManager.delete_snapshot)
    delete_snapshots = _in_thread(synchronous.MemoryManager.delete_snapshots)
    remove_leftovers = _in_thread(synchronous.MemoryManager.remove_leftovers)
    close = _in_thread(synchronous.MemoryManager.close)

    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield all keys that begin with a text; see `memfs.MemoryManager.keys`."""
        return _items(self.sync.keys(prefix))

    def __aiter__(self) -> AsyncIterator[str]:
        """As `keys`."""
        return self.keys()

    def diff_snapshots(
        self, before: str, after: str | None = None, *, prefix: str = ""
    ) -> AsyncIterator[KeyChange]:
        """Yield what became of each key; see `memfs.MemoryManager.diff_snapshots`."""
        return _items(self.sync.diff_snapshots(before, after, prefix=prefix))

    _query = _in_thread(synchronous.MemoryManager.query)

    async def query(self, *arguments: Any, **named: Any) -> Results:  # noqa: ANN401 - as there
        """Return what a filter finds; see `memfs.MemoryManager.query`."""
        return Results(await self._query(*arguments, **named))

    async def open(self, key: str, mode: str = "rb") -> AsyncFile[Any]:
        """Open the file of a key; see `memfs.MemoryManager.open`."""
        return wrap_file(await to_thread.run_sync(self.sync.open, key, mode))

    def path(self, key: str) -> MemPath:
        """Return the file of a key; does not block."""
        return self.sync.path(key)
