"""How a node reaches the database of its mount: for its start, and again after each loss.

Invariant: a connection that nobody waits for any more is closed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio

from memfs.metadata.shared import node_table, schema
from memfs.metadata.shared.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row


class FirstClient:
    """Implements `joining.FirstSession`.

    Args:
        client: A connection.
        name: Where it leads to, for messages.
        store: `glacier.url`; None: it is not set.
    """

    def __init__(self, client: Client, name: str, store: str | None) -> None:
        self._client = client
        self._name = name
        self._store = store
        self.transact = client.transact
        self.transact_blocking = client.transact_blocking
        self.close = client.close

    @property
    def backend_pid(self) -> int:
        """Process id of the server's process for it."""
        return self._client.backend_pid

    def check(self) -> Mount:
        """See `schema.check`."""
        return schema.check(self._client, self._name, self._store)

    def find_nodes(self) -> list[NodeRow]:
        """See `node_table.find_nodes`."""
        return node_table.find_nodes(self._client)

    def find_writer(self) -> NodeRow | None:
        """See `node_table.find_writer`."""
        return node_table.find_writer(self._client)

    def come_back(self, present: NodeRow, name: str, version: str) -> None:
        """See `node_table.come_back`."""
        node_table.come_back(self._client, self._name, present, name, version)

    def join(self, node: NodeRow, rows: Iterable[tuple[SharedTable, Iterable[Row]]]) -> NodeRow:
        """See `node_table.join`."""
        return node_table.join(self._client, self._name, node, rows)

    def join_reader(self, name: str, state_id: bytes, version: str) -> NodeRow:
        """See `node_table.join_reader`."""
        return node_table.join_reader(self._client, self._name, name, state_id, version)


class PostgresConnector:
    """Implements `joining.Connector`.

    Args:
        address: The database.
        store: URL of the object store that this node is configured with; None: it is not set.
        timeout_s: For a connection.
    """

    def __init__(self, address: Address, store: str | None, timeout_s: float) -> None:
        self._address = address
        self._store = store
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The address without secrets."""
        return str(self._address)

    def connect_blocking(self) -> FirstClient:
        """Return a connection. Blocks.

        Raises:
            DatabaseError, DisconnectedError, UsageError: As `Client.connect`.
        """
        client = Client.connect(self._address, self._timeout_s)
        return FirstClient(client, self.name, self._store)

    async def connect(self) -> Client:
        """Return a connection. Checkpoint: always. Cancel: safe.

        Raises:
            DatabaseError, DisconnectedError, UsageError: As `Client.connect`.
        """
        attempt = _Attempt(self._address, self._timeout_s)
        try:
            # Names of hosts are resolved in there, which nothing can end.
            return await trio.to_thread.run_sync(attempt.run, abandon_on_cancel=True)
        except BaseException:
            attempt.abandon()
            raise


class _Attempt:
    """A connection that a thread makes, and that may come too late."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._is_abandoned = False

    def run(self) -> Client:
        client = Client.connect(self._address, self._timeout_s)
        with self._lock:
            self._client = client
            if self._is_abandoned:
                client.close()
        return client

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            if self._client is not None:
                self._client.close()
