"""Waiting for descriptors, whatever their number."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from typing import TYPE_CHECKING

import pytest

from memfs.linux.readiness import await_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

BEYOND = 1024
"""FD_SETSIZE: what select(2) takes ends here."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose end for reading has a number that select(2) refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * BEYOND)), hard))
    low, writing = os.pipe()
    reading = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, BEYOND)
    os.close(low)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_descriptor_that_select_refuses_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    assert reading >= BEYOND
    assert await_ready([reading], 0) == []
    os.write(writing, b"x")
    assert await_ready([reading]) == [reading]


def test_only_what_is_ready_is_told(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    silent, end = os.pipe()
    try:
        os.write(writing, b"x")
        assert await_ready([silent, reading], 60) == [reading]
    finally:
        os.close(silent)
        os.close(end)


def test_an_end_is_ready() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    try:
        assert await_ready([reading], 60) == [reading]
    finally:
        os.close(reading)


def test_a_short_limit_is_waited_for(pipe: tuple[int, int]) -> None:
    """A caller that asks again until its own deadline is not to spin."""
    begin_s = time.monotonic()
    assert await_ready([pipe[0]], 0.0001) == []
    assert time.monotonic() - begin_s >= 0.0001
