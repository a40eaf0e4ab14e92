"""Nodes that talk: who is answered, what is answered, and that nothing hangs."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from memfs.errors import DisconnectedError, MemfsError, PeerError, StaleInodeError, StoreError
from memfs.peers import client as client_module
from memfs.peers import server as server_module
from memfs.peers.client import Asking, PeerClient
from memfs.peers.identity import FILE_NAME, Identity, client_context, load_or_make
from memfs.peers.members import PAUSE_S, Member, Members
from memfs.peers.protocol import CHUNK_BYTES_MAX, Ask, Data, Frames, Hello, Read, Refusal, State
from memfs.peers.server import PeerServer, Served
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from trio.testing import MockClock

MOUNT, OTHER_MOUNT = b"m" * 16, b"o" * 16
INO, GENERATION = InodeNo(7), Generation(3)
CONTENT = bytes(range(256)) * 1200
"""More than one message."""
WRITER, READER = 1, 2


class Lender:
    """Has one file."""

    def __init__(self) -> None:
        self.is_sealed = True
        self.sent = CONTENT
        self.failure: MemfsError | None = None
        self.waits = False
        self.read_count = 0

    async def ask(self, ino: InodeNo) -> bool:
        await self._begin(ino)
        return self.is_sealed

    async def read(self, ino: InodeNo, generation: Generation, offset: int, length: int) -> bytes:
        self.read_count += 1
        await self._begin(ino)
        if generation != GENERATION:
            raise StaleInodeError(f"inode {ino}: another one")
        return self.sent[offset : offset + length]

    async def _begin(self, ino: InodeNo) -> None:
        await trio.lowlevel.checkpoint()
        if self.waits:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        if ino != INO:
            raise StaleInodeError(f"inode {ino} is gone")


class Pair:
    """A node that writes and listens, and one that asks it."""

    def __init__(self, base: Path) -> None:
        self.identities: list[Identity] = []
        for name in ("writer", "reader", "stranger"):
            (base / name).mkdir()
            self.identities.append(load_or_make(base / name))
        own, its, _ = self.identities
        self.socket = socket.create_server(("127.0.0.1", 0))
        port = self.socket.getsockname()[1]
        address = f"127.0.0.1:{port}"
        self.writer = Member(WRITER, "w", 50, own.certificate, address, writes=True)
        self.reader = Member(READER, "r", 9, its.certificate, "", writes=False)
        self.epoch: int | None = 50
        self.database_epoch = 50
        self.database_answers = True
        self.question_count = 0
        self.lender = Lender()
        served = Served(MOUNT, WRITER, lambda: self.epoch)
        self.server = PeerServer((self.socket,), own, served, Members(self._read), self.lender)
        self.received = bytearray()
        self.client = self.client_as(self.identities[1])

    def client_as(
        self, identity: Identity, mount: bytes = MOUNT, number: int = READER, epoch: int = 9
    ) -> PeerClient:
        asking = Asking(mount, number, epoch)
        return PeerClient(identity, asking, Members(self._read), self._confirm)

    async def _read(self) -> Sequence[Member]:
        await trio.lowlevel.checkpoint()
        self.question_count += 1
        if not self.database_answers:
            raise DisconnectedError("the database does not answer")
        return (self.writer, self.reader)

    async def _confirm(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.database_epoch

    async def fetch(self, client: PeerClient | None = None, size: int = len(CONTENT)) -> bytes:
        received = bytearray()

        async def write(data: bytes, offset: int) -> None:
            await trio.lowlevel.checkpoint()
            assert offset == len(received)
            received.extend(data)

        await (client or self.client).fetch(INO, GENERATION, size, write)
        return bytes(received)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.run)
            yield
            self.client.close()
            nursery.cancel_scope.cancel()

    async def connect(self, identity: Identity) -> trio.SSLStream[trio.SocketStream]:
        """Connect as somebody who then says what a test wants."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.socket.getsockname()[1])
        return trio.SSLStream(stream, client_context(identity, self.writer.certificate))


@pytest.fixture
async def pair(autojump_clock: MockClock, tmp_path: Path) -> AsyncIterator[Pair]:
    # What the kernel of a busy machine has still on its way from one socket to the other counts.
    autojump_clock.autojump_threshold = 0.05
    made = Pair(tmp_path)
    async with made.serving():
        yield made
    made.socket.close()


