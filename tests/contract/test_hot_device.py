"""What every device of the hot tier does: the CPU twin, CUDA on a fake driver, and CUDA on a GPU.

Each test is a program of its own: the CUDA bindings keep the first driver that they find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu.driver import build, gpu_count, run_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRELUDE = """
import ctypes, os, signal, socket, subprocess, sys
from memfs.hot.devices.device import DeviceError, DeviceFullError
from memfs.hot.devices.opening import map_slab, open_devices

NAME = {name!r}

def fds():
    return sorted(os.listdir("/proc/self/fd"))

def left():
    return ctypes.CDLL("libcuda.so.1").fake_cuda_left() if {fake} else 0

def content(mapping, size):
    if {gpu}:
        from cuda.bindings import driver
        device.enter()
        target = bytearray(size)
        assert driver.cuMemcpyDtoH(target, mapping.address, size)[0] == 0
        return bytes(target)
    return ctypes.string_at(mapping.address, size)

READER = '''
import ctypes, socket, sys
from memfs.hot.devices.opening import map_slab, open_devices
sock = socket.socket(fileno=globals().get("FD") or int(sys.argv[1]))
size, [fd], _, _ = socket.recv_fds(sock, 20, 1)
assert sock.recv(20) == b"released"
[device] = open_devices(["%s"])
mapping = map_slab(device.kind, device.uuid, fd, int(size), private=False)
if %s:
    from cuda.bindings import driver
    device.enter()
    found = bytearray(7)
    assert driver.cuMemcpyDtoH(found, mapping.address + 4_000_000, 7)[0] == 0
else:
    found = ctypes.string_at(mapping.address + 4_000_000, 7)
assert found == b"content", found
mapping.unmap()
mapping.unmap()
''' % (NAME, {gpu})

[device] = open_devices([NAME])
"""


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(
    params=["cpu", "fake cuda", pytest.param("gpu", marks=pytest.mark.gpu)],
)
def run(request: pytest.FixtureRequest, fake_driver: Path) -> Callable[..., str]:
    """Runs a program in which `device` is open."""
    kind = request.param
    if kind == "gpu" and not gpu_count():
        pytest.skip("no CUDA driver here, or it shows no GPU")
    name = "cpu" if kind == "cpu" else "cuda:0"

    def run_one(program: str, **settings: str) -> str:
        prelude = PRELUDE.format(name=name, fake=kind == "fake cuda", gpu=kind == "gpu")
        driver = fake_driver if kind == "fake cuda" else None
        return run_with(driver, prelude + program, **settings)

    return run_one


def test_what_is_written_is_read_sealed_or_not(run: Callable[..., str]) -> None:
    """At any offset; a slab is as large as asked for, or larger."""
    run("""
slab = device.allocate(3_000_001)
assert slab.size_bytes >= 3_000_001 and slab.size_bytes % device.granularity_bytes == 0
data = bytes(range(256)) * 4096
slab.write(0, memoryview(data)); slab.write(2_000_000, memoryview(data[:1_000_001]))
for _ in range(2):
    target = bytearray(1000)
    slab.read(2_000_100, memoryview(target))
    assert bytes(target) == data[100:1100]
    slab.seal()
slab.release(); slab.release()
device.close(); device.close()
""")


def test_a_sealed_slab_takes_no_more(run: Callable[..., str]) -> None:
    """A program that maps it can rely on that."""
    run("""
slab = device.allocate(10)
slab.seal()
try:
    slab.write(0, memoryview(b"x"))
except DeviceError as error:
    assert "sealed" in str(error)
else:
    raise SystemExit("written")
""")


def test_another_process_maps_what_its_owner_has_let_go_of(run: Callable[..., str]) -> None:
    """The descriptor keeps the memory, and then the mapping does."""
    run("""
ours, theirs = socket.socketpair()
child = os.fork() if NAME == "cpu" else None
if child is None:
    # CUDA does not survive a fork: the reader is a program of its own.
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
elif not child:
    exec(READER, {"sys": sys, "FD": theirs.fileno()})
    os._exit(0)
slab = device.allocate(5_000_000)
slab.write(4_000_000, memoryview(b"content"))
slab.seal()
fd = slab.export()
assert not os.get_inheritable(fd)
socket.send_fds(ours, [b"%d" % slab.size_bytes], [fd])
os.close(fd)
slab.release()
ours.send(b"released")
status = reader.wait() if child is None else os.waitpid(child, 0)[1]
assert status == 0, status
""")


def test_a_mapping_is_read_only(run: Callable[..., str], request: pytest.FixtureRequest) -> None:
    """Writing ends the process that tries, and nobody else sees anything."""
    if "gpu" in request.node.callspec.id:
        pytest.skip("a kernel that writes there ends the context: seen with torch alone")
    run("""
