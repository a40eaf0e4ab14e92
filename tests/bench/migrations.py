"""Names that move between a state directory and PostgreSQL: how long that takes.

Run: python -m tests.bench.migrations [--files 100000]

A private PostgreSQL server with durable commits runs on this machine. A state directory gets files
in directories of 1000, each with an object and an xattr. Its names move into the database, and the
processor time of both processes counts: the machine may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memfs import __version__
from memfs.config import MetadataConfig
from memfs.metadata.records import Blob, Form, MoveKind, NewInode, Seal
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.moving_in import MovingIn
from memfs.metadata.shared.schema import create
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.types import ROOT_INODE, FormCoding, FormKind, Place
from tests import scratch
from tests.bench.quiet import processor_ns
from tests.servers.postgresql import running_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

FILES_A_DIRECTORY = 1000
STORE = "file:///nowhere"
DURABLE = {"fsync": "on", "max_wal_size": "1GB", "shared_buffers": "128MB"}


def _run(coroutine: Coroutine[Any, Any, object]) -> Any:  # noqa: ANN401 - what it returns
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the engine suspended")


def make_state(state_dir: Path, file_count: int) -> None:
    """Make a state directory with so many files."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    parent = ROOT_INODE
    for number in range(file_count):
        now_ns = time.time_ns()
        if number % FILES_A_DIRECTORY == 0:
            directory = NewInode(engine.reserve_ids()[0], 0o40755, 0, 0, now_ns)
            parent = _run(
                engine.create(
                    ROOT_INODE, b"directory-%d" % (number // FILES_A_DIRECTORY), directory
                )
            ).ino
        ino, raw = engine.reserve_ids()
        new = NewInode(
            *(ino, 0o100644, 0, 0, now_ns), raw=raw, xattrs=((b"user.label", b"%d" % number),)
        )
        inode = _run(engine.create(parent, b"file-%08d.bin" % number, new))
        _run(engine.seal([Seal(ino, inode.generation, 4096, 8, 1, now_ns, now_ns)]))
        key = f"blobs/{number % 256:02x}/{number:032x}"
        intent = _run(engine.begin_intent(MoveKind.UPLOAD, ino, inode.generation, key, now_ns))
        blob = Blob(engine.reserve_blob(), 4096, b"%032d" % number)
        form = Form(blob.blob, FormKind.REMOTE, Place(key), FormCoding("zstd:3"), 2048)
        _run(engine.publish_form(ino, inode.generation, blob, form, intent))
        engine.commit_nowait()
    engine.close()


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
        measure_in(state_dir, client)
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB of memory")


def measure_in(state_dir: Path, client: Client) -> None:
    """Move names into the database, and tell how long each stage took."""
    ends: list[Callable[[], None]] = []
    total = 0

    def show(stage: str, done: int, in_all: int) -> None:
        nonlocal total
        if not done:
            total = in_all
            for end in ends:
                end()
            ends[:] = [_measure(stage, client, lambda: total)]

    engine = SqliteEngine.open(state_dir, MetadataConfig())
    with contextlib.closing(engine):
        MovingIn(engine, state_dir, client, "the database", "bench", show=show).run()
        for end in ends:
            end()


if __name__ == "__main__":
    main()
