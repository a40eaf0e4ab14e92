"""All methods, and all work of the background, are decided for each role."""

from __future__ import annotations

import ast
import errno
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import memfs_daemon.assembly
from memfs.control.methods.table import METHODS
from memfs.errors import ReadOnlyNodeError
from memfs_daemon.roles import (
    FRESH,
    METHODS_ON_READERS,
    ON_READERS,
    ReaderRole,
    Role,
    Work,
    readable,
)
from tests.unit.fakes.reader_log import StandInLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.filesystem.recency import Recency
    from memfs.metadata.shared.log import Log
    from memfs.stores.store import RemoteStore


class StandInRecency:
    """Counts how often it was waited for."""

    def __init__(self) -> None:
        self.seen_count = 0

    async def run(self) -> None:
        """Do nothing."""

    async def see(self) -> int:
        """Wait for what was committed."""
        self.seen_count += 1
        return 0

    def refusal(self) -> ReadOnlyNodeError:
        """Say why nothing is changed."""
        return ReadOnlyNodeError("this node reads; the writer is first")


class StandInReaderLog(StandInLog):
    """One that can be run."""

    async def run(self) -> None:
        """Do nothing."""


def make_role() -> tuple[ReaderRole, StandInRecency, Log]:
    log, recency = cast("Log", StandInReaderLog()), StandInRecency()
    return ReaderRole(log, cast("Recency", recency)), recency, log


def test_each_method_is_decided() -> None:
    assert METHODS_ON_READERS.keys() == METHODS.keys()
    assert {name for name in FRESH if METHODS_ON_READERS[name]} == FRESH


def test_each_work_is_decided() -> None:
    tree = ast.parse(Path(memfs_daemon.assembly.__file__).read_text())
    named = {
        cast("ast.Constant", call.args[0]).value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Work"
    }
    assert named == ON_READERS.keys()


async def test_a_reader_answers_what_it_may() -> None:
    role, recency, _ = make_role()

    async def answer(value: int) -> int:
        return value

    methods = role.methods((name, answer) for name in ("query", "status", "clone"))
    assert await methods["status"](value=1) == 1
    assert recency.seen_count == 0
    assert await methods["query"](value=2) == 2
    assert recency.seen_count == 1
    with pytest.raises(ReadOnlyNodeError, match="clone: this node reads; the writer is first"):
        await methods["clone"](value=3)
    with pytest.raises(KeyError):
        role.methods([("new", answer)])


async def test_a_reader_does_what_reading_needs() -> None:
    role, recency, log = make_role()

    async def run() -> None:
        """Do nothing."""

    work = [Work(name, run) for name in ("scrub", "mover", "exports")]
    assert role.background(work) == (log.run, recency.run, run)
    assert Role().background(work) == (run, run, run)
    with pytest.raises(KeyError):
        role.background([Work("new", run)])


class StandInStore:
    """Takes each call; tells of those that change something."""

    url = "s3://bucket"

    def __init__(self) -> None:
        self.changed: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        async def call(*_arguments: object) -> None:
            self.changed.append(name)

        return call


class StandInSource:
    """Bytes of an object."""

    is_closed = False

    def close(self) -> None:
        """Close it."""
        self.is_closed = True


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("put_file", ("key", Path("/nowhere"))),
        ("put_stream", ("key", StandInSource())),
        ("delete", ("key",)),
        ("abort_uploads", ("key",)),
        ("archive", ("key",)),
    ],
)
async def test_a_reader_never_changes_objects(name: str, arguments: tuple[object, ...]) -> None:
    inner = StandInStore()
    store = readable(cast("RemoteStore", inner), make_role()[2])
    with pytest.raises(ReadOnlyNodeError, match="node first changes objects") as caught:
        await getattr(store, name)(*arguments)
    assert (caught.value.errno, inner.changed) == (errno.EROFS, [])
    # Local copies may go for what it has.
    await store.stat("key")
    assert inner.changed == ["stat"]
