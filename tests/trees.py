"""A directory tree as a comparable value: names, types, attributes, content.

Invariant: two trees that a program could tell apart by anything but inode numbers, times, block
counts, and sizes and link counts of directories have different descriptions.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Entry(NamedTuple):
    """What a tree holds under one path."""

    mode: int
    link_count: int
    """0 for a directory: file systems disagree about it."""
    uid: int
    gid: int
    size_bytes: int
    """0 for a directory as well."""
    device: int
    content: str
    """Digest of a file, target of a symlink, else empty."""
    xattrs: tuple[tuple[str, bytes], ...]
    """The `user.*` and `trusted.*` ones, sorted."""
    mtime_ns: int
    """0 unless asked for."""


def describe(root: Path, *, times: bool = False) -> dict[bytes, Entry]:
    """Everything below `root` by relative path, and `root` itself as `b"."`.

    Args:
        root: Directory to walk; symlinks are not followed.
        times: Include the modification times of regular files.
    """
    top = os.fsencode(root)
    found = {b".": _entry(top, times=times)}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = _entry(path, times=times)
    return found


def _entry(path: bytes, *, times: bool) -> Entry:
    status = os.lstat(path)
    content = ""
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = repr(os.readlink(path))
    is_directory = stat.S_ISDIR(status.st_mode)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Entry(
        mode=status.st_mode,
        link_count=0 if is_directory else status.st_nlink,
        uid=status.st_uid,
        gid=status.st_gid,
        size_bytes=0 if is_directory else status.st_size,
        device=status.st_rdev,
        content=content,
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in names
            if name.startswith(("user.", "trusted.")) and not name.startswith("user.memfs.")
        ),
        mtime_ns=status.st_mtime_ns if times and stat.S_ISREG(status.st_mode) else 0,
    )
