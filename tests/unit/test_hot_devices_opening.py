from __future__ import annotations

import os
import sys

import pytest

from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import map_slab, open_devices


@pytest.fixture
def no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without the extra `cuda`."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for name in ("cuda", "cuda_calls"):
        monkeypatch.delitem(sys.modules, f"memfs.hot.devices.{name}", raising=False)


@pytest.mark.usefixtures("no_bindings")
@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1", "GPU-00000000"])
def test_a_gpu_without_the_bindings_names_the_extra(name: str) -> None:
    """The user knows what to install."""
    with pytest.raises(DeviceError, match=r"memfs-tiers\[cuda\]"):
        open_devices([name])


@pytest.mark.usefixtures("no_bindings")
@pytest.mark.parametrize("name", ["", "tpu", "cpu:", "cpu:x", "cuda:-1", "CPU", "GPU-", "autos"])
def test_a_name_of_no_device_is_refused_as_such(name: str) -> None:
    """Not as one that could be had by installing something."""
    with pytest.raises(DeviceError, match="not one of auto"):
        open_devices([name])


def test_devices_of_shared_memory_have_a_uuid_each() -> None:
    """The same in every process."""
    devices = open_devices(["cpu", "cpu:1"])
    assert [(each.kind, each.uuid, each.name) for each in devices] == [
        ("cpu", "CPU-0", "cpu:0"),
        ("cpu", "CPU-1", "cpu:1"),
    ]


@pytest.mark.parametrize("names", [("cpu", "cpu"), ("cpu", "cpu:0")])
def test_a_device_is_not_opened_twice(names: tuple[str, ...]) -> None:
    """Its memory would be counted twice."""
    with pytest.raises(DeviceError, match="twice"):
        open_devices(names)


@pytest.mark.usefixtures("no_bindings")
@pytest.mark.parametrize(
    ("kind", "private", "message"),
    [
        ("cuda", False, r"memfs-tiers\[cuda\]"),
        ("cuda", True, "clone"),
        ("tpu", False, "kind 'tpu'"),
        ("cpu", False, "no slab"),
    ],
)
def test_a_slab_that_cannot_be_mapped_is_closed(kind: str, private: bool, message: str) -> None:
    """Its descriptor is the callee's, whatever happens; and the error is one of devices."""
    fd, other = os.pipe()
    with pytest.raises(DeviceError, match=message):
        map_slab(kind, "CPU-0", fd, 4096, private=private)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    os.close(other)
