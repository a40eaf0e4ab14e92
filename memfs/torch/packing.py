"""Packing: which bytes of a file go where in memory of one's own.

Invariant: tensors that share bytes in the file share them in memory; what nobody asked for takes no
memory beyond the gaps of alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.tensors import align

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

    tensors: list[Tensor]
    """In the order asked for, with their offsets in the memory."""
    runs: list[Run]
    """Ascending in the file and in the memory."""
    size_bytes: int
    """Of the memory."""


def pack(tensors: Sequence[Tensor]) -> Packing:
    """Return where tensors of a file go, each at a multiple of `ALIGNMENT_BYTES`.

    Args:
        tensors: Of one file. Those that overlap, as tied weights of a .pt file do, stay as they are
            to each other.
    """
    runs: list[Run] = []
    offsets = {}
    size_bytes = 0
    for tensor in sorted(tensors, key=lambda each: each.offset):
        if not tensor.size_bytes:
            continue
        run = runs[-1] if runs else None
        if run is not None and tensor.offset < run.source + run.size_bytes:
            longer = max(run.size_bytes, tensor.end - run.source)
            run = runs[-1] = run._replace(size_bytes=longer)
        else:
            run = Run(tensor.offset, align(size_bytes), tensor.size_bytes)
            runs.append(run)
        size_bytes = run.target + run.size_bytes
        offsets[tensor.offset] = run.target + tensor.offset - run.source
    placed = [
        tensor._replace(offset=offsets[tensor.offset] if tensor.size_bytes else 0)
        for tensor in tensors
    ]
    return Packing(placed, runs, size_bytes)


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
