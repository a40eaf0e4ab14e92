"""The .npy format: a header that describes one array, and its bytes.

Invariant: nothing of a header is evaluated or unpickled.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import ast
import math
import struct
from typing import TYPE_CHECKING

from memfs.hot.formats.shapes import check_shape
from memfs.hot.tensors import (
    DType,
    FormatError,
    Tensor,
    TensorIndex,
    contiguous_strides,
)

if TYPE_CHECKING:
    from memfs.hot.formats.source import Source

FORMAT = "npy"
MAGIC = b"\x93NUMPY"
TENSOR_NAME = "array"
"""What the only tensor of a file is called."""

HEADER_BYTES_MAX = 1 << 16
"""numpy itself refuses to parse more than 10,000 characters unless it is told to trust the file."""

_TYPES = {
    "b1": DType.BOOL,
    "u1": DType.U8,
    "i1": DType.I8,
    "u2": DType.U16,
    "i2": DType.I16,
    "u4": DType.U32,
    "i4": DType.I32,
    "u8": DType.U64,
    "i8": DType.I64,
    "f2": DType.F16,
    "f4": DType.F32,
    "f8": DType.F64,
    "c8": DType.C64,
    "c16": DType.C128,
}


def read_npy(source: Source) -> TensorIndex:
    """Return the array of a file.

    Raises:
        FormatError: It is not one, or of a type that no tensor has.
    """
    tensor = read_array(source, 0, source.size_bytes, TENSOR_NAME)
    return TensorIndex(FORMAT, (tensor,), {})


def read_array(source: Source, begin: int, end: int, name: str) -> Tensor:
    """Return the array in a part of a file.

    Args:
        begin: Where the array's magic is.
        end: Behind its last byte.
        name: That of the tensor.

    Raises:
        FormatError: As of `read_npy`.
    """
    place = f"{source.name}: array {name[:200]!r}"
    prefix = source.read(begin, min(12, end - begin))
    if len(prefix) < 12 or not prefix.startswith(MAGIC):
        raise FormatError(f"{place} does not begin as .npy does")
    if prefix[6] == 1:
        (length,), header_begin = struct.unpack_from("<H", prefix, 8), begin + 10
    elif prefix[6] in (2, 3):
        (length,), header_begin = struct.unpack_from("<I", prefix, 8), begin + 12
    else:
        raise FormatError(f"{place} is of version {prefix[6]} of .npy, which is not known")
    offset = header_begin + length
    if length > HEADER_BYTES_MAX or offset > end:
        raise FormatError(f"{place} says that its header has {length} bytes")
    header = _parse(place, source.read(header_begin, length), latin=prefix[6] < 3)
    dtype = _dtype(place, header["descr"])
    if not isinstance(header["shape"], tuple):
        raise FormatError(f"{place}: the shape is no tuple")
    shape = check_shape(f"{place}: the shape is no tuple for a tensor", header["shape"], dtype)
    if math.prod(shape) * dtype.item_bytes != end - offset:
        raise FormatError(
            f"{place} of shape {list(shape)[:8]} takes {math.prod(shape) * dtype.item_bytes} "
            f"bytes and has {end - offset}"
        )
    stride = contiguous_strides(shape)
    if header["fortran_order"]:
        stride = tuple(reversed(contiguous_strides(tuple(reversed(shape)))))
    return Tensor(name, dtype, shape, stride, offset, end - offset)


def _parse(place: str, header: bytes, *, latin: bool) -> dict[str, object]:
    try:
        parsed = ast.literal_eval(header.decode("latin1" if latin else "utf-8").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise FormatError(f"{place}: the header cannot be parsed: {str(error)[:200]}") from None
    if not isinstance(parsed, dict) or set(parsed) != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"{place}: the header is not descr, fortran_order and shape")
    if not isinstance(parsed["fortran_order"], bool):
        raise FormatError(f"{place}: fortran_order is neither true nor false")
    return parsed


def _dtype(place: str, descr: object) -> DType:
    if not isinstance(descr, str):
        raise FormatError(f"{place} has fields; save each as an array of its own")
    order, kind = descr[:1], descr[1:]
    if kind.startswith("O") or descr == "O":
        raise FormatError(f"{place} holds Python objects, which are never unpickled")
    if order == ">":
        raise FormatError(f"{place} is big-endian; save it as array.astype('<{kind}')")
    dtype = _TYPES.get(kind)
    if dtype is None or order not in ("<", "|", "="):
        raise FormatError(f"{place} is of the type {descr[:40]!r}, which no tensor has")
    return dtype
