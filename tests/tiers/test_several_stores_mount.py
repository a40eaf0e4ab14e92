"""Two object stores at a mount: who gets what, and what a program sees when one is taken away."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.mounting import MountError, run_memfs
from tests.tiers.tiering import forms_of, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONTENT = bytes(random.Random(3).choices(b"abcdefgh", k=300_000))

CONFIG = """
[warm]
size = "0"
[cold]
hydrate_max = "0"
[glacier]
url = "file://{base}/first"
[policy]
interval = "50ms"
retry_min = "100ms"
retry_max = "500ms"
"""

ARCHIVE = """
[stores.archive]
url = "file://{base}/second"
codec = "lz4"
timeout = "2s"
"""


def objects_below(directory: Path) -> list[Path]:
    return [path for path in (directory / "blobs").rglob("*") if path.is_file()]


def send(path: Path) -> None:
    os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(lambda: forms_of(path) == ["remote"], lambda: (forms_of(path), why(path)))


@contextlib.contextmanager
def configured(mount: Mount, config: str) -> Iterator[None]:
    """Serve by another configuration; by the former one again afterwards, for the test's fsck."""
    former = mount.config
    mount.stop()
    mount.config = config
    try:
        mount.start()
        yield
    finally:
        mount.stop()
        mount.config = former
        mount.start()


@pytest.mark.expects_log(
    "WARNING.*files have objects in store 'archive'",
    "WARNING.*its remote form cannot be (read|used): .*archive",
)
def test_files_have_their_objects_where_their_directory_says(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    small = '[glacier]\nbatch_file_max = "0"'
    config = CONFIG.replace("[glacier]", small) + ARCHIVE.replace(
        "codec", "batch_file_max=0\ncodec"
    )
    mount = mount_factory(driver, config=config.format(base=tmp_path))
    directory = mount.root / "old"
    directory.mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.setxattr(directory, "user.memfs.store", b"archiv")
    os.setxattr(directory, "user.memfs.store", b"archive")
    there, here = directory / "a", mount.root / "b"
    for path in (there, here):
        path.write_bytes(CONTENT + path.name.encode())
        send(path)
        assert path.read_bytes() == CONTENT + path.name.encode()
    assert os.getxattr(there, "user.memfs.store") == b"archive"
    assert os.getxattr(here, "user.memfs.store") == b"default"
    assert len(objects_below(tmp_path / "first")) == 1
    assert len(objects_below(tmp_path / "second")) == 1
    assert why(there)["object_store"] == {"belongs": "archive", "lies": "archive"}
    assert "object_store" not in why(here)
    assert "belongs in archive" in run_memfs("why", there)
    [told] = json.loads(run_memfs("status", "--json", mount.root))["stores"]
    assert told["name"] == "archive"
    assert told["store"]["well"] is True
    assert "store archive" in run_memfs("status", mount.root)

    # One is away: what the other one has is read and written.
    unread = directory / "unread"
    unread.write_bytes(CONTENT + b"unread")
    send(unread)
    (tmp_path / "second").rename(tmp_path / "away")
    try:
        more = mount.root / "more"
        more.write_bytes(CONTENT)
        send(more)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            unread.read_bytes()
        assert here.read_bytes() == CONTENT + b"b"
        assert "correct stores.archive.url" in why(unread)["store"]["reason"]
        # What was read so much is fetched as soon as its store is back: not by this mount.
        mount.stop()
    finally:
        (tmp_path / "away").rename(tmp_path / "second")

    # It is taken out of the configuration: EIO, and nothing is lost.
    with configured(mount, CONFIG.replace("[glacier]", small).format(base=tmp_path)):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            unread.read_bytes()
        assert "[stores.archive]" in why(unread)["object_store"]["reason"]
        there.unlink()

        def garbage_count() -> int:
            work = json.loads(run_memfs("status", "--json", mount.root))["work"]
            count: int = work["garbage_count"]
            return count

        wait_for(lambda: garbage_count() == 1, garbage_count)
        assert len(objects_below(tmp_path / "second")) == 2
    run_memfs("gc", mount.root)
    wait_for(lambda: len(objects_below(tmp_path / "second")) == 1, "the object stays")
    assert unread.read_bytes() == CONTENT + b"unread"


def test_a_state_of_two_stores_comes_back_from_its_export(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """The new state reads from both, changes neither, and takes both over when that is said."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    config = (CONFIG + ARCHIVE).format(base=tmp_path)
    mount = mount_factory(driver, config=config)
    directory = mount.root / "old"
    directory.mkdir()
    os.setxattr(directory, "user.memfs.store", b"archive")
    there, here = directory / "a", mount.root / "b"
    for path in (there, here):
        path.write_bytes(CONTENT + path.name.encode())
        send(path)
    os.setxattr(here, "user.memfs.store", b"archive")
    assert "1 to be moved" in run_memfs("relocate", "--dry-run", mount.root)
    assert "1 moved" in run_memfs("relocate", mount.root)
    listed = json.loads(run_memfs("stores", "--json", mount.root))
    assert [(each["name"], each["form_count"]) for each in listed] == [
        ("default", 0),
        ("archive", 2),
    ]
    assert "archive: file://" in run_memfs("stores", mount.root)
    os.setxattr(here, "user.memfs.store", b"default")
    run_memfs("relocate", here)
    run_memfs("snapshot", "export", mount.root)
    mount.stop()

    file, state = tmp_path / "config.toml", tmp_path / "imported"
    file.write_text(config)
    file.chmod(0o600)
    run_memfs("snapshot", "import", "--state", state, "-c", file, "--take-over")
    again = tmp_path / "again"
    again.mkdir()
    run_memfs("mount", "--state", state, "-c", file, again, fork_daemon=True)
    try:
        for path in (again / "old" / "a", again / "b"):
            assert path.read_bytes() == CONTENT + path.name.encode()
        assert os.getxattr(again / "old" / "a", "user.memfs.store") == b"archive"
    finally:
        run_memfs("umount", again)
    # The former state is an older copy now, by the marks of both stores.
    with pytest.raises(MountError, match="older copy"):
        mount.start()
