"""`user.memfs.*`: what they tell, what they take, and what they refuse with which error."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import blake3
import pytest

from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.processes import ALICE, run_as
from tests.tiers.tiering import (
    compressible,
    pin,
    residence,
    send,
    tell,
    told,
    wait_until_at,
    why,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

READ_ONLY = ("pin", "state", "residency", "why", "digest")
CONTENT = compressible(300_000)


def refusal(action: Callable[..., object], *args: object) -> int:
    """Return the errno of a call that must fail."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  its errno is what the caller asserts
        action(*args)
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.fixture
def file(place: Path) -> Path:
    path = place / "file"
    path.write_bytes(CONTENT)
    return path


def test_a_new_file_is_warm_dirty_raw_and_not_pinned(file: Path) -> None:
    """New data is in RAM, and nothing is promised of it before an fsync."""
    assert told(file, "state") == "dirty"
    wait_for(lambda: residence(file).locked, lambda: (residence(file), why(file)))
    assert told(file, "tier") == "warm"
    assert told(file, "pin") == "auto"
    assert told(file, "codec") == "zstd:3"
    assert residence(file).forms == ["raw"]
    assert residence(file).ram_bytes >= len(CONTENT)
    assert residence(file).devices == []
    assert why(file)["rule"] == "seal"
    assert refusal(told, file, "digest") == errno.ENODATA


def test_state_rises_with_safety_and_falls_with_a_change(file: Path) -> None:
    """`dirty` < `local` < `remote`; what is said of one generation is not said of the next."""
    assert told(file, "state") == "dirty"
    wait_for(lambda: told(file, "state") == "local", lambda: told(file, "state"))
    send("glacier", file)
    assert told(file, "state") == "remote"
    digest = told(file, "digest")
    with file.open("r+b") as opened:
        opened.write(b"changed")
        opened.flush()
        assert told(file, "state") == "dirty"
        assert refusal(told, file, "digest") == errno.ENODATA
    changed = b"changed" + CONTENT[7:]
    wait_until_at("glacier", file)
    assert told(file, "state") == "remote"
    assert told(file, "digest") == blake3.blake3(changed).hexdigest() != digest


def test_reading_alone_leaves_state_and_digest(file: Path) -> None:
    """A copy that was fetched to be read is no new generation."""
    send("glacier", file)
    digest = told(file, "digest")
    assert digest == blake3.blake3(CONTENT).hexdigest()
    pin(file, "auto")
    assert file.read_bytes() == CONTENT
    assert told(file, "state") == "remote"
    assert told(file, "digest") == digest


@pytest.mark.parametrize("tier", ["warm", "cold", "glacier"])
def test_a_written_tier_is_the_pin_until_it_is_removed(file: Path, tier: str) -> None:
    """The pin shows at once; where the file is follows."""
    pin(file, tier)
    assert told(file, "pin") == tier
    wait_until_at(tier, file)
    wait_for(lambda: why(file)["rule"] in ("pin", "seal"), lambda: why(file))
    os.removexattr(file, "user.memfs.tier")
    assert told(file, "pin") == "auto"
    assert told(file, "tier") == tier
    assert refusal(os.removexattr, file, "user.memfs.tier") == errno.ENODATA


def test_auto_unpins(file: Path) -> None:
    """`auto` and removing are one."""
    pin(file, "cold")
    pin(file, "auto")
    assert told(file, "pin") == "auto"
    assert os.listxattr(file) == []
    pin(file, "auto")


def test_a_value_may_end_as_tools_end_it(file: Path) -> None:
    """`echo cold | attr` brings a newline, C programs a NUL."""
    for value in (b"cold\n", b"cold\0"):
        os.setxattr(file, "user.memfs.tier", value)
        assert told(file, "pin") == "cold"
        pin(file, "auto")


@pytest.mark.parametrize("value", [b"", b"lukewarm", b"warm cold", b"3", b"\xff\xfe", b"x" * 5000])
def test_a_tier_that_makes_no_sense_is_einval_and_changes_nothing(file: Path, value: bytes) -> None:
    """The former pin stays in force."""
    pin(file, "warm")
    assert refusal(os.setxattr, file, "user.memfs.tier", value) == errno.EINVAL
    assert told(file, "pin") == "warm"


