"""Where files are: by number and mount, looked up by directory, and again when that has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount
from memfs.torch import places as module
from memfs.torch.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNT = Mount(Path("/mnt"), Path("/state"))


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that counts as a mount."""
    device = tmp_path.stat().st_dev
    monkeypatch.setattr(module, "_mounts_by_device", lambda: {device: MOUNT})
    return tmp_path


def make(directory: Path, count: int) -> list[str]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:03}" for number in range(count)]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def numbers(paths: list[str]) -> list[int]:
    return [os.lstat(path).st_ino for path in paths]


def test_numbers_come_in_the_order_that_is_asked_for(mounted: Path) -> None:
    """Of files in large and small directories, links included."""
    paths = make(mounted / "many", 20) + make(mounted / "few", 3)
    (mounted / "link").symlink_to(mounted / "many", target_is_directory=True)
    paths.append(str(mounted / "link" / "005"))
    order = [22, 3, 23, 19, 0]
    [found] = Places(paths).locate(order)
    assert found.mount is MOUNT
    assert found.inos.tolist() == [numbers(paths)[index] for index in order]
    assert list(found.positions) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [3, 20])
def test_what_is_not_there_or_not_on_memfs_is_left_out(mounted: Path, count: int) -> None:
    """Their places in the order are those of others all the same."""
    paths = make(mounted / "here", count)
    Path(paths[1]).unlink()
    paths += ["/proc/self/status", str(mounted / "nowhere" / "x")]
    [found] = Places(paths).locate([0, 1, count, 2, count + 1])
    assert found.inos.tolist() == numbers([paths[0], paths[2]])
    assert list(found.positions) == [0, 3]
    assert Places(["/proc/self/status"]).locate([0]) == []


def test_a_directory_is_looked_at_again_when_it_has_changed(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then: a file that was replaced has another number."""
    paths = make(mounted / "many", 20)
    places = Places(paths)
    places.locate([0])
    looks: list[str] = []
    look: Callable[..., list[int]] = module._numbers_of

    def counted(path: str, names: list[str]) -> list[int]:
        looks.append(path)
        return look(path, names)

    monkeypatch.setattr(module, "_numbers_of", counted)
    places.locate([0])
    assert looks == []
    (mounted / "many" / "new").touch()
    os.replace(mounted / "many" / "new", paths[7])
    [found] = places.locate([7])
    assert (found.inos.tolist(), len(looks)) == (numbers([paths[7]]), 1)
    Path(paths[7]).parent.rename(mounted / "gone")
    assert places.locate([7]) == []
