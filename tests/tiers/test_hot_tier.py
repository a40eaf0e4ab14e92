"""The hot tier under a mount, on the CPU twin: pins, tickets, generations, capacities, refusals."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memfs.control.client import call
from memfs.errors import NotPermittedError
from memfs.hot.client import HotClient, read_ticket
from memfs.hot.pool import HotTierFullError
from memfs.hot.protocol import HotMissError
from memfs.hot.tensors import FormatError
from memfs.manager.configuration import has_gpu
from tests.mounting import Mount, MountError, run_memfs
from tests.outcomes import error_of
from tests.processes import ALICE, killed_by, run_as
from tests.tiers.tensors import HOT, Attached, bytes_of, safetensors_of, tensors, ticket_of
from tests.tiers.tiering import pin, residence, send, tell, tier_status, told, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.conftest import MountFactory
    from tests.scratch import Scratch

MIB = 1 << 20


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    made = mount_factory(driver, config=HOT)
    wait_for(lambda: tier_status(made, "hot")["note"] is None, lambda: tier_status(made, "hot"))
    return made


def wait_until_hot(*paths: Path) -> None:
    for path in paths:
        wait_for(
            lambda path=path: told(path, "tier") == "hot",  # type: ignore[misc]  # bound at once
            lambda path=path: (told(path, "tier"), residence(path), why(path)),  # type: ignore[misc]  # ditto
        )


def hot_status(mount: Mount) -> dict[str, Any]:
    answer = call(mount.state, "hot")
    assert isinstance(answer, dict)
    return answer


def lease_count(mount: Mount) -> int:
    return int(hot_status(mount)["lease_count"])


def test_a_pinned_file_is_on_the_device_and_equal_to_the_file(mount: Mount) -> None:
    """`setfattr -n user.memfs.tier -v hot`; a program attaches to it and sees its tensors."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB))
    assert ticket_of(path).resident is False
    pin(path, "hot")
    wait_until_hot(path)
    assert residence(path).devices == ["CPU-0"]
    assert (told(path, "pin"), why(path)["rule"]) == ("hot", "hot")
    assert "3 tensors on CPU-0" in why(path)["detail"]
    attached = Attached(path)
    assert attached.tensors() == bytes_of(tensors(MIB))
    assert attached.lease.index.metadata == {"seed": "1"}
    assert lease_count(mount) == 1
    attached.close()
    assert lease_count(mount) == 0
    wait_for(
        lambda: re.search(
            r'^memfs_opens_total\{.*level="hot"\} 1$',
            (mount.root / ".memfs/metrics").read_text(),
            re.MULTILINE,
        ),
        "the attach to be counted",
    )
    shown = tier_status(mount, "hot")
    assert (shown["file_count"], shown["capacity_bytes"]) == (1, 64 * MIB)
    assert MIB <= shown["used_bytes"] < 2 * MIB
    assert path.read_bytes() == safetensors_of(MIB)


def test_what_no_program_has_for_long_leaves_the_device(mount: Mount) -> None:
    """By the age of its mark; not while a program has it there, and not what is pinned."""
    pinned, kept, path = (mount.root / f"{name}.safetensors" for name in ("pinned", "kept", "old"))
    for each in (pinned, kept, path):
        each.write_bytes(safetensors_of(MIB))
        pin(each, "hot")
        wait_until_hot(each)
    for each in (kept, path):
        run_memfs("unpin", each)
    attached = Attached(kept)
    for each in (pinned, kept, path):
        tell(each, "policy", '{"hot_to_warm": "100ms"}')
    wait_for(lambda: not residence(path).devices, lambda: hot_status(mount))
    assert why(path)["rule"] == "age"
    assert "no program had it on a device for 100 ms (user.memfs.policy" in why(path)["detail"]
    assert residence(pinned).devices == residence(kept).devices == ["CPU-0"]
    assert attached.tensors() == bytes_of(tensors(MIB))
    attached.close()
    wait_for(lambda: not residence(kept).devices, lambda: hot_status(mount))
    assert kept.read_bytes() == safetensors_of(MIB)


@pytest.mark.any_driver
@pytest.mark.expects_log("the hot tier is away")
def test_a_pin_to_a_device_that_is_not_there_says_so(
    driver: str, mount_factory: MountFactory
) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    made = mount_factory(driver, config=HOT.replace('"cpu"', '"cuda:0"'))
    wait_for(lambda: "CUDA driver" in str(tier_status(made, "hot")["note"]), "the tier to say so")
    path = made.root / "a.safetensors"
    path.write_bytes(safetensors_of(MIB))
    pin(path, "hot")
    assert why(path)["detail"] == "pinned to hot, whose tier does not serve at present"
    assert "CUDA driver" in why(path)["hot_tier"]
    assert "hot tier does not serve at present: no CUDA driver" in run_memfs("why", path)


