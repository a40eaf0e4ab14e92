"""Slabs: the tensors of a file, laid out on a device.

Invariant: every tensor of a slab begins at a multiple of `ALIGNMENT_BYTES`, and what is not a cast
or a change of layout has the bytes of the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.tensors import (
    PRECISIONS,
    FormatError,
    Tensor,
    TensorIndex,
    align,
    contiguous_strides,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.hot.devices.device import Device, SlabMemory
    from memfs.hot.tensors import DType

STAGING_BYTES = 16 << 20
"""Host memory through which a slab is filled. Guess: amortises a call of the driver over 16 MiB."""

CHANNELS_LAST = "channels_last"

_CAST_BYTES = 4 << 20
"""Source bytes of one cast: numpy's temporaries are a few times that."""


class Layout(NamedTuple):
    """How a slab is to be laid out."""

    dtype: str = ""
    """Precision of plain floats: one of `PRECISIONS`; empty: as in the file."""
    layout: str = ""
    """`channels_last`: 4-D tensors with their channels innermost."""
    order: tuple[str, ...] = ()
    """Names of tensors that come first, in that order; the others follow as in the file."""


class Traits(NamedTuple):
    """What of a slab's tensors a layout can change."""

    castable: frozenset[DType]
    """Types of plain floats among them."""
    turnable: bool
    """One could have its channels innermost, and has not."""

    def differ(self, wanted: Layout) -> bool:
        """Return whether a layout is another one than that of the slab."""
        cast = bool(wanted.dtype) and bool(self.castable - {PRECISIONS[wanted.dtype]})
        return cast or (wanted.layout == CHANNELS_LAST and self.turnable)


class Placed(NamedTuple):
    """A tensor in the file, and where it is in the slab."""

    source: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class SlabPlan:
    """Where everything goes."""

    index: TensorIndex
    """That of the slab."""
    placed: tuple[Placed, ...]
    size_bytes: int
    """> 0, also of a file without a byte of tensors."""
    cast_count: int
    """Tensors that change their type."""
    moved_count: int
    """Tensors that change their layout."""
    traits: Traits
    """Those of the slab."""


class BuildReport(NamedTuple):
    """What was done to tensors on their way."""

    cast_count: int
    overflow_count: int
    """Finite values that became infinite."""


def plan_slab(index: TensorIndex, wanted: Layout) -> SlabPlan:
    """Return where each tensor of a file goes in a slab.

    Raises:
        FormatError: The order names a tensor that is not there.
    """
    precision = PRECISIONS[wanted.dtype] if wanted.dtype else None
    placed = []
    offset = cast_count = moved_count = 0
    for tensor in _in_order(index, wanted.order):
        dtype = tensor.dtype
        if precision is not None and dtype.castable and dtype != precision:
            dtype = precision
            cast_count += 1
        stride = tensor.stride
        if _turns(tensor, wanted):
            _, c, h, w = tensor.shape
            stride = (h * w * c, 1, w * c, c)
            moved_count += 1
        size_bytes = tensor.size_bytes // tensor.dtype.item_bytes * dtype.item_bytes
        target = Tensor(tensor.name, dtype, tensor.shape, stride, offset, size_bytes)
        placed.append(Placed(tensor, target))
        offset = align(target.end)
    tensors = tuple(each.target for each in placed)
    slab_index = TensorIndex(index.format, tensors, index.metadata)
    traits = Traits(
        frozenset(tensor.dtype for tensor in tensors if tensor.dtype.castable),
        any(_turnable(tensor) for tensor in tensors),
    )
    return SlabPlan(slab_index, tuple(placed), max(offset, 1), cast_count, moved_count, traits)


def build_slab(
    device: Device, plan: SlabPlan, read: Callable[[int, memoryview], None]
) -> tuple[SlabMemory, BuildReport]:
    """Allocate a slab, fill it and seal it; blocks, for a worker thread.

    Args:
        device: Where.
        plan: That of `plan_slab`.
        read: Fills a buffer with the source's bytes from an offset on.

    Raises:
        DeviceFullError: The device has no room.
        DeviceError: It failed.
        FormatError: The source is shorter than its index says.
        OSError: The source cannot be read.
    """
    memory = device.allocate(plan.size_bytes)
    try:
        staging = _Staging(memory)
        overflow_count = 0
        for source, target in plan.placed:
            if source.stride != target.stride:
                overflow_count += _turn(source, target, read, staging)
            elif source.dtype != target.dtype:
                overflow_count += _cast(source, target, read, staging)
            else:
                _copy(source, target, read, staging)
        staging.flush()
        memory.seal()
    except BaseException:
        memory.release()
        raise
    return memory, BuildReport(plan.cast_count, overflow_count)


