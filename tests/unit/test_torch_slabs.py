"""`memfs.torch` with a hot server: leases as long as tensors, and loads whatever becomes of it."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

import memfs.torch as mt
from memfs.hot.client import TICKET_XATTR
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import map_slab
from memfs.torch import slabs, tiers
from memfs.torch.borrowing import wait_freed
from tests.unit.fakes.hot_station import GENERATION, HotStation
from tests.waiting import no_thread_left, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.hot.devices.device import SlabMapping

STATE = {
    "weight": torch.randn(40, 33, generator=torch.Generator().manual_seed(1)),
    "large": torch.tensor([1.0, 1e6, -1e9]),
    "ids": torch.arange(9),
}


@pytest.fixture
def station() -> Iterator[HotStation]:
    with HotStation() as station:
        yield station


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    mt.save(STATE, path)
    try:
        os.setxattr(path, TICKET_XATTR, b"{}")
    except OSError:
        pytest.skip("no extended attributes of users here")
    return path


def equal(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[n], STATE[n]) for n in STATE)


def report(path: Path) -> mt.LoadReport:
    found = mt.report_of(path)
    assert found is not None
    return found


def in_child(action: Callable[[], object]) -> int:
    """Return how a forked child ended that did something: an exit code, or a negative signal."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = 0 if action() in (None, True) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- leases --------------------------------------------------------------------------------------
def test_a_lease_is_as_long_as_the_last_view(station: HotStation, path: Path) -> None:
    """That may be of any tensor, parameters included; and it ends once."""
    station.give(path)
    held = mt.load(path)
    assert equal(held)
    assert (report(path).source, report(path).generation) == ("hot", GENERATION)
    assert report(path).device == "CPU-0"
    parameter = torch.nn.Parameter(held["weight"][3:5])
    del held
    gc.collect()
    wait_freed()
    assert station.leases() == 1
    assert torch.equal(parameter, STATE["weight"][3:5])
    del parameter
    wait_freed()
    assert station.leases() == 0


def test_each_load_has_a_lease_of_its_own(station: HotStation, path: Path) -> None:
    """Also of a few tensors, and of a precision, which is a slab beside the first."""
    loads = []
    for options in ({}, {"names": ["ids"]}, {"dtype": "float16"}):
        station.give(path)
        loads.append(mt.load(path, **options))
    assert list(loads[1]) == ["ids"]
    assert loads[2]["weight"].dtype == torch.float16
    assert loads[2]["ids"].dtype == torch.int64
    assert (report(path).cast_count, report(path).overflow_count) == (2, 2)
    for left in (2, 1, 0):
        loads.pop()
        wait_freed()
        assert station.leases() == left


def test_a_forked_child_ends_no_lease_of_its_parent(station: HotStation, path: Path) -> None:
    """Whether it drops the tensors, exits with them, or is killed; and it attaches by itself."""
    station.give(path)
    held = mt.load(path)
    station.give(path)

    def drop() -> None:
        held.clear()
        gc.collect()
        wait_freed()

    assert in_child(drop) == 0
    assert in_child(lambda: equal(held)) == 0
    assert in_child(lambda: equal(mt.load(path))) == 0
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
    wait_for(lambda: station.leases() == 1, lambda: station.leases())
    assert equal(held)
    held.clear()
    wait_freed()
    assert station.leases() == 0


