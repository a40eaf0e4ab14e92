"""The client of a node that reads: it asks the node that writes for what that has alone.

Invariant: nothing hangs: each step has a limit of time, and a node that did not answer is left
alone for a while. Bytes count only if the node that sent them still was the one that writes after
it had sent the last of them: it tells its epoch with each answer, and the database is asked at the
end.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.backoff import Backoff
from memfs.errors import MemfsError, PeerError, StaleInodeError
from memfs.linux.readiness import await_ready
from memfs.peers.identity import client_context
from memfs.peers.protocol import (
    CHUNK_BYTES_MAX,
    Ask,
    Data,
    FileState,
    Frames,
    Hello,
    Read,
    Reason,
    Refusal,
    State,
    stream_errors,
)
from memfs.urls import split_address

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from memfs.peers.identity import Identity
    from memfs.peers.members import Member, Members
    from memfs.peers.protocol import Message
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

CONNECT_S = 2.0
"""Until it is known who answers; a program waits meanwhile. Guess."""

ANSWER_S = 3.0
"""For each request: sealing waits for the database, and reading for a disk. Guess."""

AWAY_S_MIN, AWAY_S_MAX = 1.0, 30.0
"""A node that did not answer is not asked for so long, doubling. Guess."""

CONNECTION_COUNT_MAX = 4
"""At a time; others wait. Guess."""


class Asking(NamedTuple):
    """The node that asks."""

    mount_id: bytes
    number: int
    epoch: int


class _Connection(NamedTuple):
    """To the node that writes."""

    stream: trio.SSLStream[trio.SocketStream]
    socket: trio.socket.SocketType
    frames: Frames


class PeerClient:
    """Asks the node that writes.

    Args:
        identity: That of this node.
        asking: This node.
        members: Tell where the one that writes is.
        confirm: Returns the epoch of the node that writes, as the database has it now.
        rng: Gives jitter.
        reach: Told of each fault point (`moves.faults.PEER_POINTS`).
    """

    def __init__(
        self,
        identity: Identity,
        asking: Asking,
        members: Members,
        confirm: Callable[[], Awaitable[int]],
        rng: random.Random | None = None,
        reach: Callable[[str], None] = lambda _point: None,
    ) -> None:
        self._identity = identity
        self._asking = asking
        self._members = members
        self._confirm = confirm
        self._reach = reach
        self._idle: list[_Connection] = []
        self._places = trio.CapacityLimiter(CONNECTION_COUNT_MAX)
        self._backoff = Backoff(AWAY_S_MIN, AWAY_S_MAX, rng)
        self.reason: str | None = None
        """Why the node that writes is not asked now; None: it answers, or was not asked yet."""
        self.fetched_bytes = self.fetched_count = 0
        """Files that came from there."""

    async def ask(self, ino: InodeNo) -> bool:
        """Have a file sealed where it is written; returns False if a program can write to it there.

        True: the database has by now that it is sealed. Checkpoint: always. Cancel: safe.

        Raises:
            StaleInodeError: It is gone there.
            PeerError: No answer, or not one that counts.
        """
        async with self._connection() as connection:
            answer = await _request(connection, Ask(ino))
            if not isinstance(answer, State):
                raise PeerError("it answers what was not asked")
        return answer.state == FileState.SEALED

    async def fetch(
        self,
        ino: InodeNo,
        generation: Generation,
        size: int,
        write: Callable[[bytes, int], Awaitable[None]],
    ) -> None:
        """Fetch the content of a sealed file.

        Checkpoint: always. Cancel: safe; what was written is of no use then.

        Args:
            ino, generation, size: As this node knows it.
            write: Told each piece in order, and where it begins; errors of it are passed on.

        Raises:
            StaleInodeError: The file is gone there, or has another generation.
            PeerError: No answer, or not one that counts.
            MemfsError: The database does not tell who writes.
        """
        epoch: int | None = None
        async with self._connection() as connection:
            for offset in range(0, size, CHUNK_BYTES_MAX):
                length = min(CHUNK_BYTES_MAX, size - offset)
                answer = await _request(connection, Read(ino, generation, offset, length))
                if not isinstance(answer, Data) or len(answer.data) != length:
                    raise PeerError(f"inode {ino}: it sends other bytes than it has told of")
                epoch = answer.epoch if epoch is None else min(epoch, answer.epoch)
                await write(answer.data, offset)
                self._reach("peer.received")
        if epoch is not None and await self._confirm() > epoch:
            raise PeerError(f"inode {ino}: another node writes since it was fetched")
        self.fetched_count += 1
        self.fetched_bytes += size

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().socket.close()

    # --- connections -----------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """For the block, a connection; one that fails is not used again."""
        self._check_away()
        async with self._places:
            # Others may have found out meanwhile.
            self._check_away()
            connection: _Connection | None = None
            is_usable = False
            try:
                connection = self._take_idle() or await self._connect()
                yield connection
                is_usable = True
            except (StaleInodeError, _NotDoneError):
                is_usable = True
                raise
            except PeerError as error:
                if str(error) != self.reason:
                    log.info("files that are not uploaded yet are waited for: %s", error)
                self.reason = str(error)
                self._backoff.fail()
                raise
            finally:
                if connection is not None and is_usable:
                    self.reason = None
                    self._backoff.reset()
                    self._idle.append(connection)
                elif connection is not None:
                    await trio.aclose_forcefully(connection.stream)

    def _check_away(self) -> None:
        if self._backoff.wait_s:
            raise PeerError(self.reason or "it has not answered")

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            # Nothing comes that was not asked for, but its end.
            if not await_ready([connection.socket.fileno()], 0):
                return connection
            connection.socket.close()
        return None

    async def _connect(self) -> _Connection:
        try:
            with stream_errors(), trio.fail_after(CONNECT_S):
                members = await self._members.as_of(trio.current_time())
                writer = next((each for each in members if each.writes), None)
                if writer is None:
                    raise PeerError("no node writes now")
                if not writer.address or not writer.certificate:
                    raise PeerError(
                        f"node {writer.name} does not listen: nodes.listen is not set there"
                    )
                try:
                    return await self._greet(writer)
                except PeerError as error:
                    raise PeerError(f"node {writer.name} at {writer.address}: {error}") from None
        except PeerError:
            raise
        except (MemfsError, ValueError) as error:
            raise PeerError(str(error)) from error

    async def _greet(self, writer: Member) -> _Connection:
        host, port = split_address(writer.address)
        with stream_errors():
            stream = await trio.open_tcp_stream(host, port)
        try:
            context = client_context(self._identity, writer.certificate)
            tls = trio.SSLStream(stream, context)
            frames = Frames(tls)
            with stream_errors():
                await tls.do_handshake()
            if tls.getpeercert(binary_form=True) != writer.certificate:
                raise PeerError("it has another certificate than the database tells of it")
            asking = self._asking
            own = Hello(asking.mount_id, asking.number, asking.epoch)
            await frames.send(own, CONNECT_S)
            hello = await frames.receive(CONNECT_S)
            if isinstance(hello, Refusal):
                raise PeerError(hello.text)
            if not isinstance(hello, Hello) or hello[:2] != (asking.mount_id, writer.number):
                raise PeerError("another node answers")
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Connection(tls, stream.socket, frames)


class _NotDoneError(PeerError):
    """The node that writes has answered that it cannot do something."""


async def _request(connection: _Connection, request: Message) -> Message:
    frames = connection.frames
    await frames.send(request, ANSWER_S)
    answer = await frames.receive(ANSWER_S)
    if not isinstance(answer, Refusal):
        return answer
    if answer.reason == Reason.STALE:
        raise StaleInodeError(answer.text)
    if answer.reason == Reason.STRANGER:
        raise PeerError(answer.text)
    raise _NotDoneError(answer.text)
