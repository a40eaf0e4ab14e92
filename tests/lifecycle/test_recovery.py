"""The state directory is lost, and the object store alone brings everything back."""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.encryption.keys import generate_key_file
from memfs.jobs.automatic_snapshots import DEFAULT_SETTING
from memfs.metadata.sqlite.engine import SqliteEngine
from tests import scratch
from tests.mounting import Mount, MountError, run_memfs
from tests.servers.seaweedfs import find_weed, make_bucket
from tests.tiers.tiering import SMALL_FRAMES, compressible, incompressible, status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

pytestmark = [
    pytest.mark.any_driver,
    pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed"),
]

BUCKET = "recovery"


@pytest.fixture
def places(scratch_area: scratch.Scratch) -> Iterator[list[Path]]:
    made = [scratch_area.directory("former"), scratch_area.directory("new")]
    yield made
    for base in made:
        scratch.remove(base)


def fill(root: Path) -> None:
    for number in range(40):
        (root / f"small-{number:02}").write_bytes(compressible(2000 + 17 * number, number))
    (root / "empty").touch()
    (root / "large").write_bytes(incompressible(3 << 20))
    deep = root / "d" / "\udcff \n"
    deep.mkdir(parents=True)
    (deep / "compressible").write_bytes(compressible(1 << 20))
    os.link(root / "small-00", deep / "second name")
    os.symlink("../../small-01", deep / "link")
    os.mkfifo(root / "fifo", 0o640)
    os.chmod(root / "small-02", 0o4710)
    os.chown(root / "small-03", 1234, 4321)
    os.utime(root / "small-04", ns=(5, 7))
    os.setxattr(root / "large", "user.label", b"cat")
    os.setxattr(deep, "user.bytes", bytes(range(256)))
    os.chmod(deep, 0o1775)


def look(root: Path) -> dict[str, Any]:
    """Return all that a program can see."""
    found: dict[str, Any] = {}
    for directory, _names, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            seen = os.lstat(path)
            content = None
            if stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            xattrs = (
                {}
                if stat.S_ISLNK(seen.st_mode)
                else {name: os.getxattr(path, name) for name in os.listxattr(path)}
            )
            found[os.path.relpath(path, root)] = (
                *(seen.st_ino, seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_gid),
                *(seen.st_size, seen.st_mtime_ns, content, xattrs),
                os.readlink(path) if stat.S_ISLNK(seen.st_mode) else None,
            )
    return found


def has_default_rules(state_dir: Path) -> bool:
    """Return whether snapshots are made of a state without any rule in the configuration."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    try:
        return trio.run(engine.get_setting, DEFAULT_SETTING) is not None
    finally:
        engine.close()


@pytest.mark.parametrize("encrypts", [False, True], ids=["clear", "encrypted"])
def test_the_store_alone_brings_everything_back(
    driver: str, places: list[Path], s3_server: S3Server, tmp_path: Path, encrypts: bool
) -> None:
    make_bucket(s3_server, BUCKET)
    options = "\n".join(f'{name} = "{value}"' for name, value in s3_server.options.items())
    url = f"s3://{BUCKET}/{driver}/{encrypts}"
    config = f'{SMALL_FRAMES}\n[glacier]\nurl = "{url}"\n[glacier.options]\n{options}\n'
    if encrypts:
        generate_key_file(tmp_path / "key")
        config += f'[encryption]\nkeys = ["file:{tmp_path / "key"}"]\n'
    former, new = (Mount(place, driver, config) for place in places)
    former.start()
    try:
        assert status(former)["export"]["age_s"] is None
        fill(former.root)
        report = json.loads(run_memfs("snapshot", "export", "--wait", "--json", former.root))
        assert report["error"] is None
        [export] = report["exports"]
        assert (export["file_count"], export["missing_count"]) == (43, 0)
        assert status(former)["export"]["age_s"] < 600
        before = look(former.root)
        former.check_log()
    finally:
        former.kill()
    shutil.rmtree(former.state)
    settings = new.base / "config.toml"
    settings.write_text(config)
    taken = json.loads(
        run_memfs("snapshot", "import", url, "--state", new.state, "-c", settings, "--json")
    )
    assert (taken["export"], taken["missing_count"]) == (export["id"], 0)
    assert has_default_rules(new.state)
    new.start()
    try:
        assert look(new.root) == before
        assert "take-over" in status(new)["export"]["refusal"]
        with pytest.raises(MountError, match="take-over"):
            run_memfs("snapshot", "export", new.root)
        (new.root / "written").write_bytes(b"here")
        new.stop()
        run_memfs("snapshot", "import", "--take-over", "--state", new.state, "-c", settings)
        new.start()
        with open(new.root / "empty", "ab") as file:
            file.write(b"no longer")
        (new.root / "large").unlink()
        report = json.loads(run_memfs("snapshot", "export", "--wait", "--json", new.root))
        assert (report["error"], report["exports"][0]["missing_count"]) == (None, 0)
        # What the export before names stays.
        assert json.loads(run_memfs("gc", "--json", new.root))["held_count"] > 0
        new.stop()
        new.check_log()
        new.fsck()
    finally:
        new.stop()