def test_a_forked_child_leaves_the_device_of_its_parent_alone(
    station: HotStation, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA does not work in the child of a program that has used it: nothing may be freed there."""
    parent = os.getpid()

    class Watched:
        def __init__(self, mapping: SlabMapping) -> None:
            self.address, self.size_bytes = mapping.address, mapping.size_bytes
            self.unmap = lambda: mapping.unmap() if os.getpid() == parent else os._exit(9)

    monkeypatch.setattr(slabs, "map_slab", lambda *a, **k: Watched(map_slab(*a, **k)))
    station.give(path)
    held = mt.load(path)

    def drop() -> None:
        held.clear()
        gc.collect()
        wait_freed()

    assert in_child(drop) == 0
    drop()
    assert station.leases() == 0


def test_a_killed_program_leaves_no_lease(station: HotStation, path: Path) -> None:
    """The end of its connection is the end of what it held."""
    station.give(path)

    def attach_and_die() -> None:
        held = mt.load(path, share="require")
        assert equal(held)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(attach_and_die) == -signal.SIGKILL
    wait_for(lambda: station.leases() == 0, lambda: station.leases())


def test_a_program_may_end_with_tensors_of_a_device(station: HotStation, path: Path) -> None:
    """Quietly, in whatever order the interpreter takes things down."""
    station.give(path)
    program = f"import memfs.torch as mt; held = mt.load({str(path)!r}, share='require')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: station.leases() == 0, lambda: station.leases())


def test_a_slab_that_cannot_be_mapped_is_given_back(
    station: HotStation, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is loaded itself."""

    def fail(_kind: str, _uuid: str, fd: int, _size: int, *, private: bool) -> None:
        os.close(fd)
        raise DeviceError(f"no address space, private={private}")

    monkeypatch.setattr(slabs, "map_slab", fail)
    station.give(path)
    assert equal(mt.load(path))
    assert (report(path).source, report(path).fallback) == (
        "mapped",
        "no address space, private=False",
    )
    assert station.leases() == 0
    station.give(path)
    with pytest.raises(mt.DeviceUnavailableError, match=r"model.safetensors: no address space"):
        mt.load(path, share="require")


def test_threads_load_at_the_same_time(station: HotStation, tmp_path: Path) -> None:
    """Over one connection, each its own file."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(16)]
    for number, each in enumerate(paths):
        mt.save({"n": torch.tensor([number])}, each)
        station.give(each)
    with ThreadPoolExecutor(8) as threads:
        held = list(threads.map(mt.load, paths))
    assert [int(tensors["n"][0]) for tensors in held] == list(range(16))
    assert {report(each).source for each in paths} == {"hot"}
    assert station.leases() == 16
    held.clear()
    wait_freed()
    assert station.leases() == 0


# --- memory --------------------------------------------------------------------------------------
def test_shared_tensors_cannot_be_written(station: HotStation, path: Path) -> None:
    """The kernel ends who tries, and mutable ones change for nobody else."""
    station.give(path)
    held = mt.load(path)
    assert in_child(lambda: held["ids"].zero_() is None) == -signal.SIGSEGV
    station.give(path)
    mine = mt.load(path, mutable=True)
    assert report(path).source == "hot"
    mine["ids"].zero_()
    assert equal(held)


# --- a server that is not there ------------------------------------------------------------------
def test_a_server_that_has_ended_is_no_error(station: HotStation, path: Path) -> None:
    """Tensors stay, and loads take the file; unless the tier was required."""
    station.give(path)
    held = mt.load(path)
    station.give(path)
    station.stop()
    assert equal(held)
    for _ in range(2):
        assert equal(mt.load(path))
        assert report(path).source == "mapped"
        assert report(path).fallback is not None
    with pytest.raises(mt.DeviceUnavailableError, match=r"model.safetensors: .*hot server"):
        mt.load(path, share="require")
    held.clear()
    wait_freed()


def test_a_new_server_is_found_by_its_ticket(path: Path) -> None:
    """The connection to the old one is of no use."""
    for _ in range(2):
        with HotStation() as station:
            station.give(path)
            assert equal(mt.load(path, share="require"))
            assert report(path).source == "hot"


def test_a_spent_token_is_no_error(station: HotStation, path: Path) -> None:
    """Two programs may read the same attribute of a file system that is not memfs."""
    station.give(path)
    first = mt.load(path)
    assert equal(mt.load(path))
    assert report(path).source == "mapped"
    assert "used before" in str(report(path).fallback)
    assert equal(first)


@pytest.mark.parametrize(
    "value", [b"", b"text", b"{}", b"[]", b'{"uuids": 5}', b'{"uuids": [], "more": 1}', b"\xff"]
)
def test_an_attribute_that_is_no_ticket_is_no_error(path: Path, value: bytes) -> None:
    """Any file of another file system may have one of that name."""
    os.setxattr(path, TICKET_XATTR, value)
    assert equal(mt.load(path))
    assert report(path).source == "mapped"
    assert (mt.info(path).tier, mt.info(path).generation) == (None, None)
    with pytest.raises(mt.DeviceUnavailableError, match="no hot tier serves cpu"):
        mt.load(path, share="require")


def test_a_ticket_of_an_impostor_is_no_error(station: HotStation, path: Path) -> None:
    """The server's user is checked before anything is sent to it."""
    station.give(path)
    ticket = os.getxattr(path, TICKET_XATTR)
    os.setxattr(path, TICKET_XATTR, ticket.replace(b'"uid": ', b'"uid": 9'))
    with pytest.raises(mt.DeviceUnavailableError, match="run by user"):
        mt.load(path, share="require")
    assert equal(mt.load(path))


# --- demand --------------------------------------------------------------------------------------
def test_a_file_is_loaded_on_demand_only_where_that_is_required(
    station: HotStation, path: Path
) -> None:
    """The page cache is as near, for a CPU."""
    station.give(path, resident=False)
    assert equal(mt.load(path))
    assert (report(path).source, report(path).fallback) == ("mapped", None)
    assert len(station.pool) == 0
    assert equal(mt.load(path, share="require"))
    assert report(path).source == "hot"


def test_what_has_no_room_is_a_memory_error_where_it_is_required(
    station: HotStation, tmp_path: Path, path: Path
) -> None:
    """And what holds no tensors a format error."""
    big = tmp_path / "big.safetensors"
    mt.save({"big": torch.zeros(9 << 20, dtype=torch.uint8)}, big)
    station.give(big, resident=False)
    with pytest.raises(MemoryError, match=r"big.safetensors: .*fit nowhere"):
        mt.load(big, share="require")
    text = tmp_path / "text"
    text.write_text("text" * 100)
    station.give(text, resident=False)
    with pytest.raises(mt.FormatError, match="text"):
        mt.load(text, share="require")
    station.give(path, resident=False)
    assert equal(mt.load(path, share="require"))


def test_a_file_that_never_comes_ends_in_a_timeout(station: HotStation, path: Path) -> None:
    """As long as the caller said."""
    station.answers = False
    station.give(path, resident=False)
    with no_thread_left():
        with pytest.raises(TimeoutError, match=r"model.safetensors: .*not loaded in time"):
            mt.load(path, share="require", timeout=0.05)
        assert equal(mt.load(path))


# --- pins to a device ----------------------------------------------------------------------------
CPU = torch.device("cpu")


def test_a_file_is_kept_on_the_device_until_it_is_pinned_there(
    station: HotStation, path: Path
) -> None:
    """Among several: else it could leave, and come back on another one."""
    station.uuids = ["CPU-0", "CPU-1"]
    station.give(path, resident=False)
    with tiers._on_device(str(path), CPU, 5.0):
        assert station.leases() == 1
    assert station.leases() == 0


def test_the_only_device_is_not_waited_for(station: HotStation, path: Path) -> None:
    """Where else should it go? And a pinned file may take more room than others."""
    station.answers = False
    station.give(path, resident=False)
    with tiers._on_device(str(path), CPU, 5.0):
        assert len(station.pool) == 0


def test_a_file_that_does_not_come_to_a_device_is_not_pinned(
    station: HotStation, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason by an exception of its kind, with the path."""
    station.uuids = ["CPU-0", "CPU-1"]

    def attempt(where: Path) -> None:
        station.give(where, resident=False)
        with tiers._on_device(str(where), CPU, 0.05):
            raise AssertionError("it was pinned")

    big = tmp_path / "big.safetensors"
    mt.save({"big": torch.zeros(9 << 20, dtype=torch.uint8)}, big)
    with pytest.raises(mt.HotTierFullError, match=r"big.safetensors: .*fit nowhere"):
        attempt(big)
    text = tmp_path / "text"
    text.write_text("text" * 100)
    with pytest.raises(mt.FormatError, match="text"):
        attempt(text)
    with monkeypatch.context() as patch:
        patch.setattr(tiers, "serves", lambda *_: False)
        with pytest.raises(mt.DeviceUnavailableError, match="is on CPU-0 already, and not on cpu"):
            attempt(path)
    other = tmp_path / "other.safetensors"
    mt.save(STATE, other)
    station.answers = False
    with pytest.raises(mt.LoadTimeoutError, match=r"other.safetensors: .*in time"):
        attempt(other)
    assert station.leases() == 0
    plain = tmp_path / "plain.safetensors"
    mt.save(STATE, plain)
    with (
        pytest.raises(mt.DeviceUnavailableError, match="no hot tier serves cpu"),
        tiers._on_device(str(plain), CPU, 5.0),
    ):
        raise AssertionError("it was pinned")
    station.give(path)
    station.stop()
    with (
        pytest.raises(mt.DeviceUnavailableError, match=r"model.safetensors: .*hot server"),
        tiers._on_device(str(path), CPU, 5.0),
    ):
        raise AssertionError("it was pinned")


def test_a_device_is_of_the_hot_tier_alone(path: Path) -> None:
    """Files of other tiers are on no device; said before the mount is asked."""
    with pytest.raises(ValueError, match="files of the tier warm are on none"):
        mt.pin(path, tier="warm", device="cpu")
