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


def places_of(paths: list[str], tmp_path: Path) -> Places:
    """Find files of a directory that counts as a mount."""
    device = tmp_path.stat().st_dev
    return Places(paths, find_mounts=lambda: {device: MOUNT})


def make(directory: Path, count: int) -> list[str]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:03}" for number in range(count)]
    for path in paths:
        path.touch()
    return [str(path) for path in paths]


def numbers(paths: list[str]) -> list[int]:
    return [os.lstat(path).st_ino for path in paths]


def test_numbers_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    """Files in large and small directories, links included."""
    paths = make(tmp_path / "many", 20) + make(tmp_path / "few", 3)
    (tmp_path / "link").symlink_to(tmp_path / "many", target_is_directory=True)
    paths.append(str(tmp_path / "link" / "005"))
    order = [22, 3, 23, 19, 0]
    [found] = places_of(paths, tmp_path).locate(order)
    assert found.mount is MOUNT
    assert found.inos.tolist() == [numbers(paths)[index] for index in order]
    assert list(found.positions) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [3, 20])
def test_what_is_not_there_or_not_on_memfs_is_left_out(tmp_path: Path, count: int) -> None:
    """Their places in the order are those of others all the same."""
    paths = make(tmp_path / "here", count)
    Path(paths[1]).unlink()
    paths += ["/proc/self/status", str(tmp_path / "nowhere" / "x")]
    [found] = places_of(paths, tmp_path).locate([0, 1, count, 2, count + 1])
    assert found.inos.tolist() == numbers([paths[0], paths[2]])
    assert list(found.positions) == [0, 3]
    assert places_of(["/proc/self/status"], tmp_path).locate([0]) == []


def test_a_directory_is_looked_at_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then: a file that was replaced has another number."""
    paths = make(tmp_path / "many", 20)
    places = places_of(paths, tmp_path)
    places.locate([0])
    looks: list[str] = []
    look: Callable[..., list[int]] = module._numbers_of

    def counted(path: str, names: list[str]) -> list[int]:
        looks.append(path)
        return look(path, names)

    monkeypatch.setattr(module, "_numbers_of", counted)
    places.locate([0])
    assert looks == []
    (tmp_path / "many" / "new").touch()
    os.replace(tmp_path / "many" / "new", paths[7])
    [found] = places.locate([7])
    assert (found.inos.tolist(), len(looks)) == (numbers([paths[7]]), 1)
    Path(paths[7]).parent.rename(tmp_path / "gone")
    assert places.locate([7]) == []
