"""The aims that a run is held against. They are reported, never asserted: machines differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RatioAim:
    """`place` does `metric` at least `at_least` times as fast as `baseline`, in the same run."""

    metric: str
    place: str
    baseline: str
    at_least: float


@dataclass(frozen=True, slots=True)
class BoundAim:
    """A figure of memfs alone stays at or under a bound."""

    figure: str
    title: str
    at_most: float
    unit: str
    """`s`, `ms` or `MB` (1e6 bytes), the unit of `at_most`."""


RATIO_AIMS: tuple[RatioAim, ...] = (
    RatioAim("random_read", "kernel", "native", 0.9),
    RatioAim("sequential_read", "kernel", "native", 0.9),
    RatioAim("mmap_read", "kernel", "native", 0.9),
    RatioAim("sequential_write", "kernel", "native", 0.9),
    RatioAim("open_read_close", "kernel", "passthroughfs", 6),
    RatioAim("stat_missing", "kernel", "passthroughfs", 5),
    RatioAim("create_write_close", "kernel", "passthroughfs", 3),
    RatioAim("unlink", "kernel", "passthroughfs", 4),
    RatioAim("open_read_close", "kernel", "mergerfs", 1),
    RatioAim("random_read", "kernel", "mergerfs", 1),
)

BOUND_AIMS: tuple[BoundAim, ...] = (
    BoundAim("ready", "`memfs mount` of an empty state returns", 1.0, "s"),
    BoundAim("promotion", "1 GiB in the page cache is promoted to warm", 20.0, "ms"),
    BoundAim("memory", "daemon's memory (VmRSS) with 1 million inodes", 150.0, "MB"),
)
