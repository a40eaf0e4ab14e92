"""Files of tensors: opened, indexed, and mapped or read whole.

Invariant: what is read is checked against its header first; a file is never unpickled but by
torch's `weights_only` reader.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from memfs.hot.formats.detecting import read_index
from memfs.hot.formats.source import FileSource
from memfs.hot.tensors import FormatError, parse_shape
from memfs.linux.mappings import Mapping
from memfs.torch.borrowing import borrow
from memfs.torch.packing import pack
from memfs.torch.pipeline import read_to_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from memfs.hot.tensors import Tensor, TensorIndex

_DTYPE_XATTR, _SHAPE_XATTR = "user.memfs.dtype", "user.memfs.shape"


class TensorFile:
    """An open file.

    Args:
        path: On a mount of memfs or anywhere else.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def index(self, dtype: str | None = None, shape: Sequence[int] | None = None) -> TensorIndex:
        """Return what tensors it holds.

        Args:
            dtype: That of plain numbers; None: as its xattrs say, if they do.
            shape: Likewise.

        Raises:
            FormatError: It holds no tensors.
        """
        if dtype is None:
            dtype = self._xattr(_DTYPE_XATTR)
        if shape is None and dtype is not None and (text := self._xattr(_SHAPE_XATTR)) is not None:
            shape = parse_shape(text)
        return read_index(
            FileSource(self.fd, self.path),
            dtype=dtype,
            shape=None if shape is None else tuple(shape),
        )

    def map(self, *, private: bool) -> torch.Tensor:
        """Return the file's bytes as a tensor of the page cache.

        Args:
            private: Writable copy-on-write; else writing to it ends the process (SIGSEGV).

        Returns:
            Shape `(size,)`, dtype uint8, on the CPU. Truncating the file while it is in use makes
            its end unreadable (SIGBUS), as with any mapping.
        """
        size_bytes = os.fstat(self.fd).st_size
        if not size_bytes:
            return torch.empty(0, dtype=torch.uint8)
        mapping = Mapping(self.fd, size_bytes, private=private)
        return borrow(mapping.address, size_bytes, torch.device("cpu"), mapping.unmap)

    def read(
        self, tensors: Sequence[Tensor], device: torch.device
    ) -> tuple[torch.Tensor, list[int]]:
        """Read tensors into memory of a device that is nobody else's.

        Args:
            tensors: Those of `index`; others are not read.
            device: That of the memory.

        Returns:
            Shape `(n,)`, dtype uint8, on the device; and the offset of each tensor in it.

        Raises:
            FormatError: The file is shorter.
        """
        packing = pack(tensors)
        target = torch.empty(packing.size_bytes, dtype=torch.uint8, device=device)
        if packing.runs:
            read_to_device(self.fd, self.path, target, packing.runs)
        return target, packing.offsets

    def unpickle(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the tensors of what only torch itself can read: its old formats.

        Raises:
            FormatError: It cannot either, without running code of the file.
        """
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
        # torch raises about anything for a file that is not one.
        except Exception as error:
            raise FormatError(f"{self.path}: {str(error).splitlines()[0][:200]}") from None
        found = {}
        waiting: list[tuple[str, object]] = [("", content)]
        while waiting:
            name, value = waiting.pop()
            if isinstance(value, torch.Tensor):
                found[name or "tensor"] = value
            elif isinstance(value, dict):
                waiting += [(f"{name}.{key}" if name else str(key), value[key]) for key in value]
            elif isinstance(value, list | tuple):
                waiting += [
                    (f"{name}.{at}" if name else str(at), each) for at, each in enumerate(value)
                ]
        if not found:
            raise FormatError(f"{self.path} holds no tensors")
        return dict(sorted(found.items()))

    def decompress(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the arrays of a compressed .npz file.

        Raises:
            FormatError: It is not one, or holds Python objects.
        """
        import numpy as np

        try:
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        # numpy raises about anything for a file that is not one.
        except Exception as error:
            raise FormatError(f"{self.path}: {str(error)[:200]}") from None

    def _xattr(self, name: str) -> str | None:
        try:
            return os.getxattr(self.fd, name).decode()
        except OSError:
            return None
