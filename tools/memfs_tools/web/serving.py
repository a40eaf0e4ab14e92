"""The server of the page: its socket, its process, its end.

Invariant: it listens where only this machine can ask, unless it was told otherwise; a socket of its
own is gone when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
from asyncio import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from memfs.errors import UsageError
from memfs.log_lines import EscapingFormatter
from memfs_tools.web.app import make_app
from memfs_tools.web.feed import Feed
from memfs_tools.web.gate import LOOPBACK_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memfs.control.report import PricesReport
    from memfs_tools.web.gate import Secrets

CONNECTIONS_MAX = 100
"""Beyond them, a request is answered by 503 where all of them have one; else an idle one goes."""
_END_S_MAX = 2
"""For answers that are under way when the server ends."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    """Empty: `path`."""
    port: int
    """0: any that is free."""
    path: Path | None = None
    """That of a unix socket."""

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        return self.path is not None or self.host in LOOPBACK_NAMES


def parse_address(text: str) -> Address:
    """Return the address that a text is: `HOST:PORT`, `[ADDRESS]:PORT`, `PORT` or `unix:PATH`.

    Raises:
        UsageError: It is no address.
    """
    kind, _, path = text.partition(":")
    if kind == "unix":
        if not path:
            raise UsageError("unix: takes the path of a socket: unix:/run/memfs-web.sock")
        return Address("", 0, Path(path))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else LOOPBACK_NAMES[1]
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text} is no address; as in 127.0.0.1:8765, 8765 or unix:PATH")
    return Address(host, int(port))


@contextlib.contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises:
        UsageError: The address is taken, or cannot be had.
    """
    if address.path is not None:
        yield from _listening_unix(address.path)
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((address.host, address.port))
        except OSError as error:
            raise UsageError(
                f"cannot listen at {address.host}:{address.port}: {error.strerror}; name another "
                "address by --listen"
            ) from None
        yield made


def _listening_unix(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        _remove_dead(path)
        before = os.umask(0o177)
        try:
            made.bind(os.fspath(path))
        except OSError as error:
            raise UsageError(f"cannot listen at {path}: {error.strerror}") from None
        finally:
            os.umask(before)
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    """Remove a socket that a server has left behind; one that answers stays."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise UsageError(f"{path} is there and is no socket; name another path by --listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise UsageError(f"a server listens at {path} already")


class _Connection(H11Protocol):
    """One that is ended for another one while it asks nothing.

    Every user of the machine can connect, and no time limit of uvicorn holds before the first
    request, or while a byte comes now and then.
    """

    _idle_since_s: float
    """When it was made or had its last answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        """Take a client, and end the one that has been idle longest where there are too many."""
        super().connection_made(transport)
        self._idle_since_s = self.loop.time()
        if len(self.connections) < CONNECTIONS_MAX:
            return
        idle = [
            each
            for each in self.connections
            if isinstance(each, _Connection) and each is not self and each.is_idle
        ]
        if idle:
            idlest = min(idle, key=lambda each: each._idle_since_s)
            # The socket goes in the next turn of the loop.
            self.connections.discard(idlest)
            idlest.transport.abort()

    def on_response_complete(self) -> None:
        """Be idle from now on."""
        self._idle_since_s = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether it has asked for nothing that is not answered."""
        return self.cycle is None or self.cycle.response_complete


class _Server(uvicorn.Server):
    """One that leaves signals to who runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def serve(
    mountpoint: Path,
    keys: Secrets,
    address: Address,
    names: Sequence[str],
    tell: Callable[[str], None],
    reprice: Callable[[PricesReport], PricesReport],
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        mountpoint: Where the mount is.
        keys: What opens the page.
        address: Where to listen.
        names: Those of the server, besides those of this machine and the address.
        tell: Is given the first address of the page.
        reprice: As of `web.app.Page`.
    """
    feed = Feed(mountpoint)
    all_names = [*LOOPBACK_NAMES, *names] + ([address.host] if address.host else [])
    config = uvicorn.Config(
        make_app(mountpoint, keys, all_names, feed, reprice),
        lifespan="on",
        ws="none",
        http=_Connection,
        loop="asyncio",
        log_config=None,
        # Its lines would have the token of the first address.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=_END_S_MAX,
    )
    server = _Server(config)

    async def run(made: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.should_exit = True
            feed.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        # It listens already: a browser that asks at once only waits a little.
        tell(where)
        await server.serve([made])

    with listening(address) as made:
        made.listen()
        if address.path is not None:
            where = f"http://localhost/{keys.place}/?token={keys.token} at {address.path}"
        else:
            port = made.getsockname()[1]
            host = f"[{address.host}]" if ":" in address.host else address.host
            where = f"http://{host}:{port}/{keys.place}/?token={keys.token}"
        with _logging():
            asyncio.run(run(made, where))
    if any(
        not each.daemon for each in threading.enumerate() if each is not threading.main_thread()
    ):
        # A call of a mount that hangs keeps its thread, and the interpreter would wait for that.
        sys.stdout.flush()
        os._exit(0)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Have what goes wrong in the server told on standard error, without what a terminal obeys."""
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("memfs: %(message)s"))
    # Answers that were under way at the end have not failed.
    handler.addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], CancelledError))
    )
    log = logging.getLogger("uvicorn")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
