"""The client of a mount: what it raises when a daemon or a mount is not as it should be."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from memfs.client import placement
from memfs.client.mount import Mount, NotMountedError
from memfs.client.placement import PlacementError
from memfs.control.client import ControlError, ControlUnavailableError
from memfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.control.protocol import JsonValue


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path, tmp_path)


def answer(value: JsonValue) -> Callable[..., JsonValue]:
    return lambda *_, **__: value


def test_a_mount_that_is_gone_is_known_by_its_code(mount: Mount) -> None:
    """And a command ends with the exit status of one that had no answer."""
    with pytest.raises(ControlUnavailableError) as refused:
        mount.status()
    assert (refused.value.errno, refused.value.exit_code) == (errno.ENOTCONN, ExitCode.NO_ANSWER)
    assert str(refused.value).startswith(f"{mount.mountpoint}: no daemon answers")


def test_an_answer_of_another_version_names_the_field(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfs.client.mount.call", answer({"count": 1, "done_bytes": "many"}))
    with pytest.raises(ControlError, match=r"another version of memfs: .*'total_bytes'") as refused:
        mount.moves()
    assert refused.value.errno == errno.EPROTO


def test_an_answer_is_its_report(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: JsonValue = {"name": "training", "size_bytes": 10, "used_bytes": 3, "file_count": 1}
    monkeypatch.setattr("memfs.client.mount.call", answer([pool]))
    [found] = mount.pool_list()
    assert (found.name, found.size_bytes, found.used_bytes) == ("training", 10, 3)


def test_a_path_beside_the_mount_that_was_named_is_refused(mount: Mount) -> None:
    """As of a restore with --mount from another working directory."""
    for place in (mount.inner, mount.named):
        with pytest.raises(NotMountedError, match=f"/other.* does not lie in {mount.mountpoint}"):
            place(mount.mountpoint.parent / "other" / "file")


def test_a_path_elsewhere_is_on_no_mount(tmp_path: Path) -> None:
    assert Mount.find(tmp_path) is None
    with pytest.raises(NotMountedError) as refused:
        Mount.of(tmp_path / "missing")
    assert (refused.value.errno, refused.value.exit_code) == (errno.EXDEV, ExitCode.NOT_MOUNTED)


@pytest.mark.parametrize(
    "ask", [placement.read, placement.unpin, lambda path: placement.pin(path, "warm")]
)
def test_another_file_system_is_not_asked(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    """It takes the same attributes, and does nothing about them."""
    with pytest.raises(PlacementError) as refused:
        ask(tmp_path)
    assert refused.value.errno == errno.EXDEV
    with pytest.raises(PlacementError) as refused:
        ask(tmp_path / "missing")
    assert refused.value.errno == errno.ENOENT
