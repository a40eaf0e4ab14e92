"""Where the names of a mount are: the URL of a PostgreSQL database, and the ways to connect to it.

Invariant: no secret is in an address, in a text of one, or in an error about one; and no way to a
server lets a password go over a network without TLS.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote

from memfs.encryption.secret_files import read_secret
from memfs.errors import UsageError

try:
    from psycopg import OperationalError, conninfo, pq
except ImportError as missing:
    raise UsageError(f"PostgreSQL: {missing}; pip install 'memfs-tiers[postgresql]'") from missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SETTING = "metadata.url"
"""The key of the configuration, for messages."""

LIBPQ_VERSION_MIN = 160_000
"""16 has `require_auth`. The binary wheel of psycopg brings a newer one; without it psycopg takes
that of the system."""

_SCHEMES = ("postgresql://", "postgres://")
_FORM = "write postgresql://USER@HOST[:PORT]/DATABASE[?OPTION=VALUE&...]"
_REMEDY = (
    "name a file for it by PGPASSFILE or passfile=/path, or a service by service=NAME, or write "
    "where it is: password=credential:NAME, password=file:/path"
)
_SECRETS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_SOURCE = re.compile(r"file:/|env:|credential:")
_WRITABLE = ("read-write", "primary")

_DEFAULTS = {
    "fallback_application_name": "memfs",
    "target_session_attrs": _WRITABLE[0],
    # A network that is gone is noticed while nothing is asked: after 15 + 3 * 5 s.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    # Bytes that nobody acknowledges; milliseconds.
    "tcp_user_timeout": "30000",
}
"""Options of libpq where nobody has set others."""

_FORCED = {
    "client_encoding": "UTF8",
    # A way has one address; there is nothing to mix.
    "load_balance_hosts": "disable",
}

_WITHOUT_PASSWORD = "!password,!md5,!scram-sha-256"
"""`require_auth` where others may listen: libpq refuses a server that asks for a password."""


@dataclass(frozen=True)
class Way:
    """One way to connect."""

    place: str
    """Host and port, for messages."""
    conninfo: bytes = field(repr=False)
    """For libpq; may hold a password."""
    fallback: Way | None = None
    """The way to take if this server has no TLS."""
    is_open_to_listeners: bool = False
    """Without TLS over a network; no password passes."""


@dataclass(frozen=True, repr=False)
class Address:
    """A database, as a URL names it; made by `parse`."""

    options: Mapping[str, str]
    """What the URL says, by libpq's names of options."""
    password_source: str | None
    """Where the password is, if the URL says so: `credential:NAME`, `file:/path`, `env:NAME`."""
    environment: Mapping[str, str]
    """For `env:` and `credential:`."""

    @classmethod
    def parse(cls, url: str, environment: Mapping[str, str] = MappingProxyType({})) -> Address:
        """Return the address that a URL means.

        Args:
            url: `postgresql://user@host:port/database?option=value`, as libpq takes it. Instead of
                a password, `password=` says where it is.
            environment: That of the process, for `password=env:NAME` and `credential:NAME`.

        Raises:
            UsageError: It is no such URL, has a secret in it, or asks for a server that takes no
                changes; or libpq is too old.
        """
        if pq.version() < LIBPQ_VERSION_MIN:
            raise UsageError(
                f"PostgreSQL: libpq {pq.version() // 10_000} is too old, it has to be "
                f"{LIBPQ_VERSION_MIN // 10_000} or newer; pip install 'memfs-tiers[postgresql]'"
            )
        if not url.startswith(_SCHEMES):
            raise UsageError(f"{SETTING}: not a URL of PostgreSQL; {_FORM}")
        try:
            parsed = pq.Conninfo.parse(url.encode())
        except (OperationalError, UnicodeEncodeError) as error:
            raise UsageError(f"{SETTING}: {_without_quoted(str(error))}; {_FORM}") from None
        options = {each.keyword.decode(): each.val.decode() for each in parsed if each.val}
        source = options.pop("password", None)
        if source is not None and not _SOURCE.match(source):
            raise UsageError(f"{SETTING}: others can see a password in a URL; {_REMEDY}")
        for name in _SECRETS:
            if name in options:
                raise UsageError(f"{SETTING}: {name} is a secret, and others can see a URL")
        wanted = options.get("target_session_attrs", _WRITABLE[0])
        if wanted not in _WRITABLE:
            raise UsageError(
                f"{SETTING}: target_session_attrs={wanted}: such a server may take no changes; "
                f"leave it out, or write {' or '.join(_WRITABLE)}"
            )
        return cls(options, source, environment)

    def __str__(self) -> str:
        """User, hosts, ports, and database or service, for logs and errors."""
        options = self.options
        hosts = options.get("host", options.get("hostaddr", "")).split(",")
        ports = _spread(options.get("port", "").split(","), len(hosts))
        places = ",".join(_place(host, port) for host, port in zip(hosts, ports, strict=False))
        user = f"{quote(options['user'], '')}@" if "user" in options else ""
        service = f"?service={quote(options['service'], '')}" if "service" in options else ""
        return f"postgresql://{user}{places}/{quote(options.get('dbname', ''), '')}{service}"

    def __repr__(self) -> str:
        return f"Address({self})"

    def ways(self) -> Iterator[Way]:
        """Yield the ways to connect, in the order to try them in.

        There is one for each address of each host: libpq has no limit for one of them where a
        program polls it. Blocks while the names of hosts are resolved; reads the password anew.

        Raises:
            OSError: A host has no address; the ways of the others may be asked for still, since
                this is raised last.
            UsageError: The password is not where the URL says.
        """
        resolved = self._resolved()
        if self.password_source is not None:
            name = f"{SETTING}: password"
            resolved["password"] = read_secret(self.password_source, name, self.environment)
        hosts = resolved.pop("host", "").split(",")
        numbers = _spread(resolved.pop("hostaddr", "").split(","), len(hosts))
        hosts = _spread(hosts, len(numbers))
        ports = _spread(resolved.pop("port", "").split(","), len(hosts))
        failure: OSError | None = None
        for host, number, port in zip(hosts, numbers, ports, strict=True):
            try:
                found = [number] if number or _is_unix(host) else _resolve(host, port)
            except OSError as error:
                failure = OSError(f"host {host}: {error.strerror or error}")
                continue
            for each in found:
                chosen = {"host": host, "hostaddr": each, "port": port}
                yield self._way(resolved, {name: text for name, text in chosen.items() if text})
        if failure is not None:
            raise failure

    def _resolved(self) -> dict[str, str]:
        """Return all options with those of the service file and of the environment.

        libpq reads these only for a connection. This one ends before it reaches for the network,
        as one of its options has a value that does not exist.
        """
        connection = pq.PGconn.connect_start(
            _conninfo(dict(self.options) | {"load_balance_hosts": "-"})
        )
        said = connection.error_message.decode(errors="replace")
        found = {each.keyword.decode(): each.val.decode() for each in connection.info if each.val}
        connection.finish()
        if "load_balance_hosts" not in said:
            # No such service, for instance.
            raise UsageError(f"{SETTING}: {self}: {one_line(said)}")
        return found

    def _way(self, resolved: Mapping[str, str], chosen: Mapping[str, str]) -> Way:
        options = {**_DEFAULTS, **resolved, **_FORCED, **chosen}
        if resolved.get("target_session_attrs") not in _WRITABLE:
            options["target_session_attrs"] = _WRITABLE[0]
        host, number = chosen.get("host", ""), chosen.get("hostaddr", "")
        place = _place(host or number, chosen.get("port", "")) or "the default socket"
        mode = options.get("sslmode", "prefer")
        if is_private(host, number) or mode not in ("disable", "allow", "prefer"):
            return Way(place, _conninfo(options))
        listened = {"sslmode": "disable", "require_auth": _WITHOUT_PASSWORD}
        clear = Way(f"{place} without TLS", _conninfo(options | listened), None, True)
        if mode == "disable":
            return clear
        return Way(place, _conninfo(options | {"sslmode": "require"}), clear)