slab = device.allocate(4096)
slab.write(0, memoryview(b"content"))
slab.seal()
mapping = map_slab(device.kind, device.uuid, slab.export(), slab.size_bytes, private=False)
pid = os.fork()
if not pid:
    ctypes.memset(mapping.address, 0, 1)
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.WTERMSIG(status) == signal.SIGSEGV, status
assert content(mapping, 7) == b"content"
""")


def test_a_private_mapping_is_written_by_its_owner_alone(run: Callable[..., str]) -> None:
    """Copy-on-write; memory of a GPU has nothing of that kind and is refused with what to do."""
    run("""
slab = device.allocate(4096)
slab.write(0, memoryview(b"content"))
slab.seal()
arguments = device.kind, device.uuid
if device.kind == "cuda":
    try:
        map_slab(*arguments, slab.export(), slab.size_bytes, private=True)
    except DeviceError as error:
        assert "clone" in str(error)
    else:
        raise SystemExit("mapped")
else:
    mine = map_slab(*arguments, slab.export(), slab.size_bytes, private=True)
    theirs = map_slab(*arguments, slab.export(), slab.size_bytes, private=False)
    ctypes.memset(mine.address, 0, 7)
    assert content(mine, 7) == bytes(7)
    assert content(theirs, 7) == b"content"
""")


def test_a_mapping_larger_than_its_slab_is_refused(run: Callable[..., str]) -> None:
    """A broken server cannot end its clients by a signal."""
    run("""
slab = device.allocate(4096)
slab.seal()
before = fds()
try:
    map_slab(
        device.kind, device.uuid, slab.export(), 2 * slab.size_bytes, private=False
    )
except DeviceError:
    pass
else:
    raise SystemExit("mapped")
assert fds() == before
""")


def test_a_full_device_says_so_and_has_room_again(run: Callable[..., str]) -> None:
    """A slab that does not fit takes nothing."""
    run("""
before = device.memory()
assert 0 < before.free_bytes <= before.total_bytes
slab = device.allocate(device.granularity_bytes)
assert before.free_bytes - device.memory().free_bytes >= device.granularity_bytes
try:
    device.allocate(before.total_bytes * 2)
except DeviceFullError:
    pass
else:
    raise SystemExit("no refusal")
slab.release()
assert device.memory() == before or NAME == "cuda:0"
""")


def test_nothing_is_left_open(run: Callable[..., str]) -> None:
    """Descriptors, handles and ranges of addresses: all are given back."""
    run("""
for turn in range(20):
    if turn == 1:
        # A driver may keep what it opened for its first calls.
        before = fds()
    slab = device.allocate(100_000)
    slab.write(0, memoryview(b"x" * 1000))
    slab.seal()
    slab.read(0, memoryview(bytearray(10)))
    mapping = map_slab(device.kind, device.uuid, slab.export(), slab.size_bytes, private=False)
    mapping.unmap()
    slab.release()
assert fds() == before
device.close()
assert left() == 0
""")


@pytest.mark.parametrize(
    "call",
    [
        "cuMemCreate:1",
        "cuMemAddressReserve:1",
        "cuMemMap:1",
        "cuMemSetAccess:1",
        "cuMemcpyHtoD_v2:1",
        "cuCtxSynchronize:1",
        "cuMemExportToShareableHandle:1",
        "cuMemImportFromShareableHandle:1",
        "cuMemAddressReserve:2",
        "cuMemMap:2",
        "cuMemSetAccess:2",
        "cuDevicePrimaryCtxRetain:1",
        "cuDevicePrimaryCtxRetain:2",
        "cuCtxSetCurrent:1",
        "cuCtxSetCurrent:2",
        "cuCtxSetCurrent:3",
        "cuCtxSetCurrent:4",
        "cuCtxPushCurrent_v2:1",
        "cuMemGetAllocationGranularity:1",
        "cuDeviceGetAttribute:1",
        "cuDeviceGet:1",
        "cuInit:1",
    ],
)
def test_a_call_of_the_driver_that_fails_leaves_nothing(fake_driver: Path, call: str) -> None:
    """Whatever was made before it is given back, and the error names the call."""
    program = PRELUDE.replace("[device] = open_devices([NAME])", "").format(
        name="cuda:0", fake=True, gpu=False
    )
    name = call.partition(":")[0].removesuffix("_v2")
    program += f"""
before = fds()
device = slab = None
try:
    [device] = open_devices([NAME])
    slab = device.allocate(100)
    slab.write(0, memoryview(b"x"))
    slab.seal()
    map_slab(device.kind, device.uuid, slab.export(), slab.size_bytes, private=False)
except DeviceError as error:
    assert {name!r} in str(error), error
else:
    raise SystemExit("nothing failed")
if slab is not None:
    slab.release()
if device is not None:
    device.close()
assert fds() == before
assert left() == 0, left()
"""
    run_with(fake_driver, program, CUDA_FAKE_FAIL=call)


def test_a_mapping_waits_for_the_device_before_it_goes(fake_driver: Path) -> None:
    """Kernels that are queued still may use it: until it is known that no kernel does, it stays."""
    program = PRELUDE.format(name="cuda:0", fake=True, gpu=False)
    program += """
