"""Names in PostgreSQL: what a mount, and the client of the database, reach at some distances.

Run: python -m tests.bench.nodes [--part client|mount|reader] [--delays 0,1,5] [--json FILE]

A private PostgreSQL server with durable commits runs on this machine. A proxy before it makes each
round trip longer by 0, 1 and 5 ms. All places take turns in one run, so ratios hold on a busy
machine; rates are those of this machine, where server, proxy and clients share the processors.

- *client*: transactions of 1 to 1000 new files, as the writer of a mount sends them, one after the
  other. Tells files a second, the processor time of the client for each statement, and what a file
  takes of the server: processor time, log, and room in the tables.
- *mount*: processes that create, open, stat and unlink empty files, each in a directory of its own,
  on a mount whose names are in PostgreSQL as well, on one that has SQLite alone, and on JuiceFS
  (https://juicefs.com), where it is installed, with its metadata in PostgreSQL.
- *reader*: processes that open, read and stat small files on a node that reads, which another node
  has written, in a tree that changes and in a frozen one; on a mount that has SQLite alone; and on
  another mount of the same volume of JuiceFS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from memfs import __version__
from memfs.metadata.records import Inode
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.schema import create
from memfs.metadata.shared.statements import translate
from memfs.metadata.sqlite.statements import INSERT_DENTRY, INSERT_INODE, SET_TIMES
from memfs.types import BlobId, Generation, InodeNo, RawId
from tests import scratch
from tests.bench import comparison, quiet
from tests.bench.clients import run_at_once
from tests.bench.machine import Machine
from tests.bench.places import JuicefsPlace
from tests.mounting import Mount, run_memfs
from tests.servers.postgresql import running_postgresql
from tests.servers.slow_proxy import running_slow_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.statements import Parameters
    from tests.servers.postgresql import Database, PostgresServer

DELAYS_MS = (0.0, 1.0, 5.0)
GROUP_SIZES = (1, 10, 100, 1000)
CLIENT_COUNTS = (1, 4, 16)
FILE_COUNT = 800
"""Files that all clients of a sample make together."""
SAMPLE_S = 1.0
"""How long groups of one size are sent."""
READ_BYTES = 4096
"""The size of files that a node reads."""
BODY_BYTES = 250
"""A journal entry that creates a file, about."""
DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
}
"""What a real server has; the tests' own has no syncs."""
ROOT_INO = 1

Samples = dict[str, dict[str, list[float]]]
"""By row and place."""


class Records:
    """Makes the records of new files, as the journal of a mount has them."""

    def __init__(self) -> None:
        self._ino = 1 << 16
        self.entry_count = 0

    def group(self, file_count: int) -> list[tuple[str, Sequence[Any]]]:
        """Return the statements of a transaction that creates so many files."""
        records: list[tuple[int, Parameters]] = []
        statements: list[tuple[str, Sequence[Any]]] = [
            (
                "update node set seq = $1, beat = now() where node = 1 and seq = $2 returning 1",
                (self.entry_count + file_count, self.entry_count),
            )
        ]
        now_ns = time.time_ns()
        for _ in range(file_count):
            self._ino += 1
            self.entry_count += 1
            inode = Inode(
                *(InodeNo(self._ino), 0o100644, 1000, 1000, 1, 0, 0, 0),
                *(now_ns, now_ns, now_ns, now_ns, Generation(1), RawId(self._ino), BlobId(0)),
                *(1, 0, None, now_ns),
            )
            name = b"%012d" % self._ino
            records += [
                (INSERT_DENTRY, (ROOT_INO, self._ino, name, self._ino)),
                (INSERT_INODE, inode),
                (SET_TIMES, (now_ns, now_ns, ROOT_INO)),
            ]
            statements.append(
                (
                    "insert into change values (1, $1, now(), $2)",
                    (self.entry_count, bytes(BODY_BYTES)),
                )
            )
        return statements + translate(records)


