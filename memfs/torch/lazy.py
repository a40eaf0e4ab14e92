"""Lazy files: tensors one by one, with the interface of `safetensors.safe_open`.

Invariant: a tensor that is not asked for is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.torch.files import TensorFile
from memfs.torch.loading import check_names, resolve_device
from memfs.torch.tiers import info
from memfs.torch.views import Views

if TYPE_CHECKING:
    import os
    from types import TracebackType
    from typing import Any, Self

    import torch

    from memfs.hot.tensors import Tensor
    from memfs.torch.tiers import FileInfo


class TensorSlice:
    """A tensor of which parts are read: `slice[0:10, ...]`."""

    def __init__(self, tensor: torch.Tensor, device: torch.device, dtype: str) -> None:
        self._tensor = tensor
        self._device = device
        self._dtype = dtype

    def get_shape(self) -> list[int]:
        """Return the shape of the whole."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """Return the element type by the name of the safetensors format."""
        return self._dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return a part on the device; on the CPU a view of the page cache."""
        part = self._tensor[index]
        return part if self._device.type == "cpu" else part.contiguous().to(self._device)


class LazyFile:
    """A file of tensors, mapped.

    Args:
        path: As of `load`.
        device: Where `get_tensor` brings tensors.
    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        self._device = resolve_device(device)
        with TensorFile(path) as file:
            self._path = file.path
            self._index = file.index()
            self._views: Views | None = Views(file.map(private=False))
        self._by_name: dict[str, Tensor] = {t.name: t for t in self._index.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; tensors that were taken keep the mapping. Idempotent."""
        self._views = None

    def keys(self) -> list[str]:
        """Return the names of the tensors, sorted."""
        return sorted(self._by_name)

    def offset_keys(self) -> list[str]:
        """Return the names in the order of the file."""
        return [tensor.name for tensor in self._index.tensors]

    def metadata(self) -> dict[str, str]:
        """Return what the header says besides."""
        return dict(self._index.metadata)

    @property
    def format(self) -> str:
        """`safetensors`, `npy`, `npz`, `pt` or `raw`."""
        return self._index.format

    @property
    def info(self) -> FileInfo:
        """Where the file of that path is now.

        Raises:
            OSError: It is there no longer.
        """
        return info(self._path)

    def get_tensor(self, name: str) -> torch.Tensor:
        """Return a tensor: on the CPU a read-only view of the page cache.

        Raises:
            KeyError: There is no such tensor.
            ValueError: The file is closed.
        """
        tensor = self._view(name)
        return tensor if self._device.type == "cpu" else tensor.to(self._device)

    def get_slice(self, name: str) -> TensorSlice:
        """Return a tensor of which parts can be read; raises as `get_tensor`."""
        return TensorSlice(self._view(name), self._device, self._by_name[name].dtype.label)

    def _view(self, name: str) -> torch.Tensor:
        if self._views is None:
            raise ValueError(f"{self._path} is closed")
        check_names([name], self._by_name, self._path)
        return self._views.view(self._by_name[name])


def open(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> LazyFile:
    """Open a file of tensors; see `LazyFile`."""
    return LazyFile(path, device)
