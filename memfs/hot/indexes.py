"""Indexes as bytes: one JSON object, with a line for each tensor.

Invariant: what is written here is read by `load_index` of any reader of JSON, and by `decode_index`
line by line: reading the index of 100,000 tensors at once would hold up all threads for 0.2 s.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memfs.hot.tensors import FormatError, TensorIndex, load_index, load_tensor

if TYPE_CHECKING:
    from memfs.hot.tensors import Tensor

_END = b"\n]}"


def encode_index(index: TensorIndex) -> bytes:
    """Return an index as bytes; for a worker thread."""
    head = json.dumps({"format": index.format, "metadata": index.metadata}, separators=(",", ":"))
    rows = ",\n".join(map(_row, index.tensors))
    return f'{head[:-1]},"tensors":[\n{rows}'.encode() + _END


def decode_index(content: bytes) -> TensorIndex:
    """Return what `encode_index` gave; for a worker thread.

    Raises:
        FormatError: It is no index.
    """
    head, _, rows = content.partition(b"\n")
    if not content.endswith(_END) or not head.endswith(b"["):
        raise FormatError("not an index of tensors")
    try:
        outline = load_index(json.loads(head + b"]}"))
        lines = rows.removesuffix(_END[1:]).splitlines()
        tensors = tuple(load_tensor(json.loads(line.removesuffix(b","))) for line in lines if line)
    except ValueError as error:
        raise FormatError(f"not an index of tensors: {str(error)[:100]}") from None
    return TensorIndex(outline.format, tensors, outline.metadata)


def _row(tensor: Tensor) -> str:
    return json.dumps(
        [
            tensor.name,
            tensor.dtype.label,
            tensor.shape,
            tensor.stride,
            tensor.offset,
            tensor.size_bytes,
        ],
        separators=(",", ":"),
    )
