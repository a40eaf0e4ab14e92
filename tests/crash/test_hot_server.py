"""The ends of programs, daemon and hot server, in any order: no byte and no accounting is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memfs.control.client import call
from memfs.hot.protocol import send
from memfs.linux.readiness import await_ready
from tests import scratch
from tests.processes import holding
from tests.tiers.tensors import HOT, Attached, bytes_of, safetensors_of, tensors, ticket_of
from tests.tiers.tiering import pin, residence, tier_status, told, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20
AWAY = r"WARNING.*: the hot tier is away, next try in \d+ s: "


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    made = mount_factory(driver, config=HOT)
    wait_for(lambda: tier_status(made, "hot")["note"] is None, lambda: tier_status(made, "hot"))
    return made


@pytest.fixture
def path(mount: Mount) -> Path:
    """A file in the hot tier."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB))
    pin(path, "hot")
    wait_until_hot(path)
    return path


def wait_until_hot(path: Path) -> None:
    wait_for(lambda: told(path, "tier") == "hot", lambda: (residence(path), why(path)))


def hot(mount: Mount) -> dict[str, Any]:
    answer = call(mount.state, "hot")
    assert isinstance(answer, dict)
    return answer


@pytest.mark.any_driver
def test_a_program_that_is_killed_gives_its_leases_back(mount: Mount, path: Path) -> None:
    """The kernel closes its connection, and that is the lease."""
    with holding(lambda: [Attached(path) for _ in range(3)] and None):
        assert hot(mount)["lease_count"] == 3
    wait_for(lambda: hot(mount)["lease_count"] == 0, lambda: hot(mount))


@pytest.mark.any_driver
def test_a_fork_keeps_no_lease_of_its_parent(mount: Mount, path: Path) -> None:
    """A child that goes on after its parent's end holds nothing."""
    read_fd, write_fd = os.pipe()
    parent = os.fork()
    if not parent:
        attached = Attached(path)
        child = os.fork()
        if child:
            os.write(write_fd, b"%d" % child)
            os.kill(os.getpid(), signal.SIGKILL)
        assert attached.tensors() == bytes_of(tensors(MIB))
        signal.pause()
        os._exit(0)
    child = int(os.read(read_fd, 20))
    try:
        os.waitpid(parent, 0)
        wait_for(lambda: hot(mount)["lease_count"] == 0, lambda: hot(mount))
    finally:
        scratch.kill_and_wait(child)
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.any_driver
def test_the_server_is_first_to_go_when_memory_runs_out(mount: Mount, path: Path) -> None:
    """What it holds is a copy; what the daemon holds is the mount."""
    server = hot(mount)["pid"]
    (daemon,) = set(mount.daemon_pids()) - {server}
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (server, daemon)]
    assert scores[0] == 0
    assert scores[1] <= scores[0]
    assert told(path, "tier") == "hot"


