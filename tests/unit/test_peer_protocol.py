"""Messages between nodes: whatever comes is a message, or an error, in bounded time and room."""

from __future__ import annotations

import random
import struct

import pytest
import trio
import trio.testing

from memfs.errors import PeerError
from memfs.peers.protocol import (
    CHUNK_BYTES_MAX,
    FRAME_BYTES_MAX,
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
    decode,
    encode,
)
from memfs.types import Generation, InodeNo

INO, GENERATION = InodeNo(7), Generation(3)
MESSAGES: list[Message] = [
    Hello(b"m" * 16, 2, 2**40),
    Ask(INO),
    Read(INO, GENERATION, 2**40, CHUNK_BYTES_MAX),
    State(5, FileState.WRITTEN),
    Data(5, b""),
    Data(5, bytes(CHUNK_BYTES_MAX)),
    Refusal(Reason.STALE, "gone: ä"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_a_message_comes_as_it_was_sent(message: Message) -> None:
    here, there = trio.testing.memory_stream_pair()
    await Frames(here).send(message, 1)
    await Frames(here).send(Ask(INO), 1)
    frames = Frames(there)
    assert await frames.receive(1) == message
    assert await frames.receive_or_end(1) == Ask(INO)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_cut_message_is_none(message: Message) -> None:
    """A text and the bytes of a file may end anywhere; all else is of one length."""
    frame = encode(message)[4:]
    is_open = isinstance(message, Data | Refusal)
    for length in range(min(len(frame), 64)):
        fixed = 9 if isinstance(message, Data) else 2
        if is_open and length >= fixed:
            decode(frame[:length])
        else:
            with pytest.raises(PeerError):
                decode(frame[:length])
    if not is_open:
        with pytest.raises(PeerError):
            decode(frame + b"x")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        b"\x07abc",
        # A length of 0, one that is too long, an offset and a number beyond the range.
        b"\x03" + struct.pack(">QQQI", 1, 1, 0, 0),
        b"\x03" + struct.pack(">QQQI", 1, 1, 0, CHUNK_BYTES_MAX + 1),
        b"\x03" + struct.pack(">QQQI", 1, 1, 2**63 - 1, 1),
        b"\x02" + struct.pack(">Q", 2**63),
        b"\x04" + struct.pack(">QB", 1, 9),
        b"\x06\x09text",
        b"\x06\x01" + bytes(1001),
        b"\x05" + bytes(8 + CHUNK_BYTES_MAX + 1),
        encode(MESSAGES[0])[4:].replace(b"memfs peer", b"memfs pear"),
        encode(MESSAGES[0])[4:].replace(b"peer\0\1", b"peer\0\2"),
    ],
)
def test_what_makes_no_sense_is_refused(frame: bytes) -> None:
    with pytest.raises(PeerError):
        decode(frame)


def test_the_text_of_a_refusal_cannot_write_lines_of_a_log() -> None:
    told = decode(encode(Refusal(Reason.FAILED, "a\nERROR \x1b[2J" + "x" * 5000))[4:])
    assert isinstance(told, Refusal)
    assert told.text.startswith("a?ERROR ?[2J")
    assert len(told.text) <= 1000


@pytest.mark.parametrize("seed", range(20))
async def test_random_bytes_end_a_connection_or_are_messages(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Among others with right lengths, cut at random places, followed by nothing."""
    rng = random.Random(seed)
    for _ in range(50):
        sent = bytearray()
        for _ in range(rng.randrange(4)):
            frame = bytearray(encode(rng.choice(MESSAGES[:5])))
            for _ in range(rng.randrange(3)):
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            sent += frame
        sent += rng.randbytes(rng.randrange(40))
        here, there = trio.testing.memory_stream_pair()
        await here.send_all(bytes(sent[: rng.randrange(len(sent) + 1)]))
        if rng.random() < 0.5:
            await here.aclose()
        frames = Frames(there)
        begun_s = trio.current_time()

        async def receive_all(frames: Frames = frames) -> None:
            while True:
                await frames.receive(5)

        with pytest.raises(PeerError):
            await receive_all()
        assert trio.current_time() - begun_s <= 25
        assert len(frames._received) <= FRAME_BYTES_MAX


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, 2**32 - 1])
async def test_a_length_that_no_message_has_is_refused_at_once(length: int) -> None:
    here, there = trio.testing.memory_stream_pair()
    await here.send_all(struct.pack(">I", length))
    with pytest.raises(PeerError, match=f"a message of {length} bytes"):
        await Frames(there).receive(5)


async def test_who_sends_byte_by_byte_has_no_more_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    here, there = trio.testing.memory_stream_pair()

    async def send_slowly() -> None:
        for byte in encode(MESSAGES[0]):
            await here.send_all(bytes((byte,)))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_slowly)
        with pytest.raises(PeerError, match="no answer in time"):
            await Frames(there).receive(5)
        assert trio.current_time() < 6
        nursery.cancel_scope.cancel()


async def test_silence_and_an_end_between_messages_are_no_errors(
    autojump_clock: trio.testing.MockClock,
) -> None:
    here, there = trio.testing.memory_stream_pair()
    assert await Frames(there).receive_or_end(5) is None
    await here.aclose()
    assert await Frames(there).receive_or_end(5) is None
