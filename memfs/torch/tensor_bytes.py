"""Tensors as bytes: what a header says of one, and its bytes in pieces that memory has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from memfs.hot.formats.safetensors import NewTensor
from memfs.torch.dtypes import memfs_type

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 64 << 20
"""So much of a tensor on a GPU is in host memory at a time. Guess."""


def described(name: str, tensor: torch.Tensor) -> NewTensor:
    """Return what the header of a file says of a tensor.

    Raises:
        ValueError: It cannot be stored: sparse, quantized, without memory, of another type.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name!r} is no tensor but {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{name!r} is {tensor.layout}: only dense tensors can be stored")
    if tensor.is_meta:
        raise ValueError(f"{name!r} has no memory (meta device)")
    return NewTensor(name, memfs_type(tensor.dtype), tuple(tensor.shape))


def pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, row-major; from its own memory where that has them so."""
    # A conjugated or negated view is a bit of the tensor, which its bytes do not have.
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # A single element counts as contiguous at any stride, and cannot be viewed as bytes then.
    flat = flat.as_strided((flat.numel(),), (1,))
    step = max(1, PIECE_BYTES // max(1, flat.element_size()))
    for begin in range(0, flat.numel(), step):
        yield flat[begin : begin + step].cpu().view(torch.uint8).numpy().data
