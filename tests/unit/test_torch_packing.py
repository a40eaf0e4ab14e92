"""What `memfs.torch` reads into memory of its own: what was asked for, each at its place."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memfs.torch as mt
from memfs.hot.tensors import ALIGNMENT_BYTES, DType, FormatError, Tensor
from memfs.torch.dtypes import TORCH_TYPES
from memfs.torch.packing import Run, pack, windows
from memfs.torch.pipeline import NullStream, read_to_device
from tests.disk_calls import intercept
from tests.waiting import no_thread_left

if TYPE_CHECKING:
    from pathlib import Path


def tensor(name: str, offset: int, size: int) -> Tensor:
    return Tensor(name, DType.U8, (size,), (1,), offset, size)


@given(
    places=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 700)), min_size=1, max_size=30),
    window_bytes=st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_every_tensor_has_the_bytes_of_the_file(
    places: list[tuple[int, int]], window_bytes: int
) -> None:
    """However they lie and overlap, and however small the parts are that are read at a time."""
    content = np.random.default_rng(1).bytes(6000)
    packing = pack([tensor(str(at), *place) for at, place in enumerate(places)])
    memory = bytearray(packing.size_bytes)
    before = 0
    for window in windows(packing.runs, window_bytes):
        assert window.begin >= before
        assert window.size_bytes <= window_bytes
        before = window.begin + window.size_bytes
        for run in window.runs:
            at = window.begin + run.target
            memory[at : at + run.size_bytes] = content[run.source : run.source + run.size_bytes]
    for (offset, size), target in zip(places, packing.offsets, strict=True):
        assert memory[target : target + size] == content[offset : offset + size]
    ends = [0, *(run.source + run.size_bytes for run in packing.runs)]
    assert all(run.source >= end for run, end in zip(packing.runs, ends, strict=False))
    assert all(run.target % ALIGNMENT_BYTES == 0 for run in packing.runs)
    assert packing.size_bytes <= sum(size + ALIGNMENT_BYTES for _, size in places)


def test_tensors_that_share_bytes_go_on_sharing_them() -> None:
    """Tied weights are stored once, and stay tied."""
    packing = pack([tensor("whole", 100, 40), tensor("tied", 100, 40), tensor("part", 110, 8)])
    assert packing.runs == [Run(100, 0, 40)]
    assert packing.offsets == [0, 0, 10]


def test_neighbours_that_are_aligned_are_one_run() -> None:
    """As most of a model; the others begin a run each, so that all are aligned."""
    sizes = [256, 512, 100, 256, 256]
    starts = [56, 312, 824, 924, 1180]
    packing = pack(
        [tensor(str(at), *place) for at, place in enumerate(zip(starts, sizes, strict=True))]
    )
    assert packing.runs == [Run(56, 0, 868), Run(924, 1024, 512)]
    assert packing.offsets == [0, 256, 768, 1024, 1280]
    assert pack([]) == ([], [], 0)
    assert pack([tensor("empty", 5, 0)]) == ([0], [], 0)


def test_tied_weights_of_a_checkpoint_are_one_memory(tmp_path: Path) -> None:
    """As torch's own reader gives them."""
    weight = torch.randn(8, 4)
    torch.save({"in": weight, "out": weight, "row": weight[2]}, tmp_path / "tied.pt")
    found = mt.load(tmp_path / "tied.pt", share=False)
    found["in"][2, 0] = 7
    assert float(found["out"][2, 0]) == float(found["row"][0]) == 7


def test_a_few_tensors_take_the_memory_of_a_few(tmp_path: Path) -> None:
    """Else one bias would hold the whole model that is before it in the file."""
    path = tmp_path / "model.safetensors"
    mt.save({"a": torch.zeros(1 << 20, dtype=torch.uint8), "b": torch.ones(3)}, path)
    [found] = mt.load(path, names=["b"], share=False).values()
    assert torch.equal(found, torch.ones(3))
    assert found.untyped_storage().nbytes() == 12


