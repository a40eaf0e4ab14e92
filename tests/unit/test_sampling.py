"""Samples decide on codec and filter; what they judge wrongly costs space and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.codecs.recognition import is_compressed, tensor_item_bytes
from memfs.codecs.registry import get_codec, parse_codec
from memfs.codecs.shuffle import ITEM_BYTES, shuffle, unshuffle
from memfs.errors import ObjectMissingError
from memfs.stores.sampling import SAMPLE_BYTES, judge

if TYPE_CHECKING:
    from pathlib import Path

ZSTD = get_codec(parse_codec("zstd:3"))


def weights(count: int, seed: int = 1) -> bytes:
    """Float32 as of a trained layer: normal around 0."""
    rng = random.Random(seed)
    return struct.pack(f"<{count}f", *(rng.gauss(0, 0.02) for _ in range(count)))


def safetensors(dtype: str, data: bytes) -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": dtype, "shape": [len(data)], "data_offsets": [0, len(data)]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def npy(description: str, data: bytes) -> bytes:
    header = f"{{'descr': '{description}', 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zip_of(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("data.pkl", bytes(1000))
    return buffer.getvalue()


@given(data=st.binary(max_size=300), item_bytes=st.sampled_from((1, *ITEM_BYTES)))
def test_shuffling_back_gives_what_was_there(data: bytes, item_bytes: int) -> None:
    shuffled = shuffle(memoryview(data), item_bytes)
    assert sorted(shuffled) == sorted(data)
    assert unshuffle(shuffled, item_bytes) == data


def test_shuffled_bytes_lie_by_their_place_in_the_item() -> None:
    assert shuffle(memoryview(b"a1b2c3d"), 2) == b"abcd123"


@pytest.mark.parametrize(
    ("head", "item_bytes"),
    [
        (safetensors("BF16", b""), 2),
        (safetensors("F32", b""), 4),
        (safetensors("F64", b""), 8),
        (safetensors("F8_E4M3", b""), 1),
        (npy("<f4", b""), 4),
        (npy("<f2", b""), 2),
        (npy("<c8", b""), 4),
        (npy("|u1", b""), 1),
        (npy("|O", b""), 1),
        (b"", 1),
        (b"\x93NUMPY", 1),
        (bytes(8) + b"{", 1),
        (b'{"dtype":"F32"}', 1),
        (b"\xff" * 8 + b'{"w":{"dtype":"F32"', 1),
    ],
)
def test_the_item_size_is_told_by_the_header(head: bytes, item_bytes: int) -> None:
    assert tensor_item_bytes(head) == item_bytes


def test_the_commonest_type_of_a_mixed_file_counts() -> None:
    header = json.dumps(
        {name: {"dtype": "BF16" if name != "a" else "F32"} for name in "abcdef"}
    ).encode()
    assert tensor_item_bytes(struct.pack("<Q", len(header)) + header) == 2


@given(st.binary(max_size=200))
def test_no_bytes_trouble_the_recognition(head: bytes) -> None:
    for prefix in (b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", struct.pack("<Q", 100) + b"{"):
        assert tensor_item_bytes(prefix + head) in (1, *ITEM_BYTES)
        assert is_compressed(prefix + head) in (True, False)


@pytest.mark.parametrize(
    ("head", "compressed"),
    [
        (gzip.compress(b"x", mtime=0), True),
        (zip_of(zipfile.ZIP_DEFLATED), True),
        (zip_of(zipfile.ZIP_STORED), False),
        (b"\x89PNG\r\n\x1a\n", True),
        (b"\x00\x00\x00\x20ftypisom", True),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", True),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", False),
        (b"PAR1", False),
        (b"plain text", False),
        (b"", False),
    ],
)
def test_compressed_formats_are_known_by_their_first_bytes(head: bytes, compressed: bool) -> None:
    """Archives of torch and numpy hold plain tensors: they are no compressed zip."""
    assert is_compressed(head) == compressed


@pytest.mark.parametrize("size", [1000, 100_000, 190_000, 1_000_000])
def test_text_is_worth_it_and_noise_is_not(tmp_path: Path, size: int) -> None:
    (tmp_path / "text").write_bytes(b"all work and no play " * (size // 21))
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(size))
    text, noise = judge(tmp_path / "text", ZSTD), judge(tmp_path / "noise", ZSTD)
    assert text.worthwhile
    assert text.saving > 0.9
    assert not noise.worthwhile
    assert noise.shuffle_bytes == text.shuffle_bytes == 1


def test_float_weights_are_shuffled_and_integers_in_rows_are_not(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(safetensors("F32", weights(80_000)))
    (tmp_path / "rows").write_bytes(safetensors("F32", b"\x01\x02\x03\x04" * 80_000))
    found = judge(tmp_path / "weights", ZSTD)
    assert found.shuffle_bytes == 4
    assert found.worthwhile
    assert judge(tmp_path / "rows", ZSTD).shuffle_bytes == 1


def test_a_header_does_not_speak_for_the_whole_file(tmp_path: Path) -> None:
    """The parts are taken from the middle of each share."""
    noise = random.Random(1).randbytes(3_000_000)
    (tmp_path / "file").write_bytes(b" " * SAMPLE_BYTES + noise)
    assert not judge(tmp_path / "file", ZSTD).worthwhile


def test_a_compressed_format_is_not_even_sampled(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100_000))
    verdict = judge(tmp_path / "file", ZSTD)
    assert not verdict.worthwhile
    assert "compressed format" in verdict.reason


def test_an_empty_file_is_not_worth_it_and_a_missing_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert not judge(tmp_path / "empty", ZSTD).worthwhile
    with pytest.raises(ObjectMissingError):
        judge(tmp_path / "missing", ZSTD)
