"""The messages of the control socket: JSON-RPC 2.0, one object a line.

Invariant: a message is one line of UTF-8 of bounded length; whatever bytes arrive, `parse_request`
returns a request or raises `RequestError`, which says what to answer.

Source: https://www.jsonrpc.org/specification. Batches are not supported.
"""

from __future__ import annotations

import enum
import json
from typing import NamedTuple

SOCKET_NAME = "control.sock"
"""Name of the socket in the state directory."""

REQUEST_BYTES_MAX = 1 << 20
"""Longest request line; guess: the largest known one is a few paths."""

REPLY_BYTES_MAX = 64 << 20
"""Longest reply line; a list of 100,000 pending moves takes about 20 MiB."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class ErrorCode(enum.IntEnum):
    """`error.code` of a reply; below -32000 as the specification says."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    REFUSED = -32000
    """A deliberate error of memfs; the message is for users."""


class Request(NamedTuple):
    """One call."""

    id: int | str | None
    """What the reply carries."""
    is_notification: bool
    """True if no reply is wanted (there was no `id`)."""
    method: str
    params: dict[str, JsonValue]


class RequestError(Exception):
    """A request that cannot be carried out; the attributes make the reply."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        request_id: int | str | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.errno = errno


def parse_request(line: bytes) -> Request:
    """Return the request of a line.

    Raises:
        RequestError: Not JSON, not a request object, or parameters that are not named.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError(ErrorCode.PARSE, "the request is not JSON") from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise RequestError(ErrorCode.INVALID_REQUEST, "the request is no JSON-RPC 2.0 object")
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, int | str | None):
        raise RequestError(ErrorCode.INVALID_REQUEST, "the id is neither a number nor a text")
    method = message.get("method")
    if not isinstance(method, str):
        raise RequestError(ErrorCode.INVALID_REQUEST, "the request names no method", request_id)
    params = message.get("params", {})
    if not isinstance(params, dict):
        raise RequestError(ErrorCode.INVALID_PARAMS, "parameters are given by name", request_id)
    return Request(request_id, "id" not in message, method, params)


def format_request(request_id: int, method: str, params: dict[str, JsonValue]) -> bytes:
    """Return the line of a request."""
    return _line({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def format_result(request_id: int | str | None, result: JsonValue) -> bytes:
    """Return the line of a successful reply."""
    return _line({"jsonrpc": "2.0", "id": request_id, "result": result})


def format_error(
    request_id: int | str | None, code: ErrorCode, message: str, errno: int | None = None
) -> bytes:
    """Return the line of a failed reply.

    Args:
        code: What kind of failure it is.
        message: For people; programs go by the codes.
        errno: What the failure is to a system call (errno(3)); None: that is not known.
    """
    error: dict[str, JsonValue] = {"code": int(code), "message": message}
    if errno is not None:
        error["data"] = {"errno": errno}
    return _line({"jsonrpc": "2.0", "id": request_id, "error": error})


def _line(message: dict[str, JsonValue]) -> bytes:
    # ASCII only: lone surrogates of undecodable file names survive as escapes.
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"