def is_private(host: str, number: str) -> bool:
    """Return whether nobody can listen: a unix socket, or an address of the loopback device.

    Args:
        host: Name of a host, directory of a socket, or empty: the default socket.
        number: Address of the host; empty where it is to be a socket.
    """
    if not number:
        return _is_unix(host)
    try:
        return ipaddress.ip_address(number).is_loopback
    except ValueError:
        return False


def one_line(text: str) -> str:
    """Return a message of libpq or of a server without line breaks and words that say nothing."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(re.sub(r"^(ERROR|FATAL|PANIC): +", "", line) for line in lines if line)


def _conninfo(options: Mapping[str, str]) -> bytes:
    return conninfo.make_conninfo("", **options).encode()


def _without_quoted(text: str) -> str:
    """Return a message of libpq about a URL without what it quotes: that may be a password."""
    return re.sub(r'".*"', '"..."', one_line(text), flags=re.DOTALL)


def _is_unix(host: str) -> bool:
    return not host or host.startswith(("/", "@"))


def _resolve(host: str, port: str) -> list[str]:
    found = socket.getaddrinfo(host, int(port or 0), type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _spread(values: list[str], count: int) -> list[str]:
    return values * count if len(values) == 1 else values


def _place(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, "/@" if host.startswith("/") else "")
    return f"{shown}:{port}" if port else shown
