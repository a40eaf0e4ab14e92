"""The server of a node that writes: other nodes read what it has sealed and not uploaded yet.

Invariant: who is answered has shown the certificate of a live node of this mount, as the
database had it no longer than `MEMBERS_S_MAX` ago. A connection takes bounded memory, and time in
which nothing comes ends it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from memfs.bounded import BoundedDict
from memfs.defects import as_failure
from memfs.errors import MemfsError, PeerError, StaleInodeError
from memfs.peers.identity import server_context
from memfs.peers.protocol import (
    Ask,
    Data,
    FileState,
    Frames,
    Hello,
    Message,
    Read,
    Reason,
    Refusal,
    State,
    stream_errors,
)

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from memfs.peers.identity import Identity
    from memfs.peers.members import Member, Members
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
"""From the beginning of a connection until it is known who speaks. Guess."""

IDLE_S = 60.0
"""A connection without a request for so long ends. Guess."""

ANSWER_S = 15.0
"""A request that takes longer is refused. Guess."""

SEND_S = 30.0
"""Somebody who takes an answer more slowly is left."""

MEMBERS_S_MAX = 5.0
"""A node that was removed, or has got another certificate, is refused after so long at most."""

STRANGER_COUNT_MAX = 32
"""Connections of which it is not known yet who speaks."""

CONNECTION_COUNT_MAX = 256
"""All connections."""

COMPLAINT_COUNT_MAX = 100
"""Different ones that are logged once."""


class Lender(Protocol):
    """What other nodes may read; see `memfs.content.lending`."""

    async def ask(self, ino: InodeNo) -> bool:
        """Seal a file if nobody can write to it; returns whether it is sealed."""
        ...

    async def read(self, ino: InodeNo, generation: Generation, offset: int, length: int) -> bytes:
        """Return bytes of a sealed generation."""
        ...


class Served(NamedTuple):
    """The node that serves."""

    mount_id: bytes
    number: int
    epoch: Callable[[], int | None]
    """Returns its present one; None: it may have lost its place to another process."""


class PeerServer:
    """Answers other nodes.

    Args:
        sockets: Listen already; their maker closes them.
        identity: That of this node.
        served: This node.
        members: Who may ask.
        lender: Has what they may read.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        identity: Identity,
        served: Served,
        members: Members,
        lender: Lender,
    ) -> None:
        self._sockets = sockets
        self._identity = identity
        self._served = served
        self._members = members
        self._lender = lender
        self._trusted: tuple[bytes, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._stranger_count = self._connection_count = 0
        self._complaints: BoundedDict[str, None] = BoundedDict(COMPLAINT_COUNT_MAX)

    async def run(self) -> None:
        """Serve until cancelled."""
        # Copies: trio closes those that it serves, and this may begin anew.
        listeners = [
            trio.SocketListener(trio.socket.from_stdlib_socket(each.dup()))
            for each in self._sockets
        ]
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if (
            self._stranger_count >= STRANGER_COUNT_MAX
            or self._connection_count >= CONNECTION_COUNT_MAX
        ):
            await trio.aclose_forcefully(stream)
            return
        self._connection_count += 1
        try:
            await self._talk(stream)
        except PeerError as error:
            self._complain(stream, str(error))
        except Exception as error:
            # A defect, or a database that does not tell who may ask: the others are served on.
            self._complain(stream, str(as_failure(error, "a connection of another node")))
        finally:
            self._connection_count -= 1
            await trio.aclose_forcefully(stream)

    def _complain(self, stream: trio.SocketStream, what: str) -> None:
        try:
            address = stream.socket.getpeername()[0]
        except OSError:
            address = "another node"
        told = f"{address}: {what}"
        if told not in self._complaints:
            self._complaints[told] = None
            log.info("%s", told)

    async def _talk(self, stream: trio.SocketStream) -> None:
        self._stranger_count += 1
        try:
            with stream_errors(), trio.fail_after(HANDSHAKE_S):
                frames, certificate, hello = await self._greet(stream)
        finally:
            self._stranger_count -= 1
        while True:
            request = await frames.receive_or_end(IDLE_S)
            if request is None:
                return
            members = await self._members.as_of(trio.current_time() - MEMBERS_S_MAX)
            if self._refusal(certificate, hello, members) is not None:
                raise PeerError(f"node {hello.node} is no live node of this mount any more")
            await frames.send(await self._answer(request), SEND_S)

    async def _greet(self, stream: trio.SocketStream) -> tuple[Frames, bytes, Hello]:
        """Return the connection of somebody who is known by now, with certificate and hello.

        Raises:
            PeerError: It is a stranger.
        """
        # As of now: a node that has just joined is let in, and one that has just left is not.
        members = await self._members.as_of(trio.current_time())
        tls = trio.SSLStream(stream, self._context_for(members), server_side=True)
        await tls.do_handshake()
        certificate = tls.getpeercert(binary_form=True) or b""
        frames = Frames(tls)
        hello = await frames.receive(HANDSHAKE_S)
        if not isinstance(hello, Hello):
            raise PeerError("it does not say who it is")
        refusal = self._refusal(certificate, hello, members)
        if refusal is not None:
            await frames.send(refusal, HANDSHAKE_S)
            raise PeerError(refusal.text)
        served = self._served
        own = Hello(served.mount_id, served.number, served.epoch() or 0)
        await frames.send(own, HANDSHAKE_S)
        return frames, certificate, hello

    def _context_for(self, members: Sequence[Member]) -> ssl.SSLContext:
        trusted = tuple(each.certificate for each in members if each.certificate)
        if self._context is None or trusted != self._trusted:
            self._trusted, self._context = trusted, server_context(self._identity, trusted)
        return self._context

    def _refusal(
        self, certificate: bytes, hello: Hello, members: Sequence[Member]
    ) -> Refusal | None:
        """Return why somebody is refused; None: it is a live node, and the one that it says."""
        if hello.mount_id != self._served.mount_id:
            return Refusal(Reason.STRANGER, "it is a node of another mount")
        found = next((each for each in members if each.number == hello.node), None)
        if found is None:
            return Refusal(Reason.STRANGER, f"the mount has no live node {hello.node}")
        if not certificate or found.certificate != certificate:
            text = f"node {found.name} has another certificate by now"
            return Refusal(Reason.STRANGER, text)
        if found.epoch != hello.epoch:
            text = f"another process has the place of node {found.name}"
            return Refusal(Reason.STRANGER, text)
        return None

    async def _answer(self, request: Message) -> Message:
        # Before anything is looked at: who asks compares it with what the database has afterwards.
        epoch = self._served.epoch()
        if epoch is None:
            return Refusal(Reason.FAILED, "the database of this node does not answer")
        try:
            with trio.fail_after(ANSWER_S):
                match request:
                    case Ask(ino):
                        is_sealed = await self._lender.ask(ino)
                        return State(epoch, FileState.SEALED if is_sealed else FileState.WRITTEN)
                    case Read(ino, generation, offset, length):
                        return Data(epoch, await self._lender.read(ino, generation, offset, length))
        except StaleInodeError as error:
            return Refusal(Reason.STALE, str(error))
        except trio.TooSlowError:
            return Refusal(Reason.FAILED, f"it took longer than {ANSWER_S:g} s")
        except (MemfsError, OSError) as error:
            return Refusal(Reason.FAILED, str(error))
        raise PeerError("it asks for what is no request")
