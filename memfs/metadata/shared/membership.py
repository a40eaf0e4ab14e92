"""The live nodes of a mount, for those that talk to each other: by a connection of its own.

Invariant: the connection is closed before they are told.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.metadata.shared.node_file import Role
from memfs.peers.members import Member

if TYPE_CHECKING:
    from memfs.metadata.shared.joining import Connector

READ_MEMBERS = (
    "select node, name, epoch, coalesce(certificate, ''::bytea), coalesce(address, ''), role"
    " from node where state = 'live'"
)

TIMEOUT_S = 5.0
"""For the answer. Guess."""


async def read_members(connector: Connector) -> list[Member]:
    """Return the live nodes. Checkpoint: always. Cancel: safe.

    Raises:
        DatabaseError, DisconnectedError, UsageError: The database does not tell.
    """
    session = await connector.connect()
    with contextlib.closing(session):
        (rows,) = await session.transact([(READ_MEMBERS, ())], TIMEOUT_S)
    return [
        Member(number, name, epoch, bytes(certificate), address, role == Role.WRITER)
        for number, name, epoch, certificate, address, role in rows
    ]
