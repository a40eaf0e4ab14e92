"""The hot tier on CUDA under a mount: a fake driver of shared memory everywhere, a GPU where it is.

`pytest -m gpu` runs the second on a machine that has one.
"""

from __future__ import annotations

import ctypes.util
from typing import TYPE_CHECKING, Any

import pytest

from memfs.control.client import call
from tests.gpu.driver import build, run_with
from tests.tiers.tensors import safetensors_of
from tests.tiers.tiering import pin, residence, tier_status, told, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20

CONFIG = """
[hot]
devices = ["auto"]
size = "32MiB"
reserve = "4MiB"

[policy]
interval = "100ms"
retry_min = "100ms"
retry_max = "400ms"
"""

READER = """
import os, sys
from memfs.hot.client import client_for, read_ticket
from memfs.hot.devices.opening import map_slab, open_devices
from tests.tiers.tensors import bytes_of, tensors
from cuda.bindings import driver

path, seed = {path!r}, {seed}
fd = os.open(path, os.O_RDONLY)
ticket = read_ticket(fd)
assert ticket.kind == "cuda", ticket
client = client_for(ticket)
lease = client.attach(ticket.token, dtype={dtype!r})
[device] = open_devices([lease.uuid])
slab = (lease.uuid, lease.slab_fd, lease.size_bytes)
mapping = map_slab("cuda", *slab, private=False)
device.enter()
found = {{}}
for tensor in lease.index.tensors:
    content = bytearray(tensor.size_bytes)
    [error] = driver.cuMemcpyDtoH(content, mapping.address + tensor.offset, tensor.size_bytes)
    assert error == 0, error
    found[tensor.name] = bytes(content)
expected = tensors({size}, seed)
if {dtype!r}:
    expected["weight"] = expected["weight"].astype("float16")
assert found == bytes_of(expected)
mapping.unmap()
client.release(lease)
print(lease.uuid)
"""


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=["fake", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(
    request: pytest.FixtureRequest, fake_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> Path | None:
    """The directory of the driver that daemons are started with; None: the machine's own."""
    if request.param == "gpu":
        if ctypes.util.find_library("cuda") is None:
            pytest.skip("no CUDA driver here: needs a machine with a GPU")
        return None
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_driver))
    monkeypatch.setenv("CUDA_FAKE_DEVICES", "2")
    return fake_driver


@pytest.fixture
def mount(driver: str, cuda: Path | None, mount_factory: MountFactory) -> Mount:
    made = mount_factory(driver, config=CONFIG)
    wait_for(lambda: tier_status(made, "hot")["note"] is None, lambda: tier_status(made, "hot"))
    return made


def hot(mount: Mount) -> dict[str, Any]:
    answer = call(mount.state, "hot")
    assert isinstance(answer, dict)
    return answer


def wait_until_hot(path: Path) -> None:
    wait_for(lambda: told(path, "tier") == "hot", lambda: (residence(path), why(path)))


@pytest.mark.any_driver
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_another_process_reads_the_tensors_on_the_device(
    mount: Mount, cuda: Path | None, dtype: str | None
) -> None:
    """By a descriptor of the driver's own, in the precision that it asks for."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(3 * MIB, 7))
    pin(path, "hot")
    wait_until_hot(path)
    [uuid] = residence(path).devices
    assert uuid.startswith("GPU-")
    program = READER.format(path=str(path), seed=7, size=3 * MIB, dtype=dtype)
    assert run_with(cuda, program).strip() == uuid
    wait_for(lambda: hot(mount)["lease_count"] == 0, lambda: hot(mount))


@pytest.mark.any_driver
def test_files_are_spread_over_the_devices_and_stay_within_their_capacities(
    mount: Mount, cuda: Path | None
) -> None:
    """The one with the most room takes the next file; what fits nowhere waits."""
    if cuda is None:
        pytest.skip("needs two devices of a known size: the fake ones")
    paths = [mount.root / f"{number}.safetensors" for number in range(5)]
    for number, path in enumerate(paths[:4]):
        path.write_bytes(safetensors_of(12 * MIB, number))
        pin(path, "hot")
        wait_until_hot(path)
    assert len({residence(path).devices[0] for path in paths[:2]}) == 2
    paths[4].write_bytes(safetensors_of(12 * MIB, 4))
    pin(paths[4], "hot")
    wait_for(lambda: "fit nowhere" in str(why(paths[4])), lambda: why(paths[4]))
    for device in hot(mount)["devices"]:
        assert device["used_bytes"] <= device["capacity_bytes"] == 32 * MIB
        assert device["free_bytes"] >= 4 * MIB
    paths[0].unlink()
    wait_until_hot(paths[4])
