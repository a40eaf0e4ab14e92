"""The systemd units and the mount helper."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"


def test_an_installation_has_every_unit_and_the_helper() -> None:
    """Without a clone they are in share/memfs of the environment, where the documents say."""
    project = tomllib.loads((SYSTEMD.parent / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {
        f"systemd/{file.name}": f"share/memfs/{file.name}" for file in SYSTEMD.iterdir()
    } | {"grafana/memfs.json": "share/memfs/grafana-dashboard.json"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", ["memfs@.service", "mnt-data.mount"])
def test_systemd_accepts_the_unit(tmp_path: Path, unit: str) -> None:
    text = (SYSTEMD / unit).read_text()
    # Verified as installed: the program must exist where the unit says.
    text = text.replace("/usr/local/bin/memfs", "/bin/true")
    file = tmp_path / unit.replace("@", "@mnt-data")
    file.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
    )
    ours = [line for line in done.stderr.splitlines() if unit.partition("@")[0] in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_service_may_do_little(tmp_path: Path) -> None:
    file = tmp_path / "memfs@mnt-data.service"
    file.write_text((SYSTEMD / "memfs@.service").read_text())
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=45", "--no-pager", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "--offline" in done.stderr:
        pytest.skip("systemd-analyze is older than 250")
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


NAMESPACED = (
    *("ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules"),
    *("ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "PrivateTmp"),
    *("PrivateDevices", "PrivateMounts", "PrivateIPC", "MountFlags", "RootDirectory", "RootImage"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths"),
    *("TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths", "DynamicUser"),
)
"""Each gives a service a mount namespace (systemd.exec(5)). With ProtectSystem,
ProtectKernel*, ProtectControlGroups, ProtectProc and PrivateTmp, nobody saw the mount of a
service that ran well (systemd 252, booted in a container)."""


def test_the_service_mounts_where_all_can_see_it() -> None:
    lines = (SYSTEMD / "memfs@.service").read_text().splitlines()
    assert [line for line in lines if line.startswith(tuple(f"{n}=" for n in NAMESPACED))] == []


def test_the_service_may_give_files_their_owners(tmp_path: Path) -> None:
    """Else all that is published into a directory, or given back to one, fails in a service."""
    lines = (SYSTEMD / "memfs@.service").read_text().splitlines()
    assert not [line for line in lines if line.startswith("SystemCallFilter=~") and "chown" in line]
    kept = [
        name.removeprefix("CAP_").lower()
        for line in lines
        if line.startswith("CapabilityBoundingSet=")
        for name in line.partition("=")[2].split()
    ]
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from memfs.stores.directory_publishing import _set_attributes\n"
        "from memfs.stores.publishing import PublicAttributes\n"
        "fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\n"
        "_set_attributes(fd, PublicAttributes(1, 0o640, 1234, 5678, '', ''))\n"
    )
    bounding = "-all," + ",".join(f"+{name}" for name in kept)
    command = ["setpriv", f"--bounding-set={bounding}", "--inh-caps=-all"]
    file = tmp_path / "file"
    subprocess.run([*command, sys.executable, "-c", program, file], check=True, timeout=60)
    status = file.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 5678, 0o640)
    assert status.st_mtime_ns == 1


def _helper(tmp_path: Path, *arguments: str, status: int = 0) -> tuple[int, list[str]]:
    """Run the mount helper with a `memfs` that writes its arguments down, a line each."""
    program = tmp_path / "memfs"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/called\nexit {status}\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", str(SYSTEMD / "mount.memfs"), *arguments],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    called = tmp_path / "called"
    return done.returncode, called.read_text().splitlines() if called.exists() else []


def test_the_helper_translates_what_mount_says(tmp_path: Path) -> None:
    options = "rw,noatime,config=/etc/memfs/a b.toml,warm.size=2GiB,driver=pyfuse3"
    code, called = _helper(tmp_path, "/var/lib/memfs/x", "/mnt/a b", "-n", "-o", options)
    assert code == 0
    assert called == [
        *("mount", "--state", "/var/lib/memfs/x", "--config", "/etc/memfs/a b.toml"),
        *("--driver", "pyfuse3", "-o", "rw,noatime,warm.size=2GiB", "/mnt/a b"),
    ]


def test_the_helper_needs_no_options(tmp_path: Path) -> None:
    assert _helper(tmp_path, "/s", "/m") == (0, ["mount", "--state", "/s", "/m"])


def test_a_fake_mount_mounts_nothing(tmp_path: Path) -> None:
    assert _helper(tmp_path, "/s", "/m", "-f", "-o", "*") == (0, [])


@pytest.mark.parametrize(("status", "expected"), [(2, 1), (6, 32), (4, 32)])
def test_the_helper_fails_with_the_codes_of_mount(
    tmp_path: Path, status: int, expected: int
) -> None:
    assert _helper(tmp_path, "/s", "/m", status=status)[0] == expected


def test_a_helper_without_a_mountpoint_explains_itself(tmp_path: Path) -> None:
    assert _helper(tmp_path, "/s") == (1, [])
