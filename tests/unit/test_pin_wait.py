"""Waiting for pins: which files are waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memfs_tools.pin_wait import files_below

if TYPE_CHECKING:
    import pytest


def test_a_relative_directory_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd /mnt; memfs pin --wait warm data` waited for data/sub/data/sub/file."""
    (tmp_path / "data/sub").mkdir(parents=True)
    for name in ("data/file", "data/sub/file"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "data/empty").touch()
    monkeypatch.chdir(tmp_path)
    assert set(files_below([Path("data")])) == {Path("data/file"), Path("data/sub/file")}
    assert list(files_below([Path("data/file")])) == [Path("data/file")]
