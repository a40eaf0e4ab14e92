"""Names that move between a state directory and PostgreSQL: how long that takes.

Run: python -m tests.bench.migrations [--files 100000]

A private PostgreSQL server with durable commits runs on this machine. A state directory gets files
in directories of 1000, each with an object and an xattr. Its names move into the database, and the
processor time of both processes counts: the machine may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memfs import __version__
from memfs.config import MetadataConfig
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.moving_in import MovingIn
from memfs.metadata.shared.moving_out import MovingOut
from memfs.metadata.shared.schema import create
from memfs.metadata.sqlite.check import RECOUNT
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.schema import totals_of
from memfs.types import ROOT_INODE
from tests import scratch
from tests.bench.quiet import processor_ns
from tests.servers.postgresql import running_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.sqlite.following import Execute

FILES_A_DIRECTORY = 1000
FIRST = 100
"""The first number of an inode."""
STORE = "file:///nowhere"
DURABLE = {"fsync": "on", "max_wal_size": "1GB", "shared_buffers": "128MB"}


def make_state(state_dir: Path, file_count: int) -> None:
    """Make a state directory with so many files, by statements for all of them at once."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    database = engine._database
    times = (time.time_ns(),) * 4
    directories = -(-file_count // FILES_A_DIRECTORY)
    first_file = FIRST + directories

    def fill(execute: Execute) -> None:
        for text, first, count in (
            (f"select n, {stat.S_IFDIR | 0o755}, 2, 0, 0", FIRST, directories),
            (f"select n, {stat.S_IFREG | 0o644}, 1, 4096, n", first_file, file_count),
        ):
            execute(
                "insert into inode (ino, mode, nlink, size, blob, uid, gid, rdev, blocks, atime_ns,"
                " mtime_ns, ctime_ns, btime_ns, generation, raw, packed, flags, pin, accessed_ns)"
                f" {text}, 0, 0, 0, 0, ?, ?, ?, ?, 1, 0, 0, 0, 0, 0"
                f" from ({_numbers(first, count)})",
                times,
            )
        execute(
            "insert into dentry (parent, cookie, name, ino)"
            f" select {ROOT_INODE}, n, cast('directory-' || n as blob), n"
            f" from ({_numbers(FIRST, directories)})"
        )
        execute(
            "insert into dentry (parent, cookie, name, ino)"
            f" select {FIRST} + (n - {first_file}) / {FILES_A_DIRECTORY}, n,"
            f" cast(printf('file-%08d.bin', n) as blob), n"
            f" from ({_numbers(first_file, file_count)})"
        )
        for text in (
            "xattr (ino, name, value, key)"
            " select n, cast('user.label' as blob), cast(n as blob), 0",
            "blob (blob, size, digest) select n, 4096, cast(printf('%032d', n) as blob)",
            "form (blob, kind, store, key, etag, version, stored_bytes, layout, codec,"
            " shuffle_bytes, key_id, table_id, owned) select n, 'remote', '',"
            " printf('blobs/%02x/%032x', n % 256, n), '', '', 2048, 'container', 'zstd:3', 1, '',"
            " '', 1",
        ):
            execute(f"insert into {text} from ({_numbers(first_file, file_count)})")
        execute(f"update inode set nlink = nlink + {directories} where ino = {ROOT_INODE}")
        database.totals[:] = totals_of(engine._rows(RECOUNT)[0])

    engine._lease.restart(first_file + file_count)
    database._commit_first(fill, "a bench's")
    engine.close()


def _numbers(first: int, count: int) -> str:
    return (
        f"with recursive each(n) as (select {first} union all select n + 1 from each"
        f" where n < {first + count - 1}) select n from each"
    )


def _measure(what: str, client: Client, row_count: Callable[[], int]) -> Callable[[], None]:
    """Begin to measure; what is returned ends it and tells."""
    server_ns = processor_ns([client.backend_pid])
    begin_s, begin_ns = time.monotonic(), time.process_time_ns()

    def end() -> None:
        took_s, own_s = time.monotonic() - begin_s, (time.process_time_ns() - begin_ns) / 1e9
        server_s = (processor_ns([client.backend_pid]) - server_ns) / 1e9
        rows = row_count()
        print(
            f"{what}: {rows} rows in {took_s:.1f} s, {rows / took_s:.0f} rows/s; CPU of memfs "
            f"{own_s:.1f} s ({own_s / rows * 1e6:.1f} us a row), of the server {server_s:.1f} s "
            f"({server_s / rows * 1e6:.1f} us a row)"
        )

    return end


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    files = parser.parse_args().files
    with (
        scratch.workspace(Path(tempfile.gettempdir())) as area,
        running_postgresql(settings=DURABLE) as server,
        server.database() as database,
        contextlib.closing(Client.connect(Address.parse(database.url))) as client,
    ):
        state_dir = area.directory("migration") / "state"
        make_state(state_dir, files)
        create(client, "the database", STORE, __version__)
        measure(state_dir, client)
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB of memory")


def measure(state_dir: Path, client: Client) -> None:
    """Move names into the database and out of it, and tell how long each stage took."""
    ends: list[Callable[[], None]] = []
    total = 0

    def show(stage: str, done: int, in_all: int) -> None:
        nonlocal total
        if not done:
            for end in ends:
                end()
            total = in_all
            ends[:] = [_measure(stage, client, lambda: total)] if stage else []

    engine = SqliteEngine.open(state_dir, MetadataConfig())
    with contextlib.closing(engine):
        MovingIn(engine, state_dir, client, "the database", "bench", show=show).run()
        show("", 0, 0)
    engine = SqliteEngine.open(state_dir, MetadataConfig(), shared=True)
    with contextlib.closing(engine):
        rng = random.Random(1)
        MovingOut(engine, state_dir, client, "the database", rng, show=show).run()
        show("", 0, 0)


if __name__ == "__main__":
    main()
