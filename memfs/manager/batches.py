"""Batches: one call for many keys, some at a time, with a result for each.

Invariant: each item is done or has an error; one that fails keeps no other one from being done.
"""

from __future__ import annotations

import os
from collections.abc import Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

from memfs.errors import MemfsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

ERRORS = Literal["raise", "return"]

THREADS_MAX = 8
"""Items under way at a time: more wait for the same disk, or for the same daemon. Guess."""

_ITEMS_AHEAD = 64
"""Items whose values are in memory at a time, for those that are made as they are taken."""

_TOGETHER_AHEAD = 4
"""The same of groups of small items that are done by one call: two under way, and two ready."""


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


class Done(NamedTuple, Generic[Result]):
    """What became of one item."""

    key: str
    result: Result | None
    error: Exception | None = None


class Work(NamedTuple, Generic[Result]):
    """Some items that one thread does."""

    do: Callable[[], Sequence[Done[Result]]]
    """Raises for no item."""
    is_group: bool = False
    """It is one call for many small ones."""


def alone(key: str, do: Callable[[], Result]) -> Work[Result]:
    """Return the work of one item."""
    return Work(lambda: [tried(key, do)])


def tried(key: str, do: Callable[[], Result]) -> Done[Result]:
    """Do one item, and return what became of it."""
    try:
        return Done(key, do())
    except Exception as error:
        return Done(key, None, error)


def run_batch(
    items: Iterable[Item],
    works: Callable[[Iterable[Item]], Iterable[Work[Result]]],
    *,
    errors: ERRORS = "raise",
    progress: Callable[[int], None] | bool | None = None,
) -> BatchResult[Result]:
    """Do something for each item, some at a time.

    Args:
        items: May be a generator: few are taken in advance.
        works: Makes works of them, as they are taken.
        errors: `raise`: at the end, once, all errors together; `return`: they are in the result.
        progress: Told how many items are done; True: a bar on the terminal.

    Raises:
        BatchError: Some failed; what could be done is done.
    """
    if progress is True:
        with _bar(items) as told:
            return run_batch(items, works, errors=errors, progress=told)
    told = progress or (lambda _: None)
    result: BatchResult[Result] = BatchResult()
    done_count = 0
    threads = min(THREADS_MAX, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, "memfs-batch") as pool:
        waiting: dict[Future[Sequence[Done[Result]]], int] = {}

        def take() -> None:
            nonlocal done_count
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                del waiting[future]
                for key, found, error in future.result():
                    if error is None:
                        result[key] = found  # type: ignore[assignment]  # what was done
                    else:
                        result.errors[key] = error
                    done_count += 1
                    told(done_count)

        for work in works(items):
            weight = _ITEMS_AHEAD // _TOGETHER_AHEAD if work.is_group else 1
            while waiting and sum(waiting.values()) + weight > _ITEMS_AHEAD:
                take()
            waiting[pool.submit(work.do)] = weight
        while waiting:
            take()
    if result.errors and errors == "raise":
        raise BatchError(
            f"{len(result.errors)} of {done_count} items failed", list(result.errors.values())
        )
    return result