def test_tensors_are_aligned_although_the_file_is_not(tmp_path: Path) -> None:
    """Other writers pad their header to nothing; views want multiples of their type."""
    path = tmp_path / "odd.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += b" " * (7 - (8 + len(header)) % 4)
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes())
    assert (8 + len(header)) % 4 == 3
    for share, copied_count in ((True, 1), (False, 0)):
        found = mt.load(path, share=share)["w"]
        assert found.tolist() == [1.0, 2.0]
        report = mt.report_of(path)
        assert report is not None
        assert report.copied_count == copied_count
        assert found.data_ptr() % 16 == 0


def test_every_element_type_comes_back_as_it_was(tmp_path: Path) -> None:
    """Those of 8 bits and bfloat16 too, which numpy does not have; mapped or read."""
    expected = {
        str(dtype): torch.arange(4).float().to(dtype)
        for dtype in TORCH_TYPES.values()
        if dtype != torch.complex128
    }
    path = tmp_path / "all.safetensors"
    mt.save(expected, path)
    for found in (mt.load(path), mt.load(path, share=False), safetensors.torch.load_file(path)):
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("stream", [None, NullStream()])
def test_parts_of_a_file_are_read_whatever_they_cross(
    tmp_path: Path, stream: NullStream | None
) -> None:
    """Windows, gaps in memory, gaps in the file, and more parts than one call takes."""
    content = np.random.default_rng(2).bytes(50_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    near = [tensor(f"n{at}", 7 * at, 7) for at in range(600)]
    far = [tensor(f"f{at}", 5000 + 3001 * at, 2500) for at in range(14)]
    packing = pack(near + far)
    target = torch.zeros(packing.size_bytes, dtype=torch.uint8)
    with path.open("rb") as file:
        read_to_device(file.fileno(), "file", target, packing.runs, stream, buffer_bytes=1000)
    found = target.numpy().tobytes()
    for source, at in zip(near + far, packing.offsets, strict=True):
        expected = content[source.offset : source.end]
        assert found[at : at + source.size_bytes] == expected, source.name


def test_many_small_neighbours_are_read_by_few_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each of a checkpoint's 10,000 biases would cost more than their bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    packing = pack([tensor(str(at), 4 * at, 4) for at in range(1000)])
    target = torch.zeros(packing.size_bytes, dtype=torch.uint8)
    calls = []
    preadv = os.preadv

    def count(fd: int, parts: list[memoryview], offset: int) -> int:
        calls.append(len(parts))
        # A short read in the middle of a part, as signals and the page cache's end cause them.
        return preadv(fd, [parts[0], parts[1][:1]] if len(calls) == 1 else parts, offset)

    monkeypatch.setattr(os, "preadv", count)
    with path.open("rb") as file:
        read_to_device(file.fileno(), "file", target, packing.runs)
    assert len(calls) == 3
    for at, offset in enumerate(packing.offsets):
        assert target[offset].item() == 4 * at % 256


def test_a_small_file_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set has many: waiting for a thread took eight times as long as reading one."""
    path = tmp_path / "sample.safetensors"
    mt.save({"n": torch.arange(9)}, path)
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    assert mt.load(path, share=False)["n"].tolist() == list(range(9))
    assert started == []


def test_a_read_that_fails_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the file system is the caller's, and no thread is left."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 9000)

    def fail(_call: str, _fd: int, _parts: list[memoryview], offset: int) -> None:
        if offset >= 4000:
            raise OSError(5, "Input/output error")

    intercept(monkeypatch, "preadv", before=fail)
    for stream in (None, NullStream()):
        target = torch.zeros(9000, dtype=torch.uint8)
        failure = pytest.raises(OSError, match="Input/output")
        with no_thread_left(), path.open("rb") as file, failure:
            read_to_device(
                file.fileno(), "file", target, [Run(0, 0, 9000)], stream, buffer_bytes=1000
            )


def test_a_header_that_promises_more_than_the_file_is_refused(tmp_path: Path) -> None:
    """Before any memory is taken for it."""
    path = tmp_path / "short.safetensors"
    mt.save({"a": torch.ones(1000)}, path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FormatError, match="short"):
        mt.load(path, share=False)
