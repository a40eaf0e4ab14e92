"""Small files, many at a time: one call of the daemon in place of some requests for each.

Invariant: what the daemon leaves, or does not answer, is told as left; the caller makes requests
for it, and hears from the kernel what is wrong. Nothing here raises for a file.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from memfs.control.client import ControlError, call_door
from memfs.control.methods import small_files as methods
from memfs.control.typed import decode
from memfs.errors import InvalidValueError
from memfs.linux.processes import own_umask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from memfs.control.methods.method import Method

P = TypeVar("P")
R = TypeVar("R")

FILES_A_CALL = 256
"""Some 20 ms of the daemon; it has others served in between."""

READS_A_CALL = 1024
"""Some 20 ms as well, in turns. Each call takes 3 ms, whatever it reads: token, connection, and
threads that wake. With 256 files a call, 10,000 of them took the daemon a fifth more."""

BYTES_A_CALL = 256 << 10
"""Bytes of content, names and xattrs of one call; a request line has 1 MiB."""

FILE_BYTES_MAX = 32 << 10
"""A longer file is written by its program itself: it goes past the daemon then. Guess."""

_ASK_XATTR = "user.memfs.ask"
_CALL_S_MAX = 30.0

_DURABLE_CALL_S_MAX = 300.0
"""A sync may wait for all that other programs have written. Guess."""


class NewFile(NamedTuple):
    """A file that is to be made."""

    path: str
    """Below the directory."""
    content: bytes
    xattrs: Mapping[str, bytes]
    """Those of the user, by full name."""

    @property
    def size(self) -> int:
        """Bytes that it takes of a call, about."""
        xattrs = sum(len(name) + len(value) for name, value in self.xattrs.items())
        return len(self.path) + len(self.content) + xattrs


def put_small(
    directory: str,
    state_dir: Path,
    files: Sequence[NewFile],
    *,
    replace: bool = True,
    tier: str | None = None,
    durable: bool = False,
) -> list[int]:
    """Make files below a directory; each is there whole, or was left.

    Args:
        directory: On a mount; it exists, and so do those on the way to each file.
        state_dir: That of the mount, for messages.
        files: At most `FILES_A_CALL` with `BYTES_A_CALL`.
        replace: Files of these names give way, as in rename(2).
        tier: A pin of each: `warm`, `cold`, `glacier`.
        durable: Return when they are on stable storage.

    Returns:
        The mtime of each in ns; 0: it was left, or could not be made durable.
    """
    told = _ticket(directory, changes=True)
    if told is None:
        return [0] * len(files)
    address, ticket = told
    params: methods.PutSmallParameters = {
        "ticket": ticket,
        "paths": [file.path for file in files],
        "sizes": [len(file.content) for file in files],
        "contents": base64.b64encode(b"".join(file.content for file in files)).decode(),
        "xattrs": [_json_of(file.xattrs) for file in files],
        "umask": own_umask(),
        "replace": replace,
        "tier": tier,
    }
    if durable:
        # An earlier version leaves the files: it does not know the parameter.
        params["durable"] = True
    timeout_s = _DURABLE_CALL_S_MAX if durable else _CALL_S_MAX
    report = _call(address, state_dir, methods.PUT_SMALL, params, timeout_s)
    return [0] * len(files) if report is None else report["mtimes_ns"]


def get_small(
    directory: str, state_dir: Path, paths: Sequence[str], xattr: str
) -> list[tuple[bytes, str] | None]:
    """Read files below a directory.

    Args:
        directory: On a mount.
        state_dir: That of the mount, for messages.
        paths: Below the directory; at most `READS_A_CALL` with `BYTES_A_CALL`.
        xattr: Name of one that is wanted of each.

    Returns:
        Content and xattr of each, the latter empty where there is no such xattr; None: it was left.
    """
    found: list[tuple[bytes, str] | None] = []
    while len(found) < len(paths):
        more = _get_some(directory, state_dir, paths[len(found) :], xattr)
        if not more:
            break
        found += more
    return found + [None] * (len(paths) - len(found))


def _get_some(
    directory: str, state_dir: Path, paths: Sequence[str], xattr: str
) -> list[tuple[bytes, str] | None]:
    """Read as many of some files as one answer has room for."""
    told = _ticket(directory)
    if told is None:
        return []
    address, ticket = told
    params: methods.GetSmallParameters = {"ticket": ticket, "paths": [*paths], "xattr": xattr}
    report = _call(address, state_dir, methods.GET_SMALL, params)
    if report is None:
        return []
    contents = base64.b64decode(report["contents"])
    found: list[tuple[bytes, str] | None] = []
    begin = 0
    for size, value in zip(report["sizes"], report["xattrs"], strict=True):
        if size == methods.AGAIN:
            break
        found.append(None if size < 0 else (contents[begin : begin + size], value))
        begin += max(size, 0)
    return found


def _ticket(directory: str, *, changes: bool = False) -> tuple[str, str] | None:
    """Return where to ask and with what token; None: there is no token."""
    try:
        told = json.loads(os.getxattr(directory, _ASK_XATTR))
        if changes:
            # Shows that the kernel lets this process change the directory (`filesystem.door`).
            os.setxattr(directory, _ASK_XATTR, told["token"].encode())
        return told["socket"], told["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _call(
    address: str,
    state_dir: Path,
    method: Method[P, R],
    params: Any,  # noqa: ANN401 - P, which mypy takes for no dict
    timeout_s: float = _CALL_S_MAX,
) -> R | None:
    try:
        answer = call_door(address, state_dir, method.name, params, timeout_s=timeout_s)
        report: R = decode(method.report, answer)
    except (ControlError, InvalidValueError):
        # It is busy, or of another version; or another network namespace has its socket.
        return None
    return report


def _json_of(xattrs: Mapping[str, bytes]) -> str:
    return json.dumps(
        {name: value.decode("utf-8", "surrogateescape") for name, value in xattrs.items()}
    )
