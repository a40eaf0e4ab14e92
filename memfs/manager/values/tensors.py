"""Tensors as safetensors files: one of torch, or several of torch or numpy by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from memfs.hot.formats.safetensors import NewTensor, build_header, read_safetensors
from memfs.hot.tensors import DType, FormatError
from memfs.manager.errors import ValueFormatError
from memfs.manager.values.value import Content, Mime, Wanted, bounds, refuse_device, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.hot.tensors import Tensor

SINGLE = "value"
"""Name of a tensor that was stored without one."""

_NUMPY_TYPES = {
    DType.BOOL: "|b1",
    DType.U8: "|u1",
    DType.I8: "|i1",
    DType.I16: "<i2",
    DType.U16: "<u2",
    DType.I32: "<i4",
    DType.U32: "<u4",
    DType.I64: "<i8",
    DType.U64: "<u8",
    DType.F16: "<f2",
    DType.F32: "<f4",
    DType.F64: "<f8",
    DType.C64: "<c8",
    DType.C128: "<c16",
}
_MEMFS_TYPES = {text: dtype for dtype, text in _NUMPY_TYPES.items()}


class Tensors:
    """A tensor of torch, or a dictionary of tensors or arrays."""

    name = "safetensors"
    types: tuple[str, ...] = ("application/x-safetensors",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """A tensor, or a dictionary that has tensors or arrays alone, and is not empty."""
        if _is_tensor(value):
            return True
        return (
            isinstance(value, Mapping)
            and bool(value)
            and all(
                isinstance(name, str) and (_is_tensor(each) or _is_array(each))
                for name, each in value.items()
            )
        )

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write the header, and each tensor from its own memory where it is contiguous."""
        single = _is_tensor(value) or _is_array(value)
        if not single and not isinstance(value, Mapping):
            raise ValueFormatError(
                f"{type(value).__name__} cannot be safetensors; a tensor, an array or a dictionary "
                "of them can"
            )
        named = {SINGLE: value} if single else dict(value)
        library = "torch" if any(_is_tensor(each) for each in named.values()) else "numpy"
        try:
            new = [_described(name, each) for name, each in named.items()]
            header, ordered = build_header(new)
        except (FormatError, ValueError, TypeError) as error:
            raise ValueFormatError(f"it cannot be safetensors: {error}") from None
        write_all(file, header)
        for tensor in ordered:
            for piece in _pieces(named[tensor.name]):
                write_all(file, piece)
        return Mime(self.types[0], {"of": library, "value": "single" if single else "named"})

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return the tensor, or all by name; with `name` one of them; parts of the first axis.

        Only the bytes of what is asked for are read. What no attribute tells about is read as
        tensors of torch where torch is in use, and as arrays otherwise.
        """
        try:
            index = read_safetensors(_Source(content))
        except FormatError as error:
            raise ValueFormatError(str(error)) from None
        tensors = {tensor.name: tensor for tensor in index.tensors}
        library = content.mime.parameters.get("of")
        if library is None:
            library = "torch" if "torch" in sys.modules else "numpy"
        if library != "torch":
            refuse_device(content, wanted, "arrays of numpy")
        single = list(tensors) == [SINGLE] and content.mime.parameters.get("value") == "single"
        if wanted.name is None and not single:
            if wanted.partial:
                raise ValueFormatError(
                    f"{content.name} holds {len(tensors)} tensors; name= says of which a part is "
                    "wanted"
                )
            return {
                name: _loaded(content, tensor, wanted, library) for name, tensor in tensors.items()
            }
        name = SINGLE if wanted.name is None else wanted.name
        if name not in tensors:
            raise ValueFormatError(f"{content.name} has no tensor {name!r}")
        return _loaded(content, tensors[name], wanted, library)

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the name."""
        return name.endswith(".safetensors")


class _Source:
    """A file as the parser of headers reads it."""

    def __init__(self, content: Content) -> None:
        self.name = content.name
        self.size_bytes = content.size_bytes
        self._content = content

    def read(self, offset: int, size: int) -> bytes:
        data = self._content.read(offset, size)
        if len(data) < size:
            raise FormatError(f"{self.name} ends at {offset + len(data)}")
        return data


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _described(name: str, value: Any) -> NewTensor:  # noqa: ANN401
    if _is_tensor(value):
        from memfs.torch.tensor_bytes import described

        return described(name, value)
    if not _is_array(value):
        raise ValueError(f"{name!r} is {type(value).__name__} and no tensor")
    dtype = _MEMFS_TYPES.get(value.dtype.newbyteorder("<").str)
    if dtype is None:
        raise ValueError(f"{name!r} has elements of type {value.dtype}")
    return NewTensor(name, dtype, value.shape)


def _pieces(value: Any) -> Iterable[memoryview]:  # noqa: ANN401
    if _is_tensor(value):
        from memfs.torch.tensor_bytes import pieces

        return pieces(value)
    import numpy as np

    array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    return [array.reshape(-1).view(np.uint8).data] if array.size else []


def _loaded(content: Content, tensor: Tensor, wanted: Wanted, library: str) -> Any:  # noqa: ANN401
    shape, offset, size = tensor.shape, tensor.offset, tensor.size_bytes
    if wanted.partial:
        if not shape:
            raise ValueFormatError(f"{content.name}: tensor {tensor.name!r} has no first axis")
        start, end = bounds(wanted, shape[0])
        row_bytes = size // shape[0] if shape[0] else 0
        shape, offset, size = (end - start, *shape[1:]), offset + start * row_bytes, 0
        size = (end - start) * row_bytes
    if wanted.copy or not size:
        buffer: Any = bytearray(size)
        if content.read_into(offset, memoryview(buffer)) < size:
            raise ValueFormatError(f"{content.name} is shorter than its header says")
    else:
        buffer = memoryview(content.map())[offset : offset + size]
    return (_as_torch if library == "torch" else _as_numpy)(buffer, tensor, shape, wanted)


def _as_numpy(buffer: Any, tensor: Tensor, shape: tuple[int, ...], _: Wanted) -> Any:  # noqa: ANN401
    import numpy as np

    text = _NUMPY_TYPES.get(tensor.dtype)
    if text is None:
        raise ValueFormatError(
            f"tensor {tensor.name!r} has elements of type {tensor.dtype.label}, which numpy does "
            "not have; import torch first"
        )
    return np.frombuffer(buffer, text).reshape(shape)


def _as_torch(buffer: Any, tensor: Tensor, shape: tuple[int, ...], wanted: Wanted) -> Any:  # noqa: ANN401
    import torch

    from memfs.torch.dtypes import TORCH_TYPES

    dtype = TORCH_TYPES[tensor.dtype]
    if not len(buffer):
        found = torch.empty(shape, dtype=dtype)
    else:
        import warnings

        with warnings.catch_warnings():
            # A view is of read-only memory, as was asked for; to write to it ends the process.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            found = torch.frombuffer(buffer, dtype=dtype).reshape(shape)
    wanted_type = None
    if wanted.precision is not None and dtype.is_floating_point and dtype.itemsize > 1:
        wanted_type = getattr(torch, wanted.precision)
    return found.to(device=wanted.device, dtype=wanted_type)
