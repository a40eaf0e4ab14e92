"""Arrays of numpy as .npy files.

Source: numpy.lib.format, "Format Version 1.0" and later. Only its public functions are used.
"""

from __future__ import annotations

import io
import math
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from memfs.manager.errors import ValueFormatError
from memfs.manager.values.value import (
    Content,
    Mime,
    Wanted,
    bounds,
    refuse_device,
    refuse_name,
    write_all,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES_MAX = 65_536 + 16
"""The longest header of version 1.0; longer ones are for records of thousands of fields."""
_SCALAR = "scalar"
"""`value` in the MIME type of a scalar, whose file is that of an array without axes."""


class Header(NamedTuple):
    """What a file says of its array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    """That of the first element."""


class Arrays:
    """Arrays of numbers, of any shape and order; arrays of objects are refused."""

    name = "npy"
    types: tuple[str, ...] = ("application/x-npy",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Arrays and scalars of numpy, if numpy is in use at all."""
        numpy = sys.modules.get("numpy")
        return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic)

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it; a contiguous one from its own memory."""
        import numpy as np

        array = np.asanyarray(value)
        if array.dtype.hasobject:
            raise ValueFormatError(
                "an array of Python objects cannot be .npy; store a list, or format='pickle'"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise ValueFormatError("a masked array has a mask; store `.data` and `.mask` by name")
        header = io.BytesIO()
        fields = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_2_0(header, fields)
        write_all(file, header.getbuffer())
        flat = array.T if fields["fortran_order"] else np.ascontiguousarray(array)
        write_all(file, flat.reshape(-1).view(np.uint8).data)
        told = {"dtype": array.dtype.str}
        if array.shape:
            told["shape"] = "x".join(map(str, array.shape))
        elif isinstance(value, np.generic):
            told["value"] = _SCALAR
        return Mime(self.types[0], told)

    def read(self, content: Content, wanted: Wanted) -> NDArray[Any] | np.generic:
        """Return the array or the scalar, or rows `start` to `end` of the first axis.

        Rows of an array in Fortran's order are not together in the file: all of it is read.
        """
        refuse_name(content, wanted, "one array")
        refuse_device(content, wanted, "an array of numpy")
        array = _read(content, read_header(content), wanted)
        if not array.shape and content.mime.parameters.get("value") == _SCALAR:
            return cast("np.generic", array[()])
        return array

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the first bytes."""
        return begin.startswith(_MAGIC)


def _read(content: Content, header: Header, wanted: Wanted) -> NDArray[Any]:
    import numpy as np

    if not wanted.copy and _count(header.shape):
        mapped: NDArray[Any] = np.frombuffer(
            content.map(), header.dtype, _count(header.shape), header.offset
        )
        return _part(_shaped(mapped, header), header, wanted)
    if wanted.partial and header.shape and not header.fortran:
        start, end = bounds(wanted, header.shape[0])
        row_bytes = _count(header.shape[1:]) * header.dtype.itemsize
        header = header._replace(
            shape=(end - start, *header.shape[1:]), offset=header.offset + start * row_bytes
        )
        wanted = Wanted()
    array: NDArray[Any] = np.empty(_count(header.shape), header.dtype)
    if array.nbytes:
        target = array.view(np.uint8).data
        if content.read_into(header.offset, target) < len(target):
            raise ValueFormatError(f"{content.name} is shorter than its header says")
    return _part(_shaped(array, header), header, wanted)


def read_header(content: Content) -> Header:
    """Return what a .npy file says of its array.

    Raises:
        ValueFormatError: It is not one, or holds Python objects.
    """
    import numpy as np

    begin = io.BytesIO(content.read(0, _HEADER_BYTES_MAX))
    try:
        version = np.lib.format.read_magic(begin)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(begin)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueFormatError(f"{content.name} is not a .npy file: {error}") from None
    if dtype.hasobject:
        raise ValueFormatError(f"{content.name} is an array of Python objects, which is not read")
    return Header(dtype, shape, fortran, begin.tell())


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _shaped(array: NDArray[Any], header: Header) -> NDArray[Any]:
    if header.fortran:
        return array.reshape(header.shape[::-1]).T
    return array.reshape(header.shape)


def _part(array: NDArray[Any], header: Header, wanted: Wanted) -> NDArray[Any]:
    if not wanted.partial:
        return array
    if not array.shape:
        raise ValueFormatError("a single number has no parts")
    start, end = bounds(wanted, array.shape[0])
    return array[start:end]