@pytest.mark.parametrize(
    "value",
    ["", "brotli", "zstd:0", "zstd:20", "zstd:", "zstd:x", "zstd:-1", "lz4:99999", "none:1"],
)
def test_a_codec_that_makes_no_sense_is_einval_and_changes_nothing(file: Path, value: str) -> None:
    """As with tiers."""
    tell(file, "codec", "lz4")
    assert refusal(tell, file, "codec", value) == errno.EINVAL
    assert told(file, "codec") == "lz4"


def test_a_codec_is_kept_and_can_be_removed(file: Path) -> None:
    """Removing goes back to what is configured; a second time there is nothing to remove."""
    for codec in ("zstd:1", "zstd:19", "lz4", "snappy", "none"):
        tell(file, "codec", codec)
        assert told(file, "codec") == codec
    os.removexattr(file, "user.memfs.codec")
    assert told(file, "codec") == "zstd:3"
    assert refusal(os.removexattr, file, "user.memfs.codec") == errno.ENODATA


def test_the_hot_tier_is_not_there(file: Path, mount: Mount) -> None:
    """A tier of the design that no mount has yet is ENOTSUP, not EINVAL."""
    assert refusal(pin, file, "hot") == errno.ENOTSUP
    with pytest.raises(MountError, match=r"exit 1\n.*no hot tier"):
        run_memfs("pin", "hot", file)


@pytest.mark.parametrize("name", READ_ONLY)
def test_what_only_tells_cannot_be_set_or_removed(file: Path, name: str) -> None:
    """EPERM, also for a value that is the present one."""
    assert refusal(tell, file, name, "auto") == errno.EPERM
    assert refusal(os.removexattr, file, f"user.memfs.{name}") == errno.EPERM


def test_names_that_memfs_does_not_have_stay_its_own(file: Path) -> None:
    """`user.memfs.` is no place for users' attributes: a later version may need the name."""
    assert refusal(tell, file, "colour", "red") == errno.ENOTSUP
    assert refusal(told, file, "colour") == errno.ENODATA
    assert refusal(os.removexattr, file, "user.memfs.colour") == errno.ENODATA
    os.setxattr(file, "user.memfsx", b"mine")
    assert os.getxattr(file, "user.memfsx") == b"mine"


def test_nothing_that_controls_memfs_is_listed(file: Path) -> None:
    """Else `cp -a` would fail on what it cannot copy, spread it, or take it from its target."""
    assert os.listxattr(file) == []
    os.setxattr(file, "user.note", b"mine")
    pin(file, "cold")
    tell(file, "codec", "lz4")
    tell(file, "priority", "7")
    assert os.listxattr(file) == ["user.note"]
    wait_until_at("cold", file)
    assert os.listxattr(file) == ["user.note"]


def test_directories_tell_their_pin_and_refuse_what_files_have(place: Path) -> None:
    """A directory has no bytes: no digest, and its tier is its pin."""
    assert told(place, "tier") == "auto"
    pin(place, "cold")
    assert (told(place, "tier"), told(place, "pin")) == ("cold", "cold")
    assert refusal(told, place, "digest") == errno.ENODATA
    pin(place, "auto")


def test_tiers_of_other_than_files_and_directories_are_refused(place: Path) -> None:
    """The kernel allows `user.*` on files and directories only (xattr(7))."""
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("nowhere")
    assert refusal(pin, place / "fifo", "cold") == errno.EPERM
    set_link = (place / "link", "user.memfs.tier", b"cold", 0)
    with pytest.raises(PermissionError):
        os.setxattr(*set_link, follow_symlinks=False)


def test_pinning_needs_the_right_to_write(file: Path) -> None:
    """`user.*` is for those who may write the file (xattr(7))."""
    file.chmod(0o644)
    assert run_as(ALICE, refusal, pin, file, "cold") == errno.EACCES
    assert run_as(ALICE, told, file, "pin") == "auto"
    os.chown(file, ALICE.uid, ALICE.gid)
    run_as(ALICE, pin, file, "cold")
    assert told(file, "pin") == "cold"
    file.chmod(0)
    assert run_as(ALICE, refusal, told, file, "pin") == errno.EACCES


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


