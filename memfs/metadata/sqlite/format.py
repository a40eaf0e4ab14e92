"""The format file: which engine and version of it a state directory belongs to, and its identity.

Invariant: a directory of another engine, a newer version or an unreadable format is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from typing import TYPE_CHECKING

from memfs.errors import StateDamagedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.files import open_regular, read_regular, sync_directory
from memfs.types import STATE_ID_BYTES, StateId

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_NUMBER = 3
OLDEST_FORMAT = 2
"""States from here on are migrated (`sqlite.migration`). Their tables have no number of their own:
`pragma user_version` is 0 there, and the format's number from 3 on."""

FOREIGN_NUMBER = 4
"""`pragma user_version` of tables of format 3 that have sources: an older memfs refuses them. The
format file says 3, as of a state without sources."""

ENGINE_NAME = "sqlite"
SHARED_ENGINE_NAME = "postgresql"
"""That of a node of a shared mount: the same files, of which a database has a part too."""

FILE_NAME = "format"
REPAIR_NAME = "repairing"
"""A file that is there while a repair goes on."""

NODE_NAME = "node"
"""A file of a node of a shared mount; `metadata.shared.node_file` has what is in it."""

IMPORT_NAME = "importing"
"""A file that is there while an import goes on (`sqlite.importing`)."""


def read_format(state_dir: Path, *, shared: bool = False) -> int | None:
    """Return the number of a format that this engine serves or migrates; None without one.

    Tables may be older than the number says: a migration was cut short.

    Args:
        state_dir: The directory.
        shared: It may be that of a node of a shared mount.

    Raises:
        UsageError: The format is newer, of another engine, or unreadable.
    """
    path = state_dir / FILE_NAME
    try:
        content = json.loads(read_regular(path))
        number, engine = content["format"], content["engine"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}): this is no state directory of memfs, or a damaged "
            "one; name another with --state, restore the file from a backup, or run "
            f"`memfs fsck --repair {state_dir}`",
            ExitCode.STATE_UNUSABLE,
        ) from None
    if engine == SHARED_ENGINE_NAME and not shared:
        raise _node_refusal(state_dir)
    if engine not in (ENGINE_NAME, SHARED_ENGINE_NAME):
        raise UsageError(
            f"{path} names the engine {engine!r}, not {ENGINE_NAME!r}: mount it so",
            ExitCode.STATE_UNUSABLE,
        )
    if type(number) is not int or not OLDEST_FORMAT <= number <= FORMAT_NUMBER:
        raise UsageError(
            f"{path} says format {number!r}, this memfs knows {OLDEST_FORMAT} to {FORMAT_NUMBER}: "
            "use the version of memfs that wrote it, or a newer one",
            ExitCode.STATE_UNUSABLE,
        )
    return number


def read_state_id(state_dir: Path) -> StateId | None:
    """Return the identity of a state directory; None if it was made before there were any.

    Raises:
        StateDamagedError: The format file cannot be read, or what it has is no identity.
    """
    path = state_dir / FILE_NAME
    try:
        text = json.loads(read_regular(path)).get("id")
        if text is None:
            return None
        state_id = bytes.fromhex(text)
        if len(state_id) == STATE_ID_BYTES:
            return StateId(state_id)
        error: Exception = ValueError(f"{len(state_id)} bytes")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as caught:
        error = caught
    raise StateDamagedError(f"{path} has no valid id ({error})", str(state_dir))


def read_former_id(state_dir: Path) -> StateId | None:
    """Return the identity under which a mount writes, if it is another state directory's.

    That is so where the directory was that of a node that has taken over from another one, and the
    names have left the database since.
    """
    try:
        text = json.loads(read_regular(state_dir / FILE_NAME)).get("writes_as")
        return None if text is None else StateId(bytes.fromhex(text))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def new_state_id() -> StateId:
    """Return an identity that no other state directory has."""
    return StateId(secrets.token_bytes(STATE_ID_BYTES))


def refuse_shared(state_dir: Path) -> None:
    """See that a directory does not belong to a node of a shared mount, whatever its format says.

    Raises:
        UsageError: It does.
    """
    if (state_dir / NODE_NAME).exists():
        raise _node_refusal(state_dir)


def _node_refusal(state_dir: Path) -> UsageError:
    return UsageError(
        f"{state_dir} belongs to a node of a mount whose names are in PostgreSQL: only a mount "
        "with metadata.url in its configuration can change it; name another directory, or have "
        "a machine that reads take the place of a damaged one that writes (`memfs node promote`)",
        ExitCode.STATE_UNUSABLE,
    )


def read_is_shared(state_dir: Path) -> bool:
    """Return whether a directory with a format belongs to a node of a shared mount."""
    content = json.loads(read_regular(state_dir / FILE_NAME))
    return bool(content["engine"] == SHARED_ENGINE_NAME)


def write_format(
    state_dir: Path,
    state_id: StateId,
    number: int = FORMAT_NUMBER,
    *,
    shared: bool = False,
    writes_as: StateId | None = None,
) -> None:
    """Mark the directory as complete and ours, for good.

    Args:
        state_dir: The directory.
        state_id: Its identity.
        number: That of the format.
        shared: It belongs to a node of a shared mount: nothing else may change it.
        writes_as: Identity under which the mount writes (`read_former_id`); None: as it was.
    """
    engine = SHARED_ENGINE_NAME if shared else ENGINE_NAME
    told = {"format": number, "engine": engine, "id": state_id.hex()}
    if (former := writes_as or read_former_id(state_dir)) is not None:
        told["writes_as"] = former.hex()
    content = json.dumps(told)
    temporary = state_dir / (FILE_NAME + ".new")
    try:
        _write(temporary, content, os.O_CREAT | os.O_TRUNC)
        temporary.rename(state_dir / FILE_NAME)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno != errno.ENOSPC or not (state_dir / FILE_NAME).exists():
            raise
        # A full disk has no block for a second file. One sector is written whole or not at all.
        _write(state_dir / FILE_NAME, content, 0)
    sync_directory(state_dir)


def begin_repair(state_dir: Path) -> None:
    """Refuse all mounts of a directory until `end_repair`, durably; also if this process ends."""
    _write(state_dir / REPAIR_NAME, "memfs fsck --repair has begun and has not ended", os.O_CREAT)
    sync_directory(state_dir)


def end_repair(state_dir: Path) -> None:
    """Let the directory be mounted again."""
    (state_dir / REPAIR_NAME).unlink(missing_ok=True)
    sync_directory(state_dir)


def refuse_half_repaired(state_dir: Path) -> None:
    """See that no repair was cut short.

    Raises:
        StateDamagedError: One was.
    """
    if (state_dir / REPAIR_NAME).exists():
        raise StateDamagedError(
            f"{state_dir}: a repair has begun and was cut short", str(state_dir)
        )


def _write(path: Path, content: str, flags: int) -> None:
    fd = open_regular(path, os.O_WRONLY | flags)
    try:
        os.write(fd, (content + "\n").encode())
        os.fsync(fd)
    finally:
        os.close(fd)