def test_unpinning_leaves_it_until_room_is_needed(mount: Mount) -> None:
    """And a pin to another tier takes it away."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB))
    pin(path, "hot")
    wait_until_hot(path)
    run_memfs("unpin", path)
    wait_for(lambda: not hot_status(mount)["slabs"][0]["pinned"], lambda: hot_status(mount))
    assert told(path, "tier") == "hot"
    send("glacier", path)
    wait_for(lambda: hot_status(mount)["slab_count"] == 0, lambda: hot_status(mount))
    assert residence(path).devices == []
    pin(path, "hot")
    wait_until_hot(path)
    assert "raw" in residence(path).forms


@pytest.mark.any_driver
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"plain text " * 1000, "no tensors"),
        (safetensors_of(5000)[:-3], "model.safetensors"),
    ],
)
def test_what_is_no_tensors_is_einval_and_says_why(
    mount: Mount, content: bytes, reason: str
) -> None:
    """And the pin that was in force stays."""
    path = mount.root / "model.safetensors"
    path.write_bytes(content)
    pin(path, "warm")
    assert error_of(lambda: pin(path, "hot")) == "EINVAL"
    assert reason in why(path)["hot"]
    assert told(path, "pin") == "warm"
    with pytest.raises(MountError, match=f"(?s)exit 1.*{reason}"):
        run_memfs("pin", "hot", path)
    assert reason in run_memfs("why", path)
    path.write_bytes(safetensors_of(5000))
    pin(path, "hot")
    wait_until_hot(path)
    assert "hot" not in why(path)


def test_a_header_is_checked_without_fetching_the_file(mount: Mount) -> None:
    """That of a file in the object store too: it is a matter of a few frames."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB)[:-1])
    send("glacier", path)
    assert error_of(lambda: pin(path, "hot")) == "EINVAL"
    assert residence(path).forms == ["remote"]


@pytest.mark.any_driver
def test_a_directory_sends_all_tensors_below_it(mount: Mount) -> None:
    """Files without tensors say so and stay where they are; new files follow."""
    below = mount.root / "models" / "deep"
    below.mkdir(parents=True)
    (below / "a.safetensors").write_bytes(safetensors_of(50_000))
    (below / "notes.txt").write_bytes(b"not tensors" * 100)
    pin(mount.root / "models", "hot")
    wait_until_hot(below / "a.safetensors")
    wait_for(lambda: "no tensors" in why(below / "notes.txt").get("hot", ""), "the reason")
    assert told(below / "notes.txt", "tier") in ("warm", "cold")
    np.save(below / "b.npy", np.arange(1000, dtype=np.float32))
    wait_until_hot(below / "b.npy")


def test_a_rewritten_file_is_a_new_generation(mount: Mount) -> None:
    """Programs that have the old one mapped keep it; its memory goes with their leases."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB, seed=1))
    pin(path, "hot")
    wait_until_hot(path)
    old = Attached(path)
    with path.open("r+b") as file:
        file.write(safetensors_of(MIB, seed=2))
        assert told(path, "tier") != "hot"
        assert error_of(lambda: os.getxattr(path, "user.memfs.lease")) == "ENODATA"
    wait_until_hot(path)
    new = Attached(path)
    assert old.tensors() == bytes_of(tensors(MIB, seed=1))
    assert new.tensors() == bytes_of(tensors(MIB, seed=2))
    assert new.lease.generation > old.lease.generation
    assert hot_status(mount)["slab_count"] == 2
    old.close()
    wait_for(lambda: hot_status(mount)["slab_count"] == 1, lambda: hot_status(mount))
    new.close()


def test_a_ticket_of_before_the_rewrite_opens_nothing(mount: Mount) -> None:
    """It was for another generation."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB, seed=1))
    pin(path, "hot")
    wait_until_hot(path)
    attached = Attached(path)
    ticket = ticket_of(path)
    path.write_bytes(safetensors_of(MIB, seed=2))
    wait_until_hot(path)
    with pytest.raises(HotMissError):
        attached.client.attach(ticket.token)
    with pytest.raises(NotPermittedError, match="used before"):
        attached.client.attach(ticket.token, demand=True)
    attached.close()


