"""The file `node` of a state directory: which node of which mount it is, and its epochs.

A node takes an epoch by a change of its row in the database, whose answer may be lost. So what it
is about to take is noted here before, on stable storage: at any time the row has one of the noted
epochs, or another process has taken this node's place, or this is an older copy of the directory.

Invariant: the file has one sector, which a disk writes whole, and its room from the beginning.
"""

from __future__ import annotations

import enum
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import StateDamagedError
from memfs.linux.files import open_regular, read_regular, sync_directory
from memfs.metadata.sqlite.format import NODE_NAME

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 512


class Role(enum.StrEnum):
    """What a node does, as the configuration and the database have it."""

    WRITER = "writer"
    """It makes all changes; there is one."""
    READER = "reader"


class Membership(NamedTuple):
    """What the file says."""

    mount_id: str
    """Which mount it is, as the database of its names calls it."""
    epochs: tuple[int, ...]
    """What the row of this node may have: the last one, and what was about to be taken."""
    role: Role = Role.WRITER
    taken: int | None = None
    """Epoch with which a reader is about to take the row of the node that writes."""
    state_id: bytes | None = None
    """Identity under which it writes, of the state directory that did before; None: its own."""
    is_emptied: bool = False
    """It wrote, its place was taken, and its tables go (`demoting`); `epochs` are the last ones."""


class NodeFile:
    """The file of one state directory.

    Args:
        state_dir: The directory.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / NODE_NAME

    def read(self) -> Membership | None:
        """Return what it says; None: there is no such file.

        Raises:
            StateDamagedError: It cannot be read.
        """
        try:
            content = json.loads(read_regular(self._path))
            epochs = tuple(map(int, content["epochs"]))
            role = Role(content.get("role", Role.WRITER))
            taken, state_id = content.get("taken"), content.get("state_id")
            is_emptied = bool(content.get("emptied"))
            return Membership(
                str(content["mount"]),
                epochs,
                role,
                None if taken is None else int(taken),
                None if state_id is None else bytes.fromhex(state_id),
                is_emptied,
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateDamagedError(
                f"{self._path} cannot be read ({error})", str(self._path.parent)
            ) from error

    def write(self, membership: Membership) -> None:
        """Replace what it says, durably. Blocks for an fsync.

        Raises:
            OSError: The disk refuses.
        """
        mount_id, epochs, role, taken, state_id, is_emptied = membership
        content: dict[str, object] = {"mount": mount_id, "epochs": epochs, "role": role}
        if taken is not None:
            content["taken"] = taken
        if state_id is not None:
            content["state_id"] = state_id.hex()
        if is_emptied:
            content["emptied"] = True
        data = json.dumps(content).encode().ljust(_BYTES - 1) + b"\n"
        assert len(data) == _BYTES, content
        fd = open_regular(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove it, durably; idempotent.

        Raises:
            OSError: The disk refuses.
        """
        self._path.unlink(missing_ok=True)
        sync_directory(self._path.parent)
