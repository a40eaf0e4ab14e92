"""Peering: what a node of a shared mount needs to talk to the others.

One that writes answers where `nodes.listen` says; one that reads asks it. Both have an identity in
their state directory, and the database tells it to the others.

Invariant: where nothing is asked for by the configuration, nothing listens.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from memfs.content.lending import Lender
from memfs.errors import NotSupportedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.membership import read_members
from memfs.metadata.shared.node_table import Presence
from memfs.moves.faults import FaultPoints
from memfs.peers.client import Asking, PeerClient
from memfs.peers.identity import load_or_make
from memfs.peers.members import Members
from memfs.peers.server import PeerServer, Served
from memfs.types import READER
from memfs.urls import split_address

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.config import NodesConfig
    from memfs.content.file_syncs import FileSyncs
    from memfs.content.forms import FormReader
    from memfs.content.opentable import OpenTable
    from memfs.content.sealing import Sealer
    from memfs.metadata.shared.engine import SharedEngine
    from memfs.metadata.shared.joining import Connector
    from memfs.metadata.shared.reader_engine import ReaderEngine
    from memfs.peers.identity import Identity
    from memfs.stores.raw import RawStore

log = logging.getLogger(__name__)

BACKLOG_COUNT = 128


class Peering:
    """That of one node.

    Args:
        state_dir: Gets its identity.
        config: Its `[nodes]`.
        connector: Connects to the database.

    Raises:
        UsageError: The address of `nodes.listen` cannot be had.
    """

    def __init__(self, state_dir: Path, config: NodesConfig, connector: Connector) -> None:
        self._state_dir = state_dir
        self._reads = config.role == READER
        self._members = Members(partial(read_members, connector))
        self._identity: Identity | None = None
        self._socket: socket.socket | None = None
        self._address: str | None = None
        if config.listen is not None and not self._reads:
            self._socket, self._address = _listen(config.listen)

    def close(self) -> None:
        """Listen no longer."""
        if self._socket is not None:
            self._socket.close()

    def presence(self) -> Presence:
        """Return what other nodes are told of this one; its state directory is there.

        Raises:
            UsageError: It is to listen, and can have no certificate.
            OSError: The state directory cannot be written.
        """
        if self._socket is None and not self._reads:
            return Presence()
        try:
            self._identity = load_or_make(self._state_dir)
        except NotSupportedError as error:
            if self._socket is not None:
                raise UsageError(f"nodes.listen: {error}") from None
            log.info("files that are not uploaded yet are waited for: %s", error)
            return Presence()
        return Presence(self._address, self._identity.certificate)

    def server(
        self,
        engine: SharedEngine,
        raw_store: RawStore,
        form_reader: FormReader,
        open_table: OpenTable,
        sealer: Sealer,
        file_syncs: FileSyncs,
    ) -> PeerServer | None:
        """Return what answers other nodes; None: this one does not listen."""
        if self._socket is None or self._identity is None:
            return None
        lender = Lender(
            engine,
            raw_store,
            form_reader,
            open_table,
            sealer,
            file_syncs,
            FaultPoints().reach,
        )
        writer = engine.writer
        served = Served(bytes.fromhex(engine.mount_id), engine.node_number, lambda: writer.epoch)
        log.info("other nodes are answered at %s", self._address)
        return PeerServer((self._socket,), self._identity, served, self._members, lender)

    def client(self, engine: ReaderEngine) -> PeerClient | None:
        """Return what asks the node that writes; None: this one has no identity."""
        if self._identity is None:
            return None
        node, reader_log = engine.node, engine.log

        async def confirm() -> int:
            await reader_log.barrier()
            return reader_log.writer_epoch

        asking = Asking(bytes.fromhex(engine.mount_id), node.number, node.epoch)
        return PeerClient(self._identity, asking, self._members, confirm, reach=FaultPoints().reach)


def _listen(text: str) -> tuple[socket.socket, str]:
    """Return a socket that listens, and where others find it."""
    host, port = split_address(text)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(BACKLOG_COUNT)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise UsageError(
            f"nodes.listen: {text} cannot be had: {error.strerror or error}; name an address of "
            "this machine and a free port",
            ExitCode.CANNOT_MOUNT,
        ) from None
    port = listening.getsockname()[1]
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
    return listening, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
