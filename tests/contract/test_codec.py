"""Every codec keeps the codec contract, and the registry finds what users write."""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memfs.codecs.registry import codec_names, get_codec, parse_codec
from memfs.errors import CorruptDataError, InvalidValueError
from memfs.types import CodecSpec

if TYPE_CHECKING:
    from pathlib import Path

SPECS = ["none", "lz4", "lz4:9", "snappy", "zstd", "zstd:1", "zstd:19"]

SAMPLE = random.Random(7).randbytes(300) + bytes(400) + b"the same words again " * 60

# The shape of both compressible and other data, without hypothesis having to find long repeats.
frames = st.builds(
    lambda head, piece, count, tail: head + piece * count + tail,
    st.binary(max_size=64),
    st.binary(max_size=16),
    st.integers(0, 2000),
    st.binary(max_size=64),
)


@pytest.mark.parametrize("text", SPECS)
@given(frame=frames)
def test_decode_returns_what_was_encoded(text: str, frame: bytes) -> None:
    codec = get_codec(parse_codec(text))
    encoded = codec.encode(memoryview(frame))
    assert frame == codec.decode(memoryview(encoded), len(frame))


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("wrong_size", [0, 1, len(SAMPLE) - 1, len(SAMPLE) + 1, 1 << 20])
def test_decode_refuses_a_frame_of_another_size(text: str, wrong_size: int) -> None:
    codec = get_codec(parse_codec(text))
    encoded = codec.encode(memoryview(SAMPLE))
    with pytest.raises(CorruptDataError):
        codec.decode(memoryview(encoded), wrong_size)


@pytest.mark.parametrize("text", SPECS)
def test_decode_refuses_a_truncated_frame(text: str) -> None:
    codec = get_codec(parse_codec(text))
    encoded = codec.encode(memoryview(SAMPLE))
    for size in range(len(encoded)):
        with pytest.raises(CorruptDataError):
            codec.decode(memoryview(encoded)[:size], len(SAMPLE))


@pytest.mark.parametrize("text", [text for text in SPECS if text != "none"])
def test_decode_refuses_bytes_after_the_frame(text: str) -> None:
    codec = get_codec(parse_codec(text))
    with pytest.raises(CorruptDataError):
        codec.decode(memoryview(codec.encode(memoryview(SAMPLE)) + b"more"), len(SAMPLE))


@pytest.mark.parametrize("text", SPECS)
@given(encoded=st.binary(max_size=200))
def test_decode_of_random_bytes_ends_in_one_kind_of_error(text: str, encoded: bytes) -> None:
    codec = get_codec(parse_codec(text))
    with contextlib.suppress(CorruptDataError):
        assert len(codec.decode(memoryview(encoded), 100)) == 100


def test_zstd_refuses_a_bomb_before_it_allocates() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    # 2**50 in the eight bytes of the content size, after magic and descriptor (RFC 8878, 3.1.1).
    huge = bytes.fromhex("28b52ffd e0") + (1 << 50).to_bytes(8, "little") + b"\x01\x00\x00"
    for frame in (bomb, huge):
        with pytest.raises(CorruptDataError, match="instead of 10"):
            get_codec(CodecSpec("zstd", None)).decode(memoryview(frame), 10)


def test_zstd_refuses_a_frame_that_does_not_state_its_size() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(CorruptDataError):
        get_codec(CodecSpec("zstd", None)).decode(memoryview(compressor.compress(SAMPLE)), 100)


@pytest.mark.parametrize("text", SPECS)
def test_one_codec_serves_many_threads(text: str) -> None:
    codec = get_codec(parse_codec(text))
    samples = [SAMPLE[index:] + SAMPLE[:index] for index in range(200)]

    def there_and_back(sample: bytes) -> bytes:
        return codec.decode(memoryview(codec.encode(memoryview(sample))), len(sample))

    with ThreadPoolExecutor(4) as pool:
        assert samples == list(pool.map(there_and_back, samples))


@pytest.mark.parametrize("text", SPECS)
def test_a_spec_reads_back_from_its_text(text: str) -> None:
    assert text == str(parse_codec(text))
    assert parse_codec(text) == get_codec(parse_codec(text)).spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zst",
        "zstd:",
        "zstd:0",
        "zstd:20",
        "zstd:-1",
        "zstd:+3",
        "zstd: 3",
        "zstd:3:4",
        "zstd:٣",
        "zstd:1_0",
        "ZSTD",
        "none:1",
        "snappy:1",
        "lz4:13",
        ":3",
        "zstd:99999",
    ],
)
def test_parse_refuses_what_means_nothing(text: str) -> None:
    with pytest.raises(InvalidValueError, match="codec"):
        parse_codec(text)


def test_an_unknown_name_is_answered_with_the_names_that_exist() -> None:
    with pytest.raises(InvalidValueError, match=r"'zst'.*none, lz4, snappy, zstd"):
        parse_codec("zst:3")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a good codec, broken ones, and one with a built-in's name."""
    metadata = tmp_path / "memfs_test_codecs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[memfs.codecs]\n"
        "mirror = memfs_test_codecs:Mirror\n"
        "absent = memfs_test_no_such_module:Codec\n"
        "faulty = memfs_test_codecs:faulty\n"
        "zstd = memfs_test_codecs:faulty\n"
    )
    (tmp_path / "memfs_test_codecs.py").write_text(
        "from memfs.types import CodecSpec\n"
        "class Mirror:\n"
        "    def __init__(self, level):\n"
        "        self.spec = CodecSpec('mirror', level)\n"
        "    def encode(self, frame):\n"
        "        return bytes(frame)[::-1]\n"
        "    def decode(self, encoded, size):\n"
        "        return bytes(encoded)[::-1]\n"
        "def faulty(level):\n"
        "    raise RuntimeError('out of order')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_users_add_codecs_by_an_entry_point() -> None:
    codec = get_codec(parse_codec("mirror:5"))
    assert codec.encode(memoryview(b"abc")) == b"cba"
    assert codec.spec == CodecSpec("mirror", 5)
    assert [*SPECS[:1], "lz4", "snappy", "zstd", "absent", "faulty", "mirror"] == codec_names()


@pytest.mark.usefixtures("installed")
def test_a_broken_codec_is_named_and_harms_no_other() -> None:
    with pytest.raises(InvalidValueError, match=r"'absent'.*memfs_test_no_such_module:Codec"):
        parse_codec("absent")
    with pytest.raises(InvalidValueError, match=r"'faulty'.*out of order"):
        parse_codec("faulty")
    assert str(parse_codec("zstd:2")) == "zstd:2"
