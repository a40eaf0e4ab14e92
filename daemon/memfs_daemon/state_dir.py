"""Whether a directory may serve as a state directory.

Invariant: a directory that is refused is left as it was, to the last name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.ownership import require_own_tree
from memfs.metadata.sqlite.format import IMPORT_NAME, read_format

if TYPE_CHECKING:
    from pathlib import Path

_CREATION_LEFTOVERS = re.compile(
    r"lock|ids|format\.new|metadata\.db(-.*)?|metadata\.sums|journal\.\d|reserve|control\.sock"
    r"|daemon\.log(\.\d)?|lost\+found|holders|node"
)
"""What may lie in a directory without a format file: the first mount was killed early, or the
directory is the root of a file system."""

_DEPTH = 3
"""The directories of all stores: `glacier/blobs/ff` are three levels."""


def prepare_state(state_dir: Path) -> None:
    """Make a state directory, or see that an existing one is ours or empty.

    Raises:
        UsageError: It cannot be made, holds something else, is of a format that this memfs does not
            know, or others could change it.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own_tree(state_dir.resolve(), _DEPTH)
        if _is_state(state_dir, shared=True):
            return
        names = sorted(entry.name for entry in state_dir.iterdir())
    except OSError as error:
        message = f"{state_dir} cannot be the state directory: {error.strerror}"
        raise UsageError(message, ExitCode.STATE_UNUSABLE) from None
    if IMPORT_NAME in names:
        raise UsageError(
            f"{state_dir}: an import was cut short: run `memfs snapshot import` again",
            ExitCode.STATE_UNUSABLE,
        )
    foreign = [name for name in names if not _CREATION_LEFTOVERS.fullmatch(name)]
    if foreign:
        raise UsageError(
            f"{state_dir} is no state directory of memfs, and holds {foreign[0]!r}; "
            "name an empty or a new one with --state",
            ExitCode.STATE_UNUSABLE,
        )


def require_state(state_dir: Path, *, shared: bool = False) -> None:
    """See that a directory is a state directory.

    Args:
        state_dir: The directory.
        shared: It may be that of a node of a shared mount.

    Raises:
        UsageError: It is not one, or one of a format that this memfs does not know, or, unless that
            is allowed, of a node of a shared mount; or others could change it.
    """
    try:
        require_own_tree(state_dir.resolve(strict=True), _DEPTH)
    except OSError as error:
        message = f"{state_dir} is no state directory of memfs: {error.strerror}"
        raise UsageError(message, ExitCode.STATE_UNUSABLE) from None
    if not _is_state(state_dir, shared=shared):
        raise UsageError(f"{state_dir} is no state directory of memfs", ExitCode.STATE_UNUSABLE)


def _is_state(state_dir: Path, *, shared: bool) -> bool:
    try:
        return read_format(state_dir, shared=shared) is not None
    except UsageError as error:
        raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from None
