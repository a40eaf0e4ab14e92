"""Files that commands write: whole or not at all; an error names the file that was asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs_tools.whole_files import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_takes_the_place_of_another_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for text in ("one", "größer"):
        write_whole(path, text, 0o600)
        assert path.read_text(encoding="utf-8") == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["report.html"]


def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    """The name of the file that exists for a moment says nothing."""
    missing = tmp_path / "missing" / "m.prom"
    with pytest.raises(FileNotFoundError) as told:
        write_whole(missing, "text", 0o644)
    assert told.value.filename == str(missing)
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        write_whole(taken, "text", 0o644)
    assert refused.value.filename == str(taken)
    assert os.listdir(tmp_path) == ["taken"]
