"""Views: the tensors of an index in one run of bytes.

Invariant: a view shares the memory of the base, unless the file misplaces it for its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from memfs.torch.dtypes import TORCH_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.hot.tensors import DType, Tensor


class Views:
    """Makes tensors of a file's or slab's bytes.

    One call of torch a tensor, 3 us: slicing, viewing and striding each by itself took 50 us, as
    long as safetensors' own loader takes for ten.

    Args:
        base: Shape `(n,)`, dtype uint8, at offset 0 of its storage.
    """

    def __init__(self, base: torch.Tensor) -> None:
        self._base = base
        self._address = base.data_ptr() if base.numel() else 0
        self._typed: dict[DType, torch.Tensor] = {}
        self.copied_count = 0
        """Tensors that were copied, being misplaced for their type."""

    def view(self, tensor: Tensor, offset: int | None = None) -> torch.Tensor:
        """Return one tensor.

        Args:
            tensor: That of the file or slab.
            offset: In the base, where it is not at the tensor's own.

        Returns:
            A view of the tensor's shape, strides and type, on the device of the base.
        """
        dtype, item_bytes = tensor.dtype, tensor.dtype.item_bytes
        begin = tensor.offset if offset is None else offset
        if not tensor.size_bytes:
            return torch.empty(tensor.shape, dtype=TORCH_TYPES[dtype], device=self._base.device)
        if begin % item_bytes or (self._address + begin) % item_bytes:
            # A safetensors file aligns to 8 bytes at the most, and other writers to nothing.
            self.copied_count += 1
            part = self._base[begin : begin + tensor.size_bytes].clone().view(TORCH_TYPES[dtype])
            return part.as_strided(tensor.shape, tensor.stride)
        typed = self._typed.get(dtype)
        if typed is None:
            whole = self._base.numel() // item_bytes * item_bytes
            typed = self._typed[dtype] = self._base[:whole].view(TORCH_TYPES[dtype])
        return typed.as_strided(tensor.shape, tensor.stride, begin // item_bytes)


def views_of(base: torch.Tensor, tensors: Iterable[Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by name; see `Views`."""
    views = Views(base)
    return {tensor.name: views.view(tensor) for tensor in tensors}


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
