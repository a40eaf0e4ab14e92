"""The tour of one directory on two nodes: it shows what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.documents import ROOT
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.mount, pytest.mark.slow]

SCRIPT = ROOT / "tools/quickstart-nodes.sh"


class Tour:
    """The script, in a process group of its own, as a terminal has it.

    Args:
        base: Where its directory is made.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.process = subprocess.Popen(
            [SCRIPT, "--no-setup"],
            env=os.environ | {"TMPDIR": str(base)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def close(self) -> None:
        """Close the pipe, whose other end is closed."""
        self._thread.join(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self, limit_s: float = 3 * WAIT_S) -> str:
        """Return what it has printed, once it has ended."""
        self.process.wait(limit_s)
        self._thread.join(WAIT_S)
        return "".join(self.lines)

    def left(self) -> list[object]:
        """Return what it has left behind."""
        processes = scratch.processes_naming(self.base)
        return [*self.base.iterdir(), *scratch.mounts_below(self.base), *processes]


@pytest.fixture
def tour(scratch_area: scratch.Scratch) -> Iterator[Tour]:
    base = scratch_area.directory("tour")
    made = Tour(base)
    yield made
    if made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait(WAIT_S)
    made.close()
    scratch.remove(base)


def test_the_tour_shows_two_nodes_and_leaves_nothing(tour: Tour) -> None:
    printed = tour.end()
    assert tour.process.returncode == 0, printed
    assert "Read-only file system" in printed
    assert "node reader, which reads what node writer writes" in printed
    assert "writer: writes" in printed
    assert "reader: reads, live" in printed
    assert "memfs works here on two nodes" in printed
    wait_for(lambda: not tour.left(), tour.left)


def test_ctrl_c_leaves_nothing(tour: Tour) -> None:
    """Although daemons are being started just then."""
    wait_for(lambda: any("mounting both" in line for line in tour.lines), lambda: tour.lines)
    os.killpg(tour.process.pid, signal.SIGINT)
    printed = tour.end()
    assert tour.process.returncode in (130, -signal.SIGINT), printed
    wait_for(lambda: not tour.left(), tour.left)
