"""An S3 server in the tests' own process that lies on request, and remembers what it was asked.

It has what memfs uses: objects, ranges, listings, multipart uploads and access keys that are taken,
unknown or expired. It checks no signatures. What real servers do is the other servers' business.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.seaweedfs import ACCESS_KEY, S3Server
from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKSUM_HEADER = "x-amz-sdk-checksum-algorithm"


class Lie(enum.Enum):
    """What is wrong with an answer."""

    SHORT = "half of the bytes, and a length that fits them"
    CUT = "half of the bytes, and the length of all"
    WHOLE = "the whole object with 200, as if no range had been asked for"
    HTML = "a page of a proxy with 200, as long as what was asked for"
    FLIP = "one bit in the middle is another one"
    OTHER = "the bytes of another object"
    MISSING = "404 NoSuchKey"
    BUSY = "503 SlowDown"


@dataclass
class _Upload:
    key: str
    begun_s: float
    told_of: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class _Refusal(Exception):  # noqa: N818  an answer and no failure
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


class LyingS3:
    """The server's state; tests change it while the server runs.

    Args:
        bucket: The one bucket.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.server = S3Server("")
        self.objects: dict[str, bytes] = {}
        self.told_of: dict[str, dict[str, str]] = {}
        """Headers of an object beside those that all have."""
        self.uploads: dict[str, _Upload] = {}
        """Unfinished multipart uploads, by id."""
        self.access_keys: dict[str, str] = {ACCESS_KEY: ""}
        """What a key's requests are answered with: empty, `ExpiredToken`, ..."""
        self.refuses_checksums = False
        """True: the newer checksum headers are refused, as by older servers."""
        self.is_read_only = False
        """True: what would change anything is refused, as for keys that may only read."""
        self.ignores_conditions = False
        """True: If-Match and If-None-Match are passed over, as by stores that do not know them."""
        self.is_ordered = True
        """False: objects are listed in the order in which they were written."""
        self.page_count = 1000
        """Objects, or unfinished uploads, of one page of a listing."""
        self.counts: Counter[str] = Counter()
        """Requests by operation: `GET`, `PUT`, `HEAD`, `DELETE`, `LIST`, `PART`, ..."""
        self.methods: Counter[str] = Counter()
        """Requests by their method of HTTP."""
        self.headers: list[tuple[str, dict[str, str]]] = []
        """Operation and headers, lower-case, of each request."""
        self.ports: list[int] = []
        """Port of the client of each request: one connection has one."""
        self.paused = threading.Event()
        """Cleared: requests for parts (PUT of a multipart upload) wait until it is set again."""
        self.paused.set()
        self.paused_key = ""
        """How keys end whose parts wait then."""
        self.paused_count = 0
        """Parts that had to wait."""
        self.lock = threading.RLock()
        self._lies: list[tuple[str, Lie]] = []

    def lie(self, operation: str, lie: Lie, times: int = 1) -> None:
        """Have the next answers to an operation be wrong."""
        with self.lock:
            self._lies += [(operation, lie)] * times

    @property
    def lies_left(self) -> int:
        """Lies that nobody was told yet."""
        return len(self._lies)

    def forget_lies(self) -> None:
        """Tell the truth from now on."""
        with self.lock:
            self._lies.clear()

    def take_lie(self, operation: str) -> Lie | None:
        """Return what is to be wrong with the next answer to an operation, once."""
        with self.lock:
            for index, (wanted, lie) in enumerate(self._lies):
                if wanted == operation:
                    del self._lies[index]
                    return lie
        return None