def test_a_removed_file_leaves_the_device(mount: Mount) -> None:
    """Within a round; who has it mapped keeps it."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB))
    pin(path, "hot")
    wait_until_hot(path)
    attached = Attached(path)
    path.unlink()
    wait_for(lambda: hot_status(mount)["slabs"][0]["state"] == "doomed", lambda: hot_status(mount))
    assert attached.tensors() == bytes_of(tensors(MIB))
    attached.close()
    wait_for(lambda: hot_status(mount)["slab_count"] == 0, lambda: hot_status(mount))


@pytest.mark.any_driver
def test_a_program_that_asks_gets_a_file_that_nobody_pinned(mount: Mount) -> None:
    """It is loaded on demand, and can leave again; without asking it is a miss."""
    path = mount.root / "model.npy"
    np.save(path, np.arange(5000, dtype=np.int16))
    send("glacier", path)
    # Its pin would send it back at once, and say so.
    run_memfs("unpin", path)
    with pytest.raises(HotMissError):
        Attached(path)
    attached = Attached(path, demand=True)
    assert attached.tensors() == {"array": np.arange(5000, dtype=np.int16).tobytes()}
    [slab] = hot_status(mount)["slabs"]
    assert (slab["ino"], slab["pinned"], slab["leases"]) == (path.stat().st_ino, False, 1)
    attached.close()
    text = mount.root / "text"
    text.write_bytes(b"text" * 100)
    with pytest.raises(FormatError, match="text"):
        Attached(text, demand=True)


@pytest.mark.any_driver
def test_a_precision_view_is_made_once_for_all_programs(mount: Mount) -> None:
    """The file stays as it is."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB))
    pin(path, "hot")
    wait_until_hot(path)
    first, second = (Attached(path, dtype="float16") for _ in range(2))
    expected = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in tensors(MIB).items()
    }
    assert first.tensors() == second.tensors() == bytes_of(expected)
    assert hot_status(mount)["slab_count"] == 2
    assert first.lease.report == {"cast_count": 1, "overflow_count": 0}
    first.close()
    second.close()
    assert path.read_bytes() == safetensors_of(MIB)


