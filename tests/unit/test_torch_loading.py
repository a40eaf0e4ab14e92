"""`memfs.torch` on plain files: equal to what the libraries read, and safe to hold."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import memfs.torch as mt
from memfs.torch.borrowing import borrow
from memfs.torch.loading import resolve_device
from memfs.torch.packing import Run
from memfs.torch.pipeline import BUFFER_BYTES, BUFFER_COUNT, NullStream, read_to_device
from tests.waiting import no_thread_left, wait_for

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {
    "weight": torch.randn(64, 33, generator=torch.Generator().manual_seed(1)),
    "half": torch.arange(7).half(),
    "brain": torch.arange(5).bfloat16(),
    "ids": torch.tensor([1, -2, 1 << 40]),
    "mask": torch.tensor([True, False, True]),
    "conv": torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(2)),
    "empty": torch.empty(0, 3),
}


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"by": "test"})
    return path


def source_of(path: Path) -> str | None:
    report = mt.report_of(path)
    return None if report is None else report.source


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "mapped"),
        ({"mutable": True}, "mapped"),
        ({"share": False}, "pipeline"),
        ({"device": "auto"}, "mapped"),
    ],
)
def test_a_file_is_loaded_as_the_library_loads_it(
    file: Path, options: dict[str, Any], source: str
) -> None:
    """Whichever way the bytes come."""
    found = mt.load(file, **options)
    assert equal(found, safetensors.torch.load_file(file))
    assert (source_of(file), mt.info(file).source) == (source, source)
    assert mt.info(file).tier is None


def test_some_tensors_are_loaded_in_the_order_asked_for(file: Path) -> None:
    """A name that is not there is told with some that are."""
    assert list(mt.load(file, names=["mask", "half"])) == ["mask", "half"]
    with pytest.raises(KeyError, match=r"no tensor 'x'; it has 7: brain, conv"):
        mt.load(file, names=["x"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16", torch.float32])
def test_only_plain_floats_change_their_precision(file: Path, dtype: torch.dtype | str) -> None:
    """As `Tensor.to` would."""
    found = mt.load(file, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    expected = {n: t.to(wanted) if t.is_floating_point() else t for n, t in TENSORS.items()}
    assert equal(found, expected)
    with pytest.raises(ValueError, match="is not one of float32, float16, bfloat16"):
        mt.load(file, dtype=torch.int8)


def test_values_that_are_too_large_are_counted(tmp_path: Path) -> None:
    """And become infinite, as they do everywhere."""
    mt.save({"w": torch.tensor([1.0, 1e6, float("inf")])}, tmp_path / "f")
    found = mt.load(tmp_path / "f", dtype="float16")["w"]
    assert found.isinf().tolist() == [False, True, True]
    report = mt.report_of(tmp_path / "f")
    assert report is not None
    assert (report.cast_count, report.overflow_count) == (1, 1)


def test_channels_last_is_a_matter_of_strides(file: Path) -> None:
    """Those of 4-D tensors alone."""
    found = mt.load(file, layout="channels_last")
    assert found["conv"].is_contiguous(memory_format=torch.channels_last)
    assert equal(found, TENSORS)


def test_mutable_tensors_change_for_nobody_else(file: Path) -> None:
    """Not the file, and not another load."""
    mine = mt.load(file, mutable=True)
    mine["weight"].zero_()
    assert torch.equal(mt.load(file)["weight"], TENSORS["weight"])
    assert file.read_bytes() == safetensors.torch.save(TENSORS, {"by": "test"})


def test_writing_to_shared_tensors_ends_the_program(file: Path) -> None:
    """The kernel's protection: the file cannot be harmed by it."""
    program = f"import memfs.torch as mt; mt.load({str(file)!r})['weight'].zero_()"
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGSEGV
    assert equal(mt.load(file), TENSORS)


def test_a_file_replaced_under_its_tensors_stays_readable(file: Path) -> None:
    """By rename, as `save` does it."""
    held = mt.load(file)
    mt.save({"other": torch.zeros(3)}, file)
    assert equal(held, TENSORS)
    assert list(mt.load(file)) == ["other"]


