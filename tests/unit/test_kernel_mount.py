"""The kernel driver on real mounts: each opcode, over a fake file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs_daemon.kernel.probe import probe
from tests.unit.fakes.kernel_mount import KernelMount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(probe() is not None, reason=str(probe())),
]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[KernelMount]:
    with KernelMount(tmp_path) as mounted:
        yield mounted


def test_a_file_reads_back_what_was_written(mount: KernelMount) -> None:
    """CREATE, passthrough WRITE, OPEN, passthrough READ."""
    path = mount.root / "file"
    path.write_bytes(b"hello" * 1000)
    assert path.read_bytes() == b"hello" * 1000
    assert mount.filesystem.calls["write"] == 0
    assert mount.filesystem.calls["read"] == 0
    assert os.listdir(mount.root) == ["file"]
