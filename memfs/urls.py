"""URLs of object stores, as they may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def url_without_secrets(url: str) -> str:
    """Return a URL without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    # The user of abfs://container@account.host/prefix names the container and is no secret.
    place = f"{user}@{host}" if user and parts.scheme in ("abfs", "abfss") else host
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
