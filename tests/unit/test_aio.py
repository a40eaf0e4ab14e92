"""The asynchronous twin: the same methods, each in a thread, under asyncio and trio alike."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from memfs import aio
from memfs.manager.errors import MissingKeyError, TierUnavailableError
from memfs.manager.manager import MemoryManager
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda action: anyio.run(action, backend=request.param)


def test_it_has_all_methods_of_the_manager_with_their_signatures() -> None:
    for name, method in inspect.getmembers(MemoryManager, inspect.isfunction):
        if name.startswith("_"):
            continue
        twin = getattr(aio.MemoryManager, name)
        if name != "query":
            assert list(inspect.signature(twin).parameters) == list(
                inspect.signature(method).parameters
            ), name


def test_what_was_not_entered_says_so(run: Callable[[Any], None]) -> None:
    async def program() -> None:
        with pytest.raises(RuntimeError, match="enter it first: `async with"):
            await aio.MemoryManager().store("a", 1)
        with pytest.raises(AttributeError, match="no attribute 'stor'"):
            aio.MemoryManager().stor("a", 1)

    run(program)


def test_values_and_batches(tmp_path: Path, run: Callable[[Any], None]) -> None:
    async def program() -> None:
        async with aio.MemoryManager(mount=tmp_path, plain=True) as memory:
            entry = await memory.store("a", np.arange(4), metadata={"n": 1})
            assert entry.path == memory.path("a") == memory.directory / "a"
            assert (await memory.retrieve("a", start=1)).tolist() == [1, 2, 3]
            assert await memory.exists("a")
            assert await memory.get_metadata("a") == {"n": 1}
            await memory.batch_store((f"k/{number}", number) for number in range(600))
            assert len([key async for key in memory.keys("k/")]) == 600
            assert len([key async for key in memory]) == 601
            assert (await memory.batch_retrieve(["k/7"]))["k/7"] == 7
            async with await memory.open("text", "w") as file:
                await file.write("line")
            assert memory.path("text").read_text() == "line"
            await memory.delete("a")
            with pytest.raises(MissingKeyError):
                await memory.retrieve("a")
            with pytest.raises(TierUnavailableError):
                await memory.query({})

    run(program)


def test_calls_run_beside_each_other(tmp_path: Path, run: Callable[[Any], None]) -> None:
    """Two batches, each of which waits for the other one."""
    manager = MemoryManager(mount=tmp_path, plain=True)
    both = threading.Barrier(2)

    def items() -> Iterator[tuple[str, bytes]]:
        both.wait(WAIT_S)
        yield "k", b""

    async def program() -> None:
        memory = aio.MemoryManager.of(manager)

        async def store(values: Iterator[tuple[str, bytes]]) -> None:
            await memory.batch_store(values)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(store, items())

    run(program)


def test_what_is_cancelled_ends_first(tmp_path: Path, run: Callable[[Any], None]) -> None:
    manager = MemoryManager(mount=tmp_path, plain=True)

    async def program() -> None:
        memory = aio.MemoryManager.of(manager)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await memory.store("a", b"1")
        assert "a" not in manager
        with anyio.move_on_after(0.0001):
            await memory.store("b", b"2" * 1000)
        assert manager.retrieve("b", default=b"2" * 1000) == b"2" * 1000

    run(program)
