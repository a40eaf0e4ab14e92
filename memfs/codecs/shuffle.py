"""The byte-shuffle filter: first bytes of all items, then the second ones, and so on.

Invariant: `unshuffle(shuffle(data, n), n) == data` for any length, multiples of `n` or not.

Sign and exponent bytes of floats are alike, their mantissas are noise; side by side, the alike ones
compress. Slices with a step and no library: shuffling back, which is what readers wait for, is
faster so than by numpy's transposition. The price: they hold the interpreter, 0.5 ms a frame.

Measured 2026-11-22, 2 shared vCPU, normal-random weights, frames of 256 KiB; MB/s shuffled and
shuffled back by slices / by numpy: bf16 505, 587 / 2048, 263; fp32 922, 572 / 1800, 415. With
zstd:3, ratio, MB/s packed and unpacked, plain -> shuffled:
    bf16  1.28  210  541  ->  1.40  118  244
    fp16  1.09  208  258  ->  1.18  178  196
    fp32  1.08  210  337  ->  1.15  108  403
    fp64  1.05  286  518  ->  1.11  171  322
"""

from __future__ import annotations

ITEM_BYTES = (2, 4, 8)
"""Sizes of items for which a container may be shuffled."""


def shuffle(data: memoryview, item_bytes: int) -> bytes:
    """Return the bytes of all items by their place in the item; `item_bytes` >= 1."""
    # Bytes: slices of a memoryview with a step are views, which join would not take.
    whole = bytes(data)
    return b"".join([whole[place::item_bytes] for place in range(item_bytes)])


def unshuffle(shuffled: bytes, item_bytes: int) -> bytes:
    """Return what `shuffle` was given."""
    data = bytearray(len(shuffled))
    start = 0
    for place in range(item_bytes):
        # The items at the end that lack a byte are those of the last places.
        end = start + len(range(place, len(shuffled), item_bytes))
        data[place::item_bytes] = shuffled[start:end]
        start = end
    return bytes(data)
