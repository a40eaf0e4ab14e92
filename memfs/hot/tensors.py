"""Tensors as data: element types, and where each tensor of a file or a slab lies.

Invariant: nothing here knows a device, a file format or torch; a `TensorIndex` that was checked has
every tensor within its bytes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Self

from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

ALIGNMENT_BYTES = 256
"""Bytes of each tensor in a slab: what cudaMalloc promises (CUDA C++ Programming Guide, "Device
Memory Accesses"), enough for every vector load."""

TENSOR_COUNT_MAX = 100_000
"""Limit of one file; guess: the largest mixture-of-experts checkpoints have as many, in many
files."""

HEADER_BYTES_MAX = 25_000_000
"""Limit of one file's header, directory or pickle: 250 bytes a tensor. The safetensors library
takes 100 MB, whose names and shapes would be 4 GB of objects."""

DIMENSIONS_MAX = 64
"""As numpy 2 (`NPY_MAXDIMS`) and the safetensors format allow at the most that any reader takes."""


SHAPE_CHARS_MAX = 2000
"""Limit of a shape as users write it: 64 numbers of 19 digits, with commas and spaces."""


class FormatError(InvalidValueError, ValueError):
    """A file that is not tensors, or whose header lies; the message names the file and the flaw."""


class DType(enum.Enum):
    """Element types, by the names of the safetensors format, with their size in bits."""

    BOOL = ("BOOL", 8)
    U8 = ("U8", 8)
    I8 = ("I8", 8)
    I16 = ("I16", 16)
    U16 = ("U16", 16)
    I32 = ("I32", 32)
    U32 = ("U32", 32)
    I64 = ("I64", 64)
    U64 = ("U64", 64)
    F8_E4M3 = ("F8_E4M3", 8)
    F8_E5M2 = ("F8_E5M2", 8)
    F16 = ("F16", 16)
    BF16 = ("BF16", 16)
    F32 = ("F32", 32)
    F64 = ("F64", 64)
    C64 = ("C64", 64)
    C128 = ("C128", 128)

    def __init__(self, label: str, bits: int) -> None:
        self.label = label
        """The name in the safetensors format."""
        self.item_bytes = bits // 8
        """Bytes of one element."""

    @property
    def castable(self) -> bool:
        """True if a variant may have another precision of it: plain floats of 16 bits and more."""
        return self in _CASTABLE

    @classmethod
    def of_label(cls, label: str) -> Self:
        """Return the type of a name.

        Raises:
            FormatError: No such type.
        """
        try:
            return cls[label]
        except KeyError:
            raise FormatError(f"element type {label[:40]!r} is not known") from None


_CASTABLE = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})

PRECISIONS: Mapping[str, DType] = {
    "float32": DType.F32,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
}
"""What floats can be viewed as, by torch's names."""


_TORCH_NAMES = {
    "bool": DType.BOOL,
    "uint8": DType.U8,
    "int8": DType.I8,
    "int16": DType.I16,
    "uint16": DType.U16,
    "int32": DType.I32,
    "uint32": DType.U32,
    "int64": DType.I64,
    "uint64": DType.U64,
    "float8_e4m3fn": DType.F8_E4M3,
    "float8_e5m2": DType.F8_E5M2,
    "complex64": DType.C64,
    "complex128": DType.C128,
    "float64": DType.F64,
    **PRECISIONS,
}


def parse_dtype(text: str) -> DType:
    """Return an element type as users write it: torch's name, or that of the safetensors format.

    Raises:
        FormatError: No such type.
    """
    known = _TORCH_NAMES.get(text)
    return known if known is not None else DType.of_label(text)


def parse_shape(text: str) -> tuple[int, ...]:
    """Return a shape as users write it: extents separated by commas; empty for a scalar.

    Raises:
        FormatError: It is not one.
    """
    if len(text) > SHAPE_CHARS_MAX:
        raise FormatError(f"a shape of {len(text)} characters; {SHAPE_CHARS_MAX} are allowed")
    extents = [extent.strip() for extent in text.split(",")] if text.strip() else []
    if len(extents) > DIMENSIONS_MAX or not all(
        extent.isascii() and extent.isdigit() and len(extent) <= 18 for extent in extents
    ):
        raise FormatError(f"shape {text[:80]!r} is no list of whole numbers such as 1024,768")
    return tuple(map(int, extents))


class Tensor(NamedTuple):
    """One tensor: its name, shape and place."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    """Elements in each dimension; () for a scalar."""
    stride: tuple[int, ...]
    """Elements between neighbours in each dimension."""
    offset: int
    """That of the first element, in bytes from the start of the file or slab."""
    size_bytes: int
    """From the first element to behind the last one."""

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return self.offset + self.size_bytes


class TensorIndex(NamedTuple):
    """All tensors of a file or a slab."""

    format: str
    """`safetensors`, `npy`, `npz`, `pt` or `raw`."""
    tensors: tuple[Tensor, ...]
    """In the order of the file."""
    metadata: dict[str, str]
    """What the file's header says besides (safetensors' `__metadata__`)."""

    @property
    def size_bytes(self) -> int:
        """The sizes of all tensors, together."""
        return sum(tensor.size_bytes for tensor in self.tensors)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of row-major order, in elements."""
    strides = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def align(offset: int, alignment: int = ALIGNMENT_BYTES) -> int:
    """Return the next multiple of an alignment."""
    return -(-offset // alignment) * alignment


def load_index(value: Mapping[str, object]) -> TensorIndex:
    """Return an index from values of JSON, as `hot.indexes` writes them.

    Raises:
        FormatError: It is no index.
    """
    try:
        rows: list[list[object]] = value["tensors"]  # type: ignore[assignment]  # checked by use
        tensors = tuple(map(load_tensor, rows))
        metadata: dict[str, str] = dict(value["metadata"])  # type: ignore[call-overload]  # ditto
        return TensorIndex(str(value["format"]), tensors, metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"not an index of tensors: {error}") from None


def load_tensor(row: object) -> Tensor:
    """Return one tensor of an index.

    Raises:
        FormatError: It is not one.
    """
    try:
        if not isinstance(row, list):
            raise TypeError("no list")
        name, dtype, shape, stride, offset, size_bytes = row
        kind = DType.of_label(str(dtype))
        return Tensor(str(name), kind, tuple(shape), tuple(stride), int(offset), int(size_bytes))
    except (TypeError, ValueError) as error:
        raise FormatError(f"not an index of tensors: {error}") from None
