"""Packing: which bytes of a file go where in memory of one's own.

Invariant: tensors that share bytes in the file share them in memory; what nobody asked for takes no
memory beyond the gaps of alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.tensors import ALIGNMENT_BYTES, align

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memfs.hot.tensors import Tensor


class Run(NamedTuple):
    """Bytes that go from the file to memory in one piece."""

    source: int
    """Offset in the file."""
    target: int
    """Offset in the memory."""
    size_bytes: int


class Window(NamedTuple):
    """A part of the memory that is filled at a time."""

    begin: int
    """Offset in the memory."""
    size_bytes: int
    runs: tuple[Run, ...]
    """Their targets count from the window's beginning; ascending."""


class Packing(NamedTuple):
    """Where everything goes."""

    offsets: list[int]
    """In the memory, of each tensor in the order asked for."""
    runs: list[Run]
    """Ascending in the file and in the memory."""
    size_bytes: int
    """Bytes of the memory."""


def pack(tensors: Sequence[Tensor]) -> Packing:
    """Return where tensors of a file go, each at a multiple of `ALIGNMENT_BYTES`.

    Args:
        tensors: Those of one file. Those that overlap, as tied weights of a .pt file do, stay as
            they are to each other.
    """
    runs: list[Run] = []
    offsets = [0] * len(tensors)
    # About the run that may go on: its beginnings, and its end in the file.
    source = target = end = 0
    for at in sorted(range(len(tensors)), key=lambda at: tensors[at].offset):
        begin, size_bytes = tensors[at].offset, tensors[at].size_bytes
        if not size_bytes:
            continue
        within = begin - source
        # Neighbours that are aligned as they lie are read in one piece: nearly all of a model.
        if begin > end or (begin == end and (target + within) % ALIGNMENT_BYTES) or not end:
            if end:
                runs.append(Run(source, target, end - source))
                target = align(target + end - source)
            source, end, within = begin, begin, 0
        offsets[at] = target + within
        end = max(end, begin + size_bytes)
    if end:
        runs.append(Run(source, target, end - source))
    return Packing(offsets, runs, target + end - source)


def windows(runs: Iterable[Run], size_bytes: int) -> Iterator[Window]:
    """Yield the memory of runs in parts of at most `size_bytes`, in order."""
    begin = end = 0
    parts: list[Run] = []
    for run in runs:
        done = 0
        while done < run.size_bytes:
            at = run.target + done
            if parts and at >= begin + size_bytes:
                yield Window(begin, end - begin, tuple(parts))
                parts = []
            if not parts:
                begin = at
            count = min(run.size_bytes - done, begin + size_bytes - at)
            parts.append(Run(run.source + done, at - begin, count))
            done += count
            end = at + count
    if parts:
        yield Window(begin, end - begin, tuple(parts))
