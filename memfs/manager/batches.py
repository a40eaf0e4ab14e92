"""Batches: one call for many keys, some at a time, with a result for each.

Invariant: each item is done or has an error; one that fails keeps no other one from being done.
"""

from __future__ import annotations

import os
from collections.abc import Sized
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from memfs.errors import MemfsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

ERRORS = Literal["raise", "return"]

THREADS_MAX = 8
"""Items under way at a time: more wait for the same disk, or for the same daemon. Guess."""

_ITEMS_AHEAD = 64
"""Items whose values are in memory at a time, for those that are made as they are taken."""


@contextmanager
def _bar(items: Iterable[object]) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, with the time that is left where the number is known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    total = len(items) if isinstance(items, Sized) else None
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.update(task, completed=count)


class BatchError(MemfsError, ExceptionGroup[Exception]):
    """Some items of a batch failed; `exceptions` has an error for each of them."""


class BatchResult(dict[str, Result], Generic[Result]):
    """Results by key; `errors` has those of the keys that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, Exception] = {}


def run_batch(
    items: Iterable[Item],
    key_of: Callable[[Item], str],
    work: Callable[[Item], Result],
    *,
    errors: ERRORS = "raise",
    progress: Callable[[int], None] | bool | None = None,
) -> BatchResult[Result]:
    """Do something for each item, some at a time.

    Args:
        items: May be a generator: few are taken in advance.
        key_of: Names an item.
        work: Called in threads.
        errors: `raise`: at the end, once, all errors together; `return`: they are in the result.
        progress: Told how many items are done; True: a bar on the terminal.

    Raises:
        BatchError: Some failed; what could be done is done.
    """
    if progress is True:
        with _bar(items) as told:
            return run_batch(items, key_of, work, errors=errors, progress=told)
    told = progress or (lambda _: None)
    result: BatchResult[Result] = BatchResult()
    done_count = 0
    threads = min(THREADS_MAX, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, "memfs-batch") as pool:
        waiting: dict[Future[Result], str] = {}

        def take() -> None:
            nonlocal done_count
            future = next(as_completed(waiting))
            key = waiting.pop(future)
            try:
                result[key] = future.result()
            except Exception as error:
                result.errors[key] = error
            done_count += 1
            told(done_count)

        for item in items:
            if len(waiting) >= _ITEMS_AHEAD:
                take()
            waiting[pool.submit(work, item)] = key_of(item)
        while waiting:
            take()
    if result.errors and errors == "raise":
        raise BatchError(
            f"{len(result.errors)} of {done_count} items failed", list(result.errors.values())
        )
    return result
