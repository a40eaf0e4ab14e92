"""Waiting for pins: which files are waited for."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from memfs.client.placement import Placement, PlacementError, read_value
from memfs_tools.pin_wait import files_below, wait_until_there
from tests.waiting import join, wait_for

PENDING = {"attempts": 1, "reason": "busy"}


def test_a_relative_directory_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd /mnt; memfs pin --wait warm data` waited for data/sub/data/sub/file."""
    (tmp_path / "data/sub").mkdir(parents=True)
    for name in ("data/file", "data/sub/file"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "data/empty").touch()
    monkeypatch.chdir(tmp_path)
    assert set(files_below([Path("data")])) == {Path("data/file"), Path("data/sub/file")}
    assert list(files_below([Path("data/file")])) == [Path("data/file")]


@pytest.mark.parametrize(
    ("error", "there_and_total", "refusals"),
    [
        (errno.ENOENT, (0, 1), {}),
        (errno.EIO, (0, 2), {"b": "Input/output error"}),
    ],
)
def test_only_what_is_gone_is_not_waited_for(
    error: int,
    there_and_total: tuple[int, int],
    refusals: dict[str, str],
    tmp_path: Path,
) -> None:
    """A file that could not be asked about was left out as if it had been removed."""

    def read(path: Path) -> Placement:
        if path.name == "b":
            raise PlacementError("b: no", error)
        return Placement(str(path), "cold", "glacier", "local", {"pending": PENDING})

    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    waited = wait_until_there([tmp_path], "glacier", lambda _: None, read)
    assert (waited.there_count, waited.total_count) == there_and_total
    expected = {"a": "busy"} | refusals
    assert {Path(path).name: reason for path, reason in waited.refusals.items()} == expected


def test_a_value_that_grows_while_it_is_read_is_read(tmp_path: Path) -> None:
    """The length was asked for first, and ERANGE was the answer once it had grown (getxattr(2))."""
    file = tmp_path / "file"
    file.touch()
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for length in (1, 2000):
                os.setxattr(file, "user.told", b"x" * length)

    os.setxattr(file, "user.told", b"x")
    changing = threading.Thread(target=change)
    changing.start()
    try:
        lengths = {len(read_value(file, "user.told")) for _ in range(5000)}

        def both_are_read() -> bool:
            lengths.add(len(read_value(file, "user.told")))
            return lengths == {1, 2000}

        # On a busy machine the other thread may not have had a turn yet.
        wait_for(both_are_read, lambda: lengths)
    finally:
        ended.set()
        join(changing)
