"""Access traces as machine learning makes them, from a seed: for tests and for the benchmark.

Invariant: the same arguments give the same trace on every machine.
"""

from __future__ import annotations

import random
from itertools import accumulate
from typing import TYPE_CHECKING

from memfs.traces.trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAMPLE_BYTES = 110 << 10
"""Median size of training samples: about that of an ImageNet photograph."""
SAMPLE_SPREAD = 0.4
"""Deviation of the logarithms of their sizes."""
MODEL_BYTES = 2 << 30
MODEL_SPREAD = 1.2

EPOCH_SHARE = 0.70
"""The part of the mixed trace's accesses."""
POPULAR_SHARE = 0.25
"""The same; the rest goes to files that are read once."""
DRIFT_INTERVAL = 25
"""Accesses of the zoo after which a model becomes more popular than it was."""


class _Writer:
    """A trace in the making: files with their sizes, then accesses to them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.trace = Trace()
        self._sizes: list[int] = []

    def add_file(self, stem: str, median_bytes: int, spread: float) -> int:
        """Make a file of a random size and return its key."""
        key = len(self._sizes)
        self.trace.names.append(f"{stem}/{stem}-{key:06d}.bin")
        self._sizes.append(int(median_bytes * self.rng.lognormvariate(0, spread)))
        return key

    def add_samples(self, stem: str, count: int) -> list[int]:
        """Make files of training data and return their keys."""
        return [self.add_file(stem, SAMPLE_BYTES, SAMPLE_SPREAD) for _ in range(count)]

    def access(self, key: int) -> None:
        """Add a row."""
        self.trace.add(Event.ACCESS, key, self._sizes[key])

    def shuffled(self, keys: list[int], epoch_count: int) -> Iterator[int]:
        """Yield all keys in another order in each epoch."""
        for _ in range(epoch_count):
            self.rng.shuffle(keys)
            yield from keys

    def zipf(self, count: int, exponent: float) -> Callable[[], int]:
        """Return what draws ranks from 0, the lower the more often."""
        weights = list(accumulate((rank + 1) ** -exponent for rank in range(count)))
        ranks = range(count)
        return lambda: self.rng.choices(ranks, cum_weights=weights)[0]


def sequential_epochs(file_count: int, epoch_count: int, seed: int = 1) -> Trace:
    """All files in one order, again and again."""
    writer = _Writer(seed)
    keys = writer.add_samples("sample", file_count)
    for _ in range(epoch_count):
        for key in keys:
            writer.access(key)
    return writer.trace


def shuffled_epochs(file_count: int, epoch_count: int, seed: int = 1) -> Trace:
    """All files, in another order in each epoch."""
    writer = _Writer(seed)
    keys = writer.add_samples("sample", file_count)
    for key in writer.shuffled(keys, epoch_count):
        writer.access(key)
    return writer.trace


def mixed(file_count: int, epoch_count: int, seed: int = 1) -> Trace:
    """Shuffled epochs; among them files of Zipf's popularity, and some that are read once."""
    writer = _Writer(seed)
    keys = writer.add_samples("sample", file_count)
    popular = writer.add_samples("popular", file_count // 2)
    draw_popular = writer.zipf(len(popular), 1.0)
    for key in writer.shuffled(keys, epoch_count):
        writer.access(key)
        while (draw := writer.rng.random()) >= EPOCH_SHARE:
            if draw < EPOCH_SHARE + POPULAR_SHARE:
                writer.access(popular[draw_popular()])
            else:
                writer.access(writer.add_file("once", SAMPLE_BYTES, SAMPLE_SPREAD))
    return writer.trace


def model_zoo(model_count: int, access_count: int, seed: int = 1) -> Trace:
    """Models of very different sizes, whose popularity follows Zipf's law and drifts."""
    writer = _Writer(seed)
    order = [writer.add_file("model", MODEL_BYTES, MODEL_SPREAD) for _ in range(model_count)]
    draw_rank = writer.zipf(model_count, 0.9)
    for number in range(access_count):
        if number % DRIFT_INTERVAL == 0:
            order.insert(draw_rank(), order.pop(writer.rng.randrange(model_count)))
        writer.access(order[draw_rank()])
    return writer.trace