slab = device.allocate(100)
slab.write(0, memoryview(b"content"))
slab.seal()
mapping = map_slab(device.kind, device.uuid, slab.export(), slab.size_bytes, private=False)
try:
    mapping.unmap()
except DeviceError as error:
    assert "cuCtxSynchronize" in str(error)
else:
    raise SystemExit("unmapped")
assert content(mapping, 7) == b"content"
mapping.unmap()
assert mapping.address == 0
slab.release()
device.close()
assert left() == 0
"""
    run_with(fake_driver, program, CUDA_FAKE_FAIL="cuCtxSynchronize:2")


def test_mapping_leaves_the_thread_the_context_that_it_had(fake_driver: Path) -> None:
    """It is a thread of the user's, who may be working on another device."""
    program = PRELUDE.format(name="cuda:1", fake=True, gpu=False)
    program += """
from cuda.bindings import driver

def current():
    return int(driver.cuCtxGetCurrent()[1])

slab = device.allocate(100)
slab.seal()
fd = slab.export()
[other] = open_devices(["cuda:0"])
other.enter()
before = current()
mapping = map_slab(device.kind, device.uuid, fd, slab.size_bytes, private=False)
assert current() == before
mapping.unmap()
assert current() == before
"""
    run_with(fake_driver, program, CUDA_FAKE_DEVICES="2")


def test_devices_are_found_by_all_their_names(fake_driver: Path) -> None:
    """And no device twice; what is not there is told with what is."""
    program = """
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import open_devices
names = lambda *wanted: [device.name for device in open_devices(wanted)]
assert names("auto") == ["cuda:0", "cuda:1", "cuda:2"]
assert names("cuda") == ["cuda:0"]
assert names("cuda:2", "cpu:1", "cpu") == ["cuda:2", "cpu:1", "cpu:0"]
[device] = open_devices(["cuda:1"])
assert names(device.uuid) == ["cuda:1"]
for wanted, message in [
    (["cuda:3"], "shows 3 devices"),
    (["GPU-x"], "there is no GPU-x"),
    (["tpu"], "not one of auto"),
    (["cuda:x"], "not one of auto"),
    (["cuda:0", "auto"], "twice"),
]:
    try:
        open_devices(wanted)
    except DeviceError as error:
        assert message in str(error), error
    else:
        raise SystemExit(wanted)
"""
    run_with(fake_driver, program, CUDA_FAKE_DEVICES="3")


@pytest.mark.parametrize("name", ["cuda:0", "auto"])
@pytest.mark.parametrize("attribute", ["102", "103"])
def test_a_device_that_cannot_share_memory_is_refused(
    fake_driver: Path, attribute: str, name: str
) -> None:
    """Some virtual GPUs, and WSL 2."""
    program = f"""
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import open_devices
try:
    open_devices([{name!r}])
except DeviceError as error:
    assert "cuda:0 has no" in str(error), error
    assert "which the hot tier needs" in str(error), error
else:
    raise SystemExit("opened")
"""
    run_with(fake_driver, program, CUDA_FAKE_WITHOUT=attribute)


def test_auto_leaves_out_what_cannot_share_memory(fake_driver: Path) -> None:
    """One such device does not take the tier from the others."""
    program = """
from memfs.hot.devices.opening import open_devices
print(*[device.name for device in open_devices(["auto"])])
"""
    settings = {"CUDA_FAKE_DEVICES": "3", "CUDA_FAKE_WITHOUT": "102@1"}
    assert run_with(fake_driver, program, **settings) == "cuda:0 cuda:2\n"


def test_a_device_without_rdma_is_as_good(fake_driver: Path) -> None:
    """Slabs are made for RDMA only where there is any; the fake driver takes nothing else."""
    program = """
from memfs.hot.devices.opening import open_devices
[device] = open_devices(["cuda:0"])
device.allocate(100).release()
"""
    run_with(fake_driver, program, CUDA_FAKE_WITHOUT="110")


def test_a_driver_without_a_gpu_says_what_to_look_at(fake_driver: Path) -> None:
    """`CUDA_VISIBLE_DEVICES` may hide them all."""
    program = """
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import open_devices
try:
    open_devices(["auto"])
except DeviceError as error:
    assert "CUDA_VISIBLE_DEVICES" in str(error), error
else:
    raise SystemExit("opened")
"""
    run_with(fake_driver, program, CUDA_FAKE_DEVICES="0")


def test_a_machine_without_a_driver_says_what_is_missing(tmp_path: Path) -> None:
    """The bindings are there, the driver is not."""
    if gpu_count():
        pytest.skip("this machine has a CUDA driver")
    program = """
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.opening import open_devices
try:
    open_devices(["auto"])
except DeviceError as error:
    assert "no CUDA driver here" in str(error), error
else:
    raise SystemExit("opened")
"""
    run_with(tmp_path, program)