@pytest.mark.any_driver
def test_a_full_tier_refuses_with_a_reason_and_loads_when_there_is_room(mount: Mount) -> None:
    """Pinned files never push each other out; the file is served from disk meanwhile."""
    paths = [mount.root / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(safetensors_of(25 * MIB, seed=number))
        pin(path, "hot")
        if number < 2:
            wait_until_hot(path)
    wait_for(lambda: "pending" in why(paths[2]), lambda: why(paths[2]))
    pending = why(paths[2])["pending"]
    assert (pending["wanted"], pending["code"]) == ("hot", "full")
    assert "unpin others, close programs that hold tensors, or raise hot.size" in pending["reason"]
    with pytest.raises(HotTierFullError):
        Attached(paths[2], demand=True)
    run_memfs("unpin", paths[0])
    wait_until_hot(paths[1], paths[2])
    wait_for(lambda: told(paths[0], "tier") != "hot", lambda: hot_status(mount))


@pytest.mark.any_driver
def test_a_snapshot_keeps_tensors_through_a_rewrite(mount: Mount) -> None:
    """No copy is made, and dropping it gives the memory back."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(MIB, seed=1))
    pin(path, "hot")
    wait_until_hot(path)
    client = (attached := Attached(path)).client
    attached.close()
    assert client.snapshot("before", {"it": ticket_of(path).token})["count"] == 1
    path.unlink()
    path.write_bytes(safetensors_of(MIB, seed=2))
    pin(path, "hot")
    wait_until_hot(path)
    old = Attached(path, client.attach_snapshot("before", "it"))
    new = Attached(path)
    assert old.tensors() == bytes_of(tensors(MIB, seed=1))
    assert new.tensors() == bytes_of(tensors(MIB, seed=2))
    old.close()
    new.close()
    for missing in (("before", "other"), ("after", "it")):
        with pytest.raises(HotMissError):
            client.attach_snapshot(*missing)
    ticket = ticket_of(path)

    def steal() -> str:
        try:
            HotClient.connect(ticket.address, ticket.uid).attach_snapshot("before", "it")
        except NotPermittedError as error:
            return str(error)
        return "attached"

    assert "another user's" in run_as(ALICE, steal)
    client.drop_snapshot("before")
    wait_for(lambda: hot_status(mount)["slab_count"] == 1, lambda: hot_status(mount))


@pytest.mark.any_driver
def test_snapshots_of_a_user_have_a_share_and_root_lists_and_drops_them(mount: Mount) -> None:
    """No ordinary user fills the device for good; `memfs tensor-snapshots` shows who keeps what."""
    paths = [mount.root / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(safetensors_of(7 * MIB, seed=number))
        pin(path, "hot")
    wait_until_hot(*paths)

    def keep(count: int, name: str = "alices") -> str:
        client = HotClient.connect(ticket_of(paths[0]).address, 0)
        try:
            for path in paths[:count]:
                client.snapshot(name, {path.name: ticket_of(path).token})
        except HotTierFullError as error:
            return str(error)
        finally:
            client.close()
        return "kept"

    assert run_as(ALICE, keep, 2) == "kept"
    refusal = run_as(ALICE, keep, 3)
    assert f"user {ALICE.uid} would keep" in refusal
    assert "may keep 16.0 MiB: drop some, or raise hot.snapshot_share" in refusal
    assert "would keep" in keep(3)
    assert keep(3, "roots") == "kept"
    listed = run_memfs("tensor-snapshots", mount.root)
    assert listed == f"roots  root  21.0 MiB in 3 slabs\nalices  {ALICE.uid}  14.0 MiB in 2 slabs\n"
    run_memfs("tensor-snapshots", "--drop", "alices", "--drop", "roots", mount.root)
    assert run_memfs("tensor-snapshots", mount.root) == ""
    with pytest.raises(MountError, match="there is no snapshot"):
        run_memfs("tensor-snapshots", "--drop", "alices", mount.root)
    assert run_as(ALICE, keep, 2) == "kept"


def test_a_user_is_shown_what_he_may_open(mount: Mount) -> None:
    """Slabs that his programs lease or his snapshots keep; root is shown all."""
    secret, open_to_all = (mount.root / f"{name}.safetensors" for name in ("secret", "open"))
    for path in (secret, open_to_all):
        path.write_bytes(safetensors_of(MIB))
        pin(path, "hot")
    secret.chmod(0o600)
    wait_until_hot(secret, open_to_all)
    root = HotClient.connect(ticket_of(secret).address, 0)
    root.snapshot("of-root", {"it": ticket_of(secret).token, "other": ticket_of(open_to_all).token})
    ino = open_to_all.stat().st_ino

    def look() -> list[dict[str, Any]]:
        client = HotClient.connect(ticket_of(open_to_all).address, 0)
        before = client.stats()
        os.close(client.attach(ticket_of(open_to_all).token).slab_fd)
        after = client.stats()
        client.snapshot("of-alice", {"it": ticket_of(open_to_all).token})
        client.close()
        again = HotClient.connect(ticket_of(open_to_all).address, 0)
        last = again.stats()
        again.close()
        return [before, after, last]

    before, after, last = run_as(ALICE, look)
    assert [before[name] for name in ("slabs", "snapshots", "lease_count")] == [[], [], 0]
    assert [(slab["ino"], slab["snapshots"]) for slab in after["slabs"]] == [(ino, [])]
    assert [(slab["ino"], slab["snapshots"]) for slab in last["slabs"]] == [(ino, ["of-alice"])]
    assert [snapshot["name"] for snapshot in last["snapshots"]] == ["of-alice"]
    assert before["devices"][0]["used_bytes"] > MIB
    assert root.stats()["slab_count"] == 2
    assert root.stats()["snapshot_count"] == 2
    root.close()


@pytest.mark.any_driver
def test_a_file_of_plain_numbers_says_what_it_is_by_xattrs(mount: Mount) -> None:
    """`user.memfs.dtype` and `user.memfs.shape`; nonsense is EINVAL and changes nothing."""
    path = mount.root / "numbers.bin"
    numbers = np.arange(600, dtype=np.float32)
    path.write_bytes(numbers.tobytes())
    assert error_of(lambda: pin(path, "hot")) == "EINVAL"
    for name, value in (("dtype", "float99"), ("shape", "20,x")):
        assert error_of(lambda name=name, value=value: tell(path, name, value)) == "EINVAL"  # type: ignore[misc]  # bound at once
        assert error_of(lambda name=name: told(path, name)) == "ENODATA"  # type: ignore[misc]  # ditto
    tell(path, "dtype", "float32")
    tell(path, "shape", "20,30")
    pin(path, "hot")
    wait_until_hot(path)
    attached = Attached(path)
    [tensor] = attached.lease.index.tensors
    assert (tensor.shape, list(attached.tensors().values())) == ((20, 30), [numbers.tobytes()])
    attached.close()


def test_who_may_not_read_a_file_gets_no_ticket_and_uses_no_other_ones(mount: Mount) -> None:
    """The kernel checks the first, and the server by the kernel's word the second."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(50_000))
    path.chmod(0o600)
    pin(path, "hot")
    wait_until_hot(path)

    def try_path() -> str | None:
        return error_of(lambda: os.getxattr(path, "user.memfs.lease"))

    assert run_as(ALICE, try_path) == "EACCES"
    ticket = ticket_of(path)

    def steal() -> str:
        try:
            HotClient.connect(ticket.address, ticket.uid).attach(ticket.token)
        except NotPermittedError as error:
            return str(error)
        return "attached"

    assert f"of user 0, not of {ALICE.uid}" in run_as(ALICE, steal)
    path.chmod(0o644)

    def attach() -> bool:
        attached = Attached(path)
        same = attached.tensors() == bytes_of(tensors(50_000))
        attached.close()
        return same

    assert run_as(ALICE, attach)


@pytest.mark.any_driver
def test_a_mapping_of_the_tensors_cannot_be_written(mount: Mount) -> None:
    """A program that tries is killed by the kernel; nobody else sees anything of it."""
    path = mount.root / "model.safetensors"
    path.write_bytes(safetensors_of(50_000))
    pin(path, "hot")
    wait_until_hot(path)
    attached = Attached(path)

    def write() -> None:
        faulthandler.disable()
        ctypes.memset(attached.mapping.address, 0, 8)

    assert killed_by(write) == signal.SIGSEGV
    assert attached.tensors() == bytes_of(tensors(50_000))
    attached.close()


@pytest.mark.any_driver
def test_prefetching_brings_files_into_the_hot_tier(mount: Mount) -> None:
    """`memfs prefetch --tier hot`."""
    paths = [mount.root / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(safetensors_of(50_000, seed=number))
    call(mount.state, "prefetch", {"paths": [path.name for path in paths], "tier": "hot"})
    wait_until_hot(*paths)


@pytest.mark.any_driver
def test_other_files_and_directories_have_no_ticket(mount: Mount) -> None:
    """ENODATA, which programs take for: no hot tier here. It is not listed, and only tells."""
    directory = mount.root / "directory"
    directory.mkdir()
    assert error_of(lambda: os.getxattr(directory, "user.memfs.lease")) == "ENODATA"
    path = mount.root / "file"
    path.write_bytes(b"x")
    assert "user.memfs.lease" not in os.listxattr(path)
    with pytest.raises(OSError, match="not permitted"):
        tell(path, "lease", "x")
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert read_ticket(fd) is None
    finally:
        os.close(fd)
    ticket = json.loads(os.getxattr(path, "user.memfs.lease"))
    assert ticket["kind"] == "cpu"


@pytest.mark.any_driver
def test_a_header_of_many_tensors_costs_the_daemon_and_others_little(mount: Mount) -> None:
    """It is read by a process of its own, and its index is charged to the capacity."""
    text = json.dumps(
        {
            f"{number:06}{'x' * 100}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for number in range(95_000)
        }
    ).encode()
    pids = mount.daemon_pids()
    before = {pid: peak_bytes(pid) for pid in pids}
    assert len(before) == 2, "the daemon and its hot server"
    path = mount.root / "hostile.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    pin(path, "hot")
    wait_until_hot(path)
    grown = {pid: peak_bytes(pid) - before[pid] for pid in pids}
    server = hot_status(mount)["pid"]
    assert grown[next(pid for pid in pids if pid != server)] < 100 * MIB
    # It keeps the index as bytes; objects of tensors are made and forgotten.
    assert grown[server] < 300 * MIB
    assert 10 * MIB < hot_status(mount)["devices"][0]["used_bytes"] < 20 * MIB
    attached = Attached(path)
    assert len(attached.lease.index.tensors) == 95_000
    attached.close()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had (proc_pid_status(5), VmHWM)."""
    with open(f"/proc/{pid}/status") as lines:
        [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.any_driver
def test_a_hot_tier_without_a_capacity_is_refused(driver: str, scratch_area: Scratch) -> None:
    """Memory of a GPU is nothing to take without being told how much."""
    mount = Mount(scratch_area.directory(driver), driver, '[hot]\ndevices = ["cpu"]\n')
    with pytest.raises(MountError, match=r"hot\.devices needs hot\.size"):
        mount.start()
    assert not mount.is_mounted()