def test_arrays_and_pickles_are_loaded_in_place(tmp_path: Path) -> None:
    """And what has no places is read by its library, without running anything of it."""
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    np.savez_compressed(tmp_path / "c.npz", x=np.arange(3))
    torch.save({"m": {"w": torch.ones(2)}, "n": 1}, tmp_path / "a.pt")
    old = tmp_path / "old.pt"
    torch.save({"w": [torch.ones(2)]}, old, _use_new_zipfile_serialization=False)
    expected = {
        "a.npy": ({"array": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)}, "mapped"),
        "a.npz": ({"x": torch.arange(3)}, "mapped"),
        "c.npz": ({"x": torch.arange(3)}, "read"),
        "a.pt": ({"m.w": torch.ones(2)}, "mapped"),
        "old.pt": ({"w.0": torch.ones(2)}, "read"),
    }
    for name, (tensors, source) in expected.items():
        assert equal(mt.load(tmp_path / name), tensors), name
        assert source_of(tmp_path / name) == source, name


def test_plain_numbers_are_loaded_by_type_and_shape(tmp_path: Path) -> None:
    """A size that does not fit is refused."""
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(6, dtype=np.int16).tobytes())
    found = mt.load(path, dtype=torch.int16, shape=(2, 3))
    assert torch.equal(found["array"], torch.arange(6, dtype=torch.int16).reshape(2, 3))
    with pytest.raises(mt.FormatError, match="takes 8"):
        mt.load(path, dtype="int16", shape=(4,))
    with pytest.raises(ValueError, match="dtype has to say"):
        mt.load(path, shape=(6,))


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """With the exceptions that programs expect."""
    with pytest.raises(FileNotFoundError):
        mt.load(tmp_path / "missing")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "text.pt").write_text("text")
    for name in ("text.safetensors", "text.pt"):
        with pytest.raises(ValueError, match=name):
            mt.load(tmp_path / name)
    mt.save({"a": torch.ones(1)}, tmp_path / "f")
    for device in ("cuda", "cuda:7", "meta", "nonsense"):
        with pytest.raises(mt.DeviceUnavailableError, match=device):
            mt.load(tmp_path / "f", device=device)
    with pytest.raises(mt.DeviceUnavailableError, match="no hot tier serves cpu"):
        mt.load(tmp_path / "f", share="require")
    for action in (mt.pin, mt.unpin):
        with pytest.raises(mt.DeviceUnavailableError, match="not on a mount of memfs"):
            action(tmp_path / "f")
    with pytest.raises(mt.DeviceUnavailableError, match="not on a mount"):
        mt.stats(tmp_path)
    assert resolve_device("cpu:0") == torch.device("cpu")


# --- memory --------------------------------------------------------------------------------------
def test_borrowed_memory_is_given_back_with_the_last_view() -> None:
    """Once, and in another thread."""
    memory = np.arange(100, dtype=np.uint8)
    freed: list[int] = []
    base = borrow(
        memory.ctypes.data, 100, torch.device("cpu"), lambda: freed.append(threading.get_ident())
    )
    view = base[10:20].view(torch.int16)
    del base
    assert torch.equal(view, torch.from_numpy(memory[10:20].copy()).view(torch.int16))
    parameter = torch.nn.Parameter(view.to(torch.float32))
    assert freed == []
    del view
    wait_for(lambda: freed, "memory that was not given back")
    assert len(freed) == 1
    assert freed[0] != threading.get_ident()
    assert parameter.numel() == 5


def test_memory_is_given_back_while_an_exception_is_on_its_way() -> None:
    """Tensors die wherever a frame ends, and the exception must arrive all the same."""
    freed: list[bool] = []

    def fail() -> None:
        memory = np.zeros(10, dtype=np.uint8)
        tensor = borrow(memory.ctypes.data, 10, torch.device("cpu"), lambda: freed.append(True))
        raise RuntimeError(f"with {tensor.numel()} bytes")

    with pytest.raises(RuntimeError, match="with 10 bytes"):
        fail()
    wait_for(lambda: freed, "memory that was not given back")


