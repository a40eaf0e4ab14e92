"""Quick syncs: the event loop syncs by itself only what is soon over and keeps nobody waiting."""

from __future__ import annotations

import pytest

from memfs.content.quick_syncs import (
    CALM_TIMES,
    DIRTY_BYTES_MAX,
    LOOKED_BYTES_MAX,
    QUICK_S,
    RECENT_COUNT_MAX,
    RECENT_S,
    QuickSyncs,
    Unsynced,
)
from memfs.types import InodeNo

FILE, OTHER = InodeNo(1), InodeNo(2)
SHORT_S = QUICK_S / 4


class Disk:
    """A disk whose times are told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.dirty_bytes: int | None = 0
        self.looked_count = 0
        self.quick = QuickSyncs(lambda: self.now_s, self._look)

    def _look(self, _fd: int) -> int | None:
        self.looked_count += 1
        return self.dirty_bytes

    def sync(self, took_s: float = SHORT_S, ino: InodeNo = FILE) -> None:
        def work() -> None:
            self.now_s += took_s

        self.quick.note(Unsynced(ino), self.quick.time(work))

    def expected(self, size: int = 0, ino: InodeNo = FILE) -> bool:
        return self.quick.are_expected(Unsynced(ino, size, 0))


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_nothing_is_expected_of_an_unknown_disk(disk: Disk) -> None:
    assert not disk.expected()
    disk.sync()
    assert disk.expected()


def test_a_slow_disk_is_left_to_threads(disk: Disk) -> None:
    for _ in range(10):
        disk.sync(2 * QUICK_S)
    assert not disk.expected()
    assert not disk.expected(ino=OTHER)


def test_one_slow_sync_is_forgotten_and_a_stalled_disk_is_not_soon(disk: Disk) -> None:
    for _ in range(10):
        disk.sync()
    disk.sync(4 * QUICK_S)
    assert disk.expected()
    disk.sync(100 * QUICK_S)
    counts = 0
    while not disk.expected():
        disk.sync()
        counts += 1
    assert 10 <= counts <= 40


def test_a_file_just_synced_is_not_looked_at(disk: Disk) -> None:
    disk.sync()
    disk.now_s += RECENT_S / 2
    disk.dirty_bytes = DIRTY_BYTES_MAX + 1
    assert disk.expected(LOOKED_BYTES_MAX + 1)
    assert disk.looked_count == 0
    disk.now_s += RECENT_S
    assert not disk.expected()
    assert disk.looked_count == 1


@pytest.mark.parametrize(
    ("size", "dirty_bytes", "quick"),
    [
        (LOOKED_BYTES_MAX, DIRTY_BYTES_MAX, True),
        (LOOKED_BYTES_MAX, DIRTY_BYTES_MAX + 1, False),
        (LOOKED_BYTES_MAX + 1, 0, False),
        (LOOKED_BYTES_MAX, None, False),
    ],
)
def test_a_file_with_much_to_write_is_left_to_threads(
    disk: Disk, size: int, dirty_bytes: int | None, quick: bool
) -> None:
    disk.sync()
    disk.dirty_bytes = dirty_bytes
    assert disk.expected(size, OTHER) is quick


def test_names_have_no_bytes_to_look_at(disk: Disk) -> None:
    disk.sync()
    disk.dirty_bytes = None
    assert disk.quick.are_expected(Unsynced(OTHER))
    assert disk.looked_count == 0


def test_a_slow_sync_of_a_file_is_no_reason_to_trust_it(disk: Disk) -> None:
    for _ in range(10):
        disk.sync()
    disk.sync(2 * QUICK_S)
    disk.dirty_bytes = DIRTY_BYTES_MAX + 1
    assert not disk.expected()


def test_after_keeping_others_waiting_threads_do_it_for_a_while(disk: Disk) -> None:
    disk.sync()
    disk.quick.note_waiting(SHORT_S)
    disk.now_s += CALM_TIMES * SHORT_S * 0.9
    assert not disk.expected()
    disk.now_s += CALM_TIMES * SHORT_S * 0.2
    assert disk.expected()


def test_what_is_remembered_of_files_is_bounded(disk: Disk) -> None:
    for number in range(3 * RECENT_COUNT_MAX):
        disk.sync(ino=InodeNo(number))
        assert len(disk.quick._quick_until_s) <= RECENT_COUNT_MAX
