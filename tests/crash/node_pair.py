"""Two daemons and a database on one machine: a node that writes, and one that reads."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from memfs.encryption.keys import generate_key_file
from tests.mounting import Mount, run_memfs

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from tests.servers.postgresql import Database

LIMIT_S = 100
"""No wait ends by it, however busy the machine is."""
SHORT_LIMIT_S = 3


class Way(NamedTuple):
    """How a test wants its two nodes."""

    driver: str = "kernel"
    """That of the reader."""
    limit_s: int = LIMIT_S
    """So long the reader waits for the database, and for bytes."""
    is_encrypted: bool = False
    upload: str = "sealed"
    listens: bool = False
    """The writer answers the reader."""


class Pair:
    """A node that writes and one that reads, on one machine.

    Args:
        base: For both.
        database: Empty.
        way: How they are.
    """

    def __init__(self, base: Path, database: Database, way: Way) -> None:
        self.database = database
        self.objects = base / "objects"
        self.objects.mkdir()
        store = f"file://{self.objects}"
        run_memfs("format", database.url, "--store", store)
        more = ""
        if way.is_encrypted:
            generate_key_file(base / "key")
            more = f'[encryption]\nkeys = ["file:{base}/key"]\n'

        def configure(name: str, role: str, seconds: int) -> str:
            listen = 'listen = "127.0.0.1:0"\n' if way.listens else ""
            return (
                f'[metadata]\nurl = "{database.url}"\n[nodes]\nname = "{name}"\n'
                f'role = "{role}"\ncommit_timeout = "{seconds}s"\nupload = "{way.upload}"\n'
                f"{listen}"
                f'[glacier]\nurl = "{store}"\n{more}'
            )

        self.configure = configure
        self.base = base
        for name in ("writer", "reader"):
            (base / name).mkdir()
        self.writer = Mount(
            base / "writer", "kernel", configure("first", "writer", LIMIT_S), forked=True
        )
        self.reader = Mount(
            base / "reader", way.driver, configure("second", "reader", way.limit_s), forked=True
        )

    def upload(self) -> None:
        """Return when all that was written is in the object store."""
        run_memfs("barrier", "--level", "remote", self.writer.root)

    def status(self) -> dict[str, object]:
        """Return what the reader tells of the database."""
        report = json.loads(run_memfs("status", "--json", self.reader.root))
        database: dict[str, object] = report["database"]
        return database

    def stop(self) -> None:
        """Unmount both."""
        self.reader.stop()
        self.reader.check_log()
        self.writer.stop()
        self.writer.check_log()

    def fsck(self) -> None:
        """Check both, which are unmounted, and compare their tables with those of the database."""
        self.reader.fsck()
        # The state directory of a writer that was replaced is refused for good.
        if 'role = "reader"' in str(self.reader.config):
            self.writer.fsck()


def signal_all(mount: Mount, number: signal.Signals) -> None:
    """Send a signal to the daemon of a mount."""
    for pid in mount.daemon_pids():
        os.kill(pid, number)


def errno_of_reading(path: Path) -> int | None:
    """Return how reading a file fails; None: it does not."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None
