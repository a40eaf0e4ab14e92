"""What a program of the benchmarks leaves behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import scratch

PROGRAM = """
import signal, sys, time
from pathlib import Path
from tests import scratch
# What runs in the background may have been started with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with scratch.workspace(Path(sys.argv[1])) as workspace:
    print(workspace.directory("place"), flush=True)
    time.sleep(60)
"""


def begin(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a program, and return it with its directory."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, root],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert program.stdout is not None
    return program, Path(program.stdout.readline().rstrip("\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_program_that_is_told_to_end_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    program, directory = begin(tmp_path)
    with program:
        assert directory.is_dir()
        program.send_signal(number)
        code = program.wait(30)
    assert code == (-number if number == signal.SIGINT else 128 + number)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_program_left_goes_with_the_next_one(tmp_path: Path) -> None:
    program, directory = begin(tmp_path)
    with program:
        program.kill()
    assert directory.is_dir()
    before = signal.getsignal(signal.SIGTERM)
    with scratch.workspace(tmp_path) as workspace:
        assert os.listdir(tmp_path) == [workspace.path.name]
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before
