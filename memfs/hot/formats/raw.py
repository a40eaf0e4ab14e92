"""Raw files: numbers without a header, whose type and shape somebody has to know.

Invariant: the size of the file is that of the numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memfs.hot.formats.shapes import check_shape
from memfs.hot.tensors import (
    FormatError,
    Tensor,
    TensorIndex,
    contiguous_strides,
    parse_dtype,
)

if TYPE_CHECKING:
    from memfs.hot.formats.source import Source

FORMAT = "raw"
TENSOR_NAME = "array"


def read_raw(source: Source, dtype: str, shape: tuple[int, ...] | None) -> TensorIndex:
    """Return a file as one tensor.

    Args:
        dtype: By torch's name, or that of the safetensors format.
        shape: None: one dimension, as long as the file.

    Raises:
        FormatError: The file is not so large, or there is no such type or shape.
    """
    kind = parse_dtype(dtype)
    if shape is None:
        shape = (source.size_bytes // kind.item_bytes,)
    shape = check_shape(source.name, shape, kind)
    size_bytes = math.prod(shape) * kind.item_bytes
    if size_bytes != source.size_bytes:
        raise FormatError(
            f"{source.name} has {source.size_bytes} bytes; {dtype} of shape {list(shape)[:8]} "
            f"takes {size_bytes}"
        )
    tensor = Tensor(TENSOR_NAME, kind, shape, contiguous_strides(shape), 0, size_bytes)
    return TensorIndex(FORMAT, (tensor,), {})
