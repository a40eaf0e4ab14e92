"""The gate before the page: who may ask at all, and what a browser may do with the answer.

Invariants:
- Nothing behind the gate sees a request without the token, with a name of the server that is not
  its own (a page of somebody else whose name was made to lead here), or with a wrong method.
- A request that changes something shows, beside its cookie, what only a page from here can know.
- The token is compared in constant time, and is in no log and in no address after the first one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "memfs_web"
PAGE_HEADER = "x-memfs-page"
"""What a page of ours sends with each change."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_READING = ("GET", "HEAD")
_CHANGING = "POST"
_TOKEN_BYTES = 32
_PLACE_DIGITS = 16

_HEADERS = {
    # `require-trusted-types-for`: a text can never become markup, whatever the page's code does.
    # The one policy, of page.js, lets the empty text through: ECharts removes by it what it drew.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types default"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Secrets(NamedTuple):
    """What opens the gate."""

    token: str
    """What the first address, the cookie and `Authorization: Bearer` show."""

    @classmethod
    def make(cls) -> Secrets:
        """Return new ones."""
        return cls(secrets.token_urlsafe(_TOKEN_BYTES))

    @property
    def place(self) -> str:
        """The first part of all paths.

        Cookies go to all ports of a machine. With a path that nobody else knows, this one does not
        go to the servers of other users that a browser asks.
        """
        return self._derive("place")[:_PLACE_DIGITS]

    @property
    def page_key(self) -> str:
        """What a page shows when it changes something."""
        return self._derive("page")

    def _derive(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


class _Refusal(NamedTuple):
    """An answer with its reason alone."""

    status: int
    text: str
    allow: str | None = None


class Gate:
    """Lets requests through to an application.

    Args:
        app: What is behind.
        keys: What opens.
        names: Those of the server, as browsers may have them in `Host`.
    """

    def __init__(self, app: ASGIApp, keys: Secrets, names: Iterable[str]) -> None:
        self._app = app
        self._keys = keys
        self._names = frozenset(name.casefold() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # Nothing here speaks WebSocket.
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            await _answer(refusal, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_ENCODED]}
            await send(message)

        await self._app(scope, receive, send_guarded)

    def is_first(self, query: str) -> bool:
        """Return whether a query string has the token: the first address."""
        given = parse_qs(query).get("token", [])
        return len(given) == 1 and _equal(given[0], self._keys.token)

    def _refuse(self, scope: Scope) -> _Refusal | None:
        """Return why a request goes no further; None: it does."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        host = headers.get("host", [])
        if len(host) != 1 or _host_name(host[0]) not in self._names:
            return _Refusal(
                421, "this server has another name; `memfs web --name NAME` adds one that you use"
            )
        method = scope["method"]
        if method not in (*_READING, _CHANGING):
            return _Refusal(405, f"{method[:20]} is no method of this page", "GET, HEAD, POST")
        path: str = scope["path"]
        if not path.startswith(f"/{self._keys.place}/"):
            return _Refusal(404, "open the address that `memfs web` has printed")
        is_bearer = self._is_bearer(headers)
        is_known = is_bearer or self._has_cookie(headers)
        if method in _READING and not is_known:
            is_root = path == f"/{self._keys.place}/"
            is_known = is_root and self.is_first(scope["query_string"].decode("latin-1"))
        if not is_known:
            return _Refusal(
                403, "the token is missing or wrong; open the address that `memfs web` has printed"
            )
        if method == _CHANGING and not is_bearer and not self._is_from_our_page(headers, host[0]):
            return _Refusal(403, "only the page itself can change something")
        return None

    def _is_bearer(self, headers: Mapping[str, list[str]]) -> bool:
        given = headers.get("authorization", [])
        return len(given) == 1 and _equal(given[0], f"Bearer {self._keys.token}")

    def _has_cookie(self, headers: Mapping[str, list[str]]) -> bool:
        try:
            cookies = SimpleCookie("; ".join(headers.get("cookie", [])))
        except CookieError:
            return False
        return COOKIE in cookies and _equal(cookies[COOKIE].value, self._keys.token)

    def _is_from_our_page(self, headers: Mapping[str, list[str]], host: str) -> bool:
        key = headers.get(PAGE_HEADER, [])
        if len(key) != 1 or not _equal(key[0], self._keys.page_key):
            return False
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])):
            return False
        return all(urlsplit(origin).netloc == host for origin in headers.get("origin", []))


_ENCODED = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


async def _answer(refusal: _Refusal, send: Send) -> None:
    body = f"memfs web: {refusal.text}\n".encode()
    headers = [
        *_ENCODED,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if refusal.allow is not None:
        headers.append((b"allow", refusal.allow.encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str | None:
    """Return the name of `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`; None: that is no host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
