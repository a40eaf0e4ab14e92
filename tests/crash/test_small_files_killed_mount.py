"""SIGKILL of the daemon while a batch of small values is stored or retrieved, at a mount.

Each value is the old one or the new one, with the metadata that belongs to it, fsck finds nothing,
and the same batch again stores all. Each key of a batch that is read has its value or an error.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest

from memfs import MemoryManager
from memfs.client.small_files import READS_A_CALL
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


@pytest.mark.any_driver
def test_a_batch_that_is_read_has_a_value_or_an_error_for_each_key(
    driver: str, mount_factory: MountFactory
) -> None:
    mount = mount_factory(driver)
    memory = MemoryManager(mount=mount.root)
    values = {f"{number % 50}/{number}": [number] for number in range(3 * READS_A_CALL)}
    memory.batch_store(values.items())
    keys = iter(values)

    def asked() -> Iterator[str]:
        yield from islice(keys, READS_A_CALL)
        mount.kill_daemon()
        yield from keys

    found = memory.batch_retrieve(asked(), errors="return")
    assert found.keys().isdisjoint(found.errors)
    assert found.keys() | found.errors.keys() == values.keys()
    assert found.items() <= values.items()
    assert all(isinstance(error, OSError) for error in found.errors.values())
    assert len(found.errors) >= READS_A_CALL
    memory.close()
    mount.kill()
    mount.start()
    memory = MemoryManager(mount=mount.root)
    assert memory.batch_retrieve(values) == values
    memory.close()
