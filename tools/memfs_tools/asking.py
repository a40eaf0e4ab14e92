"""Asking the daemon of a mount, for commands.

Invariant: a daemon that is gone or does not answer is one line and exit status 8, in every command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memfs.control.client import ControlUnavailableError, call
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from memfs.control.protocol import JsonValue
    from memfs_tools.mounts import ServedMount

ANSWER_S_MAX = 10.0


def ask(
    served: ServedMount,
    method: str,
    parameters: dict[str, JsonValue] | None = None,
    *,
    timeout_s: float = ANSWER_S_MAX,
) -> Any:  # noqa: ANN401 - JSON
    """Return what a method of the mount's daemon answers.

    Raises:
        UsageError: No daemon answers.
        ControlError: The daemon refuses.
    """
    try:
        return call(served.state_dir, method, parameters, timeout_s=timeout_s)
    except ControlUnavailableError as error:
        raise UsageError(f"{served.mountpoint}: {error}", ExitCode.NO_ANSWER) from None
