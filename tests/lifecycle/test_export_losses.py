"""Exports at a mount: what the store has lost, pools, and keys that are changed."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import MetadataConfig, QuotasConfig
from memfs.encryption.keys import generate_key_file
from memfs.jobs.lost_objects import Loss, LostObjects
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.placement.quotas import Quotas
from tests import scratch
from tests.mounting import Mount, MountError, run_memfs
from tests.tiers.tiering import SMALL_FRAMES, compressible, status
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.any_driver

CONTENT = compressible(5000)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    directory.mkdir()
    return directory


def config_of(store: Path, *keys: str) -> str:
    named = ", ".join(f'"file:{store.with_name(key)}"' for key in keys)
    return (
        f'{SMALL_FRAMES}\n[glacier]\nurl = "file://{store}"\n'
        f"[encryption]\nkeys = [{named}]\n[snapshots]\nautomatic = false\n"
    )


@pytest.fixture
def mounts(store: Path, scratch_area: scratch.Scratch, driver: str) -> Iterator[list[Mount]]:
    """The former mount, and the new one that is not mounted yet."""
    for key in ("first", "second"):
        generate_key_file(store.with_name(key))
    bases = [scratch_area.directory("former"), scratch_area.directory("new")]
    made = [Mount(base, driver, config_of(store, "first"), forked=True) for base in bases]
    made[0].start()
    (made[0].root / "file").write_bytes(CONTENT)
    yield made
    for mount in made:
        mount.stop()
        scratch.remove(mount.base)


def export(mount: Mount) -> dict[str, Any]:
    answer = json.loads(run_memfs("snapshot", "export", "--wait", "--json", mount.root))
    assert answer["error"] is None
    newest: dict[str, Any] = answer["exports"][0]
    return newest


def import_into(mount: Mount) -> dict[str, Any]:
    settings = mount.base / "config.toml"
    assert mount.config is not None
    settings.write_text(mount.config)
    answer: dict[str, Any] = json.loads(
        run_memfs("snapshot", "import", "--state", mount.state, "-c", settings, "--json")
    )
    return answer


def test_a_part_that_is_lost_is_told_and_stored_again(mounts: list[Mount], store: Path) -> None:
    """And pools come along."""
    former, new = mounts
    run_memfs("pool", "create", "training", "--size", "1MiB", "--mount", former.root)
    first = export(former)
    before = set(store.rglob("parts/*"))
    (former.root / "more").write_bytes(CONTENT)
    second = export(former)
    [part, *_] = set(store.rglob("parts/*")) - before
    part.unlink()
    taken = import_into(new)
    assert taken["export"] == first["id"]
    [told] = taken["passed_over"]
    assert part.name in told
    shutil.rmtree(new.state)
    third = export(former)
    assert third["id"] != second["id"]
    report = status(former)["export"]
    assert report["age_s"] < 600
    assert (report["file_count"], report["lost"]) == (2, None)
    listed = run_memfs("snapshot", "export", "--list", former.root).splitlines()
    assert [line.split()[0] for line in listed] == [third["id"], first["id"], second["id"]]
    assert part.name in listed[2]
    former.check_log(expected=("cannot be imported any longer",))
    former.kill()
    taken = import_into(new)
    assert (taken["export"], taken["passed_over"]) == (third["id"], [])
    new.start()
    assert {path.name: path.read_bytes() for path in new.root.iterdir()} == {
        "file": CONTENT,
        "more": CONTENT,
    }
    [pool] = json.loads(run_memfs("pool", "list", "--json", "--mount", new.root))
    assert (pool["name"], pool["size_bytes"]) == ("training", 1 << 20)
    new.check_log()


def test_the_new_key_is_enough_once_all_is_rekeyed(mounts: list[Mount], store: Path) -> None:
    """The newest export names the objects that the rekeying has stored."""
    former, new = mounts
    first = export(former)
    former.stop()
    former.config = config_of(store, "second", "first")
    former.start()
    run_memfs("rekey", former.root)
    newest, older = json.loads(run_memfs("snapshot", "export", "--list", "--json", former.root))
    assert older["id"] == first["id"]
    assert newest["key"] != older["key"] != ""
    # Nothing is left to be done, and there is nothing new to export.
    run_memfs("rekey", former.root)
    assert [newest, older] == json.loads(
        run_memfs("snapshot", "export", "--list", "--json", former.root)
    )
    former.kill()
    store.with_name("first").unlink()
    new.config = config_of(store, "second")
    assert import_into(new)["export"] == newest["id"]
    new.start()
    assert (new.root / "file").read_bytes() == CONTENT


def test_a_file_whose_bytes_are_lost_is_told_until_it_is_written_anew(
    mounts: list[Mount],
) -> None:
    """It had no object when the disk was lost."""
    former, new = mounts
    run_memfs("snapshot", "export", former.root)
    former.kill()
    assert import_into(new)["missing"] == ["/file"]
    run_memfs(
        "snapshot", "import", "--take-over", "--state", new.state, "-c", new.base / "config.toml"
    )
    new.start()
    with pytest.raises(OSError, match="Input/output error"):
        (new.root / "file").read_bytes()
    with pytest.raises(MountError, match="write it anew or remove it"):
        run_memfs("barrier", "--level", "remote", new.root)
    with pytest.raises(OSError, match="Input/output error"):
        (new.root / "file").read_bytes()
    (new.root / "file").write_bytes(CONTENT)
    assert export(new)["missing_count"] == 0
    run_memfs("umount", new.root)
    new.fsck()


def test_objects_that_stores_have_lost_are_told_until_all_is_made_good(
    mounts: list[Mount],
) -> None:
    """As the look of the day has left it (`tests/unit/test_lost_objects.py`)."""
    former, _ = mounts
    run_memfs("snapshot", "export", former.root)
    former.stop()

    async def note(engine: SqliteEngine) -> None:
        parts: Any = SimpleNamespace(engine=engine)
        loss = Loss("archive", 50, 3, 1, "archive:blobs/01/1-1-0: it is gone")
        await LostObjects(parts, Quotas(QuotasConfig(), engine))._note((loss,), [])

    engine = SqliteEngine.open(former.state, MetadataConfig())
    trio.run(note, engine)
    engine.close()
    former.start()
    told = "store archive has lost 2 objects that files need, such as archive:blobs/01/1-1-0"
    wait_for(lambda: status(former)["export"]["lost_objects"], "the mount recalls it")
    assert told in run_memfs("status", former.root)
    with pytest.raises(MountError, match=told):
        run_memfs("health", former.root)
