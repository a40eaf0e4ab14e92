"""A server of Google Cloud Storage that asks for credentials and heeds conditions, for tests.

It stands before fake-gcs-server, which takes everybody, and gives access tokens for the keys of
service accounts. It checks no signatures: a key is known by its id. A resumable upload with
ifGenerationMatch ends with 412 where another generation is there by then ("Request preconditions"
of Google's documentation), which fake-gcs-server passes over.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.fake_gcs import GcsServer

_HOP_HEADERS = frozenset({"host", "connection", "transfer-encoding", "content-length"})


class GuardedGcs:
    """The server's state; tests change it while the server runs.

    Args:
        inner: Has the objects.
    """

    def __init__(self, inner: GcsServer) -> None:
        self.inner = inner
        self.endpoint_url = ""
        self.key_ids: set[str] = set()
        """Keys that get tokens, and whose tokens are taken."""
        self.refusal = 401
        """What a request with another token is answered with."""
        self.token_count = 0
        """Tokens that were given."""
        self.takes_all = False
        """True: nobody is asked for a token."""
        self.conditions: dict[str, tuple[str, str]] = {}
        """Path of the object, and the generation that is to be there, by id of the upload."""

    def write_key(self, path: Path, key_id: str) -> None:
        """Write the file of a service account with a key, in one step."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        private_key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": key_id,
            "private_key": private_key.decode(),
            "client_email": "memfs@tests.iam.gserviceaccount.com",
            "token_uri": f"{self.endpoint_url}/token",
        }
        written = path.with_suffix(".new")
        written.write_text(json.dumps(account))
        written.replace(path)

    def answer_token(self, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a signed wish for a token (RFC 7523)."""
        [assertion] = parse_qs(body.decode())["assertion"]
        head = assertion.partition(".")[0]
        key_id = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
        if key_id not in self.key_ids:
            return 400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
        self.token_count += 1
        token = {"access_token": f"of-{key_id}", "expires_in": 3600, "token_type": "Bearer"}
        return 200, json.dumps(token).encode()

    def takes(self, authorization: str) -> bool:
        """Return whether a request with this header is let through."""
        if self.takes_all:
            return True
        kind, _, token = authorization.partition(" ")
        return kind == "Bearer" and token.removeprefix("of-") in self.key_ids

    def note_upload(self, path: str, body: bytes, location: str) -> None:
        """Remember the condition of a resumable upload that begins."""
        query = parse_qs(urlsplit(path).query)
        if query.get("uploadType") == ["resumable"] and "ifGenerationMatch" in query:
            name = query["name"][0] if "name" in query else json.loads(body)["name"]
            bucket = urlsplit(path).path.removeprefix("/upload")
            upload_id = parse_qs(urlsplit(location).query)["upload_id"][0]
            wanted = query["ifGenerationMatch"][0]
            self.conditions[upload_id] = f"{bucket}/{quote(name, safe='')}", wanted

    def is_refused(self, path: str, content_range: str) -> bool:
        """Return whether the last part of an upload comes too late."""
        upload_id = parse_qs(urlsplit(path).query).get("upload_id", [""])[0]
        if upload_id not in self.conditions or content_range.endswith("/*"):
            return False
        path, wanted = self.conditions[upload_id]
        try:
            there = str(json.loads(self.inner.request("GET", path))["generation"])
        except urllib.error.HTTPError:
            there = "0"
        return there != wanted


@contextlib.contextmanager
def running_guarded_gcs(inner: GcsServer) -> Iterator[GuardedGcs]:
    """Run a server before another one; its threads are gone afterwards."""
    state = GuardedGcs(inner)

    class Handler(_Handler):
        guarded = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="guarded-gcs")
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        join(thread)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    guarded: GuardedGcs

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._read()
        if self.path == "/token":
            self._send(*self.guarded.answer_token(body))
        elif not self.guarded.takes(self.headers.get("Authorization", "")):
            refusal = {"error": {"code": self.guarded.refusal, "message": "Invalid Credentials"}}
            self._send(self.guarded.refusal, json.dumps(refusal).encode())
        elif self.guarded.is_refused(self.path, self.headers.get("Content-Range", "/*")):
            refusal = {"error": {"code": 412, "message": "conditionNotMet"}}
            self._send(412, json.dumps(refusal).encode())
        else:
            self._pass_on(body)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pass_on(self, body: bytes) -> None:
        place = urlsplit(self.guarded.inner.endpoint_url)
        assert place.hostname
        connection = http.client.HTTPConnection(place.hostname, place.port or 80, timeout=30)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS
        }
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, headers | {"Host": place.netloc})
            answer = connection.getresponse()
            data = answer.read()
        if location := answer.getheader("Location"):
            self.guarded.note_upload(self.path, body, location)
        self._send(answer.status, data, dict(answer.getheaders()))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        inner, outer = self.guarded.inner.endpoint_url, self.guarded.endpoint_url
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            if name.lower() not in _HOP_HEADERS | {"date", "server"}:
                self.send_header(name, value.replace(inner, outer))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
