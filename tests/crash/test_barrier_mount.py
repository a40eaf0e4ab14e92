"""`memfs barrier` on a mount: what it promised is there after SIGKILL, at once after it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from memfs.config import MetadataConfig
from memfs.exit_codes import ExitCode
from memfs.metadata.sqlite.engine import SqliteEngine
from tests.mounting import run_memfs
from tests.tiers.tiering import SMALL_FRAMES, compressible, residence
from tests.warm import run_warm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver, config=SMALL_FRAMES)


def barrier(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Run `memfs barrier --json`; returns its exit status and its answer."""
    done = run_warm("barrier", "--json", *arguments)
    return done.returncode, json.loads(done.stdout)


def plant(root: Path, count: int) -> dict[Path, bytes]:
    """Write small files in several directories, one large file, and empty directories."""
    contents = {root / "large": compressible(3 * MIB)}
    for number in range(count):
        contents[root / f"d{number % 3}" / f"{number}"] = compressible(3000 + number, number)
    for path, content in contents.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (root / "empty" / "nested").mkdir(parents=True)
    return contents


async def not_durable(state_dir: Path) -> int:
    """Return how many files a dead daemon did not know to be on stable storage."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    try:
        return len(await engine.list_not_durable(1000))
    finally:
        engine.close()


@pytest.mark.parametrize("count", [4, 60])
async def test_a_local_barrier_holds_when_the_daemon_is_killed_at_once(
    mount: Mount, count: int
) -> None:
    """All files are known to be on stable storage: long before the background looks at them."""
    contents = plant(mount.root, count)
    code, answer = barrier("--level", "local", mount.root)
    mount.kill()
    assert (code, answer["complete"], answer["files"]) == (0, True, len(contents))
    assert await not_durable(mount.state) == 0
    mount.start()
    assert (mount.root / "empty" / "nested").is_dir()
    for path, content in contents.items():
        assert path.read_bytes() == content


@pytest.mark.any_driver
@pytest.mark.expects_log(
    r"WARNING.*: repaired: .*", r"WARNING.*: its raw file .* is missing; .* another form is read"
)
@pytest.mark.parametrize("durable", [False, True])
def test_a_remote_barrier_holds_when_the_disk_loses_all_local_forms(
    mount: Mount, durable: bool
) -> None:
    """Small files came in one object, and the store alone brings all of them back."""
    contents = plant(mount.root, 40)
    if durable:
        # As the background makes them sooner or later.
        assert barrier("--level", "local", mount.root)[0] == 0
    code, answer = barrier("--level", "remote", mount.root)
    assert (code, answer["outcomes"]) == (0, {"done": len(contents)})
    assert {tuple(residence(path).forms) for path in contents} == {("raw", "remote")}
    mount.kill()
    objects = [path for path in (mount.state / "glacier").rglob("*") if path.is_file()]
    assert len(objects) == 2
    for directory in (mount.state / "raw").iterdir():
        shutil.rmtree(directory)
    mount.start()
    # Files that were durable before are not looked at by the start: the scrub mends these.
    run_memfs("scrub", "--rate", "1GiB", mount.root)
    for path, content in contents.items():
        assert path.read_bytes() == content


def test_a_barrier_reports_files_that_are_being_written(mount: Mount) -> None:
    """Locally they are safe as they are; in the store they cannot be."""
    path = mount.root / "open"
    (mount.root / "closed").write_bytes(compressible(5000))
    with path.open("wb") as file:
        file.write(b"half of it")
        file.flush()
        code, answer = barrier("--level", "local", mount.root)
        assert (code, answer["outcomes"]["open"]) == (ExitCode.OK, 1)
        code, answer = barrier("--level", "remote", mount.root)
        assert (code, answer["outcomes"]) == (ExitCode.PROBLEMS, {"busy": 1, "done": 1})
        assert answer["failures"][0].startswith(f"{path}: busy: a program has it open")
    code, answer = barrier("--level", "remote", mount.root)
    assert (code, answer["outcomes"]) == (ExitCode.OK, {"done": 1, "unneeded": 1})


@pytest.mark.any_driver
# The mount asks its store once, and may come to it only after the store is away.
@pytest.mark.expects_log("WARNING.*the directory is gone")
def test_a_remote_barrier_waits_for_a_store_that_is_down(mount: Mount) -> None:
    """For as long as it is told to, and goes on from there when the store is back."""
    path, store = mount.root / "f", mount.state / "glacier"
    path.write_bytes(compressible(5000))
    away = store.rename(mount.base / "away")
    code, answer = barrier("--level", "remote", "--timeout", "1", mount.root)
    assert (code, answer["timed_out"], answer["complete"]) == (ExitCode.PROBLEMS, True, False)
    away.rename(store)
    code, answer = barrier("--level", "remote", mount.root)
    assert (code, answer["complete"], answer["files"]) == (ExitCode.OK, True, 1)
    assert residence(path).forms == ["raw", "remote"]
