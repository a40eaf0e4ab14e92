"""Files of torch.save: a zip with a pickle that names storages, and a member for each storage.

Invariant: unpickling runs no code but that of this package; whatever else a pickle asks for is
refused by name.

What is in nested mappings and sequences is named by its path: `{"model": {"w": tensor}}` holds the
tensor `model.w`. Numbers and texts beside the tensors are left out.

Source: torch/serialization.py and torch/_weights_only_unpickler.py of torch 2.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from memfs.hot.formats.pickles import Maker, RefusedError, load_pickle
from memfs.hot.formats.shapes import check_numbers, check_shape
from memfs.hot.tensors import (
    HEADER_BYTES_MAX,
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

DEPTH_MAX = 100
"""Mappings and sequences within each other."""

NAMES_CHARACTERS_MAX = HEADER_BYTES_MAX
"""Limit of all paths within a file: a long key of many tensors is in each of their names."""

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


def is_pt(members: Mapping[str, Member]) -> bool:
    """Return whether a zip is of torch.save."""
    return any(name.endswith("/data.pkl") for name in members)


def read_pt(source: Source, members: Mapping[str, Member]) -> TensorIndex:
    """Return the tensors of a file.

    Args:
        members: Those of the zip.

    Raises:
        FormatError: It holds something else than tensors in mappings and sequences, or lies.
    """
    [*names] = [name for name in members if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise FormatError(f"{source.name} has {len(names)} pickles")
    root = names[0].removesuffix("data.pkl")
    _check_byte_order(source, members.get(f"{root}byteorder"))
    member = members[names[0]]
    if member.size_bytes > HEADER_BYTES_MAX:
        raise FormatError(f"{source.name}: a pickle of {member.size_bytes} bytes")
    try:
        content = load_pickle(source.read(member.offset, member.size_bytes), _find, _storage)
    except RefusedError as refusal:
        raise FormatError(
            f"{source.name}: its pickle asks for {refusal}, which is not taken; save a dict of "
            "tensors, or use .safetensors"
        ) from None
    except ValueError as error:
        raise FormatError(f"{source.name}: its pickle cannot be read: {str(error)[:100]}") from None
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


def _find(module: str, name: str) -> object:
    known = _GLOBALS.get((module, name))
    if known is not None:
        return known
    if module == "torch" and name in _STORAGES:
        return _STORAGES[name]
    if module == "torch":
        try:
            return parse_dtype(name)
        except FormatError:
            pass
    raise RefusedError(f"{module}.{name}"[:200])


def _storage(pid: object) -> _Storage:
    # Nothing of it is printed: a few bytes can be a text of gigabytes.
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise RefusedError("an object that is no storage")
    _, kind, key, _location, _count = pid
    if not isinstance(key, str) or not (isinstance(kind, DType) or kind == _UNTYPED):
        raise RefusedError("a storage of a type that is none")
    return _Storage(key, kind if isinstance(kind, DType) else None)


def _rebuild_tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    state: object = None,
) -> _View:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise RefusedError("a tensor without a storage")
    return _view(storage, storage.dtype, offset, shape, stride, state)


def _rebuild_untyped_tensor(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    state: object = None,
) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(dtype, DType):
        raise RefusedError("a tensor without a storage or a type")
    return _view(storage, dtype, offset, shape, stride, state)


def _rebuild_parameter(data: object, _requires_grad: object, _hooks: object) -> _View:
    if not isinstance(data, _View):
        raise RefusedError("a parameter without a tensor")
    return data


def _mapping() -> dict[str, object]:
    return {}


def _size(extents: object) -> object:
    # Not a copy: a long tuple would be as long again for each few bytes.
    if not isinstance(extents, tuple):
        raise RefusedError("a torch.Size that is none")
    return extents


_GLOBALS: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): Maker(_mapping),
    ("torch._utils", "_rebuild_tensor_v2"): Maker(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Maker(_rebuild_untyped_tensor),
    ("torch._utils", "_rebuild_parameter"): Maker(_rebuild_parameter),
    ("torch", "Size"): Maker(_size),
    ("torch.storage", "UntypedStorage"): _UNTYPED,
}


def _view(
    storage: _Storage, dtype: DType, offset: object, shape: object, stride: object, state: object
) -> _View:
    if state:
        # torch writes the bytes of what the view was made of, and the bit here.
        raise RefusedError(
            "a conjugated or negated view (save tensor.resolve_conj().resolve_neg())"
        )
    try:
        [begin] = check_numbers("its offset", (offset,))
        extents = check_shape("its shape", shape, dtype)
        steps = check_numbers("its strides", stride)
    except FormatError as error:
        raise RefusedError(f"a tensor that cannot be ({error})") from None
    if len(extents) != len(steps):
        raise RefusedError("a tensor with more strides than dimensions, or fewer")
    return _View(storage, dtype, begin, extents, steps)


def _flatten(file: str, content: object) -> Iterator[tuple[str, _View]]:
    """Yield all tensors with their paths."""
    waiting = [("", content, 0)] if _holds_tensors(content) else []
    # A pickle can name one list from many places: what grows without end is no state_dict.
    seen_count = character_count = 0
    while waiting:
        path, value, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise FormatError(f"{file}: its mappings are too deep")
        if isinstance(value, _View):
            yield path or "tensor", value
            continue
        assert isinstance(value, dict | list | tuple)
        seen_count += len(value)
        if seen_count > 2 * TENSOR_COUNT_MAX:
            raise FormatError(f"{file}: its mappings have too many entries")
        first = len(waiting)
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if not _holds_tensors(each):
                continue
            name = f"{path}.{key}" if path else str(key)
            character_count += len(name)
            if character_count > NAMES_CHARACTERS_MAX:
                raise FormatError(f"{file}: the names of its tensors are too long")
            waiting.append((name, each, depth + 1))
        # The last is taken first.
        waiting[first:] = reversed(waiting[first:])


def _holds_tensors(value: object) -> bool:
    """Return whether a value is a tensor, a mapping or a sequence; not a number, text or type."""
    return isinstance(value, dict | list | tuple) and not isinstance(value, _Storage)


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
