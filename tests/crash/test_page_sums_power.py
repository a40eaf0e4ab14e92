"""Page sums after power loss: what was not fsynced may be older, and that is no damage."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.sqlite.engine import SqliteEngine
from tests.contract.engine.making import make_file, names_in
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.disk_calls import intercept, name_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("lagging", ["metadata.sums", "journal.0", "journal.1"])
def test_files_as_of_their_last_fsync_beside_newer_ones_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lagging: str
) -> None:
    """A disk may keep each file as of its last fsync, and the others as they are by now."""
    state = tmp_path / "state"
    engine = SqliteEngine.open(state, CONFIG, 1, SMALL)
    kept = tmp_path / "kept"
    shutil.copyfile(state / lagging, kept)

    def keep(_call: str, fd: int) -> None:
        if name_of(fd) == lagging:
            shutil.copyfile(state / lagging, kept)

    intercept(monkeypatch, "fdatasync", after=keep)
    for index in range(150):
        run(make_file(engine, b"%d" % index))
        engine.commit_nowait()
        if index % 3 == 0:
            engine.sync()
        if index % 7 == 0:
            engine.wait_for_checkpoint()
        if index % 10 == 9:
            engine.wait_for_checkpoint()
            engine.sync()
            copy = tmp_path / f"cut-{index}"
            shutil.copytree(state, copy)
            shutil.copyfile(kept, copy / lagging)
            survivor = SqliteEngine.open(copy, CONFIG, 1, SMALL)
            assert len(run(names_in(survivor))) == index + 1
            assert survivor.check() == []
            survivor.close()
    engine.close()
