"""One request of the kernel, which is also the `Caller` that the file system sees.

Invariant: `data` is immutable and the request's own, so a detached request may keep views of it.
"""

from __future__ import annotations

import time
import types
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from memfs_daemon.kernel.protocol import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from memfs.content.opening import Handle
    from memfs.types import InodeNo

Payload: TypeAlias = bytes | bytearray
"""What follows the header of a reply."""
Outcome: TypeAlias = Payload | int
"""What a handler returns: the reply's own structure, or an errno."""

T = TypeVar("T")

_unpack_header = HEADER.unpack_from
_now_ns = time.monotonic_ns


def _never_alone() -> bool:
    """The caller is not known."""
    return False


class Request:
    """A request: its header's fields, and its bytes.

    Attributes:
        begun_ns: When it was read, by the monotonic clock.
        data: Header and body, as read from the device.
        unique: The kernel's number of the request; the reply carries it.
        node: The inode that the request is about.
        uid: As `Caller.uid`; `gid`, `pid` and `umask` likewise.
        detached: True once the request has left the fast path, for a task of its own.
        opened: Inode and handle that the reply opens; given back if the reply does not arrive.
    """

    __slots__ = (
        "_is_alone", "begun_ns", "data", "detached", "gid", "node", "opcode", "opened", "pid",
        "uid", "umask", "unique",
    )  # fmt: skip

    def __init__(self, data: bytes, is_alone: Callable[[], bool] = _never_alone) -> None:
        self.begun_ns = _now_ns()
        self.data = data
        self._is_alone = is_alone
        self.opcode: int
        self.unique: int
        self.node: InodeNo
        self.uid: int
        self.gid: int
        self.pid: int
        (
            _, self.opcode, self.unique, self.node, self.uid, self.gid, self.pid, _, _,
        ) = _unpack_header(data)  # fmt: skip
        self.umask = 0
        self.detached = False
        self.opened: tuple[InodeNo, Handle] | None = None

    def is_alone(self) -> bool:
        """See `Caller.is_alone`; a request that has detached shares the event loop."""
        return not self.detached and self._is_alone()


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run a coroutine on from where it left the fast path, inside the task that awaits this."""
    result: T = yield from coroutine
    return result