COPIES = {
    "cp": ("cp", "-a"),
    "cp-all": ("cp", "-r", "--preserve=all"),
    "rsync": ("rsync", "-aX"),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_copies_keep_the_users_own_and_do_not_fail(
    place: Path, reference: Path, copy: str, tier: str
) -> None:
    """No pin goes along; nothing of the user's is lost."""
    source = place / "source"
    source.mkdir()
    for number in range(3):
        path = source / f"file-{number}"
        path.write_bytes(compressible(100_000, seed=number))
        os.setxattr(path, "user.note", b"of file %d" % number)
        os.utime(path, ns=(10**18, 10**18 + number))
    os.setxattr(source, "user.note", b"of the directory")
    pin(source, tier)
    pin(source / "file-0", "cold")
    wait_until_at("cold", source / "file-0")
    wait_until_at(tier, source / "file-1", source / "file-2")
    command = COPIES[copy]
    run(*command, f"{source}/", place / "within")
    run(*command, f"{source}/", reference / "outside")
    run(*command, f"{reference}/outside/", place / "back")
    for copied in (place / "within", reference / "outside", place / "back"):
        assert os.getxattr(copied, "user.note") == b"of the directory"
        for number in range(3):
            path = copied / f"file-{number}"
            assert path.read_bytes() == compressible(100_000, seed=number)
            assert os.getxattr(path, "user.note") == b"of file %d" % number
            assert path.stat().st_mtime_ns == 10**18 + number
    for copied in (place / "within", place / "back"):
        assert told(copied, "pin") == "auto"
        assert {told(copied / f"file-{number}", "pin") for number in range(3)} == {"auto"}


def test_the_command_pins_unpins_and_explains(file: Path, place: Path) -> None:
    """`memfs pin`, `unpin` and `why` are the xattrs under another name."""
    run_memfs("pin", "glacier", file)
    wait_until_at("glacier", file)
    text = run_memfs("why", file)
    for word in ("tier     glacier", "pin      glacier", "state    remote", "pinned to glacier"):
        assert word in text
    assert '"tier": "glacier"' in run_memfs("why", "--json", file)
    run_memfs("unpin", file)
    assert told(file, "pin") == "auto"
    with pytest.raises(MountError, match=r"exit 1\n.*missing"):
        run_memfs("pin", "cold", place / "missing")
    with pytest.raises(MountError, match=r"exit 3\n"):
        run_memfs("pin", "cold", "/proc/self/status")
    # What is not pinned is not waited for.
    for failing in (place / "missing", "/proc/self/status"):
        with pytest.raises(MountError) as caught:
            run_memfs("pin", "--wait", "cold", failing)
        assert "files are cold" not in str(caught.value)
        assert "Traceback" not in str(caught.value)


def test_the_command_waits_until_files_are_there(mount_factory: MountFactory, driver: str) -> None:
    """A directory with all below it; a file that cannot move is told with its reason."""
    mount = mount_factory(driver, config='[policy]\ninterval = "100ms"\n')
    directory = mount.root / "directory"
    directory.mkdir()
    for number in range(5):
        (directory / f"file-{number}").write_bytes(compressible(50_000, seed=number))
    (directory / "empty").touch()
    assert "5 of 5 files are glacier" in run_memfs("pin", "--wait", "glacier", directory)
    assert {told(directory / f"file-{number}", "tier") for number in range(5)} == {"glacier"}
    assert "in the background" in run_memfs("pin", "cold", directory)
    with (directory / "file-0").open("rb"):
        match = r"(?s)exit 1\n.*file-0: a program has the file open"
        with pytest.raises(MountError, match=match):
            run_memfs("pin", "--wait", "glacier", directory / "file-0")


def test_tiers_that_are_turned_off_are_enotsup(mount_factory: MountFactory, driver: str) -> None:
    """`warm.size = 0` and `glacier.enabled = false`: what cannot be is said when it is asked."""
    mount = mount_factory(driver, config="[warm]\nsize = 0\n[glacier]\nenabled = false\n")
    path = mount.root / "file"
    path.write_bytes(CONTENT)
    for tier in ("hot", "warm", "glacier"):
        assert refusal(pin, path, tier) == errno.ENOTSUP
        assert refusal(pin, mount.root, tier) == errno.ENOTSUP
    assert told(path, "pin") == "auto"
    assert told(path, "tier") == "cold"
    send("cold", path)
    assert path.read_bytes() == CONTENT
