"""The guide to names in PostgreSQL: its configuration, what it refuses, and its way back."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from memfs.config_file import load_config
from memfs.exit_codes import ExitCode
from tests import scratch
from tests.documents import ROOT, Document
from tests.mounting import Mount, MountError, run_memfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database

pytestmark = pytest.mark.mount

GUIDE = ROOT / "docs/guide/many-nodes.md"


@pytest.fixture
def base(scratch_area: scratch.Scratch) -> Iterator[Path]:
    made = scratch_area.directory("way-back")
    yield made
    scratch.remove(made)


def _configuration(url: str, store: str) -> str:
    """Return the guide's, for another database and another store."""
    blocks = Document(GUIDE, GUIDE.read_text()).blocks
    [text] = [block.text for block in blocks if block.language == "toml"]
    assert set(tomllib.loads(text)) == {"metadata", "nodes", "glacier"}
    text = re.sub(r'"postgresql://.*"', lambda _: f'"{url}"', text)
    return re.sub(r'"s3://.*"', lambda _: f'"{store}"', text)


def _place(base: Path, name: str) -> Path:
    place = base / name
    place.mkdir(mode=0o755)
    return place


def test_a_mount_as_in_the_guide_and_the_way_back(base: Path, postgres: Database) -> None:
    store = f"file://{_place(base, 'objects')}"
    run_memfs("format", postgres.url, "--store", store)
    config = _configuration(postgres.url, store)
    node = Mount(_place(base, "node"), "kernel", config, forked=True)
    node.start()
    (node.root / "directory").mkdir()
    (node.root / "directory/file").write_text("text" * 1000)
    assert postgres.execute("select count(*) from dentry where name = 'file'") == [(1,)]
    run_memfs("barrier", "--level", "remote", node.root)
    run_memfs("snapshot", "export", "--wait", node.root)

    # Another state directory on this database, and this one without it.
    other = Mount(_place(base, "other"), "kernel", config, forked=True)
    with pytest.raises(MountError, match=r"node gpu-03, whose state directory is another"):
        other.start()
    node.stop()
    alone = Mount(node.base, "kernel", f'[glacier]\nurl = "{store}"\n', forked=True)
    with pytest.raises(MountError, match=rf"exit {ExitCode.STATE_UNUSABLE:d}\n.*metadata\.url"):
        alone.start()
    with pytest.raises(MountError, match=rf"exit {ExitCode.STATE_UNUSABLE:d}\n"):
        run_memfs("fsck", node.state)

    back = Mount(_place(base, "back"), "kernel", alone.config, forked=True)
    file = back.base / "import.toml"
    file.write_text(back.config or "")
    run_memfs("snapshot", "import", store, "--state", back.state, "-c", file)
    back.start()
    assert (back.root / "directory/file").read_text() == "text" * 1000
    back.stop()


def test_the_configuration_of_the_guide_is_one(base: Path) -> None:
    file = base / "guide.toml"
    file.write_text(_configuration("postgresql://memfs@db/memfs", "s3://bucket/data"))
    assert load_config(file).nodes.name == "gpu-03"


def test_a_mount_that_finds_no_database_does_not_start(base: Path, postgres: Database) -> None:
    store = f"file://{_place(base, 'objects')}"
    run_memfs("format", postgres.url, "--store", store)
    gone = re.sub(r":\d+/", ":1/", postgres.tcp_url())
    node = Mount(_place(base, "node"), "kernel", _configuration(gone, store), forked=True)
    with pytest.raises(MountError, match=rf"exit {ExitCode.NO_ANSWER:d}\n.*Connection refused"):
        node.start()
