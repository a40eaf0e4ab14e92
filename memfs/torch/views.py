"""Views: the tensors of an index in one run of bytes.

Invariant: a view shares the memory of the base, unless the file misplaces it for its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from memfs.torch.dtypes import TORCH_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.hot.tensors import Tensor


def view_of(base: torch.Tensor, tensor: Tensor, offset: int | None = None) -> torch.Tensor:
    """Return one tensor.

    Args:
        base: Shape `(n,)`, dtype uint8: the bytes of the file or slab.
        tensor: Where it is.
        offset: Where it is in `base`; None: where the index says.

    Returns:
        Of the tensor's shape, strides and type, on the device of `base`.
    """
    dtype = TORCH_TYPES[tensor.dtype]
    if not tensor.size_bytes:
        return torch.empty(tensor.shape, dtype=dtype, device=base.device)
    begin = tensor.offset if offset is None else offset
    part = base[begin : begin + tensor.size_bytes]
    if (base.data_ptr() + begin) % tensor.dtype.item_bytes or begin % tensor.dtype.item_bytes:
        # A safetensors file aligns to 8 bytes at the most, and other writers to nothing.
        part = part.clone()
    return part.view(dtype).as_strided(
        tensor.shape, tensor.stride, part.view(dtype).storage_offset()
    )


def views_of(base: torch.Tensor, tensors: Iterable[Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by name; see `view_of`."""
    return {tensor.name: view_of(base, tensor) for tensor in tensors}


def cast(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> tuple[int, int]:
    """Convert plain floats in place of the dictionary's values.

    Args:
        tensors: By name; changed.
        dtype: None: nothing is done.

    Returns:
        Tensors that were converted, and finite values that became infinite.
    """
    cast_count = overflow_count = 0
    if dtype is None:
        return 0, 0
    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, tensor in tensors.items():
        if tensor.dtype in plain and tensor.dtype != dtype:
            converted = tensor.to(dtype)
            cast_count += 1
            if converted.isinf().any():
                overflow_count += int((converted.isinf() & tensor.isfinite()).sum())
            tensors[name] = converted
    return cast_count, overflow_count
