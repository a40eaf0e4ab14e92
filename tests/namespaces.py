"""Programs in a mount namespace of their own: the one place where tests make one.

A new namespace has a copy of each mount, and a copy keeps its daemon: what a test has no part in
goes first.
"""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LEAVE_OTHERS = r"""
if [ -z "$1" ]; then
    umount --all --lazy --types fuse.memfs || true
else
    # A blank in a mountpoint is \040 there (proc_pid_mountinfo(5)).
    grep " - fuse[.]memfs " /proc/self/mountinfo | cut -d " " -f 5 | sed 's/\\/\\0/g' |
    while read -r mountpoint; do
        mountpoint=$(printf %b "$mountpoint")
        [ "$mountpoint" = "$1" ] || umount --lazy "$mountpoint" || true
    done
fi
shift
"""


def in_namespace(script: str, *arguments: str | Path, keep: str | Path = "") -> list[str]:
    """Return a command that runs a script of sh(1), with `-eu`, in a namespace of its own.

    Args:
        script: Its first argument is `$1`.
        arguments: The script gets them.
        keep: A mountpoint of memfs that it has a copy of; empty: it has no such.
    """
    shell = ["sh", "-euc", LEAVE_OTHERS + script, "sh", str(keep), *map(str, arguments)]
    return ["unshare", "--mount", "--propagation", "private", *shell]


def need_namespaces() -> None:
    """Skip the test where no namespace can be made."""
    if not _are_allowed():
        pytest.skip("mount namespaces are not allowed here")


@functools.cache
def _are_allowed() -> bool:
    return subprocess.run(in_namespace(":"), capture_output=True, check=False).returncode == 0