class Used(NamedTuple):
    """What some files took."""

    files_per_s: float
    client_us: float
    """Processor time of the client for a statement."""
    server_us: float
    """Processor time of the server's process of the connection, for a file."""
    log_bytes: float
    """Bytes of the server's write-ahead log, for a file."""


@contextlib.contextmanager
def formatted(server: PostgresServer) -> Iterator[Database]:
    """Give a database with a mount's tables and a node, whose rows somebody has to fill."""
    with server.database() as database:
        client = Client.connect(Address.parse(database.url))
        with contextlib.closing(client):
            create(client, "the database", "file:///nowhere", __version__)
            client.query(
                "insert into node values (1, 'bench', $1, 'writer', 0, 'live', 0, 0, now(), $2)",
                (secrets.token_bytes(16), __version__),
            )
        yield database


async def _send(client: Client, records: Records, group_size: int, database: Database) -> Used:
    """Send groups for `SAMPLE_S`."""
    groups = [records.group(group_size)]
    await client.transact(groups.pop())
    pid, count, statement_count, client_ns = client.backend_pid, 0, 0, 0
    log_before = _log_position(database)
    server_ns = quiet.processor_ns([pid])
    spent_s = 0.0
    while spent_s < SAMPLE_S:
        statements = records.group(group_size)
        begin_s, begin_ns = time.perf_counter(), time.process_time_ns()
        await client.transact(statements)
        client_ns += time.process_time_ns() - begin_ns
        spent_s += time.perf_counter() - begin_s
        count += group_size
        statement_count += len(statements)
    server_ns = quiet.processor_ns([pid]) - server_ns
    return Used(
        count / spent_s,
        client_ns / 1e3 / statement_count,
        server_ns / 1e3 / count,
        (_log_position(database) - log_before) / count,
    )


def _log_position(database: Database) -> int:
    [(position,)] = database.execute("select pg_current_wal_insert_lsn() - '0/0'")
    return int(position)


def measure_client(
    server: PostgresServer, delays_ms: Sequence[float], round_count: int
) -> dict[str, Any]:
    """Return what transactions of each size took, by distance, and the room of a file."""
    rows: dict[str, dict[str, list[Used]]] = {}
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(formatted(server))
        records = Records()
        clients = {}
        for delay_ms in delays_ms:
            port = stack.enter_context(running_slow_proxy(server.port, delay_ms / 1000))
            url = f"postgresql://memfs@127.0.0.1:{port}/{database.name}?sslmode=disable"
            clients[_title(delay_ms)] = Client.connect(Address.parse(url))
        for number in range(round_count + 1):
            for size in GROUP_SIZES:
                for title in _turned(list(clients), number):
                    used = trio.run(_send, clients[title], records, size, database)
                    if number:
                        row = rows.setdefault(f"transactions of {size} new files", {})
                        row.setdefault(title, []).append(used)
        for client in clients.values():
            client.close()
        database.execute("vacuum full")
        room = database.execute(
            "select relname::text, pg_total_relation_size(c.oid) from pg_class c"
            " where relkind = 'r' and relnamespace = 'public'::regnamespace order by 2 desc limit 4"
        )
    return {
        "rows": {title: {name: [each._asdict() for each in used] for name, used in row.items()}
                 for title, row in rows.items()},
        "bytes_a_file": {name: round(size / records.entry_count, 1) for name, size in room},
    }  # fmt: skip


def _title(delay_ms: float) -> str:
    return f"+{delay_ms:g} ms"


def _turned(names: list[str], number: int) -> list[str]:
    turn = number % len(names)
    return names[turn:] + names[:turn]


def _shared_title(delay_ms: float) -> str:
    return f"PostgreSQL, {_title(delay_ms)}"


# --- mounts --------------------------------------------------------------------------------------
ALONE = "SQLite alone"


