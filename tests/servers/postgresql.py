"""A PostgreSQL server of the tests' own: on a unix socket and on loopback, as an ordinary user.

Invariant: the server ends with the test run, however that ends, and leaves no shared memory; what a
killed run has left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import psycopg

from tests.servers.process import (
    NotReadyError,
    end_of_server,
    free_ports,
    server_directory,
    start_server,
)
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BINARIES_VARIABLE = "MEMFS_TEST_POSTGRESQL"
"""In the environment: a directory with `initdb` and `postgres` of the version to test with."""
ADMINISTRATOR = "postgres"
USER = "memfs"
"""Owns the databases of tests; comes in without a password."""
GUARDED = "guarded"
"""Comes in over TCP with a password by SCRAM, with or without TLS."""
CLEAR = "clear"
"""Comes in over TCP with a password that is sent as it is."""
ONLY_TLS = "tls"
"""Comes in over TCP only by TLS, with a password by SCRAM."""
PASSWORD = "of-these-tests"

_HBA = f"""
local   all all               trust
host    all {GUARDED} all     scram-sha-256
host    all {CLEAR} all       password
hostssl all {ONLY_TLS} all    scram-sha-256
hostnossl all {ONLY_TLS} all  reject
host    all all 127.0.0.1/32  trust
"""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # What survives a kill of the server needs no sync; power does not fail here.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "min_wal_size": "2MB",
    "max_wal_size": "64MB",
    "dynamic_shared_memory_type": "mmap",
    "ssl": "on",
    "ssl_cert_file": "server.crt",
    "ssl_key_file": "server.key",
    "log_min_messages": "warning",
    # The default from PostgreSQL 14 on.
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True)
class Database:
    """One database of a server."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        """By the unix socket, as `USER`."""
        return self.server.url(self.name)

    def tcp_url(self, user: str = USER, host: str = "127.0.0.1", **options: str) -> str:
        """By TCP.

        Args:
            user: One of this module.
            host: `127.0.0.1` and `localhost` are in the server's certificate.
            options: Parameters of the URL.
        """
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}@{host}:{self.server.port}/{self.name}{query}"

    def execute(self, text: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator, past the code under test; returns the rows."""
        return self.server.execute(text, *params, database=self.name)


