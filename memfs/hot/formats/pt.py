"""Files of torch.save: a zip with a pickle that names storages, and a member for each storage.

Invariant: unpickling runs no code but that of this module; whatever else a pickle asks for is
refused by name.

What is in nested mappings and sequences is named by its path: `{"model": {"w": tensor}}` holds the
tensor `model.w`. Numbers and texts beside the tensors are left out.

Source: torch/serialization.py and torch/_weights_only_unpickler.py of torch 2.13.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from memfs.hot.tensors import (
    DIMENSIONS_MAX,
    TENSOR_COUNT_MAX,
    DType,
    FormatError,
    Tensor,
    TensorIndex,
    parse_dtype,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memfs.hot.formats.source import Source
    from memfs.hot.formats.zips import Member

FORMAT = "pt"

LEGACY_MAGICS = (b"\x80\x02\x8a\x0al\xfc\x9cF", b"\x80\x02c")
"""How pickles begin that torch wrote before 1.6."""

PICKLE_BYTES_MAX = 64 << 20
"""Of the pickle, which has names and shapes and no content. Guess: some 100 bytes a tensor."""

DEPTH_MAX = 100
"""Mappings and sequences within each other."""

_STORAGES = {
    "FloatStorage": DType.F32,
    "DoubleStorage": DType.F64,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "ComplexFloatStorage": DType.C64,
    "ComplexDoubleStorage": DType.C128,
}
_UNTYPED = "untyped"
"""`torch.storage.UntypedStorage`: the tensor says what it is (`_rebuild_tensor_v3`)."""


class _Storage(NamedTuple):
    """A member, as the pickle speaks of it."""

    key: str
    dtype: DType | None


class _View(NamedTuple):
    """A tensor, as the pickle describes it."""

    storage: _Storage
    dtype: DType
    offset: int
    """Elements into the storage."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Refused(Exception):  # noqa: N818  it never leaves this module
    """What a pickle asks for that is not taken."""


def is_pt(members: Mapping[str, Member]) -> bool:
    """Return whether a zip is of torch.save."""
    return any(name.endswith("/data.pkl") for name in members)


