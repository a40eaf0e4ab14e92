"""Ranges of objects by botocore's own client, each in the thread that asks for it.

s3fs answers through an event loop of its own, in pieces that pass from aiohttp to it and from there
to the thread that waits. A thread that reads its socket itself takes 0.8 to 0.95 s of a processor a
GiB instead of 1.5 to 1.7 (256 MiB from SeaweedFS by four threads, three runs in turns).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import botocore
import botocore.config
import botocore.exceptions
import botocore.session
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.errors import translate_boto_error

from memfs.stores.calls import TransferStoppedError, ended_by

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

_threads = threading.local()


class _Read:
    """A read, whose connection another thread may shut down.

    A server that sends a byte now and then meets no time-out of a socket.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_given_up = False

    def use(self, connected: socket.socket | None) -> None:
        """The thread is about to wait for an answer.

        Raises:
            TransferStoppedError: Nobody waits for it.
        """
        with self._lock:
            if self.is_given_up:
                raise TransferStoppedError("the read was given up")
            self._socket = connected

    def end(self, _after_s: float) -> None:
        """Have the thread find the connection ended, now or when it has one."""
        with self._lock:
            self.is_given_up = True
            if self._socket is not None:
                # The method of the class: that of a TLS connection frees what the thread uses.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Answers:
    """What a connection does more: it tells the read of its thread which one it is."""

    sock: socket.socket | None

    def getresponse(self, *arguments: object, **options: object) -> Any:  # noqa: ANN401  as http.client
        """Wait for the first bytes of an answer."""
        read: _Read | None = getattr(_threads, "read", None)
        if read is not None:
            read.use(self.sock)
        return super().getresponse(*arguments, **options)  # type: ignore[misc]  # mixed into a connection


class _Connection(_Answers, AWSHTTPConnection):  # type: ignore[misc]  # botocore has no types
    """Without TLS."""


class _TlsConnection(_Answers, AWSHTTPSConnection):  # type: ignore[misc]  # botocore has no types
    """With TLS."""


class _Pool(AWSHTTPConnectionPool):  # type: ignore[misc]  # botocore has no types
    ConnectionCls = _Connection


class _TlsPool(AWSHTTPSConnectionPool):  # type: ignore[misc]  # botocore has no types
    ConnectionCls = _TlsConnection


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
            TransferStoppedError: Nobody waits for it any more.
        """
        arguments = self._keep_known("get_object", {**self._wishes, **target})
        read = _threads.read = _Read()
        try:
            with ended_by(read.end):
                return self._get(arguments, length, check, read)
        finally:
            _threads.read = None

    def _get(
        self,
        arguments: Mapping[str, object],
        length: int,
        check: Callable[[Mapping[str, Any]], None] | None,
        read: _Read,
    ) -> bytes:
        for left in reversed(range(self._attempt_count)):
            try:
                return self._attempt(arguments, length, check)
            except _RETRYABLE:
                if read.is_given_up:
                    raise TransferStoppedError("the read was given up") from None
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
    client = session.create_client("s3", config=botocore.config.Config(**settings), **given)
    # The manager of connections has this dictionary, and so have those of proxies.
    client._endpoint.http_session._pool_classes_by_scheme.update(http=_Pool, https=_TlsPool)
    return client
