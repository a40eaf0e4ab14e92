"""The guide to recovery: each of its commands on an empty machine, over two kinds of stores."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests import scratch
from tests.documents import ROOT
from tests.mounting import Mount, run_memfs
from tests.servers.seaweedfs import make_bucket
from tests.tiers.tiering import compressible, status

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.any_driver

GUIDE = ROOT / "docs/guide/recovery.md"
BUCKET = "guide"
CONTENTS = {"first": compressible(5000, 1), "second": compressible(7000, 2)}


class Store(NamedTuple):
    """Where the objects are."""

    url: str
    options: str


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        (tmp_path / "objects").mkdir()
        return Store(f"file://{tmp_path / 'objects'}", "")
    server = request.getfixturevalue("moto_server")
    make_bucket(server, BUCKET)
    options = "".join(f'{name} = "{value}"\n' for name, value in server.options.items())
    return Store(f"s3://{BUCKET}/{tmp_path.name}", f"[glacier.options]\n{options}")


@pytest.fixture
def places(scratch_area: scratch.Scratch) -> Iterator[list[Path]]:
    made = [scratch_area.directory(name) for name in ("former", "new")]
    yield made
    for base in made:
        scratch.remove(base)


def commands() -> list[str]:
    """Return the commands of the guide, in its order, but the first: that needs a mount."""
    blocks = re.findall(r"^```console\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [entry.partition("\n")[0] for block in blocks for entry in block.split("$ ")[1:]]


def run(command: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_guide_brings_a_mount_back(
    driver: str, places: list[Path], store: Store, tmp_path: Path
) -> None:
    config = f'[glacier]\nurl = "{store.url}"\n{store.options}'
    settings = tmp_path / "data.toml"
    settings.write_text(config)
    former, new = (Mount(place, driver, config) for place in places)
    told = commands()
    shown, export, *rest = told
    assert (shown, export) == ("memfs status /mnt/data", "memfs snapshot export --wait /mnt/data")
    former.start()
    try:
        ids: list[str] = []
        for name, content in CONTENTS.items():
            (former.root / name).write_bytes(content)
            run(export.replace("/mnt/data", str(former.root)))
            known = json.loads(run_memfs("snapshot", "export", "--json", former.root))
            ids.insert(0, known["exports"][0]["id"])
        assert re.search(r"export: .* old, 2 files", run(f"memfs status {former.root}"))
    finally:
        former.kill()
    shutil.rmtree(former.state)
    older = tmp_path / "older"
    words = {
        "s3://bucket/data": store.url,
        "/etc/memfs/data.toml": str(settings),
        "/var/lib/memfs/data": str(new.state),
        "/var/lib/memfs/older": str(older),
        "/mnt/data": str(new.root),
        "7d21f0aa-1000003f8": ids[1],
    }
    new.root.mkdir(parents=True, exist_ok=True)
    mounts = 0
    try:
        for command in rest:
            line = command
            for word, value in words.items():
                line = line.replace(word, value)
            answer = run(f"{line} -o mount.driver={driver}" if " mount " in line else line)
            if "--list" in command:
                assert answer.split() == ids
            if "--at" in command:
                assert f"export {ids[1]} of " in answer
                assert ": 1 file," in answer
            if " mount " in line:
                mounts += 1
                refusal = status(new)["export"]["refusal"]
                assert (refusal is None) == (mounts == 2), "the second is after the take-over"
                found = {path.name: path.read_bytes() for path in new.root.iterdir()}
                assert found == CONTENTS
        assert mounts == 2
        run(f"memfs umount {new.root}")
    finally:
        new.kill()
