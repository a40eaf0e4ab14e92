"""URLs of object stores and options of their file systems, as they may be shown and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOUDS = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes whose objects are nowhere on this machine, nor in its network."""

PLAIN_OPTIONS = frozenset(
    (
        *("endpoint_url", "region", "anon", "profile", "requester_pays"),
        *("project", "account_name", "account_host", "token_mode", "use_ssl"),
    )
)
"""Options of file systems that a source may carry, since they are no secrets; others may be."""

_SHOWN_OPTIONS = PLAIN_OPTIONS | {"region_name"}


def options_without_secrets(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a file system that are no secrets, in order of name."""
    return {
        name: url_without_secrets(value) if isinstance(value, str) and "://" in value else value
        for name, value in sorted(options.items())
        if name in _SHOWN_OPTIONS and isinstance(value, str | int)
    }


def url_without_secrets(url: str) -> str:
    """Return a URL without user, password and query, which may be secrets.

    Raises:
        InvalidValueError: It is no URL.
    """
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidValueError(f"{url!r} is no URL: {error}") from None
    user, _, host = parts.netloc.rpartition("@")
    # The user of abfs://container@account.host/prefix names the container and is no secret.
    place = f"{user}@{host}" if user and parts.scheme in ("abfs", "abfss") else host
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of an address as `10.0.0.3:7401`, `[fe80::1]:7401` or `name:7401`.

    Raises:
        InvalidValueError: It is no such address.
    """
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if is_bracketed else host
    is_host = bool(name) and (is_bracketed or ":" not in name) and not {*name} & {*"[]/@ "}
    if not (colon and is_host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidValueError(f"{text!r} is no address: write HOST:PORT, as 10.0.0.3:7401")
    return name, int(port)