def test_a_program_may_end_with_tensors_in_its_hands(file: Path) -> None:
    """And so may its children, forked or not."""
    program = f"""
import os, memfs.torch as mt
held = mt.load({str(file)!r})
pid = os.fork()
assert float(held["half"][3]) == 3
if pid:
    assert os.waitpid(pid, 0)[1] == 0
else:
    del held
    held = mt.load({str(file)!r})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- the pipeline --------------------------------------------------------------------------------
class RecordingStream(NullStream):
    """Copies late, as a device does, and remembers what was asked in which order."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.waiting: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.copied = self.buffers = 0
        self.joined = False
        self.fail_at = fail_at

    def host_buffer(self, size_bytes: int) -> torch.Tensor:
        self.buffers += 1
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> object:
        if self.copied == self.fail_at:
            raise RuntimeError("the device failed")
        self.copied += 1
        self.waiting.append((self.copied, target, source))
        return self.copied

    def wait(self, copied: object) -> None:
        assert isinstance(copied, int)
        while self.waiting and self.waiting[0][0] <= copied:
            _, target, source = self.waiting.pop(0)
            target.copy_(source)

    def join(self) -> None:
        self.wait(self.copied)
        self.joined = True


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "file"
    generator = np.random.default_rng(5)
    path.write_bytes(generator.bytes(BUFFER_BYTES * (BUFFER_COUNT + 2) + 12_345))
    return path


def test_a_buffer_is_filled_again_only_after_its_copy(large: Path) -> None:
    """Else the device would get bytes of the next piece."""
    size = large.stat().st_size
    stream = RecordingStream()
    with large.open("rb") as file:
        target = torch.zeros(size, dtype=torch.uint8)
        read_to_device(file.fileno(), "large", target, [Run(0, 0, target.numel())], stream)
    assert target.numpy().tobytes() == large.read_bytes()
    assert (stream.buffers, stream.copied, stream.joined) == (BUFFER_COUNT, BUFFER_COUNT + 3, True)


@pytest.mark.parametrize("stream", [None, "recording"])
def test_a_file_that_ends_early_ends_the_pipeline(large: Path, stream: str | None) -> None:
    """With an error that names it, and no thread is left."""
    target = torch.zeros(large.stat().st_size + 1, dtype=torch.uint8)
    failure = pytest.raises(mt.FormatError, match="large ends at")
    with no_thread_left(), large.open("rb") as file, failure:
        read_to_device(
            file.fileno(),
            "large",
            target,
            [Run(0, 0, target.numel())],
            RecordingStream() if stream is not None else None,
        )


@pytest.mark.parametrize("at", [0, 3])
def test_a_device_that_fails_ends_the_pipeline(large: Path, at: int) -> None:
    """What was begun is waited for: the buffers go away."""
    stream = RecordingStream(fail_at=at)
    target = torch.zeros(large.stat().st_size, dtype=torch.uint8)
    failure = pytest.raises(RuntimeError, match="the device failed")
    with no_thread_left(), large.open("rb") as file, failure:
        read_to_device(file.fileno(), "large", target, [Run(0, 0, target.numel())], stream)
    assert stream.waiting == []


