"""Tensor headers: whether a sealed file holds tensors, by its header alone.

Invariant: reads the header and no content; of a file without a raw form, a few frames.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from memfs.hot.tensors import FormatError, parse_shape
from memfs.policy.marks import TENSOR_DTYPE_XATTR, TENSOR_SHAPE_XATTR

if TYPE_CHECKING:
    from memfs.content.forms import FormReader
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.hot.formats.source import Source
    from memfs.hot.tensors import TensorIndex
    from memfs.metadata.records import Inode


class TensorHeaders:
    """Looks at headers.

    Args:
        parts: The engine and the stores among them.
    """

    def __init__(self, parts: Parts) -> None:
        self._engine = parts.engine
        self._raw_store = parts.raw_store
        self._form_reader = parts.form_reader

    async def check(self, caller: Caller, inode: Inode) -> TensorIndex:
        """Return what tensors a sealed file holds.

        Args:
            caller: Detached, since the header may come from the store.
            inode: Sealed, regular.

        Raises:
            FormatError: None that memfs knows.
        """
        if not inode.size:
            raise FormatError("an empty file holds no tensors")
        dtype = await self._engine.effective_xattr(inode.ino, TENSOR_DTYPE_XATTR)
        shape = await self._engine.effective_xattr(inode.ino, TENSOR_SHAPE_XATTR)
        name = os.fsdecode(await self._engine.get_path(inode.ino))
        await caller.detach()
        # Imported here: most mounts have no hot tier.
        from memfs.hot.formats.detecting import read_index
        from memfs.hot.formats.source import FileSource

        def look(source: Source) -> TensorIndex:
            return read_index(
                source,
                dtype=None if dtype is None else dtype.decode(),
                shape=None if shape is None else parse_shape(shape.decode()),
            )

        if not inode.raw:
            source = _FormSource(self._form_reader, inode, name)
            return await trio.to_thread.run_sync(look, source)
        fd = self._raw_store.open(inode.raw, os.O_RDONLY)
        try:
            return await trio.to_thread.run_sync(look, FileSource(fd, name))
        finally:
            os.close(fd)


class _FormSource:
    """A packed or remote file as a source, for a worker thread."""

    def __init__(self, reader: FormReader, inode: Inode, name: str) -> None:
        self._reader = reader
        self._inode = inode
        self.name = name
        self.size_bytes = inode.size

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; see `Source`."""
        content = trio.from_thread.run(self._reader.read, self._inode, offset, size)
        if len(content) != size:
            raise FormatError(f"{self.name} ends at {offset + len(content)}, within its header")
        return bytes(content)
