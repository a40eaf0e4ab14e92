"""Saving: a dictionary of tensors as a safetensors file, whole or not at all.

Invariant: under the path there is the former file or the whole new one, whatever happens meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from memfs.hot.formats.safetensors import build_header
from memfs.linux.files import sync_directory
from memfs.torch.mounts import require_mount
from memfs.torch.tensor_bytes import described, pieces

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_TIER_XATTR = "user.memfs.tier"


def save(
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    tier: str | None = None,
    pin: bool = False,
    fsync: bool = False,
) -> None:
    """Write tensors to a file, by way of a temporary one beside it.

    Args:
        tensors: By name; dense, on any device. They are written row-major, each of its own.
        path: The new file; one that is there is replaced, its permissions are kept.
        metadata: Texts for the header.
        tier: Pin the file to it: `hot`, `warm`, `cold` or `glacier`; only on memfs.
        pin: The same as `tier="hot"`, where no tier is given.
        fsync: Return when the file and its name are on stable storage.

    Raises:
        ValueError: A tensor cannot be stored: sparse, quantized, without memory, complex128.
        DeviceUnavailableError: A tier is asked for, and the path is not on memfs.
        OSError: The file cannot be written; nothing is left of it.
    """
    target = os.fspath(path)
    directory, name = os.path.split(target)
    new = [described(key, tensor) for key, tensor in tensors.items()]
    header, ordered = build_header(new, metadata)
    if pin and tier is None:
        tier = "hot"
    if tier is not None:
        require_mount(target)
    # Names are up to 255 bytes long, and a character up to four.
    temporary = os.path.join(directory, f".{name[:50]}.{secrets.token_hex(4)}.tmp")
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode & 0o777
    # Never more than the former file allowed, not even for a moment.
    fd = os.open(
        temporary,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
        0o666 if mode is None else mode,
    )
    try:
        try:
            if mode is not None:
                # What the umask took away from it.
                os.fchmod(fd, mode)
            _write(fd, memoryview(header))
            for each in ordered:
                for piece in pieces(tensors[each.name]):
                    _write(fd, piece)
            if tier is not None:
                # Before the rename: a pin that is refused leaves the former file as it was.
                os.setxattr(fd, _TIER_XATTR, tier.encode())
            if fsync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if fsync:
        sync_directory(directory or ".")


def _write(fd: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
