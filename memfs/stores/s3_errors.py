"""Errors of S3: the code that an answer has, and what it says of load, credentials and checksums.

Invariant: what an error means is told by classes and codes. The one exception is a store that does
not know the newer checksums: it names them in the text of an error of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.exceptions
import botocore.parsers

if TYPE_CHECKING:
    from memfs.errors import MemfsError

NETWORK_ERRORS = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    # Bytes that came damaged.
    botocore.exceptions.FlexibleChecksumError,
    botocore.parsers.ResponseParserError,
)
"""What the client raises where no answer came that means anything."""

_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestTimeout",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "InternalError",
        "OperationAborted",
        "TooManyRequests",
        "XMinioServerNotInitialized",
    }
)

_STALE_CODES = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "TokenRefreshRequired",
        # The answer to HEAD has no body that would tell.
        "400",
        "401",
        "403",
    }
)
"""What credentials may be answered with that were renewed meanwhile, where they are kept."""

_CHECKSUM_WORDS = (
    "x-amz-sdk-checksum-algorithm",
    "x-amz-checksum-",
    "x-amz-trailer",
    "aws-chunked",
    "streaming-unsigned-payload-trailer",
)
"""What names the newer checksums in the error of a store that does not know them, in lower case."""


def error_code(error: BaseException) -> str:
    """Return the code that S3 gave, wherever in the chain of causes; empty: there is no code."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int:
    """Return the status of the HTTP answer; 0: there is no answer."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_overload(error: BaseException) -> bool:
    """Return whether the store answers that it cannot answer at present."""
    status = status_of(error)
    return error_code(error) in _THROTTLED or status == 429 or status >= 500


def is_stale(error: BaseException) -> bool:
    """Return whether a request may go well with the credentials as they are kept now."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, botocore.exceptions.NoCredentialsError):
            return True
        found = found.__cause__
    return error_code(error) in _STALE_CODES


def names_checksums(error: MemfsError) -> bool:
    """Return whether a store may have refused a request for its checksum headers."""
    told = str(error).lower()
    return any(word in told for word in _CHECKSUM_WORDS)


def _answer(error: BaseException | None) -> dict[str, Any]:
    """Return the S3 answer behind an error that s3fs made of it; empty if there was no answer."""
    while error is not None:
        if isinstance(error, botocore.exceptions.ClientError):
            return dict(error.response)
        error = error.__cause__
    return {}