# --- models, lazy files, saving ------------------------------------------------------------------
def test_a_model_takes_the_tensors_as_its_own(tmp_path: Path) -> None:
    """Without a copy, and can be trained; strictness is torch's."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    path = tmp_path / "m.safetensors"
    mt.save(model.state_dict(), path)
    with torch.device("meta"):
        other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    assert mt.load_model(other, path) == ([], [])
    batch = torch.randn(8, 4)
    assert torch.equal(other(batch), model(batch))
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    other(batch).sum().backward()
    optimizer.step()
    assert equal(mt.load(path), copy.deepcopy(safetensors.torch.load_file(path)))
    with pytest.raises(RuntimeError, match="Missing key"):
        mt.load_model(torch.nn.Linear(4, 3), path)
    missing, unexpected = mt.load_model(torch.nn.Linear(4, 3), path, strict=False)
    assert (len(missing), len(unexpected)) == (2, 7)


def test_a_lazy_file_is_as_safe_open(file: Path) -> None:
    """Names, metadata, tensors and slices; closed files say so."""
    with safetensors.safe_open(file, "pt") as theirs, mt.open(file) as ours:
        assert ours.keys() == sorted(theirs.keys())
        assert ours.metadata() == theirs.metadata()
        assert ours.offset_keys() == theirs.offset_keys()
        for name in ours.keys():  # noqa: SIM118  not a dictionary
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name))
            assert ours.get_slice(name).get_shape() == theirs.get_slice(name).get_shape()
            assert ours.get_slice(name).get_dtype() == theirs.get_slice(name).get_dtype()
        assert torch.equal(ours.get_slice("weight")[3:9:2, 5], TENSORS["weight"][3:9:2, 5])
        assert torch.equal(
            ours.get_slice("weight")[3:9, ..., :2], theirs.get_slice("weight")[3:9, ..., :2]
        )
        with pytest.raises(KeyError, match="no tensor 'x'"):
            ours.get_tensor("x")
        held = ours.get_tensor("weight")
    with pytest.raises(ValueError, match="is closed"):
        ours.get_tensor("weight")
    assert torch.equal(held, TENSORS["weight"])


def test_what_is_saved_is_read_by_the_library(tmp_path: Path) -> None:
    """Views, shared storages and odd strides are stored row-major, each of its own."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = TENSORS | {
        "turned": base.permute(2, 0, 1),
        "part": base[:, 1],
        "whole": base,
        "channels": TENSORS["conv"].to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "f.safetensors"
    mt.save(tensors, path, metadata={"a": "b"}, fsync=True)
    assert equal(safetensors.torch.load_file(path), {n: t.detach() for n, t in tensors.items()})
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("tensors", "flaw"),
    [
        ({"a": torch.ones(2).to_sparse()}, "only dense tensors"),
        ({"a": torch.ones(2, device="meta")}, "no memory"),
        ({"a": 5}, "no tensor but int"),
        ({"__metadata__": torch.ones(1)}, "__metadata__"),
    ],
)
def test_what_cannot_be_saved_leaves_the_file_as_it_was(
    tmp_path: Path, tensors: dict[str, Any], flaw: str
) -> None:
    """And nothing beside it."""
    path = tmp_path / "f"
    mt.save({"old": torch.ones(3)}, path)
    path.chmod(0o640)
    with pytest.raises(ValueError, match=flaw):
        mt.save(tensors, path)
    with pytest.raises(mt.DeviceUnavailableError, match="not on a mount of memfs"):
        mt.save({"a": torch.ones(1)}, path, tier="hot")
    assert list(mt.load(path)) == ["old"]
    mt.save({"new": torch.ones(3)}, path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["f"]


def test_a_program_killed_while_it_saves_leaves_the_former_file(tmp_path: Path) -> None:
    """The new one gets its name when it is whole."""
    path = tmp_path / "f.safetensors"
    mt.save({"old": torch.ones(3)}, path)
    program = f"""
import os, signal, torch
import memfs.torch as mt
os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
mt.save({{"new": torch.zeros(1000)}}, {str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(mt.load(path)) == ["old"]


# --- data sets -----------------------------------------------------------------------------------
def first(tensors: dict[str, torch.Tensor]) -> int:
    """What a sample says of itself."""
    return int(tensors["n"][0])


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    for number in range(12):
        mt.save({"n": torch.tensor([number])}, tmp_path / f"{number:02}.safetensors")
    return tmp_path


@pytest.mark.parametrize("start", [None, "fork", "spawn"])
def test_a_directory_is_a_data_set_for_any_workers(samples: Path, start: str | None) -> None:
    """Sorted by path; a batch is one call."""
    data = mt.TensorDirectory(samples, transform=first)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=5,
        num_workers=0 if start is None else 2,
        multiprocessing_context=start,
        sampler=mt.HintSampler(list(range(11, -1, -1)), data.paths),
    )
    assert torch.cat(list(loader)).tolist() == list(range(11, -1, -1))
    with pytest.raises(FileNotFoundError, match="no file below"):
        mt.TensorDirectory(samples, pattern="*.npy")


def test_a_hinted_sampler_is_the_sampler_that_it_wraps(samples: Path) -> None:
    """Length, epochs and order; without memfs it is nothing else."""
    data = mt.TensorDirectory(samples)
    plain: torch.utils.data.DistributedSampler[Any] = torch.utils.data.DistributedSampler(
        data, 2, 1, seed=3
    )
    hinted = mt.HintSampler(torch.utils.data.DistributedSampler(data, 2, 1, seed=3), data.paths)
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        hinted.set_epoch(epoch)
        assert list(hinted) == list(plain)
    assert len(hinted) == len(plain) == 6


@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")
def test_distributed_checkpoints_lie_in_a_directory_as_they_are(tmp_path: Path) -> None:
    """The reader and writer of torch itself, unchanged."""
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    state = {"w": torch.randn(5, 3), "step": torch.tensor(7)}
    save(state, checkpoint_id=tmp_path / "c", no_dist=True)
    found = {"w": torch.zeros(5, 3), "step": torch.tensor(0)}
    load(found, checkpoint_id=tmp_path / "c", no_dist=True)
    assert equal(found, state)
