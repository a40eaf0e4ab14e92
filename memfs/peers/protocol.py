"""What nodes say to each other: messages of bounded size, each in a frame with its length.

A frame is its length (4 bytes, big-endian, of what follows), the kind of its message (1 byte), and
the message. Who connects says hello, and is answered by a hello; then each request has one answer.

Invariant: a frame that is too long, or whose message is not exactly of its kind, ends the
connection by `PeerError`; nothing is kept for it beyond `FRAME_BYTES_MAX`.
"""

from __future__ import annotations

import contextlib
import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import PeerError
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 1
"""That of these messages; a node with another one is refused."""

CHUNK_BYTES_MAX = 256 << 10
"""Bytes of a file in one message. The event loop encrypts it in one go: some 1.5 ms."""

TEXT_BYTES_MAX = 1000
FRAME_BYTES_MAX = CHUNK_BYTES_MAX + 64
"""The longest message there is, with its kind."""

MOUNT_ID_BYTES = 16

_LENGTH = struct.Struct(">I")
_MAGIC = b"memfs peer"
_HELLO = struct.Struct(f">{len(_MAGIC)}sH{MOUNT_ID_BYTES}sQQ")
_ASK = struct.Struct(">Q")
_READ = struct.Struct(">QQQI")
_STATE = struct.Struct(">QB")
_DATA = struct.Struct(">Q")
_REFUSAL = struct.Struct(">B")
_NUMBER_MAX = 2**63 - 1


class Kind(enum.IntEnum):
    """What a message is; its first byte."""

    HELLO = 1
    ASK = 2
    READ = 3
    STATE = 4
    DATA = 5
    REFUSAL = 6


class FileState(enum.IntEnum):
    """Whether a file can be read where it is written."""

    SEALED = 1
    """And the database has all of that."""
    WRITTEN = 2
    """A program there can write to it."""


class Reason(enum.IntEnum):
    """Why something is refused."""

    STALE = 1
    """The file is gone, or has another generation: look again."""
    STRANGER = 2
    """Who asks is no live node of this mount, or not the one that it says."""
    FAILED = 3
    """It should have been there; the text says why it is not."""


class Hello(NamedTuple):
    """Who speaks."""

    mount_id: bytes
    node: int
    epoch: int


class Ask(NamedTuple):
    """Seal a file now, if nobody can write to it."""

    ino: InodeNo


class Read(NamedTuple):
    """Send bytes `[offset, offset + length)` of a sealed generation; fewer only at its end."""

    ino: InodeNo
    generation: Generation
    offset: int
    length: int


class State(NamedTuple):
    """The answer to `Ask`."""

    epoch: int
    """That of the node which answers, when it looked."""
    state: FileState


class Data(NamedTuple):
    """The answer to `Read`."""

    epoch: int
    """As of `State`."""
    data: bytes


class Refusal(NamedTuple):
    """The answer to what is not done."""

    reason: Reason
    text: str


Message = Hello | Ask | Read | State | Data | Refusal


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    match message:
        case Hello(mount_id, node, epoch):
            kind, payload = Kind.HELLO, _HELLO.pack(_MAGIC, VERSION, mount_id, node, epoch)
        case Ask(ino):
            kind, payload = Kind.ASK, _ASK.pack(ino)
        case Read(ino, generation, offset, length):
            kind, payload = Kind.READ, _READ.pack(ino, generation, offset, length)
        case State(epoch, state):
            kind, payload = Kind.STATE, _STATE.pack(epoch, state)
        case Data(epoch, data):
            kind, payload = Kind.DATA, _DATA.pack(epoch) + data
        case Refusal(reason, text):
            told = text.encode(errors="replace")[:TEXT_BYTES_MAX]
            kind, payload = Kind.REFUSAL, _REFUSAL.pack(reason) + told
    assert len(payload) < FRAME_BYTES_MAX, kind
    return _LENGTH.pack(len(payload) + 1) + bytes((kind,)) + payload


def decode(frame: bytes) -> Message:
    """Return the message of a frame, which comes without its length.

    Raises:
        PeerError: There is no such message.
    """
    try:
        return _DECODERS[Kind(frame[0])](frame[1:])
    except (struct.error, ValueError, IndexError) as error:
        raise PeerError(f"a message that makes no sense: {error}") from None


