"""A real S3 server for tests: SeaweedFS on free loopback ports, gone when the test is."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS_KEY, SECRET_KEY = "key", "secret"

READY_S_MAX = 90.0
"""Ready in 4 to 12 s on an idle machine of two cores."""

_PR_SET_PDEATHSIG = 1


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
        """Send all of the server a signal: SIGSTOP leaves connections open and unanswered."""
        assert self.group is not None, "there is no such server"
        os.killpg(self.group, number)

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
    directory = Path(tempfile.mkdtemp(prefix="memfs-seaweedfs-"))
    log = directory / "log"
    ports = _free_ports(8)
    _write_settings(directory)
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(weed, directory, ports),
            cwd=directory,
            env={**os.environ, "GOMAXPROCS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Dies with the test run even if that is killed and no clean-up runs.
            preexec_fn=_die_with_parent,
        )
    server = S3Server(f"http://127.0.0.1:{ports[6]}", group=process.pid)
    try:
        _wait_until_ready(server, bucket, process, log)
        yield server
    finally:
        _stop(process)
        shutil.rmtree(directory, ignore_errors=True)


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
        "-volume.max=40",
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
    (directory / "identities.json").write_text(json.dumps({"identities": [identity]}))
    # Without a key the server refuses the AES256 header.
    (directory / "security.toml").write_text('[s3.sse]\nkey = "of this test"\n')


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_until_ready(
    server: S3Server, bucket: str, process: subprocess.Popen[bytes], log: Path
) -> None:
    """Return once an object can be written and read: listening alone does not mean that."""
    deadline = time.monotonic() + READY_S_MAX
    while True:
        failure: Exception
        try:
            with urllib.request.urlopen(f"{server.endpoint_url}/status", timeout=2):
                _try_bucket(server, bucket)
                return
        except (OSError, urllib.error.URLError, BotoCoreError, ClientError) as error:
            failure = error
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"SeaweedFS is not ready: {failure}\n{tail}") from failure
        time.sleep(0.2)


def _try_bucket(server: S3Server, bucket: str) -> None:
    client = server.client()
    try:
        with contextlib.suppress(
            client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
        ):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"x")
        client.delete_object(Bucket=bucket, Key="ready")
    finally:
        client.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Killed outright: there is nothing to keep, and an orderly end takes it more than 10 s.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