@pytest.mark.any_driver
def test_the_server_gets_no_secret_of_the_daemon(
    driver: str, mount_factory: MountFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment has what it needs for devices and Python, and nothing else."""
    for name in ("AWS_SECRET_ACCESS_KEY", "MEMFS_KEY", "CREDENTIALS_DIRECTORY", "NVIDIA_API_KEY"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = mount_factory(driver, config=HOT)
    wait_for(lambda: tier_status(made, "hot")["note"] is None, lambda: tier_status(made, "hot"))
    environment = Path(f"/proc/{hot(made)['pid']}/environ").read_bytes()
    assert b"a-secret" not in environment
    assert b"CUDA_VISIBLE_DEVICES=0\0" in environment


@pytest.mark.any_driver
@pytest.mark.expects_log(AWAY)
def test_a_killed_server_is_started_again_and_loads_what_is_pinned(
    mount: Mount, path: Path
) -> None:
    """What programs have mapped stays readable; the file is served from disk meanwhile."""
    attached = Attached(path)
    first = hot(mount)
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: told(path, "tier") != "hot", "the end of the server")
    assert attached.tensors() == bytes_of(tensors(MIB))
    assert path.read_bytes() == safetensors_of(MIB)
    wait_until_hot(path)
    second = hot(mount)
    assert (second["start_count"], second["slab_count"], second["lease_count"]) == (2, 1, 0)
    assert second["pid"] != first["pid"]
    attached.close()
    again = Attached(path)
    assert again.tensors() == bytes_of(tensors(MIB))
    again.close()


@pytest.mark.any_driver
@pytest.mark.expects_log(AWAY)
def test_a_program_whose_server_has_died_is_told(mount: Mount, path: Path) -> None:
    """It does not hang: its connection is closed, and there is no other one."""
    from memfs.hot.client import HotClient
    from memfs.hot.protocol import HotGoneError

    ticket = ticket_of(path)
    client = HotClient.connect(ticket.address, ticket.uid)
    scratch.kill_and_wait(hot(mount)["pid"])
    with pytest.raises(HotGoneError):
        client.attach(ticket.token, demand=True, timeout_s=50)
    assert client.closed
    with pytest.raises(HotGoneError):
        HotClient.connect(ticket.address, ticket.uid)
    wait_until_hot(path)


def test_a_killed_daemon_takes_its_server_along(mount: Mount, path: Path) -> None:
    """Tensors in use stay readable, and the next mount loads what is pinned."""
    attached = Attached(path)
    server = hot(mount)["pid"]
    (daemon,) = set(mount.daemon_pids()) - {server}
    server_fd = os.pidfd_open(server)
    scratch.kill_and_wait(daemon)
    wait_for(lambda: not _is_alive(server_fd), "a server that outlives its daemon")
    os.close(server_fd)
    assert attached.tensors() == bytes_of(tensors(MIB))
    attached.close()
    scratch.detach(mount.root)
    mount.start()
    wait_until_hot(path)
    again = Attached(path)
    assert again.tensors() == bytes_of(tensors(MIB))
    again.close()
    assert path.read_bytes() == safetensors_of(MIB)


def test_unmounting_ends_the_server_and_leaves_tensors_in_use_alone(
    mount: Mount, path: Path
) -> None:
    """Without a word of warning in the log."""
    attached = Attached(path)
    mount.stop()
    assert scratch.processes_naming(mount.state) == []
    assert attached.tensors() == bytes_of(tensors(MIB))
    attached.close()
    mount.start()
    wait_until_hot(path)


@pytest.mark.expects_log(AWAY)
def test_a_device_that_is_not_there_leaves_a_mount_that_works(
    driver: str, mount_factory: MountFactory
) -> None:
    """`memfs status` says what is missing, and pins wait."""
    config = '[hot]\ndevices = ["cuda:0"]\nsize = "1GiB"\n'
    mount = mount_factory(driver, config=config)
    wait_for(
        lambda: "CUDA" in (tier_status(mount, "hot")["note"] or ""),
        lambda: tier_status(mount, "hot"),
    )
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(5000))
    pin(path, "hot")
    assert (told(path, "pin"), told(path, "tier")) in (("hot", "warm"), ("hot", "cold"))
    assert path.read_bytes() == safetensors_of(5000)


@pytest.mark.any_driver
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_daemon_that_goes_while_its_server_starts_is_no_defect(
    tmp_path: Path, device: str
) -> None:
    """Whether the server has a device to tell of or an error: nobody is left to be told."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    config: dict[str, object] = {
        "devices": [device],
        "size_bytes": MIB,
        "reserve_bytes": 0,
        "high_watermark": 0.8,
        "low_watermark": 0.7,
        "admission_share": 0.5,
        "snapshot_share": 0.25,
        "secret": "00",
        "address": f"memfs-test-{os.getpid()}-{device}",
    }
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "memfs_daemon.hot", str(tmp_path)],
            stdin=theirs.fileno(),
            stderr=subprocess.PIPE,
            text=True,
        )
    with ours:
        send(ours, config)
    _, log = server.communicate(timeout=60)
    assert (server.returncode, log.count("Traceback"), "WARNING" in log) == (0, 0, False)


def _is_alive(process_fd: int) -> bool:
    return not await_ready([process_fd], 0)
