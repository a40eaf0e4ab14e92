"""A mount that the test itself starts and stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.lifecycle.own_mounts import is_gone
from tests.mounting import Mount
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def mount(
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch, tmp_path: Path, driver: str
) -> Iterator[Mount]:
    """Not started; at the end it is stopped, its log checked and its state found whole.

    It ends before `tmp_path`, which may have its object store.
    """
    made = Mount(scratch_area.directory(driver), driver)
    expected = tuple(
        pattern for mark in request.node.iter_markers("expects_log") for pattern in mark.args
    )
    try:
        yield made
        made.stop()
        made.check_log(expected)
        made.fsck()
    finally:
        scratch.remove(made.base)


@pytest.fixture
def own_place(scratch_area: scratch.Scratch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new user's directories, and the current one; all mounts are gone in the end."""
    base = scratch_area.directory("own")
    (base / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base / "run"))
    monkeypatch.setenv("XDG_DATA_HOME", str(base / "data"))
    monkeypatch.delenv("MEMFS_MOUNT", raising=False)
    monkeypatch.chdir(base)
    yield base
    try:
        wait_for(lambda: is_gone(base), lambda: scratch.mounts_below(base), limit_s=30)
    finally:
        scratch.remove(base)
