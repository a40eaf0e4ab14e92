"""Precisions: floats of one type as another, on the host.

Invariant: integers, booleans and 8-bit floats are never cast; rounding is to nearest, ties to even
(IEEE 754), as torch's `Tensor.to`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from memfs.hot.tensors import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLAIN: dict[DType, np.dtype[np.floating[Any]]] = {
    DType.F16: np.dtype("<f2"),
    DType.F32: np.dtype("<f4"),
    DType.F64: np.dtype("<f8"),
}
"""What numpy has; bfloat16 is the upper half of a float32."""

_BF16_SHIFT = 16
_QUIET_NAN_BF16 = 0x7FC0


def cast_into(source: memoryview, dtype: DType, target: memoryview, wanted: DType) -> int:
    """Write floats as floats of another type.

    Args:
        source: Elements of type `dtype`, little-endian.
        dtype: F16, BF16, F32 or F64.
        target: Writable, room for as many elements of type `wanted`.
        wanted: F16, BF16 or F32.

    Returns:
        How many finite values became infinite: they are too large for `wanted`.
    """
    # By way of float32 also from float64, as torch goes.
    with np.errstate(over="ignore", invalid="ignore"):
        singles = _to_float32(source, dtype)
        if wanted == DType.BF16:
            result = np.frombuffer(target, dtype=np.uint16)
            result[:] = _to_bf16(singles)
            infinite = (result & 0x7FFF) == 0x7F80
        else:
            floats = np.frombuffer(target, dtype=_PLAIN[wanted])
            floats[:] = singles
            infinite = np.isinf(floats)
        return int(np.count_nonzero(infinite & _is_finite(source, dtype)))


def _to_float32(source: memoryview, dtype: DType) -> NDArray[np.float32]:
    if dtype == DType.BF16:
        halves = np.frombuffer(source, dtype=np.uint16).astype(np.uint32)
        return (halves << _BF16_SHIFT).view(np.float32)
    return np.frombuffer(source, dtype=_PLAIN[dtype]).astype(np.float32, copy=False)


def _to_bf16(singles: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(singles).view(np.uint32)
    # Half of the last place that stays, less one where the result would be odd: ties to even.
    rounded = (bits + 0x7FFF + ((bits >> _BF16_SHIFT) & 1)) >> _BF16_SHIFT
    return np.where(np.isnan(singles), _QUIET_NAN_BF16, rounded).astype(np.uint16)


def _is_finite(source: memoryview, dtype: DType) -> NDArray[np.bool_]:
    if dtype == DType.F64:
        wide: NDArray[np.bool_] = np.isfinite(np.frombuffer(source, dtype=np.float64))
        return wide
    finite: NDArray[np.bool_] = np.isfinite(_to_float32(source, dtype))
    return finite


def channels_last(content: memoryview, shape: tuple[int, ...], item_bytes: int) -> bytes:
    """Return a 4-D tensor's bytes with its channels innermost.

    Args:
        content: Row-major elements of shape `(n, c, h, w)`.
        shape: That shape.
        item_bytes: 1, 2, 4, 8 or 16.
    """
    items = np.frombuffer(content, dtype=np.dtype((np.void, item_bytes))).reshape(shape)
    return items.transpose(0, 2, 3, 1).tobytes()
