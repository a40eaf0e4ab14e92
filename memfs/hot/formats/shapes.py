"""Shapes: what a header says of extents, and whether a tensor can have them.

Invariant: a shape that is returned has sizes and strides of at most 63 bits, as every library that
takes it demands, also where an extent is 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memfs.hot.tensors import DIMENSIONS_MAX, FormatError

if TYPE_CHECKING:
    from memfs.hot.tensors import DType

_NUMBER_MAX = (1 << 63) - 1
"""Limit of an offset, extent or stride: `int64_t` of torch and numpy."""


def check_numbers(place: str, value: object, count_max: int = DIMENSIONS_MAX) -> tuple[int, ...]:
    """Return numbers of a header.

    Args:
        place: File and tensor, for messages.
        value: That of a header; a list or tuple, if it is right.
        count_max: At the most.

    Raises:
        FormatError: They are not numbers, negative, or too many.
    """
    if not isinstance(value, list | tuple) or len(value) > count_max:
        raise FormatError(f"{place}: not a list of at most {count_max} numbers")
    # A bool is an int to Python, and JSON's true is no number.
    if not all(type(each) is int and 0 <= each <= _NUMBER_MAX for each in value):
        raise FormatError(f"{place}: negative, or not whole numbers")
    return tuple(value)


def check_shape(place: str, value: object, dtype: DType) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Args:
        place: As of `check_numbers`.
        value: Likewise.
        dtype: That of the tensor.

    Raises:
        FormatError: As of `check_numbers`, or the tensor would be too large for any machine.
    """
    shape = check_numbers(place, value)
    if math.prod(max(extent, 1) for extent in shape) * dtype.item_bytes > _NUMBER_MAX:
        raise FormatError(f"{place} of shape {list(shape)[:8]} takes more than 63 bits of bytes")
    return shape
