"""The C library's heap: how much of it threads may have, and giving back what is free.

Invariant: nothing here changes what a program may allocate; without the GNU C library nothing is
done.

By default, glibc gives each thread that allocates a heap of its own, up to eight a processor, and
each keeps what was once its largest need; and a block that is freed teaches it to take blocks of
that size from these heaps, up to 32 MiB, from where they return only when nothing lies behind them
(mallopt(3): M_ARENA_MAX, M_MMAP_THRESHOLD).
"""

from __future__ import annotations

from memfs.linux.libc import LIBC

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""malloc.h"""

ARENA_COUNT_MAX = 2
"""Heaps for all threads: the interpreter's lock lets one at a time make objects, and what codecs
allocate lies in blocks of their own."""

MAPPED_BYTES_MAX = 32 << 20
"""What glibc takes for `M_MMAP_THRESHOLD` at the most."""


def bound_heap(usual_bytes: int) -> bool:
    """Keep the heap of this process small; before its threads begin.

    Blocks of more than twice the usual size become mappings, which go back when they are freed.

    Args:
        usual_bytes: What is allocated for each request, and freed soon. As a mapping, or cut off
            the heap's end each time, such a block of 1 MiB made a read(2) take 20 us instead of 3.

    Returns:
        False: there is another C library, and nothing was done.
    """
    if not hasattr(LIBC, "mallopt"):
        return False
    mapped_bytes = min(2 * usual_bytes, MAPPED_BYTES_MAX)
    options = {
        _M_ARENA_MAX: ARENA_COUNT_MAX,
        _M_MMAP_THRESHOLD: mapped_bytes,
        _M_TRIM_THRESHOLD: 2 * mapped_bytes,
    }
    taken = [LIBC.mallopt(name, value) for name, value in options.items()]
    return all(taken)


def trim_heap() -> bool:
    """Give back the free pages of the heap (malloc_trim(3)); returns whether there were any.

    Blocks for milliseconds, and others that allocate with it: call it where little is going on.
    """
    return bool(hasattr(LIBC, "malloc_trim") and LIBC.malloc_trim(0))