class PostgresServer:
    """A cluster of its own; `start` and `stop` at any time.

    Args:
        directory: Empty; has the cluster and the socket.
        settings: Further ones of the server; they go before those of the tests.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.directory = directory
        self._settings = {**_SETTINGS, **settings}
        self._binaries = find_postgresql()
        self._data = directory / "data"
        self._user = pwd.getpwnam(_user()) if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._serial = itertools.count()
        [self.port] = free_ports(1)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self._make_cluster()

    @property
    def certificate(self) -> Path:
        """What TLS is checked with: `sslrootcert`."""
        return self.directory / "root.crt"

    def url(self, database: str, user: str = USER) -> str:
        """Return a URL by the unix socket."""
        return f"postgresql://{user}@{quote(str(self.directory), '')}:{self.port}/{database}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-k", str(self.directory)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        uid, gid = (self._user.pw_uid, self._user.pw_gid) if self._user else (None, None)
        self._process = start_server(
            command,
            self.directory,
            self._try,
            uid=uid,
            gid=gid,
            # At once, without a last checkpoint; but the segment of shared memory goes.
            end_signal=signal.SIGQUIT,
        )

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it and wait for that.

        Args:
            number: SIGINT: sessions end by an error (`fast`); SIGQUIT: at once, and the log is
                redone at the next start (`immediate`); SIGKILL: as by a crash.
        """
        assert self._process is not None
        if number == signal.SIGKILL:
            pids = self.pids()
            os.kill(self._process.pid, number)
            self._process.wait(WAIT_S)
            wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its children")
        else:
            end_of_server(self._process, number)
        self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def restart(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it and start it."""
        self.stop(number)
        self.start()

    def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            self.stop(signal.SIGQUIT)

    def execute(
        self, text: str, *params: object, database: str = ADMINISTRATOR
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator; returns the rows."""
        url = self.url(database, ADMINISTRATOR)
        with psycopg.connect(url, autocommit=True, connect_timeout=30) as connection:
            cursor = connection.execute(text, params or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[Database]:
        """Give a new database, removed afterwards with all connections to it.

        Args:
            template: Has the tables that it begins with; nobody is connected to it.
        """
        name = f"test_{os.getpid()}_{next(self._serial)}"
        self.execute(f"create database {name} template {template} owner {USER}")
        yield Database(self, name)
        if self._process is not None:
            self.execute(f"drop database {name} with (force)")

    def terminate(self, pid: int) -> None:
        """End a session by an error, as an administrator does; returns when its process is gone."""
        self.execute("select pg_terminate_backend(%s)", pid)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"process {pid} is there")

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Have a session's process answer nothing for the block; its connection stays open."""
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: _state(pid) == "T", lambda: _state(pid))
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """Return the ids of its processes, the one that starts the others first."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [self._process.pid, *map(int, children.read_text().split())]

    def _make_cluster(self) -> None:
        self._run(
            *(self._binaries / "initdb", "-D", self._data, "-U", ADMINISTRATOR, "-A", "trust"),
            *("--no-sync", "--wal-segsize=1", "-E", "UTF8", "--locale=C"),
        )
        self._write("data/pg_hba.conf", _HBA.encode(), 0o600)
        certificate, key = self_signed()
        self._write("data/server.key", key, 0o600)
        self._write("data/server.crt", certificate, 0o644)
        self._write("root.crt", certificate, 0o644)
        self.start()
        self.execute(f"create role {USER} login")
        # As from PostgreSQL 15 on: only the owner of a database makes tables in it.
        for statement in (
            f"alter schema public owner to {USER}",
            "revoke create on schema public from public",
        ):
            self.execute(statement, database="template1")
        for role in (GUARDED, CLEAR, ONLY_TLS):
            self.execute(f"create role {role} login password '{PASSWORD}' in role {USER}")

    def _write(self, name: str, data: bytes, mode: int) -> None:
        path = self.directory / name
        path.write_bytes(data)
        path.chmod(mode)
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=self._user and self._user.pw_uid,
            group=self._user and self._user.pw_gid,
            extra_groups=[] if self._user else None,
        )
        assert done.returncode == 0, done.stderr

    def _try(self) -> None:
        try:
            self.execute("select 1")
        except psycopg.OperationalError as error:
            raise NotReadyError(str(error)) from error


@contextlib.contextmanager
def running_postgresql(
    place: Path | None = None, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[PostgresServer]:
    """Run a server; its processes and files are gone afterwards.

    Args:
        place: Where its directory is made; None: with the temporary files.
        settings: As of `PostgresServer`.
    """
    with server_directory("postgresql", place) as directory:
        server = PostgresServer(directory, settings)
        try:
            yield server
        finally:
            server.close()


def find_postgresql() -> Path:
    """Return the directory with the programs.

    That is the one that `BINARIES_VARIABLE` names, else the newest of Debian's, else the one on
    the path.
    """
    if named := os.environ.get(BINARIES_VARIABLE):
        if not (Path(named) / "initdb").is_file():
            raise RuntimeError(f"{BINARIES_VARIABLE}={named}: no program initdb is there")
        return Path(named).resolve()
    found = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda path: int(path.parent.name),
    )
    if found:
        return found[-1]
    program = shutil.which("initdb")
    if program is None:
        raise RuntimeError("no PostgreSQL: tools/setup.sh --tests installs it")
    return Path(program).resolve().parent


def _user() -> str:
    """Return who the server runs as: it refuses to be root's."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("no user postgres and no user nobody, as whom a server could run")


def _state(pid: int) -> str:
    """Return the letter of proc(5) for the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def self_signed() -> tuple[bytes, bytes]:
    """Return a certificate for this machine's own names, and its key; both PEM."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
