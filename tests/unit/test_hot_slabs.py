"""Slabs: aligned, equal to the file, and cast as torch casts."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch

from memfs.hot.casting import cast_into
from memfs.hot.slabs import STAGING_BYTES, Layout, build_slab, plan_slab
from memfs.hot.tensors import (
    ALIGNMENT_BYTES,
    DType,
    FormatError,
    Tensor,
    TensorIndex,
    contiguous_strides,
)
from tests.unit.fakes.hot_devices import MemoryDevice, MemorySlab

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH = {
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.F32: torch.float32,
    DType.F64: torch.float64,
}
AS_IN_THE_FILE = Layout()
WANTED = {"float16": DType.F16, "bfloat16": DType.BF16, "float32": DType.F32}


def index_of(*tensors: tuple[str, DType, tuple[int, ...]], begin: int = 3) -> TensorIndex:
    """Tensors one after the other, at offsets that fit no alignment."""
    found, offset = [], begin
    for name, dtype, shape in tensors:
        stride = contiguous_strides(shape)
        size = dtype.item_bytes * int(torch.Size(shape).numel())
        found.append(Tensor(name, dtype, shape, stride, offset, size))
        offset += size
    return TensorIndex("safetensors", tuple(found), {"by": "test"})


def reader(content: bytes) -> Callable[[int, memoryview], None]:
    def read(offset: int, target: memoryview) -> None:
        if offset + len(target) > len(content):
            raise FormatError("the file ends here")
        target[:] = content[offset : offset + len(target)]

    return read


def build(
    index: TensorIndex, content: bytes, layout: Layout = AS_IN_THE_FILE
) -> tuple[MemorySlab, TensorIndex, int]:
    device = MemoryDevice()
    plan = plan_slab(index, layout)
    slab, report = build_slab(device, plan, reader(content))
    assert isinstance(slab, MemorySlab)
    return slab, plan.index, report.overflow_count


def content_of(index: TensorIndex, seed: int = 1) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    size = index.tensors[-1].end
    return bytes(torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).numpy())


def tensor_in(slab: MemorySlab, tensor: Tensor) -> torch.Tensor:
    whole = torch.frombuffer(slab.content, dtype=torch.uint8)
    part = whole[tensor.offset : tensor.end].view(TORCH[tensor.dtype])
    return part.as_strided(tensor.shape, tensor.stride)


def test_every_tensor_is_aligned_and_has_the_bytes_of_the_file() -> None:
    """Small ones gather in one write, and one larger than the window goes through it in pieces."""
    index = index_of(
        ("a", DType.I8, (5,)),
        ("empty", DType.F32, (0, 4)),
        ("scalar", DType.F64, ()),
        ("large", DType.U8, (STAGING_BYTES * 2 + 12_345,)),
        ("b", DType.BF16, (3, 7)),
    )
    content = content_of(index)
    slab, laid, _ = build(index, content)
    assert [t.name for t in laid.tensors] == ["a", "empty", "scalar", "large", "b"]
    for source, target in zip(index.tensors, laid.tensors, strict=True):
        assert target.offset % ALIGNMENT_BYTES == 0
        assert (target.dtype, target.shape) == (source.dtype, source.shape)
        assert slab.content[target.offset : target.end] == content[source.offset : source.end]
    assert slab.sealed
    assert laid.metadata == {"by": "test"}
    assert len(slab.writes) <= 4


def test_many_small_tensors_take_few_writes() -> None:
    """A call of the driver costs microseconds, whatever it copies."""
    index = index_of(*[(str(at), DType.F16, (10, 10)) for at in range(500)])
    content = content_of(index)
    slab, laid, _ = build(index, content)
    assert len(slab.writes) == 1
    last = laid.tensors[-1]
    assert slab.content[last.offset : last.end] == content[-200:]


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("dtype", TORCH)
def test_floats_are_cast_as_torch_casts_them(dtype: DType, wanted: str) -> None:
    """Rounding, ties, subnormals, infinities and NaN included; all bit patterns of 16-bit types."""
    if dtype.item_bytes == 2:
        source = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(TORCH[dtype])
    else:
        generator = torch.Generator().manual_seed(7)
        values = torch.randn(30_000, dtype=TORCH[dtype], generator=generator)
        exponents = torch.randint(-45, 40, (30_000,), generator=generator)
        special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 65504.0, 65520.0, 1e-8]
        ties = [1.00390625, 1.01171875, 1.00048828125, 3.3895313892515355e38]
        listed = torch.tensor([*special, *ties], dtype=TORCH[dtype])
        source = torch.cat([values * 10.0**exponents, listed])
    raw = memoryview(bytes(source.view(torch.uint8).numpy()))
    target = bytearray(len(source) * WANTED[wanted].item_bytes)
    overflow_count = cast_into(raw, dtype, memoryview(target), WANTED[wanted])
    cast = torch.frombuffer(target, dtype=TORCH[WANTED[wanted]])
    expected = source.to(TORCH[WANTED[wanted]])
    assert torch.equal(torch.nan_to_num(cast, nan=1.5), torch.nan_to_num(expected, nan=1.5))
    assert torch.equal(torch.isnan(cast), torch.isnan(expected))
    assert torch.equal(torch.signbit(cast)[~cast.isnan()], torch.signbit(expected)[~cast.isnan()])
    assert overflow_count == int((expected.isinf() & source.isfinite()).sum())


def test_only_plain_floats_are_cast() -> None:
    """Integers, booleans and 8-bit floats stay as they are, and are not counted."""
    index = index_of(
        ("w", DType.F32, (1000,)),
        ("ids", DType.I64, (10,)),
        ("mask", DType.BOOL, (10,)),
        ("q", DType.F8_E4M3, (10,)),
        ("h", DType.BF16, (10,)),
    )
    plan = plan_slab(index, Layout(dtype="bfloat16"))
    assert [t.dtype for t in plan.index.tensors] == [
        DType.BF16,
        DType.I64,
        DType.BOOL,
        DType.F8_E4M3,
        DType.BF16,
    ]
    assert plan.cast_count == 1
    content = content_of(index)
    slab, laid, _ = build(index, content, Layout(dtype="bfloat16"))
    for at in (1, 2, 3, 4):
        source, target = index.tensors[at], laid.tensors[at]
        assert slab.content[target.offset : target.end] == content[source.offset : source.end]


def test_values_that_are_too_large_are_counted() -> None:
    """float16 ends at 65504."""
    index = index_of(("w", DType.F32, (4,)), begin=0)
    content = struct.pack("<4f", 1.0, 70_000.0, -1e10, float("inf"))
    _, _, overflow_count = build(index, content, Layout(dtype="float16"))
    assert overflow_count == 2


def test_convolutions_get_their_channels_innermost() -> None:
    """The values are the same, and torch calls the strides channels_last."""
    index = index_of(("conv", DType.F32, (4, 3, 5, 2)), ("bias", DType.F32, (4,)), begin=0)
    values = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(3))
    content = bytes(values.reshape(-1).view(torch.uint8).numpy()) + bytes(16)
    for dtype in ("", "bfloat16"):
        slab, laid, _ = build(index, content, Layout(dtype, "channels_last"))
        turned = tensor_in(slab, laid.tensors[0])
        assert turned.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(turned, values.to(turned.dtype))


def test_tensors_come_in_the_order_asked_for() -> None:
    """Those that are named first, the others as in the file."""
    index = index_of(*[(name, DType.U8, (3,)) for name in "abcd"])
    content = content_of(index)
    slab, laid, _ = build(index, content, Layout(order=("c", "a")))
    assert [t.name for t in laid.tensors] == ["c", "a", "b", "d"]
    for target in laid.tensors:
        source = next(t for t in index.tensors if t.name == target.name)
        assert slab.content[target.offset : target.end] == content[source.offset : source.end]
    with pytest.raises(FormatError, match="no tensor 'x'"):
        plan_slab(index, Layout(order=("x",)))


def test_a_file_that_is_cut_meanwhile_leaves_no_slab() -> None:
    """What was allocated is released."""
    index = index_of(("a", DType.U8, (100,)))
    device = MemoryDevice()
    with pytest.raises(FormatError, match="ends here"):
        build_slab(device, plan_slab(index, Layout()), reader(bytes(50)))
    assert [slab.released for slab in device.slabs] == [True]