def file_reader(fd: int, name: str) -> Callable[[int, memoryview], None]:
    """Return what fills buffers from a file; `name` is for messages."""

    def read(offset: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            count = os.preadv(fd, [target[done:]], offset + done)
            if not count:
                raise FormatError(f"{name} ends at {offset + done}, within its tensors")
            done += count

    return read


class _Staging:
    """A window of host memory that moves over the slab from its start to its end."""

    def __init__(self, memory: SlabMemory) -> None:
        self._memory = memory
        self._buffer = memoryview(bytearray(STAGING_BYTES))
        self._begin = 0
        """Offset in the slab of the window's first byte."""
        self._used = 0

    def room(self, offset: int, size_bytes: int, unit: int = 1) -> memoryview:
        """Return the window's part from a slab offset on: at most `size_bytes`, at least one unit.

        Offsets of calls never go back.
        """
        within = offset - self._begin
        if within + min(size_bytes, STAGING_BYTES // 2) > STAGING_BYTES:
            self.flush()
            self._begin, within = offset, 0
        count = min(size_bytes, STAGING_BYTES - within) // unit * unit
        self._used = max(self._used, within + count)
        return self._buffer[within : within + count]

    def flush(self) -> None:
        """Copy what is in the window to the slab."""
        if self._used:
            self._memory.write(self._begin, self._buffer[: self._used])
        self._begin += self._used
        self._used = 0


def _copy(
    source: Tensor, target: Tensor, read: Callable[[int, memoryview], None], staging: _Staging
) -> None:
    done = 0
    while done < target.size_bytes:
        room = staging.room(target.offset + done, target.size_bytes - done)
        read(source.offset + done, room)
        done += len(room)


def _cast(
    source: Tensor, target: Tensor, read: Callable[[int, memoryview], None], staging: _Staging
) -> int:
    # Here: only variants of another precision need numpy, which takes 0.1 s to import.
    from memfs.hot.casting import cast_into

    overflow_count = done = 0
    item, wanted = source.dtype.item_bytes, target.dtype.item_bytes
    total = source.size_bytes // item
    while done < total:
        most = min(total - done, _CAST_BYTES // item)
        room = staging.room(target.offset + done * wanted, most * wanted, wanted)
        count = len(room) // wanted
        piece = memoryview(bytearray(count * item))
        read(source.offset + done * item, piece)
        overflow_count += cast_into(piece, source.dtype, room, target.dtype)
        done += count
    return overflow_count


def _turn(
    source: Tensor,
    target: Tensor,
    read: Callable[[int, memoryview], None],
    staging: _Staging,
) -> int:
    """Copy a 4-D tensor with its channels innermost; it is in host memory as a whole meanwhile."""
    from memfs.hot.casting import cast_into, channels_last

    content = memoryview(bytearray(source.size_bytes))
    read(source.offset, content)
    overflow_count = 0
    if source.dtype != target.dtype:
        cast = memoryview(bytearray(target.size_bytes))
        overflow_count = cast_into(content, source.dtype, cast, target.dtype)
        content = cast
    turned = memoryview(channels_last(content, target.shape, target.dtype.item_bytes))
    done = 0
    while done < target.size_bytes:
        room = staging.room(target.offset + done, target.size_bytes - done)
        room[:] = turned[done : done + len(room)]
        done += len(room)
    return overflow_count


def _in_order(index: TensorIndex, order: Sequence[str]) -> list[Tensor]:
    if not order:
        return list(index.tensors)
    by_name = {tensor.name: tensor for tensor in index.tensors}
    if unknown := [name for name in order if name not in by_name]:
        raise FormatError(f"there is no tensor {unknown[0]!r} to come first")
    first = dict.fromkeys(order)
    return [by_name[name] for name in first] + [t for t in index.tensors if t.name not in first]


def _turns(tensor: Tensor, wanted: Layout) -> bool:
    return wanted.layout == CHANNELS_LAST and _turnable(tensor)


def _turnable(tensor: Tensor) -> bool:
    """Return whether a tensor can get its channels innermost: 4-D, row-major, not empty."""
    return (
        len(tensor.shape) == 4
        and tensor.size_bytes > 0
        and tensor.stride == contiguous_strides(tensor.shape)
        and tensor.shape[1] > 1
        and tensor.shape[2] * tensor.shape[3] > 1
    )
