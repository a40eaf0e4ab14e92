"""Which node of a shared mount a state directory is, and that fsck does not change it.

Invariant: what nodes share is changed by a node that is mounted, and by nobody else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.node_file import NodeFile, Role
from memfs.metadata.sqlite.format import read_is_shared

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.shared.node_file import Membership


def read_membership(state_dir: Path) -> Membership | None:
    """Return what a state directory says of its node; None: it belongs to no shared mount.

    Raises:
        UsageError: The file that says so is gone.
        StateDamagedError: It cannot be read.
    """
    known = NodeFile(state_dir).read()
    is_shared = False
    # What is wrong with a format is told by who needs it.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        is_shared = read_is_shared(state_dir)
    if known is None and is_shared:
        raise UsageError(
            f"{state_dir / 'node'} is missing, which says what node this is: restore it from a "
            "backup, or mount with a new directory by --state, and have a machine that reads take "
            "over if this one wrote (`memfs node promote`)",
            ExitCode.STATE_UNUSABLE,
        )
    return known


def refuse_changes(state_dir: Path, known: Membership, option: str) -> UsageError:
    """Return why a state directory of a node is not changed by fsck, and what to do instead.

    Args:
        state_dir: The directory.
        known: What it says of its node.
        option: What was asked for.
    """
    if known.role is Role.READER:
        told = (
            "that of a node that reads, and has nothing of its own to save: mount with a new "
            "directory by --state, which reads all names anew, and remove this one"
        )
    elif option == "--accept":
        told = (
            "that of the node that writes, and a new content is told to the database: mount it, "
            "and write the file there"
        )
    else:
        told = (
            "that of the node that writes, and the database has its names: have a machine that "
            "reads take over (`memfs node promote`), or mount one first if none reads. Only files "
            "that were not uploaded have their bytes here alone, in raw/: keep this directory as "
            "long as you need these"
        )
    return UsageError(f"{option}: {state_dir} is {told}", ExitCode.STATE_UNUSABLE)
