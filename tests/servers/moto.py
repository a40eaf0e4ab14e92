"""An S3 server with archive classes for tests: moto, which keeps objects in memory.

It checks no credentials; what it has that no other server has is GLACIER, DEEP_ARCHIVE and their
restores.
"""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from tests.servers.process import NotReadyError, free_ports, running_server, server_directory
from tests.servers.seaweedfs import S3Server, make_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running_moto(bucket: str) -> Iterator[S3Server]:
    """Run a server with one empty bucket; its process and files are gone afterwards."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        raise RuntimeError("no moto: pip install 'memfs-tiers[dev]'")
    [port] = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}")

    def try_it() -> None:
        try:
            make_bucket(server, bucket)
        except (OSError, BotoCoreError, ClientError) as error:
            raise NotReadyError(str(error)) from error

    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    with (
        server_directory("moto") as directory,
        running_server(command, directory, try_it) as process,
    ):
        yield S3Server(server.endpoint_url, group=process.pid)


def set_restore_looks(server: S3Server, count: int) -> None:
    """Have restores go a state further (begun, over) after `count` requests; 0: to the end.

    Source: "State transitions" of moto's documentation; its state manager.
    """
    _set_transition(
        server, {"progression": "manual", "times": count} if count else {"progression": "immediate"}
    )


def _set_transition(server: S3Server, transition: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"{server.endpoint_url}/moto-api/state-manager/set-transition",
        json.dumps({"model_name": "s3::keyrestore", "transition": transition}).encode(),
    )
    with urllib.request.urlopen(request, timeout=10):
        return
