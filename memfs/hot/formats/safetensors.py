"""The safetensors format: a length, a header of JSON, and the bytes of the tensors.

Invariant: an index that is returned covers the whole file behind its header, without holes or
overlaps; that is what the format demands, so that no byte hides in a file.

Source: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.formats.shapes import check_numbers, check_shape
from memfs.hot.tensors import (
    HEADER_BYTES_MAX,
    TENSOR_COUNT_MAX,
    DType,
    FormatError,
    Tensor,
    TensorIndex,
    contiguous_strides,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.hot.formats.source import Source

FORMAT = "safetensors"

_STRUCTURE_COUNTS_MAX = {
    b"{": 2 * TENSOR_COUNT_MAX,
    b"[": 3 * TENSOR_COUNT_MAX,
    b":": 5 * TENSOR_COUNT_MAX,
    b",": 10 * TENSOR_COUNT_MAX,
}
"""Limit of a header, before it is parsed: 25 MB of `[],` would take 0.7 GB. A tensor has 1, 2, 4
and, with four dimensions, 7 of them; the rest is for the texts of the metadata."""

_LIBRARY_BYTES_MAX = 100_000_000
"""The library's limit: a longer header is of another format, a shorter one may be too much here."""

_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_ALIGNMENT_BYTES = 8
"""Bytes of the first tensor in a file that is written here, as by the library."""


def looks_like(source: Source) -> bool:
    """Return whether a file can be of this format, by its first bytes."""
    if source.size_bytes < _LENGTH.size + 2:
        return False
    begin = source.read(0, _LENGTH.size + 1)
    (length,) = _LENGTH.unpack_from(begin)
    return 2 <= length <= _LIBRARY_BYTES_MAX and begin[-1:] == b"{"


def read_safetensors(source: Source) -> TensorIndex:
    """Return the tensors of a file.

    Raises:
        FormatError: The header is not valid, or does not fit the file.
    """
    if source.size_bytes < _LENGTH.size:
        raise FormatError(f"{source.name} is too short for a safetensors header")
    (length,) = _LENGTH.unpack(source.read(0, _LENGTH.size))
    begin = _LENGTH.size + length
    if length > HEADER_BYTES_MAX or begin > source.size_bytes:
        raise FormatError(
            f"{source.name} says that its header has {length} bytes; the file has "
            f"{source.size_bytes}, and {HEADER_BYTES_MAX} are allowed"
        )
    header = _parse(source.name, source.read(_LENGTH.size, length))
    metadata = _metadata(source.name, header.pop(_METADATA, {}))
    if len(header) > TENSOR_COUNT_MAX:
        raise FormatError(f"{source.name} has {len(header)} tensors; {TENSOR_COUNT_MAX} are taken")
    tensors = sorted(
        (_tensor(source.name, name, fields, begin) for name, fields in header.items()),
        key=lambda tensor: (tensor.offset, tensor.end),
    )
    end = begin
    for tensor in tensors:
        if tensor.offset != end:
            kind = "a hole" if tensor.offset > end else "an overlap"
            raise FormatError(f"{source.name}: {kind} before tensor {tensor.name!r}")
        end = tensor.end
    if end != source.size_bytes:
        raise FormatError(
            f"{source.name}: the tensors end at {end} and the file at {source.size_bytes}"
        )
    return TensorIndex(FORMAT, tuple(tensors), metadata)


def _parse(name: str, header: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise FormatError(f"{name}: a name is twice in the header")
        return found

    if any(header.count(mark) > limit for mark, limit in _STRUCTURE_COUNTS_MAX.items()):
        raise FormatError(f"{name}: the header has more parts than {TENSOR_COUNT_MAX} tensors have")
    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{name}: the header is not JSON: {str(error)[:200]}") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{name}: the header is no object")
    return parsed


def _metadata(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(text, str) for key, text in value.items()
    ):
        raise FormatError(f"{name}: {_METADATA} is not texts by name")
    return value


def _tensor(file: str, name: str, fields: object, begin: int) -> Tensor:
    place = f"{file}: tensor {name[:200]!r}"
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise FormatError(f"{place} is not described by dtype, shape and data_offsets")
    if not isinstance(fields["dtype"], str):
        raise FormatError(f"{place} has no element type")
    try:
        dtype = DType.of_label(fields["dtype"])
    except FormatError as error:
        raise FormatError(f"{place}: {error}") from None
    shape = check_shape(place, fields["shape"], dtype)
    offsets = check_numbers(place, fields["data_offsets"], 2)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{place} ends before it begins")
    size_bytes = math.prod(shape) * dtype.item_bytes
    if offsets[1] - offsets[0] != size_bytes:
        raise FormatError(
            f"{place} of shape {list(shape)[:8]} takes {size_bytes} bytes and is given "
            f"{offsets[1] - offsets[0]}"
        )
    strides = contiguous_strides(shape)
    return Tensor(name, dtype, shape, strides, begin + offsets[0], size_bytes)


class NewTensor(NamedTuple):
    """A tensor that is to be written."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * self.dtype.item_bytes


def build_header(
    tensors: Sequence[NewTensor], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[NewTensor]]:
    """Return the header of a new file, and the tensors in the order of their bytes.

    Large element types come first, as the library has it, so that each tensor is aligned to its
    own.

    Args:
        tensors: With names of their own.
        metadata: Texts by name.

    Raises:
        FormatError: A name is taken twice or reserved, or a value of the metadata is not a text.
    """
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names) or _METADATA in names:
        raise FormatError(f"names of tensors are unique, and {_METADATA} is none")
    if metadata:
        _metadata("metadata", dict(metadata))
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.item_bytes, tensor.name))
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for tensor in ordered:
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype.label,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    if len(text) > HEADER_BYTES_MAX:
        raise FormatError(f"a header of {len(text)} bytes; {HEADER_BYTES_MAX} are allowed")
    return _LENGTH.pack(len(text)) + text, ordered