def read_pt(source: Source, members: Mapping[str, Member]) -> TensorIndex:
    """Return the tensors of a file.

    Args:
        source: The file.
        members: Of the zip.

    Raises:
        FormatError: It holds something else than tensors in mappings and sequences, or lies.
    """
    [*names] = [name for name in members if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise FormatError(f"{source.name} has {len(names)} pickles")
    root = names[0].removesuffix("data.pkl")
    _check_byte_order(source, members.get(f"{root}byteorder"))
    member = members[names[0]]
    if member.size_bytes > PICKLE_BYTES_MAX:
        raise FormatError(f"{source.name}: a pickle of {member.size_bytes} bytes")
    try:
        content = _Unpickler(source.read(member.offset, member.size_bytes)).load()
    except _Refused as refusal:
        raise FormatError(
            f"{source.name}: its pickle asks for {refusal}, which is not taken; save a dict of "
            "tensors, or use .safetensors"
        ) from None
    except FormatError:
        raise
    # Hostile pickles raise about anything out of the unpickler: AttributeError, EOFError, ...
    except Exception as error:
        raise FormatError(f"{source.name}: its pickle cannot be read: {error!r:.200}") from None
    tensors = []
    for name, view in _flatten(source.name, content):
        tensors.append(_place(source.name, name, view, members, root))
        if len(tensors) > TENSOR_COUNT_MAX:
            raise FormatError(f"{source.name}: more than {TENSOR_COUNT_MAX} tensors are not taken")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise FormatError(f"{source.name}: two tensors have the same name")
    if not tensors:
        raise FormatError(f"{source.name} holds no tensors")
    return TensorIndex(FORMAT, tuple(tensors), {})


def _check_byte_order(source: Source, member: Member | None) -> None:
    if member is not None and source.read(member.offset, min(member.size_bytes, 8)) != b"little":
        raise FormatError(f"{source.name} is not of a little-endian machine")


class _Unpickler(pickle.Unpickler):
    """Knows tensors, parameters, storages and mappings, and nothing else."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): _rebuild_untyped_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch", "Size"): tuple,
            ("torch.storage", "UntypedStorage"): _UNTYPED,
        }

    def find_class(self, module: str, name: str) -> object:
        known = self._known.get((module, name))
        if known is not None:
            return known
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch":
            try:
                return parse_dtype(name)
            except FormatError:
                pass
        raise _Refused(f"{module}.{name}"[:200])

    def persistent_load(self, pid: object) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise _Refused(f"the object {pid!r:.100}")
        _, kind, key, _location, _count = pid
        if not isinstance(key, str) or not (isinstance(kind, DType) or kind == _UNTYPED):
            raise _Refused(f"a storage of {kind!r:.100}")
        return _Storage(key, kind if isinstance(kind, DType) else None)


def _rebuild_tensor(
    storage: object, offset: object, shape: object, stride: object, *_: object
) -> _View:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise _Refused("a tensor without a storage")
    return _view(storage, storage.dtype, offset, shape, stride)


def _rebuild_untyped_tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(dtype, DType):
        raise _Refused("a tensor without a storage or a type")
    return _view(storage, dtype, offset, shape, stride)


def _rebuild_parameter(data: object, *_: object) -> _View:
    if not isinstance(data, _View):
        raise _Refused("a parameter without a tensor")
    return data


def _view(storage: _Storage, dtype: DType, offset: object, shape: object, stride: object) -> _View:
    def numbers(value: object) -> tuple[int, ...]:
        if not isinstance(value, tuple) or len(value) > DIMENSIONS_MAX:
            raise _Refused("a tensor whose shape is none")
        if not all(type(each) is int and 0 <= each < 1 << 63 for each in value):
            raise _Refused("a tensor with a negative shape or stride")
        return value

    [begin] = numbers((offset,))
    extents, steps = numbers(shape), numbers(stride)
    if len(extents) != len(steps):
        raise _Refused("a tensor with more strides than dimensions")
    return _View(storage, dtype, begin, extents, steps)


def _flatten(file: str, content: object) -> Iterator[tuple[str, _View]]:
    """Yield all tensors with their paths."""
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    # A pickle can name one list from many places: what grows without end is no state_dict.
    seen_count = 0
    while waiting:
        path, value, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise FormatError(f"{file}: its mappings are too deep")
        if isinstance(value, _View):
            yield path or "tensor", value
            continue
        items: list[tuple[object, object]]
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list | tuple) and not isinstance(value, _Storage):
            items = list(enumerate(value))
        else:
            # A number, a text, a type: beside the tensors.
            continue
        seen_count += len(items)
        if seen_count > 2 * TENSOR_COUNT_MAX:
            raise FormatError(f"{file}: its mappings have too many entries")
        for key, each in reversed(items):
            if not isinstance(key, str | int):
                raise FormatError(f"{file}: a mapping has keys that are no names")
            waiting.append((f"{path}.{key}" if path else str(key), each, depth + 1))


def _place(file: str, name: str, view: _View, members: Mapping[str, Member], root: str) -> Tensor:
    member = members.get(f"{root}data/{view.storage.key}")
    if member is None:
        _refuse(file, name, "has no storage in the file")
    item = view.dtype.item_bytes
    span = 0
    if all(view.shape):
        last = sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
        span = (last + 1) * item
    if view.offset * item + span > member.size_bytes:
        _refuse(file, name, f"reaches beyond its storage of {member.size_bytes} bytes")
    offset = member.offset + view.offset * item
    return Tensor(name, view.dtype, view.shape, view.stride, offset, span)


def _refuse(file: str, name: str, flaw: str) -> NoReturn:
    raise FormatError(f"{file}: tensor {name[:200]!r} {flaw}")
