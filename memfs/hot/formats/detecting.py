"""Detecting: which format a file is of, by its content and not by its name.

Invariant: a file of which type and shape were given is raw, whatever its bytes look like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.hot.formats import npy, pt, safetensors, zips
from memfs.hot.formats.raw import read_raw
from memfs.hot.tensors import FormatError

if TYPE_CHECKING:
    from memfs.hot.formats.source import Source
    from memfs.hot.tensors import TensorIndex


def read_index(
    source: Source, *, dtype: str | None = None, shape: tuple[int, ...] | None = None
) -> TensorIndex:
    """Return the tensors of a file.

    Args:
        dtype: That of a raw file; None: the file says by itself what it is.
        shape: That of a raw file; None with a `dtype`: one dimension.

    Raises:
        FormatError: It holds no tensors that memfs knows, or its header lies.
    """
    if dtype is not None:
        return read_raw(source, dtype, shape)
    begin = source.read(0, min(16, source.size_bytes))
    if begin.startswith(npy.MAGIC):
        return npy.read_npy(source)
    if begin.startswith(zips.MAGIC):
        members = zips.read_members(source)
        return pt.read_pt(source, members) if pt.is_pt(members) else zips.read_npz(source, members)
    if begin.startswith(pt.LEGACY_MAGICS):
        raise FormatError(
            f"{source.name} is of the old format of torch.save; load it and save it again with "
            "torch 1.6 or newer"
        )
    if safetensors.looks_like(source):
        return safetensors.read_safetensors(source)
    raise FormatError(
        f"{source.name} holds no tensors that memfs knows: .safetensors, .npy, .npz, .pt, or plain "
        "numbers with user.memfs.dtype and user.memfs.shape"
    )
