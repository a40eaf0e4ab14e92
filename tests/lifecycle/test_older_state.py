"""A state directory that an older version has left, killed, is mounted by this one."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import pytest

from tests.crash.moves_scenario import NEW_KEY, OLD_KEY
from tests.lifecycle.daemons import memfs, refused
from tests.states import unpack

if TYPE_CHECKING:
    from tests.mounting import Mount

pytestmark = pytest.mark.mount


def configuration(base: Path) -> str:
    """Name the keys that the saved state's objects are encrypted with."""
    sources = []
    for key in (OLD_KEY, NEW_KEY):
        path = base / f"{key.source}.key"
        path.write_text(key.secret.hex())
        path.chmod(0o600)
        sources.append(f'"file:{path}"')
    return f"[encryption]\nkeys = [{', '.join(sources)}]\n"


def test_a_mount_migrates_what_an_older_version_left(mount: Mount) -> None:
    """The terminal tells of it; every byte and xattr is there; fsck sends its user to the mount."""
    _, expected = unpack(mount.base)
    mount.config = configuration(mount.base)
    config = mount.base / "config.toml"
    config.write_text(mount.config)
    assert "mount it, which migrates it" in refused("fsck", "-c", config, mount.state)[1]
    mount.root.mkdir()
    arguments: list[str | Path] = [
        "mount",
        "--state",
        mount.state,
        "--driver",
        mount.driver,
        "-c",
        config,
    ]
    done = memfs(*arguments, mount.root)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("memfs: migration from format 2 to 3: begun")
    assert lines[-1].startswith("memfs: migration from format 2 to 3: done")
    assert "migration from format 2 to 3" in mount.log.read_text()
    for name, row in expected["files"].items():
        path = Path(os.fsdecode(os.fsencode(mount.root) + bytes.fromhex(name)))
        status = path.lstat()
        assert (row["mode"], row["uid"]) == (status.st_mode, status.st_uid)
        if stat.S_ISLNK(status.st_mode):
            assert bytes.fromhex(row["target"]) == os.fsencode(os.readlink(path))
        if stat.S_ISREG(status.st_mode):
            digest = row.get("content_blake3") or row["raw_hex_blake3"]
            assert digest == blake3.blake3(path.read_bytes()).hexdigest(), path
        for attribute, value in row["xattrs"].items():
            attribute_name = bytes.fromhex(attribute)
            if attribute_name.startswith((b"user.", b"trusted.")):
                found = os.getxattr(path, attribute_name, follow_symlinks=False)
                assert bytes.fromhex(value) == found
    mount.stop()
    mount.start()
    assert (mount.root / "data" / "late-batched-2").read_bytes() == b"again"