@contextlib.contextmanager
def running_lying_s3(bucket: str) -> Iterator[LyingS3]:
    """Run a server with one empty bucket; its threads are gone afterwards."""
    state = LyingS3(bucket)

    class Handler(_Handler):
        lying = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.server = S3Server(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="lying-s3")
    thread.start()
    try:
        yield state
    finally:
        state.paused.set()
        server.shutdown()
        join(thread)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lying: LyingS3

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, True).items()}
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        body = self._read_body()
        operation = _operation(method, key, query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        state = self.lying
        with state.lock:
            state.counts[operation] += 1
            state.methods[method] += 1
            state.headers.append((operation, headers))
            state.ports.append(self.client_address[1])
        if operation == "PART" and key.endswith(state.paused_key) and not state.paused.is_set():
            with state.lock:
                state.paused_count += 1
            state.paused.wait(30)
        try:
            self._check(bucket, headers)
            with state.lock:
                self._serve(operation, key, query, body, headers)
        except _Refusal as refusal:
            self._refuse(refusal)
        except ConnectionError:
            self.close_connection = True

    def _read_body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return data
        # "Signature calculations: transferring payload in multiple chunks" of the S3 API.
        plain = b""
        while data:
            head, _, data = data.partition(b"\r\n")
            size = int(head.partition(b";")[0] or b"0", 16)
            if not size:
                break
            plain, data = plain + data[:size], data[size + 2 :]
        return plain

    def _check(self, bucket: str, headers: dict[str, str]) -> None:
        state = self.lying
        credential = headers.get("authorization", "").partition("Credential=")[2]
        verdict = state.access_keys.get(credential.partition("/")[0], "InvalidAccessKeyId")
        if verdict:
            raise _Refusal(400 if verdict == "ExpiredToken" else 403, verdict)
        if bucket != state.bucket:
            raise _Refusal(404, "NoSuchBucket")
        if state.is_read_only and self.command not in ("GET", "HEAD"):
            raise _Refusal(403, "AccessDenied")
        newer = [name for name in headers if name == CHECKSUM_HEADER or name == "x-amz-trailer"]
        if state.refuses_checksums and newer:
            raise _Refusal(
                400, "InvalidArgument", f"A header that is not implemented was sent: {newer[0]}"
            )

    def _serve(
        self, operation: str, key: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> None:
        lie = self.lying.take_lie(operation)
        if lie is Lie.MISSING:
            raise _Refusal(404, "NoSuchKey")
        if lie is Lie.BUSY:
            raise _Refusal(503, "SlowDown")
        if operation in ("GET", "HEAD"):
            self._get(operation, key, headers, lie)
        elif operation == "PUT":
            self._check_condition(key, headers)
            self.lying.objects[key] = body
            self.lying.told_of[key] = _told_of(headers)
            self._send(200, b"", {"ETag": _etag(body)})
        elif operation == "DELETE":
            self._check_condition(key, headers)
            self.lying.objects.pop(key, None)
            self._send(204, b"")
        elif operation == "LIST":
            self._list(query)
        elif operation == "VERSIONING":
            self._send_xml("VersioningConfiguration", "")
        elif operation == "BUCKET":
            self._send(200, b"")
        else:
            self._multipart(operation, key, query, body, headers)

    def _check_condition(self, key: str, headers: dict[str, str]) -> None:
        """See that what is there may be replaced, or removed."""
        there = self.lying.objects.get(key)
        if self.lying.ignores_conditions:
            return
        if headers.get("if-none-match") == "*" and there is not None:
            raise _Refusal(412, "PreconditionFailed")
        if (wanted := headers.get("if-match")) and (there is None or _etag(there) != wanted):
            raise _Refusal(*((404, "NoSuchKey") if there is None else (412, "PreconditionFailed")))

    def _get(self, operation: str, key: str, headers: dict[str, str], lie: Lie | None) -> None:
        objects = self.lying.objects
        if key not in objects:
            raise _Refusal(404, "NoSuchKey")
        whole = objects[key]
        if lie is Lie.OTHER:
            whole = next(data for name, data in objects.items() if name != key)
        status, data, more = 200, whole, {"ETag": _etag(whole)}
        more |= self.lying.told_of.get(key, {})
        more["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        condition = headers.get("if-match")
        if condition and not self.lying.ignores_conditions and condition != more["ETag"]:
            raise _Refusal(412, "PreconditionFailed")
        if (wanted := headers.get("range")) and lie is not Lie.WHOLE:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(whole), len(whole))
            if start >= len(whole):
                raise _Refusal(416, "InvalidRange")
            status, data = 206, whole[start:end]
            more["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole)}"
        declared = len(data)
        if lie is Lie.HTML:
            status, data = 200, (b"<html>please log in</html>" * declared)[:declared]
            more = {"Content-Type": "text/html"}
        elif lie is Lie.FLIP:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        elif lie is Lie.SHORT:
            data = data[: declared // 2]
            declared = len(data)
        elif lie is Lie.CUT:
            data = data[: declared // 2]
            self.close_connection = True
        self._send(status, data, more, declared, with_body=operation == "GET")

    def _list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        objects = self.lying.objects
        found = [name for name in objects if name.startswith(prefix)]
        if (delimiter := query.get("delimiter", "")) and found:
            ends = ((name, name.find(delimiter, len(prefix)) + 1) for name in found)
            found = list(dict.fromkeys(name[: end or None] for name, end in ends))

        def is_object(name: str) -> bool:
            return name in objects and (not delimiter or name.find(delimiter, len(prefix)) < 0)

        if self.lying.is_ordered:
            found.sort()
        if (last := query.get("continuation-token", "")) in found:
            found = found[found.index(last) + 1 :]
        page, is_truncated = found[: self.lying.page_count], len(found) > self.lying.page_count
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if page else ""
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.lying.objects[name])}</Size>"
            f"<ETag>{_etag(self.lying.objects[name])}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in page
            if is_object(name)
        )
        contents += "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in page
            if not is_object(name)
        )
        self._send_xml(
            "ListBucketResult",
            f"<Name>{self.lying.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount>{contents}"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{more if is_truncated else ''}",
        )

    def _multipart(
        self, operation: str, key: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> None:
        uploads = self.lying.uploads
        number = query.get("uploadId", "")
        if operation == "BEGIN":
            number = f"upload-{self.lying.counts['BEGIN']}"
            uploads[number] = _Upload(key, time.time(), _told_of(headers))
            place = f"<Bucket>{self.lying.bucket}</Bucket><Key>{escape(key)}</Key>"
            return self._send_xml(
                "InitiateMultipartUploadResult", f"{place}<UploadId>{number}</UploadId>"
            )
        if operation == "UPLOADS":
            prefix = query.get("prefix", "")
            return self._send_xml(
                "ListMultipartUploadsResult",
                self._describe_uploads(prefix, query.get("upload-id-marker", "")),
            )
        if number not in uploads:
            raise _Refusal(404, "NoSuchUpload")
        if operation == "PART":
            uploads[number].parts[int(query["partNumber"])] = body
            return self._send(200, b"", {"ETag": _etag(body)})
        if operation == "COMPLETE":
            self._check_condition(key, headers)
        upload = uploads.pop(number)
        if operation == "ABORT":
            return self._send(204, b"")
        whole = b"".join(data for _, data in sorted(upload.parts.items()))
        self.lying.objects[key] = whole
        self.lying.told_of[key] = upload.told_of
        place = f"<Bucket>{self.lying.bucket}</Bucket><Key>{escape(key)}</Key>"
        return self._send_xml(
            "CompleteMultipartUploadResult", f"{place}<ETag>{_etag(whole)}</ETag>"
        )

    def _describe_uploads(self, prefix: str, marker: str) -> str:
        """Return a page of unfinished uploads, in the order of their ids."""
        found = [
            (number, upload)
            for number, upload in sorted(self.lying.uploads.items())
            if upload.key.startswith(prefix) and number > marker
        ]
        page = found[: self.lying.page_count]
        more = "<IsTruncated>false</IsTruncated>"
        if len(page) < len(found):
            number, upload = page[-1]
            more = (
                f"<IsTruncated>true</IsTruncated><NextKeyMarker>{escape(upload.key)}"
                f"</NextKeyMarker><NextUploadIdMarker>{number}</NextUploadIdMarker>"
            )
        return more + "".join(
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{number}</UploadId>"
            f"<Initiated>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(upload.begun_s))}"
            "</Initiated></Upload>"
            for number, upload in page
        )

    def _refuse(self, refusal: _Refusal) -> None:
        text = (
            f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
            "</Error>"
        )
        with contextlib.suppress(ConnectionError):
            more = {"Content-Type": "application/xml"}
            self._send(refusal.status, text.encode(), more, with_body=self.command != "HEAD")

    def _send_xml(self, name: str, inner: str) -> None:
        text = f'<{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{name}>'
        self._send(200, text.encode(), {"Content-Type": "application/xml"})

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        declared: int | None = None,
        *,
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data) if declared is None else declared))
        self.end_headers()
        if with_body:
            self.wfile.write(data)


def _operation(method: str, key: str, query: dict[str, str]) -> str:
    if "uploads" in query:
        return "BEGIN" if method == "POST" else "UPLOADS"
    if "uploadId" in query:
        return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT", "GET": "PARTS"}[method]
    if "versioning" in query:
        return "VERSIONING"
    if not key:
        return "LIST" if method == "GET" else "BUCKET"
    return method


def _told_of(headers: dict[str, str]) -> dict[str, str]:
    """Return what an object is to have of the request that makes it."""
    return {
        name: value
        for name, value in headers.items()
        if name == "content-type" or name.startswith("x-amz-meta-")
    }


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
