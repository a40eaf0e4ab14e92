"""Unit tests of the benchmark's loops, on a plain directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.bench.workloads import WORKLOADS, Rate, Shape, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHAPE = Shape(duration_s=0.001, data_bytes=1 << 20, small_count=8)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A prepared directory; the loops change the working directory, which is put back."""
    before = os.open(".", os.O_RDONLY)
    prepare(tmp_path, SHAPE)
    try:
        yield tmp_path
    finally:
        os.fchdir(before)
        os.close(before)


@pytest.mark.parametrize("name", sorted(set(WORKLOADS) - {"stat_uncached"}))
def test_loop_yields_its_metrics_and_leaves_the_shared_files(name: str, directory: Path) -> None:
    """The next sample must find what this one found."""
    loop, metrics = WORKLOADS[name]
    values = loop(directory, SHAPE)
    assert set(metrics) == set(values)
    assert all(value > 0 for value in values.values())
    assert sorted(os.listdir(directory)) == ["data", "small"]
    assert SHAPE.data_bytes == (directory / "data").stat().st_size
    assert SHAPE.small_count == len(os.listdir(directory / "small"))


def test_rate_counts_only_the_timed_parts() -> None:
    """Set-up between two timed parts must not slow the result."""
    now_s = 0.0
    rate = Rate(3.0, clock=lambda: now_s)

    def work() -> int:
        nonlocal now_s
        now_s += 2.0
        return 10

    while rate.open:
        now_s += 100.0
        rate.time(work)
    assert rate.per_second == 20 / 4.0


def test_batches_grow_until_the_clock_is_read_seldom() -> None:
    """With 8 calls a batch for ever, reading the clock would be part of what is measured."""
    now_s = 0.0
    counts: list[int] = []

    def batch(count: int) -> None:
        nonlocal now_s
        counts.append(count)
        now_s += count * 1e-6

    assert Rate(0.1, clock=lambda: now_s).batches(batch) == pytest.approx(1e6)
    assert counts[:3] == [8, 16, 32]
    assert max(counts) * 1e-6 >= 0.005
