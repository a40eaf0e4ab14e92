"""The control client: one call to the daemon of a state directory.

Invariant: a call ends within its time limit, whatever state the daemon is in.
"""

from __future__ import annotations

import contextlib
import errno as codes
import json
import socket
import time
from typing import TYPE_CHECKING

from memfs.control.address import socket_address
from memfs.control.protocol import REPLY_BYTES_MAX, ErrorCode, JsonValue, format_request
from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

_RECEIVE_BYTES = 256 << 10


class ControlError(MemfsError):
    """The daemon refused the call.

    Args:
        message: The daemon's, for people.
        code: What kind of failure it is.
        errno: That of the error that the daemon met with (errno(3)); EIO where it has told nothing.
    """

    def __init__(
        self, message: str, code: ErrorCode = ErrorCode.REFUSED, errno: int = codes.EIO
    ) -> None:
        super().__init__(message)
        self.code = code
        self.errno = errno


class ControlUnavailableError(ControlError, UsageError):
    """No daemon listens there, it may not be spoken to, or it did not answer in time."""

    def __init__(self, message: str, errno: int = codes.ENOTCONN) -> None:
        super().__init__(message, errno=errno)
        self.exit_code = ExitCode.NO_ANSWER


def call(
    state_dir: Path,
    method: str,
    params: dict[str, JsonValue] | None = None,
    *,
    timeout_s: float = 10.0,
) -> JsonValue:
    """Call a method of the daemon that serves a state directory, and return its result.

    Args:
        state_dir: Where `control.sock` is.
        params: By name.
        timeout_s: Bound on the whole call, > 0.

    Raises:
        ControlUnavailableError: There is no daemon, no permission, or no answer in time.
        ControlError: The daemon answered with an error.
    """
    return _call(socket_address(state_dir), state_dir, method, params or {}, timeout_s)


def call_door(
    address: str,
    state_dir: Path,
    method: str,
    params: dict[str, JsonValue],
    *,
    timeout_s: float = 10.0,
) -> JsonValue:
    """Call a method as a user who has no right to the control socket, else as `call`.

    Args:
        address: As `user.memfs.ask` tells it.
    """
    address = f"\0{address}"
    return _call(contextlib.nullcontext(address), state_dir, method, params, timeout_s)


def _call(
    place: contextlib.AbstractContextManager[str],
    state_dir: Path,
    method: str,
    params: dict[str, JsonValue],
    timeout_s: float,
) -> JsonValue:
    deadline_s = time.monotonic() + timeout_s
    try:
        with place as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(address)
            connection.sendall(format_request(1, method, params))
            line = _receive_line(connection, deadline_s)
    except TimeoutError:
        message = f"the daemon of {state_dir} did not answer within {timeout_s:g} s"
        raise ControlUnavailableError(message, codes.ETIMEDOUT) from None
    except PermissionError:
        message = f"only the user who mounted {state_dir}, or root, may ask its daemon"
        raise ControlUnavailableError(message, codes.EACCES) from None
    except OSError as error:
        message = f"no daemon answers for {state_dir}: {error.strerror}"
        raise ControlUnavailableError(message) from None
    return _result(line, state_dir)


def _receive_line(connection: socket.socket, deadline_s: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while not chunks or not chunks[-1].endswith(b"\n"):
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        connection.settimeout(remaining_s)
        chunk = connection.recv(_RECEIVE_BYTES)
        size += len(chunk)
        if not chunk or size > REPLY_BYTES_MAX:
            break
        chunks.append(chunk)
    return b"".join(chunks)


def _result(line: bytes, state_dir: Path) -> JsonValue:
    try:
        reply = json.loads(line)
        error = reply.get("error")
        if error is not None:
            errno = error.get("data", {}).get("errno", codes.EIO)
            raise ControlError(str(error["message"]), ErrorCode(error["code"]), int(errno))
        result: JsonValue = reply["result"]
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"the daemon of {state_dir} closed the connection without an answer"
        raise ControlUnavailableError(message) from None
    return result