def _create(name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _open(name: str) -> None:
    os.close(os.open(name, os.O_RDONLY))


CALLS: tuple[tuple[str, Callable[[str], object], int], ...] = (
    ("create + close", _create, 1),
    ("open + close", _open, 10),
    ("stat", os.stat, 50),
    ("unlink", os.unlink, 1),
)
"""Names, calls, and how often each file has it: a sample of fast calls alone would be too short."""


def _read(name: str) -> None:
    fd = os.open(name, os.O_RDONLY)
    assert len(os.read(fd, 2 * READ_BYTES)) == READ_BYTES
    os.close(fd)


READS: tuple[tuple[str, Callable[[str], object], int], ...] = (
    ("open + close", _open, 10),
    ("open + read 4 KiB + close", _read, 10),
    ("stat", os.stat, 50),
)


class SharedJuicefs(JuicefsPlace):
    """JuiceFS with its metadata in PostgreSQL, and its blocks in local files.

    Args:
        base: As of `Place`.
        url: That of the database.
    """

    def __init__(self, base: Path, url: str) -> None:
        super().__init__(base)
        self._url = url

    @property
    def metadata_url(self) -> str:
        """The database."""
        return self._url


class SecondJuicefs(SharedJuicefs):
    """Another mount of a volume that is mounted already."""

    def open(self) -> None:
        """Mount it."""
        self.attach()


@contextlib.contextmanager
def mounts(
    server: PostgresServer, base: Path, delays_ms: Sequence[float]
) -> Iterator[dict[str, Path]]:
    """Give the mountpoints by title: one without a database, and two for each distance."""
    with contextlib.ExitStack() as stack:

        def reach(delay_ms: float) -> str:
            """Make a database; returns its URL."""
            database = stack.enter_context(server.database())
            port = stack.enter_context(running_slow_proxy(server.port, delay_ms / 1000))
            return f"://memfs@127.0.0.1:{port}/{database.name}?sslmode=disable"

        def mount(name: str, url: str | None) -> Path:
            place = base / name
            place.mkdir(mode=0o755)
            (place / "store").mkdir()
            store = f"file://{place / 'store'}"
            config = f'[glacier]\nurl = "{store}"\n'
            if url is not None:
                run_memfs("format", url, "--store", store)
                config += f'[metadata]\nurl = "{url}"\n[nodes]\nname = "bench"\n'
            made = Mount(place, "kernel", config)
            made.start()
            stack.callback(made.stop)
            return made.root

        found = {ALONE: mount("alone", None)}
        for delay_ms in delays_ms:
            title = _title(delay_ms)
            found[_shared_title(delay_ms)] = mount(title, f"postgresql{reach(delay_ms)}")
            (base / f"juicefs-{title}").mkdir()
            peer = SharedJuicefs(base / f"juicefs-{title}", f"postgres{reach(delay_ms)}")
            if peer.lacks() is None:
                peer.open()
                stack.callback(peer.close)
                found[f"JuiceFS, {title}"] = peer.directory
        yield found


def sample(root: Path, client_count: int, file_count: int) -> dict[str, float]:
    """Return the rates of each kind of call, a second; the directory is as before afterwards."""
    each = max(1, file_count // client_count)
    homes = [root / f"new-{secrets.token_hex(4)}" for _ in range(client_count)]
    for home in homes:
        home.mkdir()
    rates = {}
    for name, call, pass_count in CALLS:
        spent_s = run_at_once([_bound(call, home, each, pass_count) for home in homes])
        rates[name] = each * client_count * pass_count / spent_s
    for home in homes:
        home.rmdir()
    return rates


def _bound(
    call: Callable[[str], object], home: Path, count: int, pass_count: int
) -> Callable[[], None]:
    def work() -> None:
        os.chdir(home)
        for _ in range(pass_count):
            for number in range(count):
                call(f"{number:06}")

    return work


@contextlib.contextmanager
def pairs(
    server: PostgresServer, base: Path, delays_ms: Sequence[float]
) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Give mountpoints of one directory by title: where it is written, and where it is read."""
    with contextlib.ExitStack() as stack:

        def reach(delay_ms: float) -> str:
            """Make a database; returns its URL."""
            database = stack.enter_context(server.database())
            port = stack.enter_context(running_slow_proxy(server.port, delay_ms / 1000))
            return f"://memfs@127.0.0.1:{port}/{database.name}?sslmode=disable"

        (base / "alone").mkdir(mode=0o755)
        alone = Mount(base / "alone", "kernel", "")
        alone.start()
        stack.callback(alone.stop)
        found = {ALONE: (alone.root, alone.root)}
        for delay_ms in delays_ms:
            title = _title(delay_ms)
            url, store = f"postgresql{reach(delay_ms)}", base / f"store-{title}"
            store.mkdir()
            run_memfs("format", url, "--store", f"file://{store}")
            roots = []
            for role in ("writer", "reader"):
                place = base / f"{role}-{title}"
                place.mkdir(mode=0o755)
                config = (
                    f'[glacier]\nurl = "file://{store}"\n[metadata]\nurl = "{url}"\n'
                    f'[nodes]\nname = "{role}"\nrole = "{role}"\ncommit_timeout = "60s"\n'
                )
                made = Mount(place, "kernel", config)
                made.start()
                stack.callback(made.stop)
                roots.append(made.root)
            found[_shared_title(delay_ms)] = (roots[0], roots[1])
            url = f"postgres{reach(delay_ms)}"
            (base / f"juicefs-{title}").mkdir()
            first = SharedJuicefs(base / f"juicefs-{title}", url)
            if first.lacks() is None:
                first.open()
                stack.callback(first.close)
                (base / f"juicefs-second-{title}").mkdir()
                second = SecondJuicefs(base / f"juicefs-second-{title}", url)
                second.open()
                stack.callback(second.close)
                found[f"JuiceFS, {title}"] = (first.directory, second.directory)
        yield found


def _fill(directory: Path, file_count: int) -> None:
    directory.mkdir()
    for number in range(file_count):
        (directory / f"{number:06}").write_bytes(bytes(READ_BYTES))


def _prepare(places: dict[str, tuple[Path, Path]], file_count: int) -> dict[str, Path]:
    """Write files, and return directories to read them in, frozen ones too, by title."""
    homes = {}
    for title, (written, read) in places.items():
        _fill(written / "files", file_count)
        homes[title] = read / "files"
        if title == ALONE or title.startswith("JuiceFS"):
            continue
        _fill(written / "frozen", file_count)
        run_memfs("barrier", "--level", "remote", written)
        run_memfs("freeze", written / "frozen")
        homes[f"{title}, frozen"] = read / "frozen"
    return homes


def measure_readers(
    server: PostgresServer,
    base: Path,
    delays_ms: Sequence[float],
    client_counts: Sequence[int],
    file_count: int,
    round_count: int,
) -> Samples:
    """Return the rates where files are read that another mount has written, by row and place."""
    rows: Samples = {}
    with pairs(server, base, delays_ms) as places:
        homes = _prepare(places, file_count)
        pids = scratch.processes_naming(base)
        for number in range(round_count + 1):
            for client_count in client_counts:
                each = max(1, file_count // client_count)
                for title in _turned(list(homes), number):
                    os.sync()
                    quiet.await_rest(pids)
                    for name, call, pass_count in READS:
                        work = _bound(call, homes[title], each, pass_count)
                        rate = each * client_count * pass_count / run_at_once([work] * client_count)
                        row = f"{name} on a reader, {client_count} client{'s' * (client_count > 1)}"
                        if number:
                            rows.setdefault(row, {}).setdefault(title, []).append(round(rate, 1))
    return dict(sorted(rows.items(), key=lambda row: row[0].partition(",")[0]))


def measure_mounts(
    server: PostgresServer,
    base: Path,
    delays_ms: Sequence[float],
    client_counts: Sequence[int],
    file_count: int,
    round_count: int,
) -> Samples:
    """Return the rates by row and place."""
    rows: Samples = {}
    with mounts(server, base, delays_ms) as places:
        pids = scratch.processes_naming(base)
        for number in range(round_count + 1):
            for client_count in client_counts:
                for title in _turned(list(places), number):
                    os.sync()
                    quiet.await_rest(pids)
                    for name, rate in sample(places[title], client_count, file_count).items():
                        row = f"{name}, {client_count} client{'s' * (client_count > 1)}"
                        if number:
                            rows.setdefault(row, {}).setdefault(title, []).append(round(rate, 1))
    return dict(sorted(rows.items(), key=lambda row: row[0].partition(",")[0]))


def _titles(rows: Samples) -> list[str]:
    """Return the places in the order of the table: memfs by distance, then JuiceFS."""
    return sorted(
        next(iter(rows.values())),
        key=lambda title: (title.partition(",")[0] != ALONE, title.startswith("JuiceFS"), title),
    )


def render(rows: Samples, names: Sequence[str]) -> str:
    """Return a table of medians with their extent; the places are columns."""
    lines = [["a second", *names], ["---"] * (len(names) + 1)]
    for title, row in rows.items():
        cells = (
            f"{statistics.median(row[name]):.0f} ({min(row[name]):.0f}..{max(row[name]):.0f})"
            for name in names
        )
        lines.append([title, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_client(found: dict[str, Any], names: Sequence[str]) -> str:
    """Return the tables of the client's part."""
    parts = []
    for field, text in (
        ("files_per_s", "files a second"),
        ("client_us", "us of the client's processor for a statement"),
        ("server_us", "us of the server's processor for a file"),
        ("log_bytes", "bytes of the server's log for a file"),
    ):
        rows = {
            title: {name: [each[field] for each in used] for name, used in row.items()}
            for title, row in found["rows"].items()
        }
        parts.append(render(rows, names).replace("a second", text, 1))
    room = ", ".join(f"{name} {size:.0f}" for name, size in found["bytes_a_file"].items())
    return "\n\n".join([*parts, f"bytes of a file in the tables, with their indexes: {room}"])


def main() -> None:
    """Measure, and print what came of it."""
    parser = comparison.parser(__doc__, places=False)
    parser.add_argument("--part", choices=("client", "mount", "reader"), help="default: all")
    parser.add_argument("--delays", default=",".join(f"{each:g}" for each in DELAYS_MS))
    parser.add_argument("--clients", default=",".join(map(str, CLIENT_COUNTS)))
    parser.add_argument("--files", type=int, default=FILE_COUNT, help="of all clients together")
    arguments = parser.parse_args()
    delays_ms = [float(word) for word in arguments.delays.split(",")]
    client_counts = [int(word) for word in arguments.clients.split(",")]
    result: dict[str, Any] = {}
    tables = []
    with (
        scratch.workspace(arguments.directory) as workspace,
        running_postgresql(workspace.directory("server"), DURABLE) as server,
    ):
        result["machine"] = dataclasses.asdict(Machine.here(workspace.path))
        result["server_version"] = server.execute("show server_version")[0][0]
        if arguments.part in (None, "client"):
            result["client"] = measure_client(server, delays_ms, arguments.repeat)
            tables.append(render_client(result["client"], [_title(each) for each in delays_ms]))
        if arguments.part in (None, "mount"):
            base = workspace.directory("mounts")
            result["mounts"] = measure_mounts(
                server, base, delays_ms, client_counts, arguments.files, arguments.repeat
            )
            tables.append(render(result["mounts"], _titles(result["mounts"])))
        if arguments.part in (None, "reader"):
            base = workspace.directory("readers")
            result["readers"] = measure_readers(
                server, base, delays_ms, client_counts, arguments.files, arguments.repeat
            )
            tables.append(render(result["readers"], _titles(result["readers"])))
    comparison.finish(arguments, result, "\n\n".join(tables))


if __name__ == "__main__":
    main()
