"""Element types: memfs's names, and torch's.

Invariant: both tables are each other's inverse.
"""

from __future__ import annotations

import torch

from memfs.hot.tensors import PRECISIONS, DType

TORCH_TYPES: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool,
    DType.U8: torch.uint8,
    DType.I8: torch.int8,
    DType.I16: torch.int16,
    DType.U16: torch.uint16,
    DType.I32: torch.int32,
    DType.U32: torch.uint32,
    DType.I64: torch.int64,
    DType.U64: torch.uint64,
    DType.F8_E4M3: torch.float8_e4m3fn,
    DType.F8_E5M2: torch.float8_e5m2,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.F32: torch.float32,
    DType.F64: torch.float64,
    DType.C64: torch.complex64,
    DType.C128: torch.complex128,
}

MEMFS_TYPES: dict[torch.dtype, DType] = {value: key for key, value in TORCH_TYPES.items()}

_PRECISION_NAMES = {TORCH_TYPES[dtype]: name for name, dtype in PRECISIONS.items()}


def precision_of(dtype: torch.dtype | str | None) -> str | None:
    """Return a precision by its name, as the hot tier takes it; None: as in the file.

    Args:
        dtype: `torch.float32`, `torch.float16`, `torch.bfloat16`, or one of their names.

    Raises:
        ValueError: It is not one of them.
    """
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else _PRECISION_NAMES.get(dtype)
    if name not in PRECISIONS:
        raise ValueError(f"dtype {dtype} is not one of {', '.join(PRECISIONS)}")
    return name


def memfs_type(dtype: torch.dtype) -> DType:
    """Return the type of the safetensors format for a torch type.

    Raises:
        ValueError: The format has no shape.
    """
    found = MEMFS_TYPES.get(dtype)
    # C128 is memfs's own, for numpy's files: no other reader opens a safetensors file that has it.
    if found is None or found is DType.C128:
        raise ValueError(f"{dtype} cannot be stored; convert the tensor first")
    return found