def _decode_hello(payload: bytes) -> Hello:
    magic, version, mount_id, node, epoch = _HELLO.unpack(payload)
    if magic != _MAGIC:
        raise ValueError("not from a node of memfs")
    if version != VERSION:
        raise ValueError(f"it speaks version {version} of the protocol, and this node {VERSION}")
    return Hello(mount_id, _number(node), _number(epoch))


def _decode_ask(payload: bytes) -> Ask:
    (ino,) = _ASK.unpack(payload)
    return Ask(InodeNo(_number(ino)))


def _decode_read(payload: bytes) -> Read:
    ino, generation, offset, length = _READ.unpack(payload)
    if not 0 < length <= CHUNK_BYTES_MAX:
        raise ValueError(f"{length} bytes at a time")
    _number(offset + length)
    return Read(InodeNo(_number(ino)), Generation(_number(generation)), offset, length)


def _decode_state(payload: bytes) -> State:
    epoch, state = _STATE.unpack(payload)
    return State(_number(epoch), FileState(state))


def _decode_data(payload: bytes) -> Data:
    (epoch,) = _DATA.unpack_from(payload)
    data = payload[_DATA.size :]
    if len(data) > CHUNK_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes at a time")
    return Data(_number(epoch), data)


def _decode_refusal(payload: bytes) -> Refusal:
    (reason,) = _REFUSAL.unpack_from(payload)
    text = payload[_REFUSAL.size :]
    if len(text) > TEXT_BYTES_MAX:
        raise ValueError(f"a text of {len(text)} bytes")
    # It goes into logs, and to users.
    told = "".join(each if each.isprintable() else "?" for each in text.decode(errors="replace"))
    return Refusal(Reason(reason), told)


_DECODERS: dict[Kind, Callable[[bytes], Message]] = {
    Kind.HELLO: _decode_hello,
    Kind.ASK: _decode_ask,
    Kind.READ: _decode_read,
    Kind.STATE: _decode_state,
    Kind.DATA: _decode_data,
    Kind.REFUSAL: _decode_refusal,
}


def _number(value: int) -> int:
    if value > _NUMBER_MAX:
        raise ValueError(f"{value} is no number of anything")
    return value


class Frames:
    """Messages over a stream of bytes.

    Args:
        stream: TLS, in most cases. Its maker closes it.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = bytearray()

    async def send(self, message: Message, limit_s: float) -> None:
        """Send a message. Cancel: the connection is of no use afterwards.

        Raises:
            PeerError: The other side takes it not in time, or is gone.
        """
        with stream_errors(), trio.fail_after(limit_s):
            await self._stream.send_all(encode(message))

    async def receive(self, limit_s: float) -> Message:
        """Return the next message. Cancel: the connection is of no use afterwards.

        Raises:
            PeerError: No message comes whole in time, or what comes makes no sense.
        """
        with stream_errors(), trio.fail_after(limit_s):
            (length,) = _LENGTH.unpack(await self._take(_LENGTH.size))
            if not 0 < length <= FRAME_BYTES_MAX:
                raise PeerError(f"a message of {length} bytes")
            return decode(await self._take(length))

    async def receive_or_end(self, limit_s: float) -> Message | None:
        """Return the next message; None: the other side has ended, or is idle.

        Raises:
            PeerError: A message is cut, or makes no sense.
        """
        if not self._received:
            try:
                with trio.fail_after(limit_s):
                    self._received += await self._stream.receive_some(FRAME_BYTES_MAX)
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                return None
            if not self._received:
                return None
        return await self.receive(limit_s)

    async def _take(self, count: int) -> bytes:
        received = self._received
        while len(received) < count:
            # Never beyond the longest frame.
            some = await self._stream.receive_some(FRAME_BYTES_MAX)
            if not some:
                raise PeerError("it has closed the connection")
            received += some
        taken = bytes(received[:count])
        del received[:count]
        return taken


@contextlib.contextmanager
def stream_errors() -> Iterator[None]:
    """For the block, errors of streams are `PeerError`."""
    try:
        yield
    except trio.TooSlowError:
        raise PeerError("no answer in time") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise PeerError(f"the connection is lost: {error.__cause__ or error}") from None
