"""SIGKILL of the daemon while a batch of small values is stored, at a mount.

Each value is the old one or the new one, with the metadata that belongs to it, fsck finds nothing,
and the same batch again stores all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs import MemoryManager
from memfs.filesystem.small_files import FILES_A_CHANGE
from memfs.moves.faults import PUT_POINTS
from tests.crash.armed import Armed
from tests.mounting import MountError, run_memfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MountFactory

COUNT = 3 * FILES_A_CHANGE


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Armed]:
    with pytest.MonkeyPatch.context() as patch:
        yield Armed(tmp_path, patch)


@pytest.mark.parametrize("point", PUT_POINTS)
@pytest.mark.any_driver
def test_each_value_is_the_old_one_or_the_new_one(
    armed: Armed, driver: str, mount_factory: MountFactory, point: str
) -> None:
    mount = mount_factory(driver)
    keys = [f"{number % 5}/{number}" for number in range(COUNT)]

    def store(version: int) -> None:
        memory = MemoryManager(mount=mount.root)
        items = ((key, [version, key]) for key in keys)
        result = memory.batch_store(
            items, metadata={"version": version}, durable=True, errors="return"
        )
        memory.close()
        if result.errors:
            raise MountError(str(next(iter(result.errors.values()))))

    store(0)
    # A call is made in several changes, and synced once.
    for version, count in ((1, 1), (2, 1 if point == "put.synced" else 2)):
        assert armed.run(mount, lambda version=version: store(version), point, count), point  # type: ignore[misc]
        memory = MemoryManager(mount=mount.root)
        found = memory.batch_retrieve(keys)
        versions = [found[key][0] for key in keys]
        assert {key: found[key][1] for key in keys} == {key: key for key in keys}
        assert set(versions) <= {0, 1, 2}
        is_done = versions == [version] * COUNT
        assert is_done is (point == "put.synced"), "it was killed before the last change"
        assert [memory.get_metadata(key)["version"] for key in keys] == versions
        memory.close()
    store(3)
    assert set(armed.reached()) >= {*PUT_POINTS[:2], point}
    run_memfs("umount", mount.root)
    run_memfs("fsck", "--verify", mount.state)
    mount.start()
    memory = MemoryManager(mount=mount.root)
    assert all(value == [3, key] for key, value in memory.batch_retrieve(keys).items())
    memory.close()
    mount.check_log()