async def test_a_file_is_asked_for_and_read(autojump_clock: MockClock, pair: Pair) -> None:
    assert await pair.client.ask(INO)
    pair.lender.is_sealed = False
    assert not await pair.client.ask(INO)
    assert await pair.fetch() == CONTENT
    assert pair.lender.read_count == -(-len(CONTENT) // CHUNK_BYTES_MAX)
    assert pair.client.fetched_bytes == len(CONTENT)
    # One connection, whose two ends have asked who is a member once each.
    assert pair.question_count == 2


async def test_what_is_gone_there_is_to_be_looked_for_anew(
    autojump_clock: MockClock, pair: Pair
) -> None:
    with pytest.raises(StaleInodeError):
        await pair.client.ask(InodeNo(8))
    with pytest.raises(StaleInodeError):
        await pair.client.fetch(INO, Generation(4), 10, _keep_nothing)
    assert await pair.fetch() == CONTENT


async def _keep_nothing(_data: bytes, _offset: int) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("sent", [CONTENT[:-1], CONTENT[:CHUNK_BYTES_MAX], b""])
async def test_bytes_that_are_missing_are_noticed(
    autojump_clock: MockClock, pair: Pair, sent: bytes
) -> None:
    pair.lender.sent = sent
    with pytest.raises(PeerError, match="other bytes"):
        await pair.fetch()


async def test_bytes_of_a_node_that_writes_no_longer_do_not_count(
    autojump_clock: MockClock, pair: Pair
) -> None:
    """Another one has taken over while they came: a generation may mean other bytes there."""
    pair.database_epoch = 51
    with pytest.raises(PeerError, match="another node writes"):
        await pair.fetch()
    pair.epoch = 51
    await trio.sleep(60)
    assert await pair.fetch() == CONTENT
    # Its own connection to the database is lost: it does not know.
    pair.epoch = None
    with pytest.raises(PeerError, match="does not answer"):
        await pair.fetch()


async def test_a_failure_there_is_told_and_the_connection_goes_on(
    autojump_clock: MockClock, pair: Pair
) -> None:
    pair.lender.failure = StoreError("the disk is broken")
    with pytest.raises(PeerError, match="the disk is broken"):
        await pair.fetch()
    pair.lender.failure = None
    assert await pair.fetch() == CONTENT


async def test_a_stranger_is_refused(autojump_clock: MockClock, pair: Pair) -> None:
    """With a certificate that no row has; and without any."""
    with pytest.raises(PeerError):
        await pair.fetch(pair.client_as(pair.identities[2]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = await trio.open_tcp_stream("127.0.0.1", pair.socket.getsockname()[1])
    tls = trio.SSLStream(stream, context)
    frames = Frames(tls)
    # A TLS 1.3 client hears of it with the first answer.
    with contextlib.suppress(PeerError):
        await frames.send(Hello(MOUNT, READER, 9), 5)
    with pytest.raises(PeerError):
        await frames.receive(5)
    await trio.aclose_forcefully(tls)
    assert pair.lender.read_count == 0


@pytest.mark.parametrize(
    ("mount", "number", "epoch", "match"),
    [
        (OTHER_MOUNT, READER, 9, "a node of another mount"),
        (MOUNT, READER, 8, "another process has the place of node r"),
        (MOUNT, 3, 9, "no live node 3"),
        # A member, but not this one.
        (MOUNT, WRITER, 50, "node w has another certificate"),
    ],
)
async def test_who_says_something_else_than_the_database_is_refused(
    autojump_clock: MockClock, pair: Pair, mount: bytes, number: int, epoch: int, match: str
) -> None:
    with pytest.raises(PeerError, match=match):
        await pair.fetch(pair.client_as(pair.identities[1], mount, number, epoch))
    assert pair.lender.read_count == 0


async def test_a_replaced_certificate_is_refused_there_and_here(
    autojump_clock: MockClock, pair: Pair
) -> None:
    assert await pair.fetch() == CONTENT
    former, pair.reader = (
        pair.reader,
        pair.reader._replace(certificate=pair.identities[2].certificate),
    )
    # The open connection too.
    await trio.sleep(server_module.MEMBERS_S_MAX + 1)
    with pytest.raises(PeerError):
        await pair.fetch()
    pair.reader = former
    pair.writer = pair.writer._replace(certificate=pair.identities[2].certificate)
    await trio.sleep(60)
    with pytest.raises(PeerError):
        await pair.fetch()


async def test_a_node_that_was_removed_is_refused_on_its_open_connection(
    autojump_clock: MockClock, pair: Pair
) -> None:
    assert await pair.fetch() == CONTENT
    pair.reader = pair.reader._replace(number=17)
    await trio.sleep(server_module.MEMBERS_S_MAX + 1)
    with pytest.raises(PeerError):
        await pair.fetch()


async def test_nobody_is_answered_while_the_database_does_not_tell_who_asks(
    autojump_clock: MockClock, pair: Pair
) -> None:
    assert await pair.fetch() == CONTENT
    pair.database_answers = False
    await trio.sleep(server_module.MEMBERS_S_MAX + 1)
    with pytest.raises(PeerError):
        await pair.fetch()


async def test_a_node_that_does_not_answer_is_left_alone_for_a_while(
    autojump_clock: MockClock, pair: Pair
) -> None:
    pair.lender.waits = True
    begun_s = trio.current_time()
    with pytest.raises(PeerError, match="no answer in time"):
        await pair.client.ask(INO)
    assert trio.current_time() - begun_s <= client_module.ANSWER_S + 1
    begun_s = trio.current_time()
    with pytest.raises(PeerError):
        await pair.client.ask(INO)
    assert trio.current_time() == begun_s
    pair.lender.waits = False
    await trio.sleep(client_module.AWAY_S_MIN)
    assert await pair.client.ask(INO)


async def test_a_request_that_takes_too_long_there_ends(
    autojump_clock: MockClock, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 2 * server_module.ANSWER_S)
    pair.lender.waits = True
    with pytest.raises(PeerError, match="it took longer"):
        await pair.client.ask(INO)


async def test_a_node_that_listens_and_says_nothing(autojump_clock: MockClock, pair: Pair) -> None:
    """As one that is stopped: the kernel takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pair.writer = pair.writer._replace(address=f"127.0.0.1:{silent.getsockname()[1]}")
        begun_s = trio.current_time()
        with pytest.raises(PeerError, match="no answer in time"):
            await pair.client.ask(INO)
        assert trio.current_time() - begun_s <= client_module.CONNECT_S + 1


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:1"])
async def test_a_node_that_cannot_be_reached(
    autojump_clock: MockClock, pair: Pair, address: str
) -> None:
    pair.writer = pair.writer._replace(address=address)
    with pytest.raises(PeerError):
        await pair.client.ask(INO)
    assert pair.client.reason is not None


async def test_another_one_at_the_address_is_not_asked(
    autojump_clock: MockClock, pair: Pair, tmp_path: Path
) -> None:
    await pair.client.ask(INO)
    other = socket.create_server(("127.0.0.1", 0))
    impostor = PeerServer(
        (other,),
        pair.identities[2],
        Served(MOUNT, WRITER, lambda: 50),
        Members(pair._read),
        pair.lender,
    )
    pair.writer = pair.writer._replace(address=f"127.0.0.1:{other.getsockname()[1]}")
    asking = pair.client_as(pair.identities[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(impostor.run)
        with pytest.raises(PeerError):
            await pair.fetch(asking)
        nursery.cancel_scope.cancel()
    other.close()
    assert pair.lender.read_count == 0


async def test_a_certificate_that_a_trusted_one_has_signed_is_not_trusted(
    autojump_clock: MockClock, pair: Pair, tmp_path: Path
) -> None:
    """OpenSSL would: a node may have made itself an authority. Only the very same bytes count."""
    authority, signed = _authority_and_signed(tmp_path)
    other = socket.create_server(("127.0.0.1", 0))
    served = Served(MOUNT, WRITER, lambda: 50)
    impostor = PeerServer((other,), signed, served, Members(pair._read), pair.lender)
    address = f"127.0.0.1:{other.getsockname()[1]}"
    pair.writer = pair.writer._replace(address=address, certificate=authority)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(impostor.run)
        with pytest.raises(PeerError, match="another certificate than the database tells"):
            await pair.fetch()
        nursery.cancel_scope.cancel()
    other.close()
    # And the other way round.
    pair.writer = pair.writer._replace(
        address=f"127.0.0.1:{pair.socket.getsockname()[1]}",
        certificate=pair.identities[0].certificate,
    )
    pair.reader = pair.reader._replace(certificate=authority)
    with pytest.raises(PeerError, match="node r has another certificate"):
        await pair.fetch(pair.client_as(signed))
    assert pair.lender.read_count == 0


def _authority_and_signed(directory: Path) -> tuple[bytes, Identity]:
    """Return a certificate that may sign others, and an identity that it has signed."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("ca", "leaf")
    ]
    made = [
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(names[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2999, 1, 1))
        .add_extension(x509.BasicConstraints(ca=name == names[0], path_length=None), critical=True)
        .sign(keys[0], hashes.SHA256())
        for name, key in zip(names, keys, strict=True)
    ]
    path = directory / "signed.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        keys[1].private_bytes(serialization.Encoding.PEM, *form)
        + made[1].public_bytes(serialization.Encoding.PEM)
    )
    ca, leaf = (each.public_bytes(serialization.Encoding.DER) for each in made)
    return ca, Identity(path, leaf)


async def test_an_idle_connection_that_has_ended_is_replaced(
    autojump_clock: MockClock, pair: Pair
) -> None:
    assert await pair.client.ask(INO)
    await trio.sleep(server_module.IDLE_S + 1)
    await trio.testing.wait_all_tasks_blocked()
    assert await pair.client.ask(INO)
    assert pair.client.reason is None


async def test_silent_strangers_make_room_again(
    autojump_clock: MockClock, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STRANGER_COUNT_MAX", 2)
    port = pair.socket.getsockname()[1]
    strangers = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(PeerError):
        await pair.client.ask(INO)
    await trio.sleep(server_module.HANDSHAKE_S + client_module.AWAY_S_MAX)
    assert await pair.client.ask(INO)
    for each in strangers:
        await each.aclose()


@pytest.mark.parametrize("said", [Ask(INO), Data(1, b"x"), Hello(MOUNT, READER, 9)])
async def test_who_does_not_follow_the_protocol_is_left(
    autojump_clock: MockClock, pair: Pair, said: Ask | Data
) -> None:
    tls = await pair.connect(pair.identities[1])
    frames = Frames(tls)
    if isinstance(said, Hello):
        # Twice.
        await frames.send(said, 5)
        assert isinstance(await frames.receive(5), Hello)
    await frames.send(said, 5)
    with pytest.raises(PeerError):
        await frames.receive(5)
    await trio.aclose_forcefully(tls)
    assert await pair.client.ask(INO)


async def test_who_asks_for_pieces_by_hand_gets_exactly_these(
    autojump_clock: MockClock, pair: Pair
) -> None:
    tls = await pair.connect(pair.identities[1])
    frames = Frames(tls)
    await frames.send(Hello(MOUNT, READER, 9), 5)
    assert await frames.receive(5) == Hello(MOUNT, WRITER, 50)
    await frames.send(Read(INO, GENERATION, len(CONTENT) - 3, 100), 5)
    assert await frames.receive(5) == Data(50, CONTENT[-3:])
    await frames.send(Ask(INO), 5)
    assert isinstance(await frames.receive(5), State)
    await frames.send(Ask(InodeNo(8)), 5)
    assert isinstance(await frames.receive(5), Refusal)
    await trio.aclose_forcefully(tls)


async def test_members_are_asked_for_once_for_all_who_want_them(autojump_clock: MockClock) -> None:
    asked_s: list[float] = []

    async def read() -> Sequence[Member]:
        asked_s.append(trio.current_time())
        await trio.sleep(1)
        return ()

    members = Members(read)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(members.as_of, trio.current_time())
    assert len(asked_s) == 1
    # A list that was read before does not do for who comes later.
    await members.as_of(trio.current_time())
    assert len(asked_s) == 2
    assert asked_s[1] - asked_s[0] >= PAUSE_S
    await members.as_of(trio.current_time() - 10)
    assert len(asked_s) == 2


def test_an_identity_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    made = load_or_make(tmp_path)
    assert load_or_make(tmp_path) == made
    assert stat.S_IMODE(os.stat(tmp_path / FILE_NAME).st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    # One that was cut, by a full disk for one, is made anew.
    (tmp_path / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes()[:300])
    assert load_or_make(tmp_path).certificate != made.certificate
