"""Which handler serves which opcode.

Invariant: an opcode in no table is answered ENOSYS, after which the kernel never asks again: on
purpose for OPENDIR and FLUSH (a round trip less for each opendir and close), ACCESS (the kernel
checks permissions), POLL, BMAP, IOCTL, and for locks, which stay in the kernel. Where another node
changes directories, OPENDIR is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs_daemon.kernel.handlers.attributes import AttributeHandlers
from memfs_daemon.kernel.handlers.content import ContentHandlers
from memfs_daemon.kernel.handlers.directories import DirectoryHandlers
from memfs_daemon.kernel.handlers.names import NameHandlers
from memfs_daemon.kernel.protocol import InitFlag, Opcode
from memfs_daemon.kernel.request import Outcome, Request

if TYPE_CHECKING:
    from memfs.filesystem.operations import Operations
    from memfs_daemon.kernel.negotiation import Negotiated

Handler = Callable[[Request], Coroutine[Any, Any, Outcome]]
"""Returns the reply's own structure or an errno, or raises."""
SilentHandler = Callable[[Request], None]
"""That of a request that gets no reply."""


class HandlerTable(NamedTuple):
    """By opcode."""

    answered: dict[int, Handler]
    silent: dict[int, SilentHandler]


def build_table(operations: Operations, negotiated: Negotiated) -> HandlerTable:
    """Bind the handlers of one mount."""
    names = NameHandlers(operations)
    attributes = AttributeHandlers(
        operations, extended_setxattr=InitFlag.SETXATTR_EXT in negotiated.flags
    )
    content = ContentHandlers(operations)
    directories = DirectoryHandlers(operations)
    answered: dict[Opcode, Handler] = {
        Opcode.LOOKUP: names.lookup,
        Opcode.CREATE: names.create,
        Opcode.TMPFILE: names.create_unnamed,
        Opcode.MKNOD: names.make_node,
        Opcode.MKDIR: names.make_directory,
        Opcode.SYMLINK: names.make_symlink,
        Opcode.READLINK: names.read_link,
        Opcode.LINK: names.link,
        Opcode.UNLINK: names.unlink,
        Opcode.RMDIR: names.remove_directory,
        Opcode.RENAME: names.rename,
        Opcode.RENAME2: names.rename_with_flags,
        Opcode.GETATTR: attributes.get_attributes,
        Opcode.STATX: attributes.get_statx,
        Opcode.SETATTR: attributes.set_attributes,
        Opcode.GETXATTR: attributes.get_xattr,
        Opcode.LISTXATTR: attributes.list_xattrs,
        Opcode.SETXATTR: attributes.set_xattr,
        Opcode.REMOVEXATTR: attributes.remove_xattr,
        Opcode.STATFS: attributes.get_statistics,
        Opcode.OPEN: content.open,
        Opcode.RELEASE: content.release,
        Opcode.READ: content.read,
        Opcode.WRITE: content.write,
        Opcode.FSYNC: content.fsync,
        Opcode.SYNCFS: content.sync,
        Opcode.FALLOCATE: content.allocate,
        Opcode.LSEEK: content.seek,
        Opcode.COPY_FILE_RANGE: content.copy_range,
        Opcode.COPY_FILE_RANGE_64: content.copy_range_64,
        Opcode.READDIR: directories.list_names,
        Opcode.READDIRPLUS: directories.list_plus,
        Opcode.FSYNCDIR: directories.fsync,
        Opcode.DESTROY: _destroy,
    }
    if operations.opens_directories:
        answered |= {Opcode.OPENDIR: directories.open, Opcode.RELEASEDIR: directories.release}
    silent: dict[Opcode, SilentHandler] = {
        Opcode.FORGET: names.forget,
        Opcode.BATCH_FORGET: names.forget_batch,
    }
    # Plain int keys: hashing an enum member is a Python call, and this is looked up per request.
    return HandlerTable(
        {int(opcode): handler for opcode, handler in answered.items()},
        {int(opcode): handler for opcode, handler in silent.items()},
    )


async def _destroy(_request: Request) -> bytes:
    """Unmounting: everything that was answered is committed already."""
    return b""
