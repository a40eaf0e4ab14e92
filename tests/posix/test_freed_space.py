"""Space of removed files: free at once, not with the next round of the mover."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory

SIZE_BYTES = 64 << 20

_SLOW_ROUNDS = '[policy]\ninterval = "1h"\n'


def raw_bytes(state: Path) -> int:
    sizes = []
    for path in (state / "raw").rglob("*"):
        # The mover removes files meanwhile.
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_blocks * 512)
    return sum(sizes)


def wait_until_freed(state: Path) -> None:
    wait_for(lambda: raw_bytes(state) < SIZE_BYTES, "the removed file still takes up space")


def test_space_of_a_removed_file_is_given_back_at_once(
    driver: str, mount_factory: MountFactory
) -> None:
    """A program that removes a file to make room writes the next one right away."""
    mount = mount_factory(driver, config=_SLOW_ROUNDS)
    (mount.root / "big").write_bytes(b"x" * SIZE_BYTES)
    (mount.root / "big").unlink()
    assert raw_bytes(mount.state) < SIZE_BYTES
    (mount.root / "big").write_bytes(b"x" * SIZE_BYTES)
    (mount.root / "other").write_bytes(b"y")
    (mount.root / "other").rename(mount.root / "big")
    assert raw_bytes(mount.state) < SIZE_BYTES
    assert (mount.root / "big").read_bytes() == b"y"


def test_space_of_a_large_file_that_another_one_replaced_is_given_back_soon(
    driver: str, mount_factory: MountFactory
) -> None:
    """The rename does not wait for the bytes of the new one, and the mover does at once."""
    mount = mount_factory(driver, config=_SLOW_ROUNDS)
    for _ in range(3):
        (mount.root / "new").write_bytes(b"x" * SIZE_BYTES)
        (mount.root / "new").rename(mount.root / "big")
        wait_for(lambda: raw_bytes(mount.state) < 2 * SIZE_BYTES, "the former file takes space")
    assert (mount.root / "big").stat().st_size == SIZE_BYTES


def test_space_is_kept_while_a_handle_is_open_and_given_back_at_its_close(
    driver: str, mount_factory: MountFactory
) -> None:
    """The bytes of an open file outlive its name, and no longer."""
    mount = mount_factory(driver, config=_SLOW_ROUNDS)
    with (mount.root / "big").open("wb+") as file:
        file.write(b"x" * SIZE_BYTES)
        file.flush()
        (mount.root / "big").unlink()
        file.seek(SIZE_BYTES - 1)
        assert file.read() == b"x"
        assert raw_bytes(mount.state) >= SIZE_BYTES
    wait_until_freed(mount.state)
