"""Tensor headers: whether a sealed file holds tensors, by its header alone.

Invariant: reads the header and no content; of a file without a raw form, a few frames. Nothing of
the header is parsed in the thread that answers requests.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from memfs.hot.tensors import FormatError
from memfs.policy.marks import TENSOR_DTYPE_XATTR, TENSOR_SHAPE_XATTR
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.filesystem.shared import Parts
    from memfs.hot.headers import HeaderReader
    from memfs.metadata.records import Inode


class TensorHeaders:
    """Looks at headers.

    Args:
        reader: Reads them.
    """

    def __init__(self, parts: Parts, reader: HeaderReader) -> None:
        self._engine = parts.engine
        self._raw_store = parts.raw_store
        self._form_reader = parts.form_reader
        self._reader = reader

    async def check(self, inode: Inode) -> None:
        """Return if a sealed file holds tensors.

        Args:
            inode: Sealed, regular.

        Raises:
            FormatError: It holds no tensors that memfs knows.
        """
        if not inode.size:
            raise FormatError("an empty file holds no tensors")
        dtype = await self._engine.effective_xattr(inode.ino, TENSOR_DTYPE_XATTR)
        shape = await self._engine.effective_xattr(inode.ino, TENSOR_SHAPE_XATTR)
        name = os.fsdecode(await self._engine.get_path(inode.ino))
        await leave()
        # Imported here: most mounts have no hot tier.
        from memfs.hot.headers import HeaderFile

        fd = self._raw_store.open(inode.raw, os.O_RDONLY) if inode.raw else None
        try:
            await self._reader.read(
                HeaderFile(
                    name=name,
                    size_bytes=inode.size,
                    fd=fd,
                    read=partial(self._form_reader.read, inode),
                    dtype=None if dtype is None else dtype.decode(),
                    shape=None if shape is None else shape.decode(),
                )
            )
        finally:
            if fd is not None:
                os.close(fd)
