"""Mount options in the words of libfuse.

Invariant: only words that libfuse 3 knows go to it, as it refuses a mount for any other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPPOSITES = {
    "ro": "rw", "nosuid": "suid", "nodev": "dev", "noexec": "exec", "sync": "async",
    "noatime": "atime",
}  # fmt: skip
_UNSAID = frozenset({"atime", "rw", "exec", "async"})
"""The case anyway; `atime` libfuse does not know."""
_PASSED_ON = frozenset({"dirsync", "nodiratime"})
_DROPPED = frozenset(
    {
        "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime",
        "diratime",
    }
)  # fmt: skip
"""About access times, which the daemon keeps, not the kernel."""
_FOR_SECURITY = ("context=", "fscontext=", "defcontext=", "rootcontext=")


def libfuse_options(
    words: Sequence[str], source: str, *, allow_other: bool, privileged: bool
) -> set[str]:
    """Return the options of a mount.

    `max_read` is not among them: libfuse insists that the handler of INIT repeats it, which pyfuse3
    has no way to do. Requests are at most 1 MiB, as libfuse negotiates.

    Args:
        words: Those of mount(8), in the order given; later ones win.
        source: What /proc/mounts shows as the device; any characters.
        allow_other: Let users other than the mounting one in.
        privileged: Mounted by root: set-user-id programs and device nodes work as on any file
            system. For others, fusermount3 insists on `nosuid,nodev`.

    Raises:
        UsageError: A word that is neither for the kernel nor for libfuse.

    Source: mount.fuse3(8).
    """
    chosen: dict[str, str] = {"nosuid": "suid", "nodev": "dev"} if privileged else {}
    for word in words:
        if word in _OPPOSITES:
            chosen[word] = word
        elif word in _OPPOSITES.values():
            negative = next(key for key, value in _OPPOSITES.items() if value == word)
            chosen[negative] = word
        elif word in _PASSED_ON:
            chosen[word] = word
        elif word.startswith(_FOR_SECURITY):
            name, _, context = word.partition("=")
            chosen[name] = f"{name}={_escape(context)}"
        elif word not in _DROPPED:
            raise UsageError(f"-o {word}: the pyfuse3 driver knows no such mount option")
    options = {word for word in chosen.values() if word not in _UNSAID}
    options |= {
        "default_permissions",
        "subtype=memfs",
        f"fsname={_escape(source)}",
    }
    if allow_other:
        options.add("allow_other")
    return options


def _escape(value: str) -> str:
    r"""Write a value as libfuse's option parser reads it: in ASCII, `\ooo` for what is special."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b"\\," else f"\\{byte:03o}"
        for byte in os.fsencode(value)
    )
