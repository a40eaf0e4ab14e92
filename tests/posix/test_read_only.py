"""A mount that becomes read-only: what is no change of it goes on."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

from tests.mounting import run_memfs
from tests.outcomes import error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory


def _make_all(root: Path) -> list[str | None]:
    return [
        error_of(os.mknod, root / "node", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        error_of(os.mkdir, root / "directory"),
        error_of(os.symlink, "target", root / "link"),
    ]


def test_what_exists_is_told_before_what_is_read_only(mount_factory: MountFactory) -> None:
    mount = mount_factory("kernel")
    assert _make_all(mount.root) == [None] * 3
    run_memfs("mount", "-o", "remount,ro", mount.root)
    assert _make_all(mount.root) == ["EEXIST"] * 3
    assert error_of(os.mkdir, mount.root / "new") == "EROFS"


def test_devices_links_and_bind_mounts_are_written_through(
    mount_factory: MountFactory, reference: Path
) -> None:
    mount = mount_factory("kernel")
    null, link, bound = (mount.root / name for name in ("null", "link", "bound"))
    target = reference / "target"
    target.touch()
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    link.symlink_to(target)
    bound.touch()
    run_memfs("mount", "-o", "remount,ro", mount.root)
    assert error_of((mount.root / "new").touch) == "EROFS"
    null.write_bytes(b"nothing")
    link.write_bytes(b"by the link")
    assert target.read_bytes() == b"by the link"
    subprocess.run(["mount", "--bind", target, bound], check=True)
    try:
        bound.write_bytes(b"by the bind mount")
    finally:
        subprocess.run(["umount", bound], check=True)
    assert target.read_bytes() == b"by the bind mount"


def test_programs_run_on_it(mount_factory: MountFactory) -> None:
    mount = mount_factory("kernel")
    program = mount.root / "true"
    shutil.copy("/bin/true", program)
    subprocess.run([program], check=True)
    run_memfs("mount", "-o", "remount,ro", mount.root)
    subprocess.run([program], check=True)
