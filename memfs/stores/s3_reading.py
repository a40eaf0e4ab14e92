"""Ranges of objects by botocore's own client, each in the thread that asks for it.

s3fs answers through an event loop of its own, in pieces that pass from aiohttp to it and from there
to the thread that waits. A thread that reads its socket itself takes 0.8 to 0.95 s of a processor a
GiB instead of 1.5 to 1.7 (256 MiB from SeaweedFS by four threads, three runs in turns).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import botocore
import botocore.config
import botocore.exceptions
import botocore.session
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.errors import translate_boto_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import s3fs

_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_RETRYABLE = (
    *S3_RETRYABLE_ERRORS,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.FlexibleChecksumError,
)
_RETRY_PAUSE_S = 0.1

CONNECTION_AGE_MAX_S = 12.0
"""A connection that was made longer ago takes no new request, as aiobotocore has it of idle ones.

Firewalls and balancers forget idle connections, some without telling either side: a request on one
would have no answer until its time is over.
"""

_ONLY_OF_AIOBOTOCORE = ("connector_args", "http_session_cls")
"""Settings that botocore does not have: they are about the connections of aiohttp."""

_now_s = time.monotonic


class BlockingReads:
    """A client with the options of one of s3fs; threads share it.

    Args:
        fs: It has a session already.
        connection_count: Ranges at a time that have a connection each.
        attempt_count: So often a request is made that lost its connection.
    """

    def __init__(self, fs: s3fs.S3FileSystem, connection_count: int, attempt_count: int) -> None:
        self._attempt_count = attempt_count
        self._keep_known = fs._kwargs_helper.filter_dict
        self._wishes = {**fs.s3_additional_kwargs, **fs.req_kw}
        self._client = _client(fs, connection_count)
        self._fresh_until_s = _now_s() + CONNECTION_AGE_MAX_S

    def get(
        self,
        target: Mapping[str, object],
        length: int,
        check: Callable[[Mapping[str, Any]], None] | None,
    ) -> bytes:
        """Return a range of an object; fewer bytes only where it ends before.

        Args:
            target: Arguments of GetObject.
            length: Bytes that are asked for. One more is returned of an answer that is longer.
            check: Sees an answer before its bytes are read; it raises what is wrong with it.

        Raises:
            OSError: As s3fs translates what S3 answers.
            botocore.exceptions.BotoCoreError: The connection failed.
        """
        arguments = self._keep_known("get_object", {**self._wishes, **target})
        for left in reversed(range(self._attempt_count)):
            try:
                return self._attempt(arguments, length, check)
            except _RETRYABLE:
                if not left:
                    raise
                time.sleep(_RETRY_PAUSE_S)
            except botocore.exceptions.ClientError as error:
                raise translate_boto_error(error) from error
        raise AssertionError("no attempt was made")

    def _attempt(
        self,
        arguments: Mapping[str, object],
        length: int,
        check: Callable[[Mapping[str, Any]], None] | None,
    ) -> bytes:
        self._leave_old_connections()
        answer = self._client.get_object(**arguments)
        body = answer["Body"]
        try:
            if check is not None:
                check(answer)
            told: int | None = answer.get("ContentLength")
            if told is not None and told <= length:
                # Its length is compared with what was told, and a checksum with the bytes.
                whole: bytes = body.read()
                return whole
            part: bytes = body.read(length + 1)
            return part
        finally:
            # A connection with an answer that was not read to its end is closed, too.
            body.close()

    def _leave_old_connections(self) -> None:
        # Two threads that do so at once cost a connection; one in use is closed after its answer.
        if _now_s() >= self._fresh_until_s:
            self._fresh_until_s = _now_s() + CONNECTION_AGE_MAX_S
            self._client.close()

    def close(self) -> None:
        """Close connections that nobody uses."""
        self._client.close()


def _client(fs: s3fs.S3FileSystem, connection_count: int) -> Any:  # noqa: ANN401  botocore makes its class
    """Return a client with the options that s3fs gives its own (`S3FileSystem.set_session`)."""
    session = botocore.session.Session(**fs.kwargs)
    # It has read the descriptions of services, which take 20 MB.
    session.register_component("data_loader", fs.session.get_component("data_loader"))
    wishes: dict[str, object] = {
        "aws_access_key_id": fs.key,
        "aws_secret_access_key": fs.secret,
        "aws_session_token": fs.token,
        "endpoint_url": fs.endpoint_url,
        "use_ssl": fs.use_ssl,
        **fs.client_kwargs,
    }
    settings = {"max_pool_connections": connection_count, **fs._prepare_config_kwargs()}
    for name in _ONLY_OF_AIOBOTOCORE:
        settings.pop(name, None)
    if fs.anon:
        settings["signature_version"] = botocore.UNSIGNED
        wishes = {name: value for name, value in wishes.items() if name not in _CREDENTIALS}
    given = {name: value for name, value in wishes.items() if value is not None}
    return session.create_client("s3", config=botocore.config.Config(**settings), **given)
